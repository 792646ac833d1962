//! The walk over the fields of a model.

use super::wire::{Field, Source, Span, Value};
use super::{
    DEPTH_MAX, EQUATIONS_MAX, EXTERNAL_FILES_MAX, INTERFACE_BYTES_MAX, NODES_MAX, Scan, ScanError, TEXT_LEN_MAX, Weights, element, external,
};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Goes through a file once and gathers what it is made of.
pub(super) struct Walk {
    pub(super) source: Source,
    pub(super) found: Scan,
    /// What the description of inputs and outputs may still take.
    pub(super) interface_left: u64,
    folder: PathBuf,
    external: BTreeSet<PathBuf>,
    /// Inputs that no initializer of the graph has filled so far.
    unfilled: BTreeSet<String>,
    has_graph: bool,
}

pub(super) type Done = Result<(), ScanError>;

impl Walk {
    pub(super) fn new(source: Source, folder: &Path) -> Self {
        Self {
            source,
            found: Scan::default(),
            interface_left: INTERFACE_BYTES_MAX,
            folder: folder.to_owned(),
            external: BTreeSet::new(),
            unfilled: BTreeSet::new(),
            has_graph: false,
        }
    }

    /// What the file is made of; `None` if there is no graph in it.
    pub(super) fn walk(mut self) -> Result<Option<Scan>, ScanError> {
        self.model()?;
        self.found.inputs.retain(|input| self.unfilled.contains(&input.name));
        self.found.external_files = self.external.into_iter().collect();
        Ok(self.has_graph.then_some(self.found))
    }

    // The numbers are those of onnx.proto. A field that appears twice is walked twice, which covers how protobuf merges.

    fn model(&mut self) -> Done {
        let mut span = self.source.whole();
        while let Some(Field { number, value }) = self.source.next(&mut span)? {
            match (number, value) {
                (1, Value::Number(version)) => self.found.ir_version = Some(version),
                (2, Value::Span(text)) => self.found.producer = Some(self.text(text)?).filter(|p| !p.is_empty()),
                (7, Value::Span(graph)) => self.main_graph(graph)?,
                (8, Value::Span(opset)) => self.opset(opset)?,
                (20, Value::Span(training)) => self.training(training)?,
                (25, Value::Span(function)) => self.function(function)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn main_graph(&mut self, graph: Span) -> Done {
        self.has_graph = true;
        let known = self.found.inputs.len();
        self.interface(graph)?;
        self.unfilled.extend(self.found.inputs.iter().skip(known).map(|input| input.name.clone()));
        let mut span = graph;
        while let Some(field) = self.source.next(&mut span)? {
            // The walk over the graph itself looks at everything else of an initializer.
            if let (5, Value::Span(initializer)) = (field.number, field.value) {
                self.filled_by(initializer)?;
            }
        }
        self.graph(graph, 0)
    }

    fn filled_by(&mut self, mut initializer: Span) -> Done {
        while let Some(field) = self.source.next(&mut initializer)? {
            if let (8, Value::Span(name)) = (field.number, field.value) {
                let name = self.text(name)?;
                self.unfilled.remove(&name);
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
                (11, Value::Span(attribute)) => self.attribute(attribute, 0, "")?,
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
                (5, Value::Span(tensor)) => self.weight(tensor)?,
                (15, Value::Span(sparse)) => self.sparse(sparse, true)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn node(&mut self, span: Span, depth: u32) -> Done {
        self.found.nodes = self.found.nodes.saturating_add(1);
        if self.found.nodes > NODES_MAX {
            return Err(ScanError::TooLarge { what: "nodes", limit: NODES_MAX });
        }
        let (mut operator, mut domain) = (String::new(), String::new());
        let mut rest = span;
        while let Some(field) = self.source.next(&mut rest)? {
            match (field.number, field.value) {
                (4, Value::Span(text)) => operator = self.text(text)?,
                (7, Value::Span(text)) => domain = self.text(text)?,
                _ => {}
            }
        }
        let own = domain.is_empty() || domain == "ai.onnx";
        let mut rest = span;
        while let Some(field) = self.source.next(&mut rest)? {
            if let (5, Value::Span(attribute)) = (field.number, field.value) {
                self.attribute(attribute, depth, if own { &operator } else { "" })?;
            }
        }
        let count = self.found.operators.entry(if own { operator } else { format!("{domain}:{operator}") }).or_default();
        *count = count.saturating_add(1);
        Ok(())
    }

    /// One attribute of a node of ONNX's own type `operator`; empty for others.
    fn attribute(&mut self, mut span: Span, depth: u32, operator: &str) -> Done {
        let constant = operator == "Constant";
        while let Some(field) = self.source.next(&mut span)? {
            match (field.number, field.value) {
                // Einsum has no other attribute.
                (4, Value::Span(text)) if operator == "Einsum" && self.found.equations.len() < EQUATIONS_MAX => {
                    let equation = self.text(text)?;
                    self.found.equations.insert(equation);
                }
                (5, Value::Span(tensor)) if constant => self.weight(tensor)?,
                (5 | 10, Value::Span(tensor)) => drop(self.tensor(tensor)?),
                (6 | 11, Value::Span(graph)) => self.graph(graph, depth.saturating_add(1))?,
                (22 | 23, Value::Span(sparse)) => self.sparse(sparse, constant)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn sparse(&mut self, mut span: Span, stored: bool) -> Done {
        while let Some(field) = self.source.next(&mut span)? {
            match (field.number, field.value) {
                (1 | 2, Value::Span(tensor)) if stored => self.weight(tensor)?,
                (1 | 2, Value::Span(tensor)) => drop(self.tensor(tensor)?),
                _ => {}
            }
        }
        Ok(())
    }

    fn weight(&mut self, span: Span) -> Done {
        let (datatype, one) = self.tensor(span)?;
        // One entry for all unknown types: there are as many numbers as a file has room for.
        let all = self.found.weights.entry(if element::is_known(datatype) { datatype } else { 0 }).or_default();
        all.tensors = all.tensors.saturating_add(1);
        all.elements = all.elements.saturating_add(one.elements);
        all.bytes = all.bytes.saturating_add(one.bytes);
        Ok(())
    }

    /// Element type and size of a tensor. Of its data only the place is looked at: a location counts even where the
    /// tensor does not say that it uses it.
    fn tensor(&mut self, mut span: Span) -> Result<(u64, Weights), ScanError> {
        let (mut entries, mut says_external) = (external::Entries::default(), false);
        let (mut datatype, mut elements, mut text_bytes) = (0, 1u64, 0u64);
        while let Some(field) = self.source.next(&mut span)? {
            match (field.number, field.value) {
                (1, Value::Number(size)) => elements = elements.saturating_mul(dimension(size)),
                (1, Value::Span(mut packed)) => {
                    while let Some(size) = self.source.packed(&mut packed)? {
                        elements = elements.saturating_mul(dimension(size));
                    }
                }
                (2, Value::Number(number)) => datatype = number,
                (6, Value::Span(text)) => text_bytes = text_bytes.saturating_add(text.length()),
                (13, Value::Span(entry)) => {
                    let entry = self.entry(entry, &mut entries);
                    self.note(entry)?;
                }
                (14, Value::Number(location)) => says_external = location == 1,
                _ => {}
            }
        }
        if says_external || !entries.locations.is_empty() {
            let files = external::check(&self.folder, &entries);
            let files = self.note(files)?;
            self.external.extend(files.into_iter().flatten());
            if self.external.len() > EXTERNAL_FILES_MAX {
                return Err(ScanError::TooLarge { what: "external files", limit: EXTERNAL_FILES_MAX as u64 });
            }
        }
        let bytes = element::bits(datatype).map_or(text_bytes, |bits| elements.saturating_mul(bits).div_ceil(8));
        Ok((datatype, Weights { tensors: 1, elements, bytes }))
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

    /// Keeps the first error that only stands against loading the model; any other ends the walk.
    pub(super) fn note<T>(&mut self, result: Result<T, ScanError>) -> Result<Option<T>, ScanError> {
        match result {
            Err(refusal @ (ScanError::External { .. } | ScanError::NotServed { .. })) => {
                self.found.refusal.get_or_insert(refusal);
                Ok(None)
            }
            other => other.map(Some),
        }
    }

    pub(super) fn text(&mut self, span: Span) -> Result<String, ScanError> {
        self.source.text(span, TEXT_LEN_MAX)
    }
}

/// A stored size; what would be negative holds nothing.
fn dimension(size: u64) -> u64 {
    if i64::try_from(size).is_ok() { size } else { 0 }
}
