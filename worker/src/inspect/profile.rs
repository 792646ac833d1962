//! Reads what ONNX Runtime wrote about a run: a JSON list with an event for each run of a node, subgraphs' included.

use super::flops::{Dims, flops};
use super::{Counted, Shapes};
use crate::validate::PROFILE_BYTES_MAX;
use serde::de::{Deserializer as _, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

/// Operations of one operator type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OperatorFlops {
    /// Its type, as the runtime runs it: it may replace an operator by simpler ones.
    pub operator: String,
    /// Runs of nodes; one for each pass through a loop.
    pub runs: u64,
    /// All their operations.
    pub flops: u64,
}

/// Runs of one operator type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OperatorRuns {
    /// Its type.
    pub operator: String,
    /// Runs of nodes.
    pub runs: u64,
}

/// Runs and operations of a run of the model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Tally {
    counted: BTreeMap<String, (u64, u64)>,
    not_counted: BTreeMap<String, u64>,
}

impl Tally {
    fn add(&mut self, args: Args, equations: &BTreeSet<String>) {
        let Some(operator) = args.op_name else { return };
        let shapes = |tensors: Vec<BTreeMap<String, Dims>>| tensors.into_iter().filter_map(|t| t.into_values().next()).collect::<Vec<_>>();
        match flops(&operator, &shapes(args.input_type_shape), &shapes(args.output_type_shape), equations) {
            Some(flops) => {
                let (runs, total) = self.counted.entry(operator).or_default();
                (*runs, *total) = (runs.saturating_add(1), total.saturating_add(flops));
            }
            None => {
                let runs = self.not_counted.entry(operator).or_default();
                *runs = runs.saturating_add(1);
            }
        }
    }

    pub(super) fn counted(self, shapes: Shapes) -> Counted {
        let counted = self.counted.into_iter().filter(|(_, (_, flops))| *flops > 0);
        let mut by_operator: Vec<_> = counted.map(|(operator, (runs, flops))| OperatorFlops { operator, runs, flops }).collect();
        by_operator.sort_by_key(|o| std::cmp::Reverse(o.flops));
        Counted {
            total: by_operator.iter().map(|o| o.flops).fold(0, u64::saturating_add),
            shapes,
            by_operator,
            not_counted: self.not_counted.into_iter().map(|(operator, runs)| OperatorRuns { operator, runs }).collect(),
        }
    }
}

/// Tallies the last whole run in the one profile in `folder`.
///
/// # Errors
/// When there is none, or it is not whole.
pub(super) fn read(folder: &Path, equations: &BTreeSet<String>) -> Result<Tally, String> {
    let path = only_file(folder).map_err(|e| format!("the runtime's measurement is not there: {e}"))?;
    let file = File::open(&path).map_err(|e| format!("the runtime's measurement: {}", e.kind()))?;
    tally(BufReader::new(file.take(PROFILE_BYTES_MAX)), equations)
}

fn only_file(folder: &Path) -> std::io::Result<PathBuf> {
    let first = std::fs::read_dir(folder)?.next();
    first.unwrap_or_else(|| Err(std::io::ErrorKind::NotFound.into())).map(|entry| entry.path())
}

fn tally(json: impl Read, equations: &BTreeSet<String>) -> Result<Tally, String> {
    let (mut current, mut last, mut truncated) = (Tally::default(), None, false);
    let events = Events(|event: Event| match (event.cat.as_str(), event.name.as_str()) {
        ("Node", name) if name.ends_with("_kernel_time") => current.add(event.args, equations),
        // Comes when a run ends, well or not; nothing follows the one that ended well.
        ("Session", "model_run") => last = Some(std::mem::take(&mut current)),
        ("Session", "profile_truncated") => truncated = true,
        _ => {}
    });
    let read = serde_json::Deserializer::from_reader(json).deserialize_seq(events);
    read.map_err(|e| format!("the runtime's measurement is not understood: {e}"))?;
    match last {
        _ if truncated => Err("its nodes run too often for a measurement: the runtime keeps a million of their runs".to_owned()),
        Some(tally) => Ok(tally),
        None => Err("the runtime's measurement has no whole run".to_owned()),
    }
}

/// What is used of an event.
#[derive(Deserialize)]
struct Event {
    #[serde(default)]
    cat: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    args: Args,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Args {
    op_name: Option<String>,
    /// Per tensor its type and dimensions; optional inputs that are not there are left out.
    input_type_shape: Vec<BTreeMap<String, Dims>>,
    output_type_shape: Vec<BTreeMap<String, Dims>>,
}

/// Hands on each event of a list as it is read, since there may be a million.
struct Events<F>(F);

impl<'de, F: FnMut(Event)> Visitor<'de> for Events<F> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list of events")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        while let Some(event) = list.next_element()? {
            (self.0)(event);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(operator: &str) -> String {
        format!(
            r#"{{"cat":"Node","name":"n_kernel_time","ts":1,"args":{{"op_name":"{operator}","input_type_shape":[{{"float":[2,3]}}],"output_type_shape":[{{"float":[2,3]}}],"x":"y"}}}}"#
        )
    }

    fn session(name: &str) -> String {
        format!(r#"{{"cat":"Session","name":"{name}","args":{{}}}}"#)
    }

    fn read(events: &[String]) -> Result<Tally, String> {
        tally(format!("[\n{}\n]", events.join(",\n")).as_bytes(), &BTreeSet::new())
    }

    #[test]
    fn the_last_run_counts_and_a_failed_one_before_it_does_not() {
        let run = session("model_run");
        let found = read(&[node("Relu"), run.clone(), node("Relu"), node("Relu"), node("Odd"), node("Reshape"), run]).unwrap();
        let counted = found.counted(Shapes { shapes: BTreeMap::new(), assumed_1: Vec::new() });
        assert_eq!(counted.total, 12);
        assert_eq!(counted.by_operator, [OperatorFlops { operator: "Relu".into(), runs: 2, flops: 12 }]);
        assert_eq!(counted.not_counted, [OperatorRuns { operator: "Odd".into(), runs: 1 }]);
    }

    #[test]
    fn what_is_not_whole_is_an_error() {
        let check = |found: Result<Tally, String>, expected: &str| assert!(found.unwrap_err().contains(expected), "{expected}");
        check(read(&[node("Relu")]), "no whole run");
        check(read(&[session("model_run"), session("profile_truncated")]), "a million");
        check(tally(&b"[{\"cat\":\"Node\""[..], &BTreeSet::new()), "not understood");
        check(tally(&b""[..], &BTreeSet::new()), "not understood");
        check(read(&[node("Re\"lu"), session("model_run")]), "not understood");
        check(super::read(tempfile::tempdir().unwrap().path(), &BTreeSet::new()), "not there");
    }
}
