//! What this gateway saw of a replica, and of the device it shares with others. Loose atomics: a torn reading costs one worse choice.

use policy::Moment;
use policy::backlog::{Backlog, STEPS};
use policy::profile::{Forecast, Latency};
use policy::route::Path;
use proto::call::LoadReport;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// What was last told of a device, by any of its replicas. Outlives the table it was first in.
#[derive(Default)]
pub(crate) struct DeviceGauge {
    /// Steps of the backlog.
    backlog: [AtomicU64; STEPS],
    /// Share of its reports of late with nothing to wait for, as bits of an `f32`: less one, so that it begins with all.
    occupied: AtomicU32,
    reported_us: AtomicU64,
    /// Counts reports: what a replica was sent before the last one is in it.
    reports: AtomicU32,
    /// Work sent since, in microseconds over the instances that do it.
    sent_us: AtomicU64,
}

impl DeviceGauge {
    /// It has work for who comes now, or none.
    fn occupy(&self, now: Moment, occupied: bool) {
        let since = now.us_since(Moment::from_us(self.reported_us.load(Ordering::Relaxed)));
        let before = f64::from(f32::from_bits(self.occupied.load(Ordering::Relaxed)));
        let after = policy::route::spare(1.0 - before, since, !occupied);
        self.occupied.store(((1.0 - after) as f32).to_bits(), Ordering::Relaxed);
    }
}

/// What this gateway saw of a replica. Outlives the table it was first in.
#[derive(Default)]
pub(crate) struct Gauge {
    /// Of the device it is on.
    device: Arc<DeviceGauge>,
    pub(crate) in_flight: AtomicU32,
    /// Rows and work that it was sent since the report of the device that counts `as_of`.
    rows_sent: AtomicU32,
    sent_us: AtomicU64,
    as_of: AtomicU32,
    /// When it last told of itself.
    heard_us: AtomicU64,
    /// When it was first seen; 0 before that.
    since_us: AtomicU64,
    doubtful_until_us: AtomicU64,
    /// The last forecast, as bits of four `f32`; zeros before the first.
    forecast: [AtomicU32; 4],
    /// What it said last of who else sends, as bits of an `f32`.
    senders: AtomicU32,
    /// The way there, as bits of two `f32`.
    path: [AtomicU32; 2],
}

impl Gauge {
    /// Of a replica on a device.
    pub(crate) fn on(device: Arc<DeviceGauge>) -> Self {
        Self { device, ..Self::default() }
    }

    /// A reply told the load.
    pub(crate) fn report(&self, now: Moment, load: &LoadReport) {
        let device = &self.device;
        device.reports.fetch_add(1, Ordering::Relaxed);
        device.sent_us.store(0, Ordering::Relaxed);
        device.occupy(now, load.backlog.all_us() > 0);
        device.backlog.iter().zip(load.backlog.steps()).for_each(|(told, us)| told.store(*us, Ordering::Relaxed));
        device.reported_us.store(now.as_us(), Ordering::Relaxed);
        self.heard_us.store(now.as_us(), Ordering::Relaxed);
        self.doubtful_until_us.store(0, Ordering::Relaxed);
        self.senders.store((load.senders as f32).to_bits(), Ordering::Relaxed);
        if let Some(Forecast { latency, kappa, slow }) = load.forecast.filter(|forecast| forecast.latency.is_plausible()) {
            let values = [latency.alpha_us, latency.beta_us, kappa, slow];
            self.forecast.iter().zip(values).for_each(|(bits, value)| bits.store((value as f32).to_bits(), Ordering::Relaxed));
        }
    }

    /// A request of `rows` leaves for it, which its device will be busy with for `us` microseconds.
    pub(crate) fn sent(&self, rows: u32, us: u64) {
        let reports = self.device.reports.load(Ordering::Relaxed);
        if self.as_of.swap(reports, Ordering::Relaxed) != reports {
            self.rows_sent.store(0, Ordering::Relaxed);
            self.sent_us.store(0, Ordering::Relaxed);
        }
        self.rows_sent.fetch_add(rows, Ordering::Relaxed);
        self.sent_us.fetch_add(us, Ordering::Relaxed);
        self.device.sent_us.fetch_add(us, Ordering::Relaxed);
    }

    /// Rows sent since the last report, and microseconds of work that others on the device were sent since.
    pub(crate) fn since_report(&self) -> (u32, u64) {
        let all_us = self.device.sent_us.load(Ordering::Relaxed);
        if self.as_of.load(Ordering::Relaxed) != self.device.reports.load(Ordering::Relaxed) {
            return (0, all_us);
        }
        (self.rows_sent.load(Ordering::Relaxed), all_us.saturating_sub(self.sent_us.load(Ordering::Relaxed)))
    }

    /// What it said last of its batches; else what was measured when it was loaded.
    pub(crate) fn forecast(&self, at_load: Latency) -> Forecast {
        let [alpha_us, beta_us, kappa, slow] = self.forecast.each_ref().map(|bits| f64::from(f32::from_bits(bits.load(Ordering::Relaxed))));
        if slow > 0.0 { Forecast { latency: Latency { alpha_us, beta_us }, kappa, slow } } else { at_load.into() }
    }

    /// Arrivals there from all gateways over those from this one.
    pub(crate) fn senders(&self) -> f64 {
        f64::from(f32::from_bits(self.senders.load(Ordering::Relaxed)))
    }

    /// What is known of the way there.
    pub(crate) fn path(&self) -> Path {
        Path::from_parts(self.path.each_ref().map(|bits| f32::from_bits(bits.load(Ordering::Relaxed))))
    }

    /// A request of `bytes` took `us` microseconds besides its time at the worker.
    pub(crate) fn travelled(&self, us: f64, bytes: u64) {
        let mut path = self.path();
        path.observe(us, bytes);
        self.path.iter().zip(path.to_parts()).for_each(|(bits, value)| bits.store(value.to_bits(), Ordering::Relaxed));
    }

    /// Microseconds since it was first seen.
    pub(crate) fn age_us(&self, now: Moment) -> u64 {
        let since = self.since_us.load(Ordering::Relaxed);
        if since == 0 {
            self.since_us.store(now.as_us().max(1), Ordering::Relaxed);
            return 0;
        }
        now.us_since(Moment::from_us(since))
    }

    /// The last report of the device.
    pub(crate) fn reported(&self) -> (Backlog, Moment) {
        let device = &self.device;
        let backlog = Backlog::from_steps(device.backlog.iter().map(|us| us.load(Ordering::Relaxed)));
        (backlog, Moment::from_us(device.reported_us.load(Ordering::Relaxed)))
    }

    /// Share of the device's reports of late with nothing to wait for.
    pub(crate) fn spare(&self) -> f64 {
        1.0 - f64::from(f32::from_bits(self.device.occupied.load(Ordering::Relaxed)))
    }

    /// When it last told of itself.
    pub(crate) fn heard(&self) -> Moment {
        Moment::from_us(self.heard_us.load(Ordering::Relaxed))
    }

    /// It failed in a way that may last.
    pub(crate) fn doubt(&self, until: Moment) {
        self.doubtful_until_us.store(until.as_us(), Ordering::Relaxed);
    }

    /// Did it fail a moment ago?
    pub(crate) fn is_doubtful(&self, now: Moment) -> bool {
        self.doubtful_until_us.load(Ordering::Relaxed) > now.as_us()
    }
}
