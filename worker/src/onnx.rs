//! A look at an ONNX file before any runtime sees it: is it whole, does it stay in its folder, is it of a sane size?
//!
//! The walk reads the protobuf encoding directly and skips what it does not need, so a model of gigabytes costs a few
//! kilobytes and no weights are read. Whatever bytes it is given, it uses bounded memory and ends.
//!
//! Not here: whether a runtime can load the model; that is tried in a child process (`validate`).

mod external;
#[cfg(test)]
mod tests;
mod wire;

use policy::DataType;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use wire::{Field, Source, Span, Value};

/// Deepest nesting of subgraphs accepted.
pub const DEPTH_MAX: u32 = 16;
/// Most nodes accepted, those of subgraphs and functions included.
pub const NODES_MAX: u64 = 200_000;
/// Most external files accepted; a model with one file per tensor has some hundreds.
const EXTERNAL_FILES_MAX: usize = 10_000;
/// Longest name, operator type or external location accepted, in bytes.
const TEXT_LEN_MAX: u64 = 4096;

/// What a model is made of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scan {
    /// Operators used, as `domain:type`, or `type` alone in ONNX's own domain.
    pub operators: BTreeSet<String>,
    /// Nodes, those of subgraphs and functions included.
    pub nodes: u64,
    /// Files that belong to the model, relative to its folder, in order of their names.
    pub external_files: Vec<PathBuf>,
    /// Version of ONNX's own operator set.
    pub opset: Option<u64>,
    /// Version of the file format.
    pub ir_version: Option<u64>,
    /// Program that wrote it.
    pub producer: Option<String>,
}

/// Why a file is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// The file system refuses.
    #[error("the model file cannot be read: {reason}")]
    Unreadable {
        /// Its words.
        reason: String,
    },
    /// The bytes are no protobuf message.
    #[error("not an ONNX file, or not all of it: {reason} at byte {at}; the file has {size} bytes")]
    Malformed {
        /// What is wrong there.
        reason: &'static str,
        /// Where.
        at: u64,
        /// Length of the file.
        size: u64,
    },
    /// A message, but no model.
    #[error("not an ONNX file: it has no graph; the file has {size} bytes")]
    NoGraph {
        /// Length of the file.
        size: u64,
    },
    /// Data outside of the file that may not be used.
    #[error("external data {location:?}: {reason}")]
    External {
        /// Where the model says it is.
        location: String,
        /// What is wrong with that.
        reason: String,
    },
    /// An input or output that cannot be served.
    #[error("{place} `{name}` {reason}")]
    NotServed {
        /// `input` or `output`.
        place: &'static str,
        /// Its name.
        name: String,
        /// What it is.
        reason: String,
    },
    /// Larger than is sane.
    #[error("{what}: more than {limit}")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much is accepted.
        limit: u64,
    },
}

/// Scans the model at `path`; its folder is where external data may lie.
///
/// # Errors
/// See [`ScanError`].
pub fn scan(path: &Path) -> Result<Scan, ScanError> {
    let unreadable = |e: std::io::Error| ScanError::Unreadable { reason: e.kind().to_string() };
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(ScanError::Unreadable { reason: "it is not a regular file".to_owned() });
    }
    let mut walk = Walk {
        source: Source::new(file, metadata.len()),
        folder: path.parent().unwrap_or(Path::new("")).to_owned(),
        found: Scan::default(),
        external: BTreeSet::new(),
        has_graph: false,
    };
    walk.model()?;
    if !walk.has_graph {
        return Err(ScanError::NoGraph { size: metadata.len() });
    }
    Ok(Scan { external_files: walk.external.into_iter().collect(), ..walk.found })
}

struct Walk {
    source: Source,
    folder: PathBuf,
    found: Scan,
    external: BTreeSet<PathBuf>,
    has_graph: bool,
}

type Done = Result<(), ScanError>;

impl Walk {
    // The numbers are those of onnx.proto. A field that appears twice is walked twice, which covers how protobuf merges.

    fn model(&mut self) -> Done {
        let mut span = self.source.whole();
        while let Some(Field { number, value }) = self.source.next(&mut span)? {
            match (number, value) {
                (1, Value::Number(version)) => self.found.ir_version = Some(version),
                (2, Value::Span(text)) => self.found.producer = Some(self.text(text)?).filter(|p| !p.is_empty()),
                (7, Value::Span(graph)) => {
                    self.has_graph = true;
                    self.graph(graph, 0)?;
                    self.interface(graph)?;
                }
                (8, Value::Span(opset)) => self.opset(opset)?,
                (20, Value::Span(training)) => self.training(training)?,
                (25, Value::Span(function)) => self.function(function)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn opset(&mut self, mut span: Span) -> Done {
        let (mut domain, mut version) = (String::new(), 0);
        while let Some(field) = self.source.next(&mut span)? {
            match (field.number, field.value) {
                (1, Value::Span(text)) => domain = self.text(text)?,
                (2, Value::Number(number)) => version = number,
                _ => {}
            }
        }
        if domain.is_empty() || domain == "ai.onnx" {
            self.found.opset = Some(version);
        }
        Ok(())
    }

    fn training(&mut self, mut span: Span) -> Done {
        while let Some(field) = self.source.next(&mut span)? {
            if let (1 | 2, Value::Span(graph)) = (field.number, field.value) {
                self.graph(graph, 0)?;
            }
        }
        Ok(())
    }

    fn function(&mut self, mut span: Span) -> Done {
        while let Some(field) = self.source.next(&mut span)? {
            match (field.number, field.value) {
                (7, Value::Span(node)) => self.node(node, 0)?,
                (11, Value::Span(attribute)) => self.attribute(attribute, 0)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn graph(&mut self, mut span: Span, depth: u32) -> Done {
        if depth > DEPTH_MAX {
            return Err(ScanError::TooLarge { what: "nested subgraphs", limit: u64::from(DEPTH_MAX) });
        }
        while let Some(field) = self.source.next(&mut span)? {
            match (field.number, field.value) {
                (1, Value::Span(node)) => self.node(node, depth)?,
                (5, Value::Span(tensor)) => self.tensor(tensor)?,
                (15, Value::Span(sparse)) => self.sparse(sparse)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn node(&mut self, mut span: Span, depth: u32) -> Done {
        self.found.nodes = self.found.nodes.saturating_add(1);
        if self.found.nodes > NODES_MAX {
            return Err(ScanError::TooLarge { what: "nodes", limit: NODES_MAX });
        }
        let (mut operator, mut domain) = (String::new(), String::new());
        while let Some(field) = self.source.next(&mut span)? {
            match (field.number, field.value) {
                (4, Value::Span(text)) => operator = self.text(text)?,
                (5, Value::Span(attribute)) => self.attribute(attribute, depth)?,
                (7, Value::Span(text)) => domain = self.text(text)?,
                _ => {}
            }
        }
        let own = domain.is_empty() || domain == "ai.onnx";
        self.found.operators.insert(if own { operator } else { format!("{domain}:{operator}") });
        Ok(())
    }

    fn attribute(&mut self, mut span: Span, depth: u32) -> Done {
        while let Some(field) = self.source.next(&mut span)? {
            match (field.number, field.value) {
                (5 | 10, Value::Span(tensor)) => self.tensor(tensor)?,
                (6 | 11, Value::Span(graph)) => self.graph(graph, depth.saturating_add(1))?,
                (22 | 23, Value::Span(sparse)) => self.sparse(sparse)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn sparse(&mut self, mut span: Span) -> Done {
        while let Some(field) = self.source.next(&mut span)? {
            if let (1 | 2, Value::Span(tensor)) = (field.number, field.value) {
                self.tensor(tensor)?;
            }
        }
        Ok(())
    }

    /// Looks only at where the data is. A location counts even where the tensor does not say that it uses it.
    fn tensor(&mut self, mut span: Span) -> Done {
        let (mut entries, mut says_external) = (external::Entries::default(), false);
        while let Some(field) = self.source.next(&mut span)? {
            match (field.number, field.value) {
                (13, Value::Span(entry)) => self.entry(entry, &mut entries)?,
                (14, Value::Number(location)) => says_external = location == 1,
                _ => {}
            }
        }
        if !says_external && entries.locations.is_empty() {
            return Ok(());
        }
        self.external.extend(external::check(&self.folder, &entries)?);
        if self.external.len() > EXTERNAL_FILES_MAX {
            return Err(ScanError::TooLarge { what: "external files", limit: EXTERNAL_FILES_MAX as u64 });
        }
        Ok(())
    }

    fn entry(&mut self, mut span: Span, entries: &mut external::Entries) -> Done {
        let (mut key, mut value) = (String::new(), String::new());
        while let Some(field) = self.source.next(&mut span)? {
            match (field.number, field.value) {
                (1, Value::Span(text)) => key = self.text(text)?,
                (2, Value::Span(text)) => value = self.text(text)?,
                _ => {}
            }
        }
        entries.add(&key, value)
    }

    fn interface(&mut self, mut graph: Span) -> Done {
        while let Some(field) = self.source.next(&mut graph)? {
            match (field.number, field.value) {
                (11, Value::Span(info)) => self.value_info("input", info)?,
                (12, Value::Span(info)) => self.value_info("output", info)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Only tensors of the protocol's types cross the front door. Runtimes differ in how well they survive the rest.
    fn value_info(&mut self, place: &'static str, mut span: Span) -> Done {
        let (mut name, mut reason) = (String::new(), None);
        while let Some(field) = self.source.next(&mut span)? {
            match (field.number, field.value) {
                (1, Value::Span(text)) => name = self.text(text)?,
                (2, Value::Span(kind)) => reason = self.kind(kind)?,
                _ => {}
            }
        }
        match reason {
            Some(reason) => Err(ScanError::NotServed { place, name, reason }),
            None => Ok(()),
        }
    }

    fn kind(&mut self, mut span: Span) -> Result<Option<String>, ScanError> {
        while let Some(field) = self.source.next(&mut span)? {
            let what = match (field.number, field.value) {
                (1, Value::Span(tensor)) => match self.element_type(tensor)? {
                    Some(number) if datatype(number).is_none() => {
                        return Ok(Some(format!("has ONNX element type {number}, which the protocol cannot carry")));
                    }
                    _ => continue,
                },
                (4, _) => "a sequence",
                (5, _) => "a map",
                (7, _) => "opaque",
                (8, _) => "a sparse tensor",
                (9, _) => "optional",
                _ => continue,
            };
            return Ok(Some(format!("is {what}; only tensors are served, so export the model without it")));
        }
        Ok(None)
    }

    fn element_type(&mut self, mut span: Span) -> Result<Option<u64>, ScanError> {
        let mut found = None;
        while let Some(field) = self.source.next(&mut span)? {
            if let (1, Value::Number(number)) = (field.number, field.value) {
                found = Some(number);
            }
        }
        Ok(found)
    }

    fn text(&mut self, span: Span) -> Result<String, ScanError> {
        self.source.text(span, TEXT_LEN_MAX)
    }
}

/// The type with ONNX's number `number` (`TensorProto.DataType`), if the protocol has it.
pub fn datatype(number: u64) -> Option<DataType> {
    Some(match number {
        1 => DataType::Fp32,
        2 => DataType::Uint8,
        3 => DataType::Int8,
        4 => DataType::Uint16,
        5 => DataType::Int16,
        6 => DataType::Int32,
        7 => DataType::Int64,
        8 => DataType::Bytes,
        9 => DataType::Bool,
        10 => DataType::Fp16,
        11 => DataType::Fp64,
        12 => DataType::Uint32,
        13 => DataType::Uint64,
        16 => DataType::Bf16,
        _ => return None,
    })
}
