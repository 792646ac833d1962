//! Labelled data, a model that is measured on it, and models that others made: from Debian's data sets and the same wheels as the models.
//!
//! Not part of the models, so that a demo needs neither Debian nor the minute that this takes.

use anyhow::Result;

use super::{Item, apt, models, pip};
use crate::cache::{Cache, remove_tree, replace_tree};
use crate::child;
use crate::pins::Pins;

pub(super) fn build(cache: &Cache, pins: &Pins) -> Result<()> {
    for pin in pins.of(Item::Models).chain(pins.of(Item::Data)).filter(|pin| pin.suite.is_none()) {
        pip::wheel(cache, pin)?;
    }
    let scratch = cache.scratch("data")?;
    let debian = scratch.join("debian");
    apt::unpack(cache, pins, Item::Data, &debian)?;
    let out = scratch.join("out");
    let mut command = models::script(cache, "data", &out)?;
    command.arg("--debian").arg(&debian);
    child::run(command, "building data", None)?;
    for folder in ["variants", "foreign"] {
        replace_tree(&out.join("models").join(folder), &cache.models().join(folder))?;
    }
    replace_tree(&out.join("data"), &cache.data())?;
    remove_tree(&scratch)
}
