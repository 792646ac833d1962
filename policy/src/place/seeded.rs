//! Problems made from a seed, for tests and benches: fleets of four kinds of devices, models of four variants, rates by Zipf's law.

use super::{Device, Model, Pair, Problem, solve};

/// A stream of numbers from a seed (xorshift64*).
#[derive(Debug, Clone)]
pub struct Stream(u64);

impl Stream {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        let mut stream = Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        for _ in 0..8 {
            stream.next();
        }
        stream
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// In 0..1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// In `from..to`, evenly in its logarithm.
    pub fn log_between(&mut self, from: f64, to: f64) -> f64 {
        from * (to / from).powf(self.unit())
    }

    /// Of a normal distribution of mean 0 and deviation 1 (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        (-2.0 * (1.0 - self.unit()).ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos()
    }
}

/// A kind of device: how many times as fast as the slowest, its memory, and how much faster each variant is than the reference there.
struct Kind {
    speed: f64,
    bytes: u64,
    gains: [f64; 4],
    share: f64,
}

/// A processor of servers with integer instructions, one without, an edge box, a graphics card: gains of the reference, a cast, an 8-bit
/// form and a smaller network, as measured or published for such devices.
const KINDS: [Kind; 4] = [
    Kind { speed: 4.0, bytes: 16_000_000_000, gains: [1.0, 1.4, 2.4, 4.0], share: 0.45 },
    Kind { speed: 3.0, bytes: 16_000_000_000, gains: [1.0, 1.0, 1.3, 2.6], share: 0.25 },
    Kind { speed: 1.0, bytes: 4_000_000_000, gains: [1.0, 1.0, 1.8, 3.2], share: 0.15 },
    Kind { speed: 30.0, bytes: 14_000_000_000, gains: [1.0, 1.9, 2.6, 2.2], share: 0.15 },
];

/// What variants take of the reference's bytes.
const SIZES: [f64; 4] = [1.0, 0.5, 0.27, 0.16];

/// `devices` devices and `models` models of four variants each, asked for `load` times what the fleet could answer if all of it ran the
/// fastest variants in the mix that is asked for. What is placed is what was planned for other rates: each moved by e^N(0, .5).
pub fn problem(seed: u64, devices: usize, models: usize, load: f64) -> Problem {
    let mut stream = Stream::new(seed);
    let mut problem = Problem { loads_max: usize::MAX, ..Problem::default() };
    for number in 0..devices {
        let mut draw = (number as f64 + stream.unit()) / devices as f64;
        let kind = KINDS
            .iter()
            .position(|k| {
                (draw < k.share) || {
                    draw -= k.share;
                    false
                }
            })
            .unwrap_or_default();
        let bytes = KINDS.get(kind).map_or(0, |k| k.bytes) / 100 * 85;
        problem.devices.push(Device {
            node: number,
            zone: number % 2,
            bytes,
            loads_max: if kind == 3 { 2 } else { 1 },
            load_s_max: 10.0,
            kind,
        });
    }
    let zipf = 0.9 + 0.3 * stream.unit();
    for model in 0..models {
        let rank = (model as f64 + 1.0).powf(-zipf);
        problem.models.push(Model {
            rate: rank,
            weight: stream.log_between(0.5, 2.0),
            replicas_min: if stream.unit() < 0.7 { 1 } else { 2 },
        });
        let (seconds, bytes) = (stream.log_between(0.004, 0.2), stream.log_between(4e7, 1.5e9));
        let losses = [0.0, 0.001 + 0.002 * stream.unit(), 0.004 + 0.02 * stream.unit(), 0.02 + 0.06 * stream.unit()];
        let floor = if stream.unit() < 0.2 { 0.97 } else { 0.0 };
        for (device, place) in problem.devices.iter().enumerate() {
            let Some(kind) = KINDS.get(place.kind) else { continue };
            for (variant, ((loss, gain), size)) in losses.iter().zip(&kind.gains).zip(&SIZES).enumerate() {
                let service_s = seconds / kind.speed / gain;
                let pays = variant == 0 || *gain > 1.0;
                // As far as the utilisation at which it is in time falls with the time of a run.
                let utilisation_max = (1.0 - 4.6 * 1.1 * service_s / (2.0 * 0.25)).clamp(0.3, 0.9);
                if pays && 1.0 - loss >= floor {
                    problem.pairs.push(Pair {
                        model,
                        device,
                        variant,
                        accuracy: 1.0 - loss,
                        service_s,
                        utilisation_max,
                        bytes: (bytes * size) as u64,
                        load_s: 1.0 + bytes * size / 5e8,
                        placed: false,
                        fixed: false,
                        tie: stream.next(),
                    });
                }
            }
        }
    }
    scale(&mut problem, load);
    let wanted: Vec<f64> = problem.models.iter().map(|m| m.rate).collect();
    problem.models.iter_mut().for_each(|m| m.rate *= (0.5 * stream.normal()).exp());
    problem.devices.iter_mut().for_each(|d| (d.loads_max, d.load_s_max) = (usize::MAX, f64::INFINITY));
    let before = solve(&problem, &mut || true);
    problem.pairs.iter_mut().zip(&before.placed).for_each(|(pair, placed)| pair.placed = *placed);
    problem.models.iter_mut().zip(wanted).for_each(|(m, rate)| m.rate = rate);
    problem.devices.iter_mut().for_each(|d| (d.loads_max, d.load_s_max) = (if d.kind == 3 { 2 } else { 1 }, 10.0));
    let replicas = before.placed.iter().filter(|placed| **placed).count();
    problem.loads_max = (replicas / 10).max(2);
    problem
}

/// Multiplies all rates so that they are `load` times what the devices could answer at most.
fn scale(problem: &mut Problem, load: f64) {
    let all = problem.rate();
    let capacity = (0..problem.devices.len()).map(|device| {
        let fastest = |k: usize| {
            let pairs = problem.pairs.iter().filter(|p| p.device == device && p.model == k);
            pairs.map(Pair::share).fold(f64::INFINITY, f64::min)
        };
        let mix = problem.models.iter().enumerate().map(|(k, m)| (m.rate / all, fastest(k)));
        1.0 / mix.filter(|(_, share)| share.is_finite()).map(|(part, share)| part * share).sum::<f64>()
    });
    let factor = load * capacity.sum::<f64>() / all;
    problem.models.iter_mut().for_each(|m| m.rate *= factor);
}
