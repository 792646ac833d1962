//! The policies to compare with, by name and by rule.

use super::*;

/// A batch takes 100 us and 10 us a row.
const SURE: Forecast = Forecast { latency: Latency { alpha_us: 10.0, beta_us: 100.0 }, kappa: 1.0, slow: 1.0 };

fn with(policy: BatchPolicy) -> Batcher {
    Batcher::with_policy(Limits { rows_max: 8, queue_len_max: 100, ..LIMITS }, Batching::default(), policy)
}

#[test]
fn each_is_known_by_its_name_and_another_name_is_told_all() {
    for (policy, name) in BatchPolicy::ALL {
        assert_eq!((name.parse(), policy.to_string()), (Ok(policy), name.to_owned()));
    }
    let refused = "fifo".parse::<BatchPolicy>().unwrap_err().to_string();
    assert_eq!(refused, "batch policy `fifo` is not one of sluice, triton, linger, clipper, bentoml, deferred, largest-first");
    assert_eq!(BatchPolicy::default(), BatchPolicy::Sluice);
}

#[test]
fn linger_waits_for_a_full_batch_until_the_delay_is_over() {
    let mut batcher = with(BatchPolicy::Linger);
    let first = arrive(&mut batcher, 0, pending(1, None));
    assert_eq!(take(&mut batcher, 5).wake, Some(Moment::from_us(2_000)));
    assert_eq!(take(&mut batcher, 2_000).run, [first]);
}

#[test]
fn clipper_grows_by_one_and_shrinks_when_a_batch_is_too_slow() {
    let mut batcher = with(BatchPolicy::Clipper);
    let sizes = |batcher: &mut Batcher, budget_us, batches: usize| -> Vec<usize> {
        (0..batches)
            .map(|_| {
                while batcher.len() < 8 {
                    arrive(batcher, 0, pending(1, Some(budget_us)));
                }
                take_at(batcher, 0, SURE).run.len()
            })
            .collect()
    };
    // 0.92 of 150 us is not enough for four rows.
    assert_eq!(sizes(&mut batcher, 150, 7), [1, 2, 3, 4, 3, 4, 4]);
}

#[test]
fn bentoml_waits_while_that_costs_less_than_the_usual_wait() {
    let mut batcher = with(BatchPolicy::BentoMl);
    let first = arrive(&mut batcher, 0, pending(1, None));
    assert_eq!(take_at(&mut batcher, 40_000, SURE).run, [first], "nobody waited before");
    // The mean wait is 2,000 us now: one may wait for 1,890 us, two for half of that.
    arrive(&mut batcher, 40_000, pending(1, None));
    assert_eq!(take_at(&mut batcher, 40_000, SURE).wake, Some(Moment::from_us(41_000)));
    arrive(&mut batcher, 40_100, pending(1, None));
    assert_eq!(take_at(&mut batcher, 40_100, SURE).run.len(), 2);
    arrive(&mut batcher, 50_000, pending(1, None));
    batcher.close();
    assert_eq!(take_at(&mut batcher, 50_000, SURE).run.len(), 1, "nobody comes any more");
}

#[test]
fn deferred_waits_to_the_last_moment_at_which_one_more_can_ride() {
    let mut batcher = with(BatchPolicy::Deferred);
    let first = arrive(&mut batcher, 0, pending(1, Some(1_000)));
    assert_eq!(take_at(&mut batcher, 0, SURE).wake, Some(Moment::from_us(880)));
    let second = arrive(&mut batcher, 10, pending(1, Some(2_000)));
    assert_eq!(take_at(&mut batcher, 10, SURE).wake, Some(Moment::from_us(870)));
    assert_eq!(take_at(&mut batcher, 870, SURE).run, [first, second]);
    let endless = arrive(&mut batcher, 900, pending(1, None));
    assert_eq!(take_at(&mut batcher, 900, SURE).run, [endless]);
}

#[test]
fn largest_first_takes_the_shape_of_most_rows() {
    let mut batcher = with(BatchPolicy::LargestFirst);
    let urgent = arrive(&mut batcher, 0, pending(1, Some(500)));
    let many = [(); 3].map(|()| arrive(&mut batcher, 0, Pending { group: 7, ..pending(1, Some(900)) }));
    assert_eq!(take_at(&mut batcher, 0, SURE).run, many);
    assert_eq!(take_at(&mut batcher, 0, SURE).run, [urgent]);
}

proptest! {
    /// With every policy each request leaves once, in a batch of one shape, and nothing expired runs.
    #[test]
    fn every_request_leaves_exactly_once_with_every_policy(which in 0usize..7, rules in rules(), steps in steps()) {
        let mut batcher = Batcher::with_policy(LIMITS, rules, BatchPolicy::ALL[which].0);
        let mut inside = BTreeMap::new();
        for (now_us, step) in steps.into_iter().enumerate() {
            let now = Moment::from_us(now_us as u64);
            if step.0 < 2 {
                if let Ok(ticket) = batcher.arrive(now, arriving(step)) {
                    prop_assert!(inside.insert(ticket, arriving(step)).is_none());
                }
                continue;
            }
            let batch = take_at(&mut batcher, now_us as u64, SLOW);
            let run: Vec<_> = batch.run.iter().map(|ticket| inside.remove(ticket).unwrap()).collect();
            prop_assert!(run.iter().all(|p| p.group == run[0].group && p.deadline.is_none_or(|deadline| deadline > now)));
            let gone = batch.late.iter().chain(&batch.hopeless).map(|(t, _)| t).chain(batch.timed_out.iter().map(|(t, ..)| t));
            for ticket in gone {
                prop_assert!(inside.remove(ticket).is_some());
            }
            prop_assert!(!run.is_empty() || batcher.is_empty() || batch.wake.is_some(), "who waits beside an idle instance has a reason");
            prop_assert_eq!(batcher.len(), inside.len());
        }
    }
}
