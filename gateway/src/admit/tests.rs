use super::*;
use crate::infer::tests::of;
use policy::admit::Budget;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::{Duration, Instant};

impl Door {
    /// Bytes of all who are in.
    pub(crate) fn bytes(&self) -> u64 {
        self.lock().admission.bytes()
    }
}

fn door() -> Door {
    Door::new(Limits { bytes_max: 12 << 20, budget: Budget { bytes_max: 64 << 20, ..Budget::default() }, ..Limits::default() })
}

/// Looks once whether it is in by now.
async fn poll<F: Future + Unpin>(entering: &mut F) -> Poll<F::Output> {
    std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut *entering).poll(cx))).await
}

#[tokio::test]
async fn who_finds_the_gateway_full_comes_in_by_turns_of_tenants() {
    let door = door();
    let (now, many, one) = (Moment::default(), of("many"), of("one"));
    let first = door.enter(now, &many, 12 << 20).await.unwrap();
    let mut many = [(); 3].map(|()| Box::pin(door.enter(now, &many, 4 << 20)));
    let mut one = pin!(door.enter(now, &one, 4 << 20));
    for entering in &mut many {
        assert!(poll(entering).await.is_pending());
    }
    assert!(poll(&mut one).await.is_pending());
    assert_eq!((door.waiting(), door.bytes()), (4, 12 << 20));
    drop(first);
    let [a, b, c] = &mut many;
    let (a, b, one) = (poll(a).await, poll(b).await, poll(&mut one).await);
    assert!(a.is_ready() && b.is_ready() && one.is_ready(), "the one of the other tenant does not wait for three");
    assert!(poll(c).await.is_pending());
    drop(a);
    assert!(matches!(poll(c).await, Poll::Ready(Ok(_))));
}

#[tokio::test]
async fn who_gives_up_waiting_leaves_nothing_behind() {
    let door = door();
    let first = door.enter(Moment::default(), &of("a"), 12 << 20).await.unwrap();
    // Before its turn ...
    let tenant = of("a");
    let mut large = Box::pin(door.enter(Moment::default(), &tenant, 12 << 20));
    let mut small = Box::pin(door.enter(Moment::default(), &tenant, 1));
    assert!(poll(&mut large).await.is_pending() && poll(&mut small).await.is_pending());
    drop(large);
    assert_eq!(door.waiting(), 1);
    // ... after it, before it heard ...
    drop(first);
    assert_eq!((door.waiting(), door.bytes()), (0, 1));
    drop(small);
    assert_eq!(door.bytes(), 0);
    // ... and at its deadline.
    let full = door.enter(Moment::default(), &tenant, 12 << 20).await.unwrap();
    let hurried = Context { deadline: Some(Instant::now() + Duration::from_millis(5)), ..of("a") };
    let late = door.enter(Moment::default(), &hurried, 1).await;
    assert!(matches!(late, Err(Failure::DeadlineExceeded { .. })));
    drop(full);
    assert_eq!((door.waiting(), door.bytes()), (0, 0));
    assert!(door.enter(Moment::default(), &tenant, 12 << 20).await.is_ok());
}

#[tokio::test]
async fn a_smaller_one_does_not_wait_for_a_large_one_that_gave_up() {
    let door = door();
    let tenant = of("a");
    let _half = door.enter(Moment::default(), &tenant, 6 << 20).await.unwrap();
    let mut large = Box::pin(door.enter(Moment::default(), &tenant, 12 << 20));
    let mut small = pin!(door.enter(Moment::default(), &tenant, 1 << 20));
    assert!(poll(&mut large).await.is_pending() && poll(&mut small).await.is_pending(), "nobody overtakes");
    drop(large);
    assert!(poll(&mut small).await.is_ready());
}
