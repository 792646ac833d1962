//! What a gateway makes of how busy a device is for longer than a moment.

/// Reports are forgotten in so many microseconds, e times.
const SPARE_US: f64 = 5e6;
/// Rows that the plan leaves unanswered, as a share of all, above which queues are kept short.
const SHORT_MIN: f64 = 0.02;
/// Longest wait there, in shortest targets of those on the device: less what each share of rows that is short takes off, but at least the last.
const WAIT: (f64, f64, f64) = (1.2, 3.5, 0.5);

/// Share of a device's reports of late with nothing to wait for: `before`, and `since_us` later one that says so or not.
pub fn spare(before: f64, since_us: u64, free: bool) -> f64 {
    let keep = (-(since_us as f64) / SPARE_US).exp();
    before * keep + if free { 1.0 - keep } else { 0.0 }
}

/// Longest wait that may be in front of a request on a device, in microseconds: `target_us` is the shortest latency target of those on it,
/// `short` the share of all planned rows that the plan leaves unanswered.
///
/// While there is room for all, who can wait may: the earliest deadline goes first. Where there is not, a longer queue answers no more; it only takes
/// the slack away that large batches need. Simulated at three times what the references can do: 75 % in time without a bound, 88 % with.
pub fn wait_us_max(target_us: f64, short: f64) -> f64 {
    let (most, by, least) = WAIT;
    if short > SHORT_MIN { target_us * (most - by * short).max(least) } else { f64::INFINITY }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_spare_as_long_as_most_reports_say_so() {
        let mut share = 1.0;
        for _ in 0..100 {
            share = spare(share, 100_000, false);
        }
        assert!(share < 0.2, "{share}");
        for second in 0..5 {
            share = spare(share, 1_000_000, second % 2 == 0);
        }
        assert!((0.3..0.7).contains(&share), "{share}");
        assert_eq!(spare(0.0, u64::MAX, true), 1.0);
    }

    #[test]
    fn queues_are_short_only_where_the_plan_falls_short() {
        assert_eq!(wait_us_max(100.0, 0.0), f64::INFINITY);
        assert_eq!(wait_us_max(f64::INFINITY, 0.5), f64::INFINITY);
        assert!(wait_us_max(100.0, 0.1) < wait_us_max(100.0, 0.03));
        assert_eq!(wait_us_max(100.0, 0.9), 50.0);
    }
}
