//! When requests are due: the same seed gives the same moments. Pure.

use crate::mix::Mix;
use fastrand::Rng;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// One request that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// From the start.
    pub at: Duration,
    /// Which kind of the mix.
    pub ask: usize,
}

/// What decides when a request is sent.
#[derive(Debug, Clone, PartialEq)]
pub enum Pace {
    /// Moments fixed in advance, whatever the server does.
    Open(Arrivals),
    /// Moments that were recorded.
    Replay(Arc<[Due]>),
    /// So many callers, each waiting for its answer before it asks again.
    Closed {
        /// Callers.
        concurrency: usize,
    },
}

/// A random process; rates are requests per second, lengths are seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Arrivals {
    /// Evenly spaced.
    Constant {
        /// Requests per second.
        rate: f64,
    },
    /// Independent of each other, as from many callers.
    Poisson {
        /// Requests per second.
        rate: f64,
    },
    /// Gaps of a gamma distribution: `cv` 1 is Poisson, above 1 comes in clumps, below 1 is more even.
    Gamma {
        /// Requests per second.
        rate: f64,
        /// Standard deviation of the gaps over their mean.
        cv: f64,
    },
    /// Poisson in two states that take turns, each for an exponential length of time (a two-state MMPP).
    Bursts {
        /// First.
        calm: Phase,
        /// Second.
        burst: Phase,
    },
    /// A sine wave, as of days, over which a crowd may come once.
    Wave {
        /// Mean requests per second without the crowd.
        rate: f64,
        /// Share of the rate that swings, 0 to 1.
        depth: f64,
        /// Length of one day in seconds.
        period_s: f64,
        /// Comes once.
        crowd: Option<Crowd>,
    },
}

/// One state of [`Arrivals::Bursts`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Phase {
    /// Requests per second.
    pub rate: f64,
    /// Mean seconds it lasts.
    pub dwell_s: f64,
}

/// The rate is `factor` times as high for `length_s` seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Crowd {
    /// Seconds from the start.
    pub at_s: f64,
    /// Seconds.
    pub length_s: f64,
    /// Above 0; below 1 the crowd stays away.
    pub factor: f64,
}

/// Highest rate: what no client of ours reaches.
const RATE_MAX: f64 = 10e6;
/// Longest length in seconds: a year.
const SECONDS_MAX: f64 = 366.0 * 86_400.0;

impl Arrivals {
    /// Mean requests per second over a long time, without a crowd.
    pub fn mean_rate(&self) -> f64 {
        match *self {
            Self::Constant { rate } | Self::Poisson { rate } | Self::Gamma { rate, .. } | Self::Wave { rate, .. } => rate,
            Self::Bursts { calm, burst } => (calm.rate * calm.dwell_s + burst.rate * burst.dwell_s) / (calm.dwell_s + burst.dwell_s),
        }
    }

    /// What cannot be, all of it.
    pub fn check(&self, problems: &mut Vec<String>) {
        let mut check = |name: &str, value: f64, low: f64, high: f64| {
            if !(value >= low && value <= high) {
                problems.push(format!("{name} {value} must be from {low} to {high}"));
            }
        };
        let mean = self.mean_rate();
        check("rate", mean, 1e-3, RATE_MAX);
        match *self {
            Self::Constant { .. } | Self::Poisson { .. } => {}
            Self::Gamma { cv, .. } => check("cv", cv, 0.01, 100.0),
            Self::Bursts { calm, burst } => {
                check("rate", calm.rate, 0.0, RATE_MAX);
                check("burst rate", burst.rate, 0.0, RATE_MAX);
                check("dwell", calm.dwell_s, 1e-3, SECONDS_MAX);
                check("burst dwell", burst.dwell_s, 1e-3, SECONDS_MAX);
            }
            Self::Wave { depth, period_s, crowd, .. } => {
                check("depth", depth, 0.0, 1.0);
                check("period", period_s, 1e-3, SECONDS_MAX);
                if let Some(crowd) = crowd {
                    check("crowd start", crowd.at_s, 0.0, SECONDS_MAX);
                    check("crowd length", crowd.length_s, 0.0, SECONDS_MAX);
                    check("crowd factor", crowd.factor, 1e-3, 1e3);
                }
            }
        }
    }

    /// Moments without end, in seconds from the start, never going back.
    pub fn moments(self, seed: u64) -> Moments {
        Moments { arrivals: self, random: Rng::with_seed(seed), at: 0.0, bursting: false, state_ends: None }
    }
}

impl fmt::Display for Arrivals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Constant { rate } => write!(f, "constant, {rate}/s"),
            Self::Poisson { rate } => write!(f, "Poisson, {rate}/s"),
            Self::Gamma { rate, cv } => write!(f, "gamma with CV {cv}, {rate}/s"),
            Self::Bursts { calm, burst } => {
                write!(f, "{}/s for {} s and {}/s for {} s in turn, ", calm.rate, calm.dwell_s, burst.rate, burst.dwell_s)?;
                write!(f, "{:.1}/s in the mean", self.mean_rate())
            }
            Self::Wave { rate, depth, period_s, crowd } => {
                write!(f, "{rate}/s ± {:.0} % over {period_s} s", depth * 100.0)?;
                match crowd {
                    Some(c) => write!(f, ", {} times that for {} s from {} s", c.factor, c.length_s, c.at_s),
                    None => Ok(()),
                }
            }
        }
    }
}

/// Seconds from the start at which requests are due.
#[derive(Debug, Clone)]
pub struct Moments {
    arrivals: Arrivals,
    random: Rng,
    at: f64,
    bursting: bool,
    /// When the state of a burst process ends.
    state_ends: Option<f64>,
}

impl Iterator for Moments {
    type Item = f64;

    fn next(&mut self) -> Option<f64> {
        match self.arrivals {
            // Half a gap in, so that any length of time holds its share.
            Arrivals::Constant { rate } => self.at += if self.at == 0.0 { 0.5 / rate } else { 1.0 / rate },
            Arrivals::Poisson { rate } => self.at += exponential(&mut self.random, 1.0 / rate),
            Arrivals::Gamma { rate, cv } => self.at += gamma(&mut self.random, 1.0 / (cv * cv)) * cv * cv / rate,
            Arrivals::Bursts { calm, burst } => self.next_of_states(calm, burst),
            Arrivals::Wave { rate, depth, period_s, crowd } => self.next_of_wave(rate, depth, period_s, crowd),
        }
        Some(self.at)
    }
}

impl Moments {
    /// A gap that would outlast its state is drawn anew in the next one: exponential gaps do not remember.
    fn next_of_states(&mut self, calm: Phase, burst: Phase) {
        loop {
            let phase = if self.bursting { burst } else { calm };
            let ends = match self.state_ends {
                Some(ends) => ends,
                None => self.at + exponential(&mut self.random, phase.dwell_s),
            };
            self.state_ends = Some(ends);
            let next = self.at + exponential(&mut self.random, 1.0 / phase.rate);
            if next < ends {
                self.at = next;
                return;
            }
            (self.at, self.state_ends, self.bursting) = (ends, None, !self.bursting);
        }
    }

    /// Thinning: moments at the highest rate, of which each stays with the probability of its own rate.
    fn next_of_wave(&mut self, rate: f64, depth: f64, period_s: f64, crowd: Option<Crowd>) {
        let highest = rate * (1.0 + depth) * crowd.map_or(1.0, |c| c.factor.max(1.0));
        loop {
            self.at += exponential(&mut self.random, 1.0 / highest);
            let here = crowd.filter(|c| self.at >= c.at_s && self.at < c.at_s + c.length_s).map_or(1.0, |c| c.factor);
            let now = rate * here * (1.0 + depth * (std::f64::consts::TAU * self.at / period_s).sin());
            if self.random.f64() * highest < now {
                return;
            }
        }
    }
}

fn exponential(random: &mut Rng, mean: f64) -> f64 {
    -mean * (1.0 - random.f64()).ln()
}

/// A standard normal number (Box and Muller).
fn normal(random: &mut Rng) -> f64 {
    (-2.0 * (1.0 - random.f64()).ln()).sqrt() * (std::f64::consts::TAU * random.f64()).cos()
}

/// A gamma number of this shape and scale 1 (Marsaglia and Tsang, 2000).
fn gamma(random: &mut Rng, shape: f64) -> f64 {
    if shape < 1.0 {
        let boost = (1.0 - random.f64()).powf(1.0 / shape);
        return gamma(random, shape + 1.0) * boost;
    }
    let d = shape - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let x = normal(random);
        let v = (1.0 + c * x).powi(3);
        if v > 0.0 && (1.0 - random.f64()).ln() < 0.5 * x * x + d - d * v + d * v.ln() {
            return d * v;
        }
    }
}

/// What is due from the start to `length` of an open loop; nothing of a closed one.
pub fn schedule(pace: &Pace, mix: &Mix, seed: u64, length: Duration) -> Box<dyn Iterator<Item = Due> + Send> {
    match pace {
        Pace::Closed { .. } => Box::new(std::iter::empty()),
        Pace::Replay(dues) => {
            let dues = dues.clone();
            let due = (0..dues.len()).map_while(move |i| dues.get(i).copied());
            Box::new(due.take_while(move |due| due.at < length))
        }
        Pace::Open(arrivals) => {
            // Its own stream of numbers: another mix leaves the moments as they are.
            let (mix, mut random) = (mix.clone(), Rng::with_seed(!seed));
            let moments = arrivals.moments(seed).map_while(|s| Duration::try_from_secs_f64(s).ok());
            let moments = moments.take_while(move |at| *at < length);
            Box::new(moments.map(move |at| Due { at, ask: mix.pick(&mut random) }))
        }
    }
}

#[cfg(test)]
mod tests;
