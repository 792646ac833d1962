use super::*;
use crate::profile::Latency;
use proptest::prelude::*;

mod baseline;
mod earliest;
mod overload;
mod virtual_time;

const LIMITS: Limits = Limits { rows_max: 4, queue_len_max: 8, queue_bytes_max: 100 };
/// Takes no time, where a test is not about how long something takes.
const FREE: Forecast = Forecast { latency: Latency { alpha_us: 0.0, beta_us: 0.0 }, kappa: 1.0, slow: 1.0 };

/// A full batch of [`ruled`] takes 14 us.
const SLOW: Forecast = Forecast { latency: Latency { alpha_us: 1.0, beta_us: 6.0 }, ..FREE };

fn pending(rows: u32, deadline_us: Option<u64>) -> Pending {
    Pending { rows, bytes: 1, deadline: deadline_us.map(Moment::from_us), group: 0, priority: 0, timeout_us: None }
}

fn plain() -> Batcher {
    Batcher::new(LIMITS, Batching::default())
}

/// A batcher with room for eight rows and these rules.
fn ruled(batching: Batching) -> Batcher {
    Batcher::new(Limits { rows_max: 8, queue_len_max: 100, ..LIMITS }, batching)
}

fn arrive(batcher: &mut Batcher, now_us: u64, pending: Pending) -> Ticket {
    batcher.arrive(Moment::from_us(now_us), pending).unwrap()
}

fn take(batcher: &mut Batcher, now_us: u64) -> Batch {
    take_at(batcher, now_us, FREE)
}

fn take_at(batcher: &mut Batcher, now_us: u64, forecast: Forecast) -> Batch {
    let mut batch = Batch::default();
    batcher.take(Moment::from_us(now_us), &forecast, &mut batch);
    batch
}

#[test]
fn the_deadline_of_a_queue_is_the_earliest_of_any_level_and_none_where_nobody_has_one() {
    let timed = Batching { queue: QueuePolicy { default_timeout_us: 30, ..QueuePolicy::default() }, ..Batching::default() };
    let delayed = Batching { max_delay_us: 10, ..Batching::default() };
    for (mut batcher, endless) in [(plain(), None), (ruled(delayed), None), (ruled(timed), Some(30))] {
        assert_eq!(batcher.deadline(), None);
        arrive(&mut batcher, 0, Pending { priority: 1, ..pending(1, None) });
        assert_eq!(batcher.deadline(), endless.map(Moment::from_us));
        arrive(&mut batcher, 0, Pending { priority: 1, ..pending(1, Some(20)) });
        let first = arrive(&mut batcher, 0, Pending { priority: 3, ..pending(1, Some(10)) });
        assert_eq!(batcher.deadline(), Some(Moment::from_us(10)));
        assert!(batcher.cancel(first));
        assert_eq!(batcher.deadline(), Some(Moment::from_us(20)));
    }
}

#[test]
fn i7_expired_work_leaves_the_queue_without_running() {
    let mut batcher = plain();
    let late = arrive(&mut batcher, 0, pending(1, Some(500)));
    let fine = arrive(&mut batcher, 0, pending(1, Some(501)));
    let batch = take(&mut batcher, 500); // a deadline is exclusive: on it is too late
    assert_eq!(batch, Batch { run: vec![fine], late: vec![(late, 0)], ..Batch::default() });
    assert_eq!(batcher.arrive(Moment::from_us(9), pending(1, Some(2))), Err(Failure::DeadlineExceeded { late_us: 7 }));
}

#[test]
fn i7_cancelled_work_leaves_the_queue() {
    let mut batcher = plain();
    let gone = arrive(&mut batcher, 0, pending(1, None));
    assert!(batcher.cancel(gone));
    assert!(!batcher.cancel(gone));
    assert_eq!(take(&mut batcher, 1), Batch::default());
}

#[test]
fn the_earliest_deadline_rides_first_and_groups_do_not_mix() {
    let mut batcher = plain();
    let patient = arrive(&mut batcher, 0, pending(1, None));
    let urgent = arrive(&mut batcher, 0, pending(1, Some(10)));
    let other = arrive(&mut batcher, 0, Pending { group: 7, ..pending(1, Some(20)) });
    assert_eq!(take(&mut batcher, 1).run, [urgent, patient]);
    assert_eq!(take(&mut batcher, 1).run, [other]);
}

#[test]
fn a_full_queue_refuses_by_count_and_by_bytes() {
    let mut batcher = plain();
    let huge = Pending { bytes: 1_000, ..pending(1, None) };
    assert!(batcher.arrive(Moment::default(), huge).is_ok(), "one is always taken");
    assert!(matches!(batcher.arrive(Moment::default(), huge), Err(Failure::QueueFull { queued: 1, .. })));
    let mut batcher = plain();
    for _ in 0..LIMITS.queue_len_max {
        batcher.arrive(Moment::default(), pending(1, None)).unwrap();
    }
    assert!(matches!(batcher.arrive(Moment::default(), pending(1, None)), Err(Failure::QueueFull { queued: 8, .. })));
}

/// Triton's documentation of `preferred_batch_size` and `max_queue_delay_microseconds`, by rows that wait since 0.
#[test]
fn a_preferred_size_leaves_at_once_and_the_rest_when_the_delay_is_over() {
    let check = |sizes: &[u32], delay_us, rows: &[u32], now_us, run: usize, wake: Option<u64>| {
        let mut batcher = ruled(Batching { preferred_rows: sizes.to_vec(), max_delay_us: delay_us, ..Batching::default() });
        let tickets: Vec<_> = rows.iter().map(|rows| arrive(&mut batcher, 0, pending(*rows, None))).collect();
        let batch = take(&mut batcher, now_us);
        let expected = (&tickets[..run], wake.map(Moment::from_us));
        assert_eq!((&batch.run[..], batch.wake), expected, "{sizes:?} {delay_us} {rows:?} {now_us}");
    };
    // Without a delay: the largest preferred size there is, else all that waits.
    check(&[], 0, &[1; 3], 0, 3, None);
    check(&[2, 4], 0, &[1; 3], 0, 2, None);
    check(&[2, 4], 0, &[1; 5], 0, 4, None);
    check(&[4], 0, &[1; 3], 0, 3, None);
    // With one: a preferred size, and it is not the largest, leaves at once; less waits until the delay is over.
    check(&[4, 8], 100, &[1; 3], 0, 0, Some(100));
    check(&[4, 8], 100, &[1; 3], 99, 0, Some(100));
    check(&[4, 8], 100, &[1; 3], 100, 3, None);
    check(&[4, 8], 100, &[1; 5], 0, 4, Some(0));
    check(&[4, 8], 100, &[1; 8], 0, 8, None);
    check(&[4], 100, &[1; 7], 100, 7, None);
    // A size that is stepped over: what fits under the largest leaves, since it can only grow beyond it.
    check(&[4], 100, &[3, 3], 0, 1, Some(0));
    check(&[4], 100, &[6], 0, 1, None);
    // No preferred size: a full batch is one.
    check(&[], 100, &[1; 7], 0, 0, Some(100));
    check(&[], 100, &[1; 8], 0, 8, None);
    check(&[], 100, &[1; 9], 0, 8, Some(0));
    check(&[], 100, &[5, 4], 0, 1, Some(0));
    // One that no batch can have is not waited for.
    check(&[9, 2], 0, &[1; 5], 0, 2, None);
}

#[test]
fn who_waited_longest_ends_the_wait_and_another_group_does_too() {
    let mut batcher = ruled(Batching { max_delay_us: 100, ..Batching::default() });
    let first = arrive(&mut batcher, 0, pending(1, None));
    // It goes before the first, but does not make that wait longer.
    let urgent = arrive(&mut batcher, 60, pending(1, Some(10_000)));
    assert_eq!(take(&mut batcher, 60).wake, Some(Moment::from_us(100)));
    assert_eq!(take(&mut batcher, 100).run, [urgent, first]);
    let one = arrive(&mut batcher, 200, pending(1, None));
    let other = arrive(&mut batcher, 210, Pending { group: 7, ..pending(1, None) });
    let batch = take(&mut batcher, 210);
    assert_eq!((batch.run, batch.wake), (vec![one], Some(Moment::from_us(210))), "another instance must look at what stays");
    assert_eq!(take(&mut batcher, 210).wake, Some(Moment::from_us(310)));
    assert_eq!(take(&mut batcher, 310).run, [other]);
}

#[test]
fn nobody_waits_past_its_deadline_its_timeout_or_the_end_of_the_replica() {
    let take = |batcher: &mut Batcher, now_us| take_at(batcher, now_us, SLOW);
    let rules = Batching {
        max_delay_us: 100,
        queue: QueuePolicy { allow_timeout_override: true, ..QueuePolicy::default() },
        ..Batching::default()
    };
    let mut batcher = ruled(rules);
    arrive(&mut batcher, 0, pending(1, Some(50)));
    assert_eq!(take(&mut batcher, 0).wake, Some(Moment::from_us(36)));
    assert_eq!(take(&mut batcher, 36).run.len(), 1);
    // It would be refused beside an idle instance.
    arrive(&mut batcher, 100, Pending { timeout_us: Some(99), ..pending(1, None) });
    assert_eq!(take(&mut batcher, 100).run.len(), 1);
    arrive(&mut batcher, 200, pending(1, None));
    assert_eq!(take(&mut batcher, 200).wake, Some(Moment::from_us(300)));
    batcher.close();
    assert_eq!(take(&mut batcher, 200).run.len(), 1);
}

#[test]
fn a_higher_level_goes_first_and_an_unknown_one_is_the_default() {
    let mut batcher = ruled(Batching { priority_levels: 3, default_priority: 2, ..Batching::default() });
    let [low, unnamed, beyond, high] = [(3, Some(900)), (0, None), (4, Some(950)), (1, None)]
        .map(|(p, d)| arrive(&mut batcher, 0, Pending { priority: p, ..pending(1, d) }));
    assert_eq!(take(&mut batcher, 1).run, [high, beyond, unnamed, low]);
    let late = arrive(&mut batcher, 1, Pending { priority: 3, ..pending(1, Some(5)) });
    let fine = arrive(&mut batcher, 1, Pending { priority: 1, ..pending(1, None) });
    assert_eq!(take(&mut batcher, 7), Batch { run: vec![fine], late: vec![(late, 2)], ..Batch::default() });
    // One level is none.
    let mut batcher = ruled(Batching { priority_levels: 1, max_delay_us: 1, ..Batching::default() });
    let [first, second] = [9, 1].map(|priority| arrive(&mut batcher, 0, Pending { priority, ..pending(1, None) }));
    assert_eq!(take(&mut batcher, 1).run, [first, second]);
}

#[test]
fn a_place_is_by_level_then_by_having_timed_out_then_by_deadline_then_by_arrival() {
    let (soon, never) = (Moment::from_us(5), NEVER);
    let order = [
        Ticket::new(0, soon, u64::MAX),
        Ticket::new(0, never, 0),
        Ticket::new(0, never, 1),
        Ticket::new(0, soon, 0).behind(),
        Ticket::new(1, soon, 0),
        Ticket::new(Ticket::LEVEL_MAX, never, u64::MAX).behind(),
    ];
    assert!(order.is_sorted_by(|a, b| a < b), "{order:?}");
    assert_eq!(order.map(Ticket::level), [0, 0, 0, 0, 1, Ticket::LEVEL_MAX]);
    assert_eq!(order[3].given(), Ticket::new(0, soon, 0));
    assert_eq!(order[0].given(), order[0]);
}

#[test]
fn each_level_has_its_own_room() {
    let one = QueuePolicy { queue_len_max: 1, ..QueuePolicy::default() };
    let many = QueuePolicy { queue_len_max: 200, ..QueuePolicy::default() };
    let mut batcher =
        ruled(Batching { priority_levels: 3, default_priority: 3, queue_by_priority: [(1, one), (2, many)].into(), ..Batching::default() });
    let at = |priority| Pending { priority, bytes: 0, ..pending(1, None) };
    let first = arrive(&mut batcher, 0, at(1));
    assert!(matches!(batcher.arrive(Moment::default(), at(1)), Err(Failure::QueueFull { queued: 1, .. })));
    for _ in 0..200 {
        arrive(&mut batcher, 0, at(2));
    }
    assert!(matches!(batcher.arrive(Moment::default(), at(2)), Err(Failure::QueueFull { queued: 200, .. })));
    assert!(matches!(batcher.arrive(Moment::default(), at(3)), Err(Failure::QueueFull { queued: 201, .. })), "the worker's own bound");
    assert!(batcher.cancel(first));
    arrive(&mut batcher, 0, at(1));
    // The one level of a model without levels has its room too.
    let mut batcher = ruled(Batching { queue: one, ..Batching::default() });
    arrive(&mut batcher, 0, at(0));
    assert!(matches!(batcher.arrive(Moment::default(), at(0)), Err(Failure::QueueFull { queued: 1, .. })));
}

#[test]
fn who_waited_too_long_is_refused_or_goes_behind() {
    let policy = QueuePolicy { default_timeout_us: 50, ..QueuePolicy::default() };
    let mut batcher = ruled(Batching { queue: policy, ..Batching::default() });
    let slow = arrive(&mut batcher, 0, pending(1, None));
    let fine = arrive(&mut batcher, 1, pending(1, None));
    assert_eq!(take(&mut batcher, 50), Batch { run: vec![fine], timed_out: vec![(slow, 50, 50)], ..Batch::default() });

    let policy = QueuePolicy { timeout_action: TimeoutAction::Delay, ..policy };
    let levels = Batching { queue: policy, priority_levels: 2, default_priority: 1, ..Batching::default() };
    let mut batcher = Batcher::new(Limits { rows_max: 1, ..LIMITS }, levels);
    let old = arrive(&mut batcher, 0, pending(1, Some(10_000)));
    let hurried = arrive(&mut batcher, 0, pending(1, Some(60)));
    let new = arrive(&mut batcher, 20, pending(1, None));
    let low = arrive(&mut batcher, 20, Pending { priority: 2, ..pending(1, None) });
    assert_eq!(take(&mut batcher, 50).run, [new], "the two that waited 50 us are behind it now");
    assert_eq!(take(&mut batcher, 60), Batch { run: vec![old], late: vec![(hurried, 0)], ..Batch::default() });
    assert_eq!(take(&mut batcher, 70).run, [low]);
    assert!(batcher.is_empty() && batcher.expiries.is_empty() && batcher.rows == 0 && batcher.bytes == 0);
}

#[test]
fn a_request_may_shorten_its_timeout_where_the_policy_lets_it() {
    let check = |default_timeout_us, allow_timeout_override, asked, expected| {
        let policy = QueuePolicy { default_timeout_us, allow_timeout_override, ..QueuePolicy::default() };
        assert_eq!(policy.allowed_us(asked), expected, "{policy:?} {asked:?}");
    };
    check(0, false, Some(5), None);
    check(0, true, None, None);
    check(0, true, Some(5), Some(5));
    check(9, false, Some(5), Some(9));
    check(9, true, Some(5), Some(5));
    check(9, true, Some(10), Some(9));
    check(9, true, Some(0), Some(9));
}

#[test]
fn kept_order_is_that_of_arrival_whatever_the_deadlines_and_groups() {
    let mut batcher = ruled(Batching { preserve_ordering: true, ..Batching::default() });
    let first = arrive(&mut batcher, 0, pending(1, None));
    let second = arrive(&mut batcher, 0, pending(1, Some(10)));
    let other = arrive(&mut batcher, 0, Pending { group: 7, ..pending(1, None) });
    let late = arrive(&mut batcher, 0, pending(1, Some(5)));
    let last = arrive(&mut batcher, 0, pending(1, None));
    assert_eq!(take(&mut batcher, 1).run, [first, second], "the last of their group would overtake the other");
    assert_eq!(take(&mut batcher, 6), Batch { run: vec![other], late: vec![(late, 1)], ..Batch::default() });
    assert_eq!(take(&mut batcher, 6).run, [last]);
}

/// One step of a generated run: which, and what arrives.
type Step = (u8, u32, Option<u64>, u64, u32, Option<u64>);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0u8..4, 1u32..6, prop::option::of(0u64..60), 0u64..3, 0u32..4, prop::option::of(0u64..9));
    prop::collection::vec(step, 1..80)
}

fn policies() -> impl Strategy<Value = QueuePolicy> {
    (any::<bool>(), 0u64..20, any::<bool>(), 0u32..6).prop_map(|(delay, default_timeout_us, allow_timeout_override, queue_len_max)| {
        let timeout_action = if delay { TimeoutAction::Delay } else { TimeoutAction::Reject };
        QueuePolicy { timeout_action, default_timeout_us, allow_timeout_override, queue_len_max }
    })
}

fn rules() -> impl Strategy<Value = Batching> {
    let sizes = prop::collection::vec(1u32..6, 0..3);
    (0u64..12, sizes, any::<bool>(), 0u32..4, 0u32..4, policies(), policies()).prop_map(
        |(max_delay_us, preferred_rows, preserve_ordering, priority_levels, default_priority, queue, second)| Batching {
            max_delay_us,
            preferred_rows,
            preserve_ordering,
            priority_levels,
            default_priority,
            queue,
            queue_by_priority: [(2, second)].into(),
        },
    )
}

fn arriving(step: Step) -> Pending {
    let (_, rows, deadline, group, priority, timeout_us) = step;
    Pending { group, priority, timeout_us, ..pending(rows, deadline) }
}

/// The rule before there were others, kept as what the default must do.
fn old_rule(queue: &mut BTreeMap<(u64, u64), (u32, u64)>, now_us: u64) -> (Vec<u64>, Vec<u64>) {
    let late: Vec<_> = queue.keys().filter(|(deadline, _)| *deadline <= now_us).copied().collect();
    queue.retain(|key, _| !late.contains(key));
    let Some(group) = queue.values().next().map(|(_, group)| *group) else { return (Vec::new(), late.iter().map(|k| k.1).collect()) };
    let (mut run, mut rows) = (Vec::new(), 0);
    for (key, (more, _)) in queue.iter().filter(|(_, (_, g))| *g == group) {
        if rows + more > LIMITS.rows_max && !run.is_empty() {
            break;
        }
        rows += more;
        run.push(*key);
    }
    queue.retain(|key, _| !run.contains(key));
    (run.iter().map(|k| k.1).collect(), late.iter().map(|k| k.1).collect())
}

proptest! {
    /// Every request that came in leaves exactly once: run, late, timed out or cancelled (I5 inside a replica); no batch is over
    /// its rows; nothing expired runs.
    #[test]
    fn every_request_leaves_exactly_once(rules in rules(), steps in steps()) {
        let mut batcher = Batcher::new(LIMITS, rules);
        let mut inside: BTreeMap<Ticket, Pending> = BTreeMap::new();
        for (now_us, step) in steps.into_iter().enumerate() {
            let now = Moment::from_us(now_us as u64);
            match step.0 {
                0 | 1 => if let Ok(ticket) = batcher.arrive(now, arriving(step)) {
                    prop_assert!(inside.insert(ticket, arriving(step)).is_none());
                },
                2 => if let Some(ticket) = inside.keys().next().copied() {
                    prop_assert!(batcher.cancel(ticket));
                    inside.remove(&ticket);
                },
                _ => {
                    let batch = take_at(&mut batcher, now_us as u64, SLOW);
                    let run: Vec<_> = batch.run.iter().map(|t| inside.remove(t).unwrap()).collect();
                    prop_assert!(run.iter().map(|p| p.rows).sum::<u32>() <= LIMITS.rows_max || run.len() == 1);
                    prop_assert!(run.iter().all(|p| p.group == run[0].group && p.deadline.is_none_or(|d| d > now)));
                    let gone = batch.late.iter().chain(&batch.hopeless).map(|(t, _)| t).chain(batch.timed_out.iter().map(|(t, ..)| t));
                    for ticket in gone {
                        prop_assert!(inside.remove(ticket).is_some());
                    }
                }
            }
            prop_assert_eq!(batcher.len(), inside.len());
            prop_assert_eq!(batcher.rows, inside.values().map(|p| u64::from(p.rows)).sum::<u64>());
            prop_assert_eq!(batcher.expiries.len(), if batcher.ruled { inside.len() } else { 0 });
        }
    }

    #[test]
    fn without_rules_batches_are_what_they_always_were(steps in steps()) {
        let mut batcher = plain();
        let mut model = BTreeMap::new();
        for (now_us, step) in steps.into_iter().enumerate() {
            let now_us = now_us as u64;
            let (_, rows, deadline, group, ..) = step;
            if step.0 < 3 {
                if let Ok(ticket) = batcher.arrive(Moment::from_us(now_us), Pending { priority: 0, ..arriving(step) }) {
                    model.insert((deadline.unwrap_or(u64::MAX), ticket.number()), (rows, group));
                }
            } else {
                let batch = take(&mut batcher, now_us);
                let numbers = (batch.run.iter().map(|t| t.number()).collect(), batch.late.iter().map(|(t, _)| t.number()).collect());
                prop_assert_eq!(numbers, old_rule(&mut model, now_us));
                prop_assert_eq!((batch.timed_out, batch.wake), (vec![], None));
            }
        }
    }

    /// An instance that is idle all the time and asks when told to, or when something arrives.
    #[test]
    fn nobody_waits_longer_than_the_delay_beside_an_idle_instance(rules in rules(), steps in steps()) {
        let delay_us = rules.max_delay_us;
        let mut batcher = Batcher::new(LIMITS, rules);
        let mut arrived: BTreeMap<Ticket, u64> = BTreeMap::new();
        let mut wake = None;
        for (now_us, step) in steps.into_iter().enumerate() {
            let now_us = now_us as u64;
            if step.0 < 3 && let Ok(ticket) = batcher.arrive(Moment::from_us(now_us), arriving(step)) {
                arrived.insert(ticket, now_us);
                wake = Some(now_us);
            }
            while wake.is_some_and(|at| at <= now_us) {
                let batch = take_at(&mut batcher, now_us, SLOW);
                for ticket in batch.run.iter().chain(batch.hopeless.iter().map(|(t, _)| t)) {
                    arrived.remove(ticket);
                }
                prop_assert!(batch.timed_out.is_empty() && batch.late.is_empty(), "beside an idle instance: {:?}", batch);
                prop_assert!(batch.run.is_empty() || batch.wake.is_none_or(|at| at.as_us() == now_us));
                // Without a delay an instance takes until nothing is left.
                wake = batch.wake.map(Moment::as_us).or_else(|| (!batcher.is_empty()).then_some(now_us));
            }
            prop_assert_eq!(batcher.len(), arrived.len());
            prop_assert!(arrived.values().all(|at| now_us - at < delay_us.max(1)), "{:?} at {}", arrived, now_us);
        }
    }

    #[test]
    fn no_lower_level_runs_while_a_higher_one_waits_and_fits(rules in rules(), steps in steps()) {
        let mut batcher = Batcher::new(LIMITS, rules);
        for (now_us, step) in steps.into_iter().enumerate() {
            if step.0 < 3 {
                let _ = batcher.arrive(Moment::from_us(now_us as u64), arriving(step));
                continue;
            }
            let groups: BTreeMap<Ticket, u64> = batcher.queue.iter().map(|(place, w)| (place.given(), w.group)).collect();
            let batch = take(&mut batcher, now_us as u64);
            let Some(lowest) = batch.run.iter().map(|t| t.level()).max() else { continue };
            let highest = batch.run.iter().map(|t| t.level()).min();
            prop_assert!(batcher.queue.keys().all(|left| Some(left.level()) >= highest), "the head is of the highest level");
            let group = groups[&batch.run[0]];
            let passed_over = batcher.queue.iter().find(|(place, w)| w.group == group && place.level() < lowest);
            prop_assert!(passed_over.is_none(), "{:?} waits behind {:?}", passed_over, batch.run);
        }
    }
}
