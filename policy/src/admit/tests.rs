//! What admission promises.

use super::*;
use crate::Code;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::num::NonZeroU32;

const BYTES_MAX: u64 = 1_000;
const BUDGET: Budget = Budget { requests_max: 5, bytes_max: 400, rate: None };
const TENANTS: [&str; 6] = ["amber", "blue", "coral", "dun", "ecru", "fawn"];

fn limits() -> Limits {
    let small = Budget { requests_max: 2, bytes_max: 100, rate: None };
    Limits { bytes_max: BYTES_MAX, waiting_max: 6, tenants_max: 4, budget: BUDGET, tenants: [("blue".to_owned(), small)].into() }
}

fn code(result: Result<impl Sized, Failure>) -> Code {
    result.err().map_or(Code::Ok, |failure| failure.wire().0)
}

#[derive(Debug, Clone)]
enum Step {
    Enter(usize, u64),
    Leave(usize),
    Cancel(usize),
    Next,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        7 => (0..TENANTS.len(), 0u64..500).prop_map(|(t, b)| Step::Enter(t, b)),
        3 => (0usize..20).prop_map(Step::Leave),
        1 => (0usize..20).prop_map(Step::Cancel),
        2 => Just(Step::Next),
    ]
}

/// Every budget holds, and the sums are those of who is in and who waits.
fn check_sums(admission: &Admission, inside: &[Admitted], waiting: usize) -> Result<(), TestCaseError> {
    prop_assert!(admission.bytes() <= BYTES_MAX);
    prop_assert_eq!(admission.bytes(), inside.iter().map(|a| a.bytes).sum::<u64>());
    prop_assert!(admission.waiting() <= 6 && admission.waiting() == waiting);
    prop_assert!(admission.tenants().count() <= 4 + 2, "four, `blue`, and all others");
    let requests: u32 = admission.tenants().map(|(_, requests, _)| requests).sum();
    prop_assert_eq!(requests as usize, inside.len() + waiting);
    for (tenant, requests, bytes) in admission.tenants() {
        let budget = admission.budget(tenant);
        prop_assert!(requests <= budget.requests_max && bytes <= budget.bytes_max, "{} holds {} and {}", tenant, requests, bytes);
    }
    Ok(())
}

/// Enters where nobody has to wait.
fn enter(admission: &mut Admission, now: Moment, tenant: &str, bytes: u64) -> Result<Admitted, Failure> {
    match admission.enter(now, tenant, bytes)? {
        Entry::Admitted(admitted) => Ok(admitted),
        Entry::Waiting(_) => panic!("`{tenant}` waits for {bytes} bytes"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn no_budget_is_exceeded_by_any_sequence_and_all_is_given_back(steps in prop::collection::vec((step(), 0u64..400_000), 1..80)) {
        let mut admission = Admission::new(limits());
        let (mut inside, mut waiting, mut now) = (Vec::new(), Vec::new(), 0);
        for (step, gap) in steps {
            now += gap;
            let moment = Moment::from_us(now);
            match step {
                Step::Enter(tenant, bytes) => {
                    let others_wait = admission.waiting() > 0;
                    match admission.enter(moment, TENANTS[tenant], bytes) {
                        Ok(Entry::Admitted(admitted)) => {
                            prop_assert!(!others_wait, "nobody overtakes who waits");
                            inside.push(admitted);
                        }
                        Ok(Entry::Waiting(ticket)) => waiting.push(ticket),
                        Err(_) => {}
                    }
                }
                Step::Leave(at) if at < inside.len() => admission.leave(inside.swap_remove(at)),
                Step::Cancel(at) if at < waiting.len() => {
                    let ticket = waiting.swap_remove(at);
                    prop_assert!(admission.cancel(ticket) && !admission.cancel(ticket));
                }
                Step::Next => {
                    if let Some((ticket, admitted)) = admission.call_next() {
                        prop_assert!(waiting.contains(&ticket));
                        waiting.retain(|t| *t != ticket);
                        inside.push(admitted);
                    }
                }
                _ => {}
            }
            check_sums(&admission, &inside, waiting.len())?;
        }
        // Everybody leaves; who waits gets in, in the end all.
        for _ in 0..200 {
            inside.drain(..).for_each(|admitted| admission.leave(admitted));
            while let Some((ticket, admitted)) = admission.call_next() {
                waiting.retain(|t| *t != ticket);
                inside.push(admitted);
            }
        }
        prop_assert!(waiting.is_empty() && inside.is_empty());
        check_sums(&admission, &[], 0)?;
        prop_assert!(admission.tenants().all(|(_, requests, bytes)| requests == 0 && bytes == 0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn tenants_that_wait_all_the_time_get_equal_bytes_whatever_their_sizes(sizes in prop::collection::vec(1u64..64, 2..6), seed: u64) {
        const MIB: u64 = 1 << 20;
        // Each always has 16 requests waiting, of about its own size. 256 MiB are in at a time.
        let budget = Budget { bytes_max: u64::MAX, ..Budget::default() };
        let mut admission = Admission::new(Limits { bytes_max: 256 * MIB, budget, ..Limits::default() });
        let full = enter(&mut admission, Moment::default(), "full", 256 * MIB).unwrap();
        let mut owners = BTreeMap::new();
        let mut wait = |admission: &mut Admission, tenant: usize, salt: u64| {
            let size = sizes[tenant] * MIB - (seed ^ salt) % (MIB / 2);
            match admission.enter(Moment::default(), TENANTS[tenant], size) {
                Ok(Entry::Waiting(ticket)) => owners.insert(ticket.0, tenant),
                other => panic!("{other:?}"),
            };
        };
        (0..sizes.len() * 16).for_each(|n| wait(&mut admission, n % sizes.len(), n as u64));
        admission.leave(full);
        let mut bytes = vec![0u64; sizes.len()];
        let mut inside = VecDeque::new();
        let mut salt = 7_777;
        while bytes.iter().sum::<u64>() < 2_500 * MIB * sizes.len() as u64 {
            match admission.call_next() {
                Some((_, admitted)) => {
                    let tenant = TENANTS.iter().position(|t| **t == *admitted.tenant).unwrap();
                    bytes[tenant] += admitted.bytes;
                    inside.push_back(admitted);
                    salt += 1;
                    wait(&mut admission, tenant, salt);
                }
                None => admission.leave(inside.pop_front().unwrap()),
            }
        }
        let mean = bytes.iter().sum::<u64>() as f64 / bytes.len() as f64;
        prop_assert!(bytes.iter().all(|b| (*b as f64 / mean - 1.0).abs() <= 0.1), "{:?} for {:?}", bytes, sizes);
    }
}

#[test]
fn each_budget_refuses_with_its_own_code() {
    let now = Moment::default();
    let mut admission = Admission::new(limits());
    let held: Vec<_> = (0..2).map(|_| enter(&mut admission, now, "blue", 40).unwrap()).collect();
    let failure = enter(&mut admission, now, "blue", 1).unwrap_err();
    assert_eq!(failure.to_string(), "tenant `blue` has used up its 2 requests in flight, retry after 100 ms");
    assert_eq!(code(enter(&mut admission, now, "amber", 401)), Code::ResourceExhausted);
    assert_eq!(enter(&mut admission, now, "amber", 401).unwrap_err().wire().1, 413, "it will never fit");
    let most: Vec<_> = ["amber", "coral"].map(|tenant| enter(&mut admission, now, tenant, 400).unwrap()).into();
    assert_eq!(code(enter(&mut admission, now, "amber", 1)), Code::ResourceExhausted, "its own bytes");
    assert!(matches!(admission.enter(now, "dun", 121), Ok(Entry::Waiting(ticket)) if admission.cancel(ticket)), "everybody's bytes");
    held.into_iter().chain(most).for_each(|admitted| admission.leave(admitted));
    assert_eq!(admission.bytes(), 0);
}

#[test]
fn a_refused_request_takes_nothing_of_the_rate() {
    let one = NonZeroU32::MIN;
    let rate = Some(Rate { per_second: one, burst: one });
    let mut admission = Admission::new(Limits { bytes_max: 100, budget: Budget { rate, ..BUDGET }, ..limits() });
    let now = Moment::default();
    assert_eq!(code(enter(&mut admission, now, "amber", 101)), Code::Unavailable);
    let admitted = enter(&mut admission, now, "amber", 100).unwrap();
    admission.leave(admitted);
    let failure = enter(&mut admission, now, "amber", 1).unwrap_err();
    assert_eq!(failure.to_string(), "tenant `amber` has used up its 1 requests a second, retry after 1000 ms");
}

#[test]
fn one_tenant_at_its_bound_does_not_move_another() {
    let mut admission = Admission::new(limits());
    let held: Vec<_> = (0..9).filter_map(|_| enter(&mut admission, Moment::default(), "amber", 1).ok()).collect();
    assert_eq!(held.len(), 5);
    let other = enter(&mut admission, Moment::default(), "coral", 400).unwrap();
    held.into_iter().chain([other]).for_each(|admitted| admission.leave(admitted));
}

#[test]
fn made_up_tenants_share_one_budget_and_idle_ones_are_forgotten() {
    let mut admission = Admission::new(limits());
    let named = |admission: &mut Admission, name: String, us| enter(admission, Moment::from_us(us), &name, 0);
    let held: Vec<_> = (0..50).filter_map(|n| named(&mut admission, format!("t{n}"), 0).ok()).collect();
    assert_eq!((held.len(), admission.tenants().count()), (4 + 5, 5), "four of their own, five together");
    let own = enter(&mut admission, Moment::default(), "blue", 0).unwrap();
    assert_eq!(&*own.tenant, "blue", "who has a budget of its own keeps it");
    admission.leave(own);
    held.into_iter().for_each(|admitted| admission.leave(admitted));
    let late = named(&mut admission, "late".to_owned(), SWEEP_US).unwrap();
    assert_eq!(admission.tenants().map(|(name, ..)| name).collect::<Vec<_>>(), ["late"]);
    admission.leave(late);
}

#[test]
fn a_large_request_keeps_its_turn_beside_small_ones() {
    let mut admission = Admission::new(limits());
    let now = Moment::default();
    let filler: Vec<_> = [("amber", 400), ("coral", 400), ("dun", 200)].map(|(t, b)| enter(&mut admission, now, t, b).unwrap()).into();
    let Ok(Entry::Waiting(large)) = admission.enter(now, "ecru", 390) else { panic!("there is no room") };
    let Ok(Entry::Waiting(small)) = admission.enter(now, "blue", 1) else { panic!("nobody overtakes") };
    let mut filler = filler.into_iter().rev();
    admission.leave(filler.next().unwrap());
    assert_eq!(admission.call_next(), None, "200 bytes are not enough for the first");
    filler.for_each(|admitted| admission.leave(admitted));
    let order: Vec<_> = std::iter::from_fn(|| admission.call_next().map(|(ticket, _)| ticket)).collect();
    assert_eq!(order, [large, small]);
}
