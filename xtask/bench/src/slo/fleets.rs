//! The fleets of `slo`: devices of four classes, models of three and four variants.
//!
//! Measured by us (README, "Variants"): how much faster the variants of `minilm` and of `pictures` are on a processor with integer
//! instructions, and what `minilm`'s lose. Published for such devices, or assumed in that spirit: all else, above all how fast the other
//! classes are, the gains there, and the accuracy of the small networks.

use loadtest::sim::placed::{Class, DeviceGroup, PlacedFleet, PlacedModel, PlacedVariant};

/// A class of devices.
struct Kind {
    name: &'static str,
    instances: u32,
    bytes: u64,
    loads: u32,
    price: f64,
    /// Time of a run of one row beside a processor with integer instructions.
    slowness: f64,
    /// How many times as fast as the reference each of the four variants is.
    gains: [f64; 4],
    /// Microseconds of a batch whatever its rows; on a processor part of what a row takes.
    batch_us: f64,
    /// Where batches pay: what a row more takes, as a share of a run of one.
    row_share: Option<f64>,
    /// Share of the fleet.
    share: f64,
}

const KINDS: [Kind; 4] = [
    Kind {
        name: "cpu-int8",
        instances: 4,
        bytes: 5_000_000_000,
        loads: 1,
        price: 3.0,
        slowness: 1.0,
        gains: [1.0, 1.4, 2.4, 4.0],
        batch_us: 300.0,
        row_share: None,
        share: 0.45,
    },
    Kind {
        name: "cpu",
        instances: 4,
        bytes: 5_000_000_000,
        loads: 1,
        price: 2.0,
        slowness: 1.33,
        gains: [1.0, 1.0, 1.3, 2.6],
        batch_us: 300.0,
        row_share: None,
        share: 0.25,
    },
    Kind {
        name: "edge",
        instances: 2,
        bytes: 2_000_000_000,
        loads: 1,
        price: 1.0,
        slowness: 2.0,
        gains: [1.0, 1.0, 1.8, 3.2],
        batch_us: 500.0,
        row_share: None,
        share: 0.15,
    },
    Kind {
        name: "gpu",
        instances: 2,
        bytes: 8_000_000_000,
        loads: 2,
        price: 10.0,
        slowness: 0.12,
        gains: [1.0, 1.9, 2.6, 2.2],
        batch_us: 3_000.0,
        row_share: Some(0.25),
        share: 0.15,
    },
];

/// Least microseconds of a row anywhere.
const ROW_US_MIN: f64 = 100.0;
/// What variants take of the reference's bytes.
const SIZES: [f64; 4] = [1.0, 0.5, 0.27, 0.16];
const NAMES: [&str; 4] = ["fp32", "cast", "int8", "small"];

/// A model: milliseconds of a run of the reference on a processor with integer instructions, its megabytes, the target as a multiple of two
/// such runs, what the variants lose, the floor, and gains on that processor where they were measured.
struct Kept {
    name: &'static str,
    ms: f64,
    megabytes: f64,
    target: f64,
    losses: [f64; 4],
    floor: Option<f64>,
    gains: Option<[f64; 3]>,
}

const MODELS: [Kept; 6] = [
    Kept {
        name: "minilm",
        ms: 24.3,
        megabytes: 90.0,
        target: 3.0,
        losses: [0.0, 0.0001, 0.007, 0.05],
        floor: Some(0.98),
        gains: Some([1.0, 2.98, 2.6]),
    },
    Kept {
        name: "pictures",
        ms: 18.0,
        megabytes: 40.0,
        target: 3.0,
        losses: [0.0, 0.001, 0.0046, 0.06],
        floor: None,
        gains: Some([1.0, 1.47, 1.75]),
    },
    Kept { name: "detector", ms: 60.0, megabytes: 250.0, target: 2.0, losses: [0.0, 0.002, 0.015, 0.08], floor: None, gains: None },
    Kept { name: "ranker", ms: 14.0, megabytes: 600.0, target: 4.0, losses: [0.0, 0.001, 0.006, 0.03], floor: Some(0.96), gains: None },
    Kept { name: "speech", ms: 70.0, megabytes: 900.0, target: 3.0, losses: [0.0, 0.002, 0.02, 0.07], floor: None, gains: None },
    Kept { name: "segments", ms: 45.0, megabytes: 180.0, target: 2.0, losses: [0.0, 0.003, 0.012, 0.06], floor: Some(0.985), gains: None },
];

/// `devices` devices that serve `models` models: the first six as they are, the rest as they would be in other sizes.
pub(super) fn fleet(devices: u32, models: usize) -> PlacedFleet {
    let class = |kind: &Kind| Class {
        name: kind.name.to_owned(),
        instances: kind.instances,
        bytes: kind.bytes,
        loads: kind.loads,
        price: kind.price,
    };
    let mut groups = Vec::new();
    for kind in &KINDS {
        let count = (f64::from(devices) * kind.share).round() as u32;
        for (zone, part) in [("a", count.div_ceil(2)), ("b", count / 2)] {
            if part > 0 {
                groups.push(DeviceGroup { class: kind.name.to_owned(), count: part, zone: zone.to_owned() });
            }
        }
    }
    PlacedFleet {
        gateways: 3,
        one_way_us: 100.0,
        push_ms: 100.0,
        service_noise: 0.1,
        classes: KINDS.iter().map(class).collect(),
        devices: groups,
        models: (0..models).filter_map(model).collect(),
    }
}

fn model(number: usize) -> Option<PlacedModel> {
    let (kept, round) = (MODELS.get(number % MODELS.len())?, number / MODELS.len());
    // Other sizes of the same: .8, 1.25 and 1.5 times the time and the bytes; every second without a fourth variant.
    let scale = [1.0, 0.8, 1.25, 1.5].get(round % 4).copied().unwrap_or(1.0);
    let slo_ms = (kept.target * 2.0 * kept.ms * scale).round();
    let variant = |(position, name): (usize, &&str)| {
        let bytes = (kept.megabytes * 1e6 * scale * SIZES.get(position)?) as u64;
        let on = KINDS.iter().filter_map(|kind| {
            let gain = match kept.gains.filter(|_| kind.name == "cpu-int8") {
                Some(gains) => gains.get(position).or(kind.gains.get(position)).copied()?,
                None => kind.gains.get(position).copied()?,
            };
            // A cast that gains nothing on a class is not kept there.
            let pays = position == 0 || gain > 1.05;
            let row_us = 1e3 * kept.ms * scale * kind.slowness / gain;
            let line = match kind.row_share {
                Some(share) => [(share * row_us).max(ROW_US_MIN), kind.batch_us],
                None => {
                    let batch_us = kind.batch_us.min(row_us / 2.0);
                    [row_us - batch_us, batch_us]
                }
            };
            pays.then(|| (kind.name.to_owned(), line))
        });
        Some(PlacedVariant {
            name: (*name).to_owned(),
            accuracy: Some(1.0 - kept.losses.get(position)?),
            bytes,
            load_s: 1.0 + bytes as f64 / 5e8,
            on: on.collect(),
        })
    };
    let count = if number % 2 == 1 && round > 0 { 3 } else { 4 };
    Some(PlacedModel {
        name: if round == 0 { kept.name.to_owned() } else { format!("{}-{round}", kept.name) },
        share: 1.0 / (number as f64 + 1.0),
        slo_ms,
        floor: kept.floor,
        max_batch_size: 16,
        variants: NAMES.iter().enumerate().take(count).filter_map(variant).collect(),
    })
}
