//! One entry of a configuration's `input` or `output` list, on its own and against the graph.

use super::{ConfigError, datatype, type_number};
use crate::inference::{ModelInput, ModelOutput, ModelTensorReshape};
use policy::TensorSpec;

/// What `input` and `output` entries have in common.
pub(super) struct Listed<'a> {
    /// `input` or `output`.
    list: &'static str,
    pub(super) name: &'a str,
    data_type: i32,
    dims: &'a [i64],
    reshape: Option<&'a [i64]>,
    optional: bool,
}

impl<'a> From<&'a ModelInput> for Listed<'a> {
    fn from(t: &'a ModelInput) -> Self {
        let reshape = t.reshape.as_ref().map(|r| r.shape.as_slice());
        Self { list: "input", name: &t.name, data_type: t.data_type, dims: &t.dims, reshape, optional: t.optional }
    }
}

impl<'a> From<&'a ModelOutput> for Listed<'a> {
    fn from(t: &'a ModelOutput) -> Self {
        let reshape = t.reshape.as_ref().map(|r| r.shape.as_slice());
        Self { list: "output", name: &t.name, data_type: t.data_type, dims: &t.dims, reshape, optional: false }
    }
}

impl Listed<'_> {
    /// Path of one of its fields, for errors.
    pub(super) fn field(&self, part: &str) -> String {
        format!("{}[{}].{part}", self.list, self.name)
    }

    /// How an error about the model names it.
    pub(super) fn title(&self) -> String {
        format!("{} `{}`", self.list, self.name)
    }

    /// What can be told without the graph: a name, a type, dimensions, and a `reshape` to as many elements.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.name.is_empty() {
            return Err(ConfigError::invalid(format!("{}.name", self.list), "empty", "a name"));
        }
        if datatype(self.data_type).is_none() {
            return Err(ConfigError::invalid(self.field("data_type"), self.data_type, "TYPE_BOOL, TYPE_FP32 or the like"));
        }
        let dims = self.segments("dims", self.dims)?;
        if let Some(shape) = self.reshape
            && self.segments("reshape", shape)? != dims
        {
            let expected = format!("as many elements as dims {}, and the -1 in the same order", text(self.dims));
            return Err(ConfigError::invalid(self.field("reshape"), text(shape), expected));
        }
        Ok(())
    }

    /// Elements of each run of fixed dimensions between the open ones. A `reshape` keeps them all: [2,4,-1,6] is [8,-1,1,6].
    fn segments(&self, part: &str, dims: &[i64]) -> Result<Vec<i64>, ConfigError> {
        let bad = |dim: i64| dim < 1 && dim != -1;
        let product = |run: &[i64]| run.iter().try_fold(1_i64, |product, &dim| product.checked_mul(dim));
        let products = dims.split(|&dim| dim == -1).map(product).collect::<Option<Vec<_>>>();
        match products {
            Some(products) if !dims.iter().any(|&dim| bad(dim)) => Ok(products),
            _ => {
                Err(ConfigError::invalid(self.field(part), text(dims), "each 1 or more, or -1 for any size, and their product below 2^63"))
            }
        }
    }

    /// The signature's entry for it, given the tensor of that name in the graph. With `batches`, the batch dimension goes in front.
    pub(super) fn place(&self, graph: &TensorSpec, batches: bool) -> Result<TensorSpec, ConfigError> {
        let contradiction = |config: String, model: String| Err(ConfigError::contradiction(self.title(), config, model));
        let with_batch = |dims: &[i64]| -> Vec<i64> { batches.then_some(-1).into_iter().chain(dims.iter().copied()).collect() };
        let (shape, inner) = (with_batch(self.dims), with_batch(self.reshape.unwrap_or(self.dims)));
        if type_number(graph.datatype) as i32 != self.data_type {
            let config = datatype(self.data_type).map_or_else(|| self.data_type.to_string(), |d| d.to_string());
            return contradiction(format!("has datatype {config}"), format!("has {}", graph.datatype));
        }
        let verb = if self.reshape.is_some() { "reshapes to" } else { "has shape" };
        let batch = if batches { " (the batch in front, as max_batch_size is above 0)" } else { "" };
        // The batch dimension fits only an open one.
        let fits = |(&config, &graph): (&i64, &i64)| graph == -1 || graph == config;
        if inner.len() != graph.shape.len() || !inner.iter().zip(&graph.shape).all(fits) {
            return contradiction(format!("{verb} {}{batch}", text(&inner)), format!("has shape {}", text(&graph.shape)));
        }
        if self.optional && !graph.optional {
            return contradiction("says it is optional".to_owned(), "has no default for it".to_owned());
        }
        let graph_shape = (inner != shape).then_some(inner);
        Ok(TensorSpec { name: self.name.to_owned(), datatype: graph.datatype, shape, optional: self.optional, graph_shape })
    }
}

/// The `dims` and `reshape` that Triton gives a tensor of the graph. It has no scalars: with only a batch dimension, a tensor is shown
/// as one element per row.
fn completed(graph: &TensorSpec, batches: bool) -> (Vec<i64>, Option<ModelTensorReshape>) {
    match graph.shape.split_first() {
        Some((_, [])) if batches => (vec![1], Some(ModelTensorReshape::default())),
        Some((_, dims)) if batches => (dims.to_vec(), None),
        _ => (graph.shape.clone(), None),
    }
}

pub(super) fn completed_input(graph: &TensorSpec, batches: bool) -> ModelInput {
    let (dims, reshape) = completed(graph, batches);
    let (name, data_type) = (graph.name.clone(), type_number(graph.datatype) as i32);
    ModelInput { name, data_type, dims, reshape, optional: graph.optional, ..Default::default() }
}

pub(super) fn completed_output(graph: &TensorSpec, batches: bool) -> ModelOutput {
    let (dims, reshape) = completed(graph, batches);
    let (name, data_type) = (graph.name.clone(), type_number(graph.datatype) as i32);
    ModelOutput { name, data_type, dims, reshape, ..Default::default() }
}

/// A shape in an error's text.
pub(super) fn text(dims: &[i64]) -> String {
    policy::Dims::from(dims).to_string()
}
