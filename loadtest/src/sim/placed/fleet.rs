//! What a fleet is made of on which placement decides who runs what.

use crate::error::LoadError;
use crate::sim::fleet::{Problems, ROWS_MAX, US_MAX};
use policy::profile::Latency;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// Most devices, and most models: each gateway keeps what it knows of each pair.
const COUNT_MAX: u32 = 1_000;

/// A fleet to place models on, as a TOML file describes it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlacedFleet {
    /// Front doors.
    #[serde(default = "one")]
    pub gateways: u32,
    /// Microseconds from a gateway to a device, and back.
    #[serde(default)]
    pub one_way_us: f64,
    /// Milliseconds between two words of a device that has nothing to answer; 0: it says none.
    #[serde(default)]
    pub push_ms: f64,
    /// Sigma of the log-normal noise on a batch's time.
    #[serde(default)]
    pub service_noise: f64,
    /// Kinds of devices.
    #[serde(rename = "class")]
    pub classes: Vec<Class>,
    /// The devices.
    #[serde(rename = "device")]
    pub devices: Vec<DeviceGroup>,
    /// What is served.
    #[serde(rename = "model")]
    pub models: Vec<PlacedModel>,
}

/// A kind of device.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Class {
    /// How devices and variants call it.
    pub name: String,
    /// Engine threads, shared by all its replicas.
    #[serde(default = "one")]
    pub instances: u32,
    /// Bytes for replicas.
    pub bytes: u64,
    /// Replicas that load at once.
    #[serde(default = "one")]
    pub loads: u32,
    /// What an hour of it costs beside one of the others; only the rule of INFaaS looks at it.
    #[serde(default = "unit")]
    pub price: f64,
}

/// Equal devices, each in a machine of its own.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceGroup {
    /// Their class.
    pub class: String,
    /// How many.
    #[serde(default = "one")]
    pub count: u32,
    /// Failure domain; placement spreads replicas over them.
    #[serde(default)]
    pub zone: String,
}

/// A model and what there is of it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlacedModel {
    /// What requests call it.
    pub name: String,
    /// Its part of all requests, beside the others'.
    #[serde(default = "unit")]
    pub share: f64,
    /// Milliseconds in which an answer is worth something.
    pub slo_ms: f64,
    /// Least accuracy that may answer. A variant of unknown accuracy never meets one.
    pub floor: Option<f64>,
    /// Most rows of one batch.
    #[serde(default = "one")]
    pub max_batch_size: u32,
    /// Its variants; the first is the reference.
    #[serde(rename = "variant")]
    pub variants: Vec<PlacedVariant>,
}

/// A variant of a model.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlacedVariant {
    /// Its name.
    pub name: String,
    /// Relative to the reference, 0 to 1; none: nobody knows.
    pub accuracy: Option<f64>,
    /// Bytes of a replica.
    pub bytes: u64,
    /// Seconds from the wish for a replica to its first request.
    pub load_s: f64,
    /// By class: microseconds of a batch for each of its rows, and whatever its rows. It cannot be where it has none.
    pub on: BTreeMap<String, [f64; 2]>,
}

const fn one() -> u32 {
    1
}

const fn unit() -> f64 {
    1.0
}

impl PlacedFleet {
    /// Reads a description.
    ///
    /// # Errors
    /// [`LoadError::Fleet`]: with line and column for what is not TOML, an unknown name or a value of the wrong kind, else with every
    /// value that cannot be.
    pub fn parse(text: &str) -> Result<Self, LoadError> {
        let fleet: Self = toml::from_str(text).map_err(|e| LoadError::Fleet(vec![e.to_string().trim_end().to_owned()]))?;
        let mut problems = Vec::new();
        fleet.check(&mut problems);
        if problems.is_empty() { Ok(fleet) } else { Err(LoadError::Fleet(problems)) }
    }

    /// What cannot be, all of it.
    pub fn check(&self, problems: &mut Vec<String>) {
        let mut found = Problems(problems);
        found.number("", "gateways", self.gateways, 1, COUNT_MAX);
        found.number("", "one_way_us", self.one_way_us, 0.0, US_MAX);
        if self.push_ms != 0.0 {
            found.number("", "push_ms", self.push_ms, 1.0, US_MAX / 1e3);
        }
        found.number("", "service_noise", self.service_noise, 0.0, 3.0);
        let mut classes = BTreeSet::new();
        for class in &self.classes {
            let place = format!("class {:?}: ", class.name);
            if !classes.insert(class.name.as_str()) {
                found.say(&place, "name", "expected one that no other class has");
            }
            found.number(&place, "instances", class.instances, 1, COUNT_MAX);
            found.number(&place, "loads", class.loads, 1, COUNT_MAX);
            found.number(&place, "price", class.price, 0.0, f64::MAX);
        }
        let count = self.devices.iter().map(|group| group.count).fold(0, u32::saturating_add);
        found.number("", "devices", count, 1, COUNT_MAX);
        for group in self.devices.iter().filter(|group| !classes.contains(group.class.as_str())) {
            found.say("device: ", "class", &format!("{:?}; expected one of the classes", group.class));
        }
        found.number("", "models", self.models.len(), 1, COUNT_MAX as usize);
        let mut names = BTreeSet::new();
        for model in &self.models {
            let place = format!("model {:?}: ", model.name);
            if model.name.is_empty() || !names.insert(&model.name) {
                found.say(&place, "name", "expected one that no other model has");
            }
            check_model(model, &place, &classes, &mut found);
        }
    }

    /// Rows a second in the models' shares that all devices could answer by the reference of each model alone, without a pause and with
    /// room for all. A device leaves out what is too slow there.
    pub fn capacity(&self) -> f64 {
        let shares: f64 = self.models.iter().map(|model| model.share).sum();
        let rows_of = |group: &DeviceGroup| {
            let Some(class) = self.classes.iter().find(|class| class.name == group.class) else { return 0.0 };
            let seconds = self.models.iter().filter_map(|model| {
                let latency = model.variants.first()?.latency(&class.name)?;
                let forecast = policy::profile::Forecast::from(latency);
                let rows = forecast.rows_useful(model.max_batch_size, model.slo_ms * 1e3, 2.0 * self.one_way_us);
                (rows > 0).then(|| model.share / shares * forecast.batch_us(rows) / f64::from(rows) / 1e6)
            });
            let seconds: f64 = seconds.sum();
            if seconds > 0.0 { f64::from(group.count) * f64::from(class.instances) / seconds } else { 0.0 }
        };
        self.devices.iter().map(rows_of).sum()
    }
}

fn check_model(model: &PlacedModel, place: &str, classes: &BTreeSet<&str>, found: &mut Problems<'_>) {
    found.number(place, "share", model.share, 1e-9, 1e9);
    found.number(place, "slo_ms", model.slo_ms, 1e-3, US_MAX / 1e3);
    found.number(place, "max_batch_size", model.max_batch_size, 1, ROWS_MAX);
    found.number(place, "floor", model.floor.unwrap_or_default(), 0.0, 1.0);
    if model.variants.is_empty() {
        found.say(place, "variant", "none is described; expected at least one");
    }
    for variant in &model.variants {
        let place = format!("{place}variant {:?}: ", variant.name);
        found.number(&place, "accuracy", variant.accuracy.unwrap_or_default(), 0.0, 1.0);
        found.number(&place, "load_s", variant.load_s, 0.0, US_MAX / 1e6);
        for (class, [alpha_us, beta_us]) in &variant.on {
            if !classes.contains(class.as_str()) {
                found.say(&place, "on", &format!("{class:?}; expected one of the classes"));
            }
            found.number(&place, "alpha_us", *alpha_us, 0.0, US_MAX);
            found.number(&place, "beta_us", *beta_us, 0.0, US_MAX);
            // Virtual time goes by microseconds.
            found.number(&place, "alpha_us + beta_us", alpha_us + beta_us, 1.0, US_MAX);
        }
    }
}

impl PlacedModel {
    /// May a variant of this accuracy answer?
    pub fn allows(&self, accuracy: Option<f64>) -> bool {
        self.floor.is_none_or(|floor| accuracy.is_some_and(|accuracy| accuracy >= floor))
    }
}

impl PlacedVariant {
    /// Its line on devices of a class, if it can be there.
    pub fn latency(&self, class: &str) -> Option<Latency> {
        self.on.get(class).map(|[alpha_us, beta_us]| Latency { alpha_us: *alpha_us, beta_us: *beta_us })
    }
}
