//! What the way to a replica costs: its round trip, and how fast bytes travel.

/// Requests up to so many bytes show the round trip ...
const SMALL_BYTES: u64 = 16 << 10;
/// ... and from so many on how fast they travel.
const LARGE_BYTES: u64 = 64 << 10;
/// Share by which a longer round trip raises what is believed; a shorter one is believed at once.
const RISE: f64 = 0.02;
/// Share of the newest large request in the bandwidth.
const NEWEST: f64 = 0.2;
/// Round trips are told in steps, in microseconds: less is what schedulers do, not distance.
const STEP_US: f64 = 500.0;

/// What was seen of a way. Nothing is known at first: no round trip, no bound on bytes.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Path {
    rtt_us: f64,
    /// Bytes a microsecond; 0 before a large request.
    bytes_per_us: f64,
}

impl Path {
    /// A request of `bytes` took `us` microseconds besides its time at the worker.
    pub fn observe(&mut self, us: f64, bytes: u64) {
        if !(0.0..=f64::MAX).contains(&us) {
            return;
        }
        if bytes <= SMALL_BYTES {
            let known = self.rtt_us > 0.0 && us > self.rtt_us;
            self.rtt_us = if known { self.rtt_us + RISE * (us - self.rtt_us) } else { us };
        } else if bytes >= LARGE_BYTES {
            let newest = bytes as f64 / (us - self.rtt_us).max(1.0);
            let known = self.bytes_per_us > 0.0;
            self.bytes_per_us = if known { self.bytes_per_us + NEWEST * (newest - self.bytes_per_us) } else { newest };
        }
    }

    /// Microseconds of a round trip without any work, in steps of half a millisecond.
    pub fn rtt_us(&self) -> f64 {
        (self.rtt_us / STEP_US).floor() * STEP_US
    }

    /// Bytes a microsecond; infinite while nobody has seen it.
    pub fn bytes_per_us(&self) -> f64 {
        if self.bytes_per_us > 0.0 { self.bytes_per_us } else { f64::INFINITY }
    }

    /// As two numbers, to be kept where only such can be.
    pub fn to_parts(self) -> [f32; 2] {
        [self.rtt_us as f32, self.bytes_per_us as f32]
    }

    /// Back again.
    pub fn from_parts([rtt_us, bytes_per_us]: [f32; 2]) -> Self {
        Self { rtt_us: f64::from(rtt_us), bytes_per_us: f64::from(bytes_per_us) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_trips_tell_the_distance_and_a_longer_way_is_believed_in_time() {
        let mut path = Path::default();
        assert_eq!((path.rtt_us(), path.bytes_per_us()), (0.0, f64::INFINITY));
        for us in [20_900.0, 20_100.0, 20_300.0, 95_000.0] {
            path.observe(us, 100);
        }
        assert!((20_000.0..22_500.0).contains(&path.rtt_us()), "{path:?}");
        (0..300).for_each(|_| path.observe(40_000.0, 100));
        assert!(path.rtt_us() > 39_000.0, "{path:?}");
        path.observe(120.0, 100);
        assert_eq!(path.rtt_us(), 0.0, "within a host");
        path.observe(f64::NAN, 100);
        path.observe(-1.0, 100);
        assert_eq!(path.rtt_us(), 0.0);
    }

    #[test]
    fn large_requests_tell_how_fast_bytes_travel() {
        let mut path = Path::default();
        path.observe(1_000.0, 100);
        (0..50).for_each(|_| path.observe(1_000.0 + 10_000.0, 1_000_000));
        assert!((path.bytes_per_us() - 100.0).abs() < 1e-6, "{path:?}");
        assert_eq!(Path::from_parts(path.to_parts()).bytes_per_us() as u32, 100);
    }
}
