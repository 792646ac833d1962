//! What a replica does without rules of its model: by deadline, never idle beside work, priorities by weight.

use super::super::lanes::LEVELS;
use super::*;

/// A batch takes 100 us and 10 us a row, in 99 of 100 cases at most twice that.
const GPU: Forecast = Forecast { latency: Latency { alpha_us: 10.0, beta_us: 100.0 }, kappa: 2.0, slow: 1.0 };
const ROOM: Limits = Limits { rows_max: 8, queue_len_max: 1024, queue_bytes_max: u64::MAX };

fn roomy() -> Batcher {
    Batcher::new(ROOM, Batching::default())
}

#[test]
fn i7_a_hopeless_head_is_refused_with_how_late_it_would_be() {
    let check = |slow, rows, deadline_us, expected: Option<u64>| {
        let mut batcher = roomy();
        let head = arrive(&mut batcher, 0, pending(rows, Some(deadline_us)));
        let batch = take_at(&mut batcher, 0, Forecast { slow, ..GPU });
        let (run, hopeless) = match expected {
            None => (vec![head], vec![]),
            Some(late_us) => (vec![], vec![(head, late_us)]),
        };
        assert_eq!(batch, Batch { run, hopeless, ..Batch::default() });
    };
    check(1.0, 1, 110, None);
    check(1.0, 1, 109, Some(1));
    check(1.0, 4, 139, Some(1));
    check(2.0, 1, 200, Some(20));
    // A request over the largest batch still runs, alone.
    check(1.0, 9, 190, None);
}

#[test]
fn the_head_rides_with_as_many_as_let_it_be_in_time() {
    let mut batcher = roomy();
    let head = arrive(&mut batcher, 0, pending(1, Some(250)));
    let rest: Vec<_> = (0..5).map(|_| arrive(&mut batcher, 0, pending(1, Some(10_000)))).collect();
    // Three rows take at most 260 us.
    assert_eq!(take_at(&mut batcher, 0, GPU).run, [head, rest[0]]);
    assert_eq!(take_at(&mut batcher, 250, GPU).run, rest[1..], "the others had time");
}

#[test]
fn a_head_is_given_up_only_when_the_others_could_not_be_in_time_after_it() {
    let check = |others_us, gives_up| {
        let mut batcher = roomy();
        let head = arrive(&mut batcher, 0, pending(1, Some(220)));
        let rest: Vec<_> = (0..7).map(|_| arrive(&mut batcher, 0, pending(1, Some(others_us)))).collect();
        let batch = take_at(&mut batcher, 0, GPU);
        let (run, hopeless) = if gives_up { (rest, vec![(head, 360 - 220)]) } else { (vec![head], vec![]) };
        assert_eq!(batch, Batch { run, hopeless, ..Batch::default() }, "{others_us}");
    };
    // The head alone takes at most 220 us, the others then 340.
    check(560, false);
    check(559, true);
}

#[test]
fn among_equals_nobody_is_given_up() {
    let mut batcher = roomy();
    let equals: Vec<_> = (0..8).map(|_| arrive(&mut batcher, 0, pending(1, Some(250)))).collect();
    let batch = take_at(&mut batcher, 0, GPU);
    assert_eq!(batch, Batch { run: equals[..2].to_vec(), ..Batch::default() }, "none of the others allows more");
}

#[test]
fn in_overload_the_shape_with_the_largest_batch_goes_first() {
    let check = |rows, first_is_larger| {
        let mut batcher = roomy();
        let urgent = arrive(&mut batcher, 0, pending(1, Some(1_000)));
        let many: Vec<_> = (0..rows).map(|_| arrive(&mut batcher, 0, Pending { group: 7, ..pending(1, Some(1_001)) })).collect();
        let expected = if first_is_larger { &many[..8] } else { &[urgent] };
        assert_eq!(take_at(&mut batcher, 0, GPU).run, expected, "{rows}");
    };
    // Of the first shape a batch of 110 us waits, and of the other three or four of 180 us at most: .8 of 1,000 us are there for all.
    check(24, false);
    check(32, true);
}

#[test]
fn a_model_that_gains_nothing_is_not_batched() {
    let cpu = Forecast { latency: Latency { alpha_us: 100.0, beta_us: 0.0 }, ..GPU };
    let mut batcher = roomy();
    let tickets = [5u64, 4, 3].map(|ms| arrive(&mut batcher, 0, pending(1, Some(1_000 * ms))));
    for ticket in tickets.into_iter().rev() {
        assert_eq!(take_at(&mut batcher, 0, cpu).run, [ticket]);
    }
}

#[test]
fn the_backlog_counts_batches_by_shape() {
    let mut batcher = roomy();
    for (group, rows) in [(0, 5), (0, 5), (7, 1)] {
        arrive(&mut batcher, 0, Pending { group, ..pending(rows, None) });
    }
    assert_eq!(batcher.backlog(Moment::from_us(0), GPU), Backlog::by_deadline(3 * 100 + 11 * 10, |_| 0));
    assert_eq!(batcher.backlog(Moment::from_us(0), Forecast { slow: 2.0, ..GPU }).all_us(), 2 * (3 * 100 + 11 * 10));
}

#[test]
fn the_backlog_knows_what_is_due_when() {
    let mut batcher = roomy();
    let late = arrive(&mut batcher, 0, pending(6, Some(300_000)));
    let soon = arrive(&mut batcher, 0, pending(2, Some(30_000)));
    let all_us = batcher.backlog(Moment::from_us(0), GPU).all_us();
    let before_us = |batcher: &Batcher, now: u64, slack_us: u64| batcher.backlog(Moment::from_us(now), GPU).before_us(Some(slack_us));
    assert_eq!(before_us(&batcher, 0, 10_000), 0);
    assert_eq!(before_us(&batcher, 0, 50_000), all_us / 4);
    assert_eq!(before_us(&batcher, 0, 700_000), all_us);
    assert_eq!(before_us(&batcher, 280_000, 40_000), all_us, "time passes");
    assert!(batcher.cancel(soon));
    assert_eq!(before_us(&batcher, 0, 50_000), 0);
    assert!(batcher.cancel(late));
    assert_eq!(batcher.backlog(Moment::from_us(0), GPU), Backlog::default());
}

/// Rows by level that leave in `batches` when some of all `levels` always wait; each batch takes 100 us.
fn shares(batcher: &mut Batcher, levels: &[u32], start_us: u64, batches: u64, deadline_us: Option<u64>) -> [u64; 3] {
    let mut rows = [0; 3];
    for now_us in (0..batches).map(|batch| start_us + 100 * batch) {
        for priority in levels.iter().flat_map(|level| std::iter::repeat_n(*level, 8)) {
            let room = batcher.queue.range(Ticket::range(priority, Moment::default())).count() < 100;
            if room {
                arrive(batcher, now_us, Pending { priority, ..pending(1, deadline_us.map(|us| now_us + us)) });
            }
        }
        for ticket in take(batcher, now_us).run {
            rows[ticket.level() as usize - 1] += 1;
        }
    }
    rows
}

#[test]
fn priorities_get_their_shares_within_a_tenth() {
    for deadline_us in [None, Some(1_500)] {
        let rows = shares(&mut roomy(), &[1, 2, 3], 0, 3_000, deadline_us);
        let total = rows.iter().sum::<u64>() as f64;
        for (got, weight) in rows.into_iter().zip([8.0, 2.0, 1.0]) {
            let share = got as f64 / total * 11.0 / weight;
            assert!((0.9..1.1).contains(&share), "{rows:?} {deadline_us:?}");
        }
    }
}

#[test]
fn a_level_that_was_away_has_saved_up_nothing() {
    let mut batcher = roomy();
    let alone = shares(&mut batcher, &[2], 0, 500, None);
    assert_eq!(alone, [0, 500 * 8, 0], "it has the device to itself");
    let rows = shares(&mut batcher, &[2, 3], 60_000, 30, None);
    assert!((rows[1] as f64 / rows[2] as f64 - 2.0).abs() < 0.4, "{rows:?}");
}

#[test]
fn a_request_without_priority_is_of_the_middle_and_higher_ones_leave_first() {
    let mut batcher = Batcher::new(Limits { rows_max: 1, ..ROOM }, Batching::default());
    let [low, middle, unknown, high] = [3, 0, 4, 1].map(|priority| arrive(&mut batcher, 0, Pending { priority, ..pending(1, None) }));
    assert_eq!([middle, unknown].map(Ticket::level), [2, 2]);
    assert_eq!([0; 4].map(|_| take(&mut batcher, 1).run[0]), [high, middle, low, unknown]);
}

#[test]
fn room_in_a_batch_goes_to_other_levels_of_its_shape() {
    let mut batcher = roomy();
    let [low, other, high] =
        [(3, 0), (2, 7), (1, 0)].map(|(priority, group)| arrive(&mut batcher, 0, Pending { priority, group, ..pending(1, None) }));
    assert_eq!(take(&mut batcher, 0).run, [high, low]);
    assert_eq!(take(&mut batcher, 0).run, [other]);
}

#[test]
fn who_has_no_deadline_is_not_starved_by_those_who_have_one() {
    let mut batcher = Batcher::new(Limits { rows_max: 1, ..ROOM }, Batching::default());
    let patient = arrive(&mut batcher, 0, pending(1, None));
    let turn = (0..100).find(|now_us| {
        arrive(&mut batcher, *now_us, pending(1, Some(now_us + 50)));
        take(&mut batcher, *now_us).run == [patient]
    });
    assert_eq!(turn, Some(20));
}

#[test]
fn a_rare_shape_is_not_starved_in_overload() {
    let mut batcher = roomy();
    // Each batch takes 180 us, and more than 5,000 us of work waits.
    let (mut rare, mut gaps, mut last) = (0, Vec::new(), 0);
    for batch in 0..400u64 {
        let now_us = 180 * batch;
        for _ in 0..if batch == 0 { 400 } else { 16 } {
            arrive(&mut batcher, now_us, pending(1, Some(now_us + 5_000)));
        }
        if batcher.lanes.rows(Lane { level: 2, endless: false, group: 7 }) == 0 {
            arrive(&mut batcher, now_us, Pending { group: 7, ..pending(1, Some(now_us + 6_000)) });
            rare += 1;
        }
        let batch = take_at(&mut batcher, now_us, Forecast { kappa: 1.05, ..GPU });
        if batch.run.len() == 1 {
            gaps.push((now_us - last) / 180);
            last = now_us;
        }
    }
    assert!(gaps.len() + 1 >= rare && gaps.iter().skip(1).all(|gap| *gap <= 21), "{rare} came, {gaps:?}");
    assert!(gaps.iter().skip(1).any(|gap| *gap >= 20), "it has no more than the next turn: {gaps:?}");
}

fn forecasts() -> impl Strategy<Value = Forecast> {
    (0.0f64..40.0, 0.0f64..40.0, 1.05f64..3.0, 0.5f64..20.0).prop_map(|(alpha_us, beta_us, kappa, slow)| Forecast {
        latency: Latency { alpha_us, beta_us },
        kappa,
        slow,
    })
}

/// What waits, by ticket.
type Inside = BTreeMap<Ticket, Pending>;

/// Checks one batch against all that is promised of it, and takes it out of `inside`.
fn check_batch(now: Moment, forecast: Forecast, batch: &Batch, inside: &mut Inside, left: usize) -> Result<(), TestCaseError> {
    let done = |rows| now.as_us() as f64 + forecast.tail_us(rows);
    let by = |pending: &Pending| pending.deadline.map_or(f64::INFINITY, |deadline| deadline.as_us() as f64);
    let run: Vec<Pending> = batch.run.iter().map(|ticket| inside.remove(ticket).expect("answered twice")).collect();
    let rows = run.iter().map(|pending| pending.rows).sum::<u32>();
    // The last one is run if it is in time as a rule.
    let as_a_rule = now.as_us() as f64 + forecast.batch_us(rows);
    let done_or_rule = if run.len() == 1 && left == 0 { as_a_rule } else { done(rows) };
    prop_assert!(run.iter().all(|p| p.group == run[0].group && done_or_rule <= by(p)), "all of a batch are expected in time");
    prop_assert!(rows <= ROOM.rows_max || run.len() == 1);
    for (ticket, late_us) in &batch.late {
        let late = inside.remove(ticket).expect("answered twice");
        prop_assert_eq!(late.deadline.map(|deadline| now.us_since(deadline)), Some(*late_us));
    }
    for (ticket, late_us) in &batch.hopeless {
        let hopeless = inside.remove(ticket).expect("answered twice");
        prop_assert!(*late_us > 0 && hopeless.deadline.is_some_and(|deadline| deadline > now));
        let feasible = done(hopeless.rows) <= by(&hopeless);
        prop_assert!(!feasible || run.iter().any(|p| p.group == hopeless.group), "given up for nobody");
    }
    prop_assert!(!run.is_empty() || left == 0, "an instance is idle beside work");
    prop_assert_eq!((batch.wake, batch.timed_out.len(), left), (None, 0, inside.len()));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    /// Whatever comes, goes and is cancelled: nothing starts that is not expected in time (I7), each request leaves once (I5), the
    /// queue is bounded, and no instance is idle beside a request that can be in time.
    #[test]
    fn by_deadline_nothing_is_lost_late_or_left_waiting(forecast in forecasts(), steps in steps(), pace_us in 1u64..300) {
        let limits = Limits { queue_len_max: 20, ..ROOM };
        let mut batcher = Batcher::new(limits, Batching::default());
        let (mut inside, mut batch) = (Inside::new(), Batch::default());
        let end_us = steps.len() as u64 * pace_us;
        for (i, step) in steps.into_iter().enumerate() {
            let now_us = i as u64 * pace_us;
            let now = Moment::from_us(now_us);
            let pending = Pending { deadline: step.2.map(|slack| Moment::from_us(now_us + 20 * slack)), ..arriving(step) };
            match (step.0, inside.keys().nth(i % 3).copied()) {
                (0 | 1, _) => match batcher.arrive(now, pending) {
                    Ok(ticket) => prop_assert!(inside.insert(ticket, pending).is_none()),
                    Err(Failure::QueueFull { queued, .. }) => prop_assert_eq!(queued, limits.queue_len_max),
                    Err(late) => assert!(matches!(late, Failure::DeadlineExceeded { .. })),
                },
                (2, Some(ticket)) => {
                    prop_assert!(batcher.cancel(ticket) && !batcher.cancel(ticket));
                    inside.remove(&ticket);
                }
                _ => {
                    batcher.take(now, &forecast, &mut batch);
                    check_batch(now, forecast, &batch, &mut inside, batcher.len())?;
                }
            }
            prop_assert!(batcher.len() == inside.len() && batcher.len() <= limits.queue_len_max);
            let rows: u64 = LEVELS.flat_map(|level| batcher.lanes.of(level)).map(|(_, load)| load.rows).sum();
            prop_assert_eq!((rows, batcher.rows), (batcher.rows, inside.values().map(|p| u64::from(p.rows)).sum()));
        }
        while !batcher.is_empty() {
            batcher.take(Moment::from_us(end_us), &forecast, &mut batch);
            check_batch(Moment::from_us(end_us), forecast, &batch, &mut inside, batcher.len())?;
        }
        prop_assert!(inside.is_empty() && batcher.bytes == 0 && batcher.lanes.batches(1) == 0);
    }
}

#[test]
fn an_idle_instance_runs_the_last_that_would_be_in_time_as_a_rule() {
    let uneven = Forecast { latency: Latency { alpha_us: 20.0, beta_us: 0.0 }, kappa: 3.0, slow: 1.0 };
    let mut batcher = plain();
    let lone = arrive(&mut batcher, 0, pending(1, Some(20)));
    assert_eq!(take_at(&mut batcher, 0, uneven), Batch { run: vec![lone], ..Batch::default() });
    let lone = arrive(&mut batcher, 0, pending(1, Some(19)));
    assert_eq!(take_at(&mut batcher, 0, uneven), Batch { hopeless: vec![(lone, 1)], ..Batch::default() });
    let first = arrive(&mut batcher, 0, pending(1, Some(58)));
    let second = arrive(&mut batcher, 0, pending(1, Some(59)));
    let expected = Batch { run: vec![second], hopeless: vec![(first, 2)], ..Batch::default() };
    assert_eq!(take_at(&mut batcher, 0, uneven), expected, "one of two has to make room");
}

/// Rows up to 100 bytes take 100 microseconds, larger ones a hundred times that.
struct TwoSizes;

impl Forecasts for TwoSizes {
    fn whole(&self) -> Forecast {
        Forecast::from(Latency { alpha_us: 5_000.0, beta_us: 0.0 })
    }

    fn of(&self, row_bytes: u64) -> Forecast {
        Forecast::from(Latency { alpha_us: if row_bytes > 100 { 10_000.0 } else { 100.0 }, beta_us: 0.0 })
    }
}

#[test]
fn whether_a_request_can_be_in_time_goes_by_its_own_size() {
    let mut batcher = roomy();
    let mut arrive = |bytes, group, deadline_us| {
        let pending = Pending { rows: 1, bytes, deadline: Some(Moment::from_us(deadline_us)), group, priority: 0, timeout_us: None };
        batcher.arrive(Moment::default(), pending).unwrap()
    };
    let (small, large) = (arrive(10, 1, 1_000), arrive(1_000, 2, 8_000));
    let mut batch = Batch::default();
    batcher.take(Moment::default(), &TwoSizes, &mut batch);
    assert_eq!((batch.run.clone(), batch.hopeless.clone()), (vec![small], vec![]));
    batcher.take(Moment::from_us(100), &TwoSizes, &mut batch);
    assert_eq!(batch.run, []);
    assert!(matches!(batch.hopeless.as_slice(), [(ticket, _)] if *ticket == large));
}
