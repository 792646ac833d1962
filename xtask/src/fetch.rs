//! `fetch`: makes the cache hold what the build, the tests and the demo need. Quick when it already does.
//!
//! Each item has a key, the hash of all it is made from (its pins and scripts); the stamp in the cache says which key is there.

mod apt;
mod data;
mod models;
mod npm;
mod perf;
mod pip;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::Deserialize;

use crate::cache::{Cache, sha256_hex};
use crate::pins::Pins;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Item {
    /// The ONNX Runtime library, from its Python wheel
    Onnxruntime,
    /// The OpenVINO libraries, from their Python wheel
    Openvino,
    /// etcd and etcdctl, from Debian
    Etcd,
    /// protoc for machines without one
    Protoc,
    /// Python with stock clients, for tests
    Venv,
    /// Stock clients for Node, for tests
    Node,
    /// Triton's perf_analyzer and the C library it wants, for tests
    Perf,
    /// gRPC for C++, from Debian, for tests
    Cpp,
    /// Models and photographs
    Models,
    /// Labelled pictures and sentences, a model that is measured on them, and models that others made
    Data,
}

impl Item {
    /// In the order in which they are made: models are built with the Python of the venv, and data lies beside them.
    pub(crate) const ALL: &[Self] = &[
        Self::Onnxruntime,
        Self::Openvino,
        Self::Etcd,
        Self::Protoc,
        Self::Venv,
        Self::Node,
        Self::Perf,
        Self::Cpp,
        Self::Models,
        Self::Data,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Onnxruntime => "onnxruntime",
            Self::Openvino => "openvino",
            Self::Etcd => "etcd",
            Self::Protoc => "protoc",
            Self::Venv => "venv",
            Self::Node => "node",
            Self::Perf => "perf",
            Self::Cpp => "cpp",
            Self::Models => "models",
            Self::Data => "data",
        }
    }

    fn key(self, pins: &Pins) -> Result<String> {
        let weights = pins.of(Self::Models).filter(|_| self == Self::Data);
        let mut parts: Vec<String> = pins.of(self).chain(weights).map(|pin| format!("{} {}", pin.file, pin.sha256)).collect();
        let mut files: Vec<PathBuf> = match self {
            Self::Onnxruntime | Self::Openvino | Self::Etcd | Self::Perf | Self::Cpp => Vec::new(),
            Self::Protoc => vec![pip::protoc_requirements()?],
            Self::Venv => vec![pip::venv_requirements()?],
            Self::Node => npm::manifests()?.to_vec(),
            Self::Models | Self::Data => models::scripts()?,
        };
        files.sort();
        for file in files {
            let contents = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
            parts.push(sha256_hex(&contents));
        }
        Ok(sha256_hex(parts.join("\n").as_bytes()))
    }

    /// Files without which the item is not there, whatever its stamp says.
    fn outputs(self, cache: &Cache, pins: &Pins) -> Result<Vec<PathBuf>> {
        Ok(match self {
            Self::Onnxruntime => vec![cache.onnxruntime(pins.version(self)?)],
            Self::Openvino => vec![cache.openvino(pins.version(self)?)],
            Self::Etcd => {
                let folder = cache.etcd(pins.version(self)?);
                vec![folder.join("etcd"), folder.join("etcdctl")]
            }
            Self::Protoc => ["protoc", "python"].map(|name| cache.protoc().join("bin").join(name)).to_vec(),
            Self::Venv => vec![cache.python()],
            Self::Node => vec![cache.node_modules().join("@grpc/grpc-js")],
            Self::Perf => vec![cache.perf_analyzer()],
            Self::Cpp => vec![cache.cpp().join("usr/bin/grpc_cpp_plugin"), cache.cpp().join("usr/include/grpcpp")],
            Self::Models => vec![cache.models().join("demo"), cache.models().join("test"), cache.photos()],
            Self::Data => vec![
                cache.models().join("variants"),
                cache.models().join("foreign"),
                cache.data().join("fashion_mnist"),
                cache.data().join("minilm"),
            ],
        })
    }

    fn make(self, cache: &Cache, pins: &Pins) -> Result<()> {
        match self {
            Self::Onnxruntime => pip::onnxruntime(cache, pins),
            Self::Openvino => pip::openvino(cache, pins),
            Self::Etcd => apt::etcd(cache, pins),
            Self::Protoc => pip::protoc(cache),
            Self::Venv => pip::venv(cache),
            Self::Node => npm::install(cache),
            Self::Perf => perf::perf_analyzer(cache, pins),
            Self::Cpp => apt::cpp(cache, pins),
            Self::Models => models::build(cache, pins),
            Self::Data => data::build(cache, pins),
        }
    }
}

/// Makes each item that is missing or out of date. One that fails does not keep the others from being made.
pub(crate) fn fetch(cache: &Cache, items: &[Item]) -> Result<()> {
    let pins = Pins::load()?;
    let wanted =
        |item: &&Item| items.contains(item) || (**item == Item::Venv && items.iter().any(|item| matches!(item, Item::Models | Item::Data)));
    let mut failures = Vec::new();
    for item in Item::ALL.iter().filter(wanted) {
        if let Err(error) = make_if_needed(*item, cache, &pins) {
            eprintln!("{}: {error:#}", item.name());
            failures.push(item.name());
        }
    }
    if !failures.is_empty() {
        bail!("could not fetch {}", failures.join(", "));
    }
    Ok(())
}

fn make_if_needed(item: Item, cache: &Cache, pins: &Pins) -> Result<()> {
    let key = item.key(pins)?;
    let is_there = || -> Result<bool> {
        let stamped = cache.stamp(item.name()).is_some_and(|stamp| stamp == key);
        Ok(stamped && item.outputs(cache, pins)?.iter().all(|path| path.exists()))
    };
    if is_there()? {
        return Ok(());
    }
    let _lock = cache.lock()?;
    if is_there()? {
        return Ok(()); // made by another fetch while this one waited for the lock
    }
    eprintln!("fetching {}", item.name());
    let start = Instant::now();
    cache.clear_stamp(item.name())?;
    item.make(cache, pins)?;
    cache.set_stamp(item.name(), &key)?;
    eprintln!("fetched {} in {:.1} s", item.name(), start.elapsed().as_secs_f64());
    Ok(())
}
