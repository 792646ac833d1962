//! What need not be computed at run time: Constant nodes, Identity, batch normalisation after a convolution, an Add behind it;
//! no more: what other nodes make of constants is left to engines, which fold it at load.

use super::Done;
use crate::VariantError;
use crate::graph::{Index, Names, float, int, is};
use crate::onnx::pb::{GraphProto, TensorProto, tensor_proto::DataType};
use crate::onnx::{self, Model};
use serde::{Deserialize, Serialize};

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Fold {}

impl Fold {
    pub(super) fn apply(&self, model: &mut Model) -> Result<Done, VariantError> {
        let mut done = Done::default();
        let graph = model.graph_mut();
        let constants = constants(graph);
        let identities = identities(graph);
        let (norms, biases) = (batch_norms(graph)?, biases(graph)?);
        for (count, what) in [
            (constants, "Constant nodes became initializers"),
            (identities, "Identity nodes left out"),
            (norms, "batch normalisations folded into their convolutions"),
            (biases, "Add nodes became biases of their convolutions"),
        ] {
            if count > 0 {
                done.say(format!("{count} {what}"));
            }
            done.changed += count;
        }
        Ok(done)
    }
}

fn constants(graph: &mut GraphProto) -> usize {
    let before = graph.node.len();
    let mut made: Vec<TensorProto> = Vec::new();
    graph.node.retain(|node| {
        let value = node.attribute.iter().find(|a| is(node, "Constant") && a.name() == "value").and_then(|a| a.t.as_ref());
        let (Some(tensor), Some(output)) = (value, node.output.first()) else { return true };
        made.push(TensorProto { name: Some(output.clone()), ..tensor.clone() });
        false
    });
    graph.initializer.extend(made);
    before.saturating_sub(graph.node.len())
}

fn identities(graph: &mut GraphProto) -> usize {
    let index = Index::of(graph);
    let mut renames = Vec::new();
    for node in graph.node.iter().filter(|n| is(n, "Identity")) {
        if let ([input], [output]) = (node.input.as_slice(), node.output.as_slice())
            && !index.outputs.contains(output)
            && !index.inner.contains(output)
        {
            renames.push((output.clone(), input.clone()));
        }
    }
    for (from, to) in &renames {
        // One may lead to the next; in a circle, which no engine takes, to itself.
        let mut to = to;
        for _ in 0..renames.len() {
            let Some((_, next)) = renames.iter().find(|(from, _)| from == to) else { break };
            to = next;
        }
        for (node, slot) in index.consumers.get(from).into_iter().flatten() {
            if let Some(input) = graph.node.get_mut(*node).and_then(|n| n.input.get_mut(*slot)) {
                input.clone_from(to);
            }
        }
    }
    renames.len()
}

/// A convolution and the node behind it that nobody else sees.
fn pairs(graph: &GraphProto, index: &Index, behind: &str) -> Vec<(usize, usize)> {
    let convolutions = graph.node.iter().enumerate().filter(|(_, n)| is(n, "Conv"));
    let pair = |(at, node): (usize, &crate::onnx::pb::NodeProto)| {
        let next = index.only_consumer(node.output.first()?)?;
        is(graph.node.get(next)?, behind).then_some((at, next))
    };
    convolutions.filter_map(pair).collect()
}

/// `w * g / sqrt(var + eps)`, `(b - mean) * g / sqrt(var + eps) + beta`.
fn batch_norms(graph: &mut GraphProto) -> Result<usize, VariantError> {
    let (index, mut names) = (Index::of(graph), Names::of(graph));
    let mut count = 0;
    for (conv, norm) in pairs(graph, &index, "BatchNormalization") {
        let (Some(conv_node), Some(norm_node)) = (graph.node.get(conv), graph.node.get(norm)) else { continue };
        let epsilon = float(norm_node, "epsilon").unwrap_or(1e-5);
        let of = |name: Option<&String>| name.and_then(|n| index.constant(graph, n));
        let parameters: Option<Vec<&TensorProto>> = (1..5).map(|i| of(norm_node.input.get(i))).collect();
        let (Some(weight), Some(parameters)) = (of(conv_node.input.get(1)), parameters) else { continue };
        let all_float = std::iter::once(weight).chain(parameters.iter().copied()).all(|t| t.data_type() == DataType::Float as i32);
        if norm_node.output.len() > 1 || int(norm_node, "training_mode").unwrap_or(0) != 0 || !all_float {
            continue;
        }
        let parameters = parameters.into_iter().map(onnx::floats).collect::<Result<Vec<_>, _>>()?;
        let [gamma, beta, mean, variance] = parameters.as_slice() else { continue };
        let bias = match conv_node.input.get(2).filter(|n| !n.is_empty()) {
            Some(name) => match of(Some(name)) {
                Some(tensor) => onnx::floats(tensor)?,
                None => continue,
            },
            None => vec![0.0; mean.len()],
        };
        let scales: Vec<f32> = gamma.iter().zip(variance).map(|(g, v)| g / (v + epsilon).sqrt()).collect();
        let mut values = onnx::floats(weight)?;
        let per_channel = values.len().checked_div(scales.len()).filter(|n| *n > 0 && n * scales.len() == values.len());
        let Some(per_channel) = per_channel else { continue };
        for (channel, scale) in values.chunks_exact_mut(per_channel).zip(&scales) {
            channel.iter_mut().for_each(|v| *v *= scale);
        }
        let folded = bias.iter().zip(mean).zip(&scales).zip(beta);
        let bias: Vec<f32> = folded.map(|(((b, m), s), t)| (b - m) * s + t).collect();
        let dims = weight.dims.clone();
        let (weight_name, bias_name) = (names.fresh(&format!("{}_folded", weight.name())), names.fresh(&format!("{}_bias", weight.name())));
        graph.initializer.push(onnx::make(weight_name.clone(), &dims, &values));
        graph.initializer.push(onnx::make(bias_name.clone(), &[bias.len() as i64], &bias));
        rewire(graph, conv, norm, vec![(1, weight_name), (2, bias_name)]);
        count += 1;
    }
    Ok(count)
}

/// An Add of one constant per channel behind a convolution without a bias.
fn biases(graph: &mut GraphProto) -> Result<usize, VariantError> {
    let (index, mut names) = (Index::of(graph), Names::of(graph));
    let mut count = 0;
    for (conv, add) in pairs(graph, &index, "Add") {
        let (Some(conv_node), Some(add_node)) = (graph.node.get(conv), graph.node.get(add)) else { continue };
        if conv_node.input.get(2).is_some_and(|n| !n.is_empty()) {
            continue;
        }
        let other = add_node.input.iter().find(|i| Some(*i) != conv_node.output.first());
        let weight = conv_node.input.get(1).and_then(|n| index.constant(graph, n));
        let (Some(term), Some(weight)) = (other.and_then(|n| index.constant(graph, n)), weight) else { continue };
        let (channels, rank) = (weight.dims.first().copied().unwrap_or(0), weight.dims.len());
        // [C, 1, 1] or [1, C, 1, 1] for two dimensions of picture.
        let shape_fits = match term.dims.strip_prefix(&[1]).filter(|rest| rest.len() + 1 == rank).unwrap_or(&term.dims).split_first() {
            Some((first, rest)) => *first == channels && rest.len() + 2 == rank && rest.iter().all(|d| *d == 1),
            None => false,
        };
        if !shape_fits || [term, weight].iter().any(|t| t.data_type() != DataType::Float as i32) {
            continue;
        }
        let (values, name) = (onnx::floats(term)?, names.fresh(&format!("{}_bias", term.name())));
        graph.initializer.push(onnx::make(name.clone(), &[channels], &values));
        rewire(graph, conv, add, vec![(2, name)]);
        count += 1;
    }
    Ok(count)
}

/// Gives `conv` new inputs and the output of `next`, whose own becomes a dead end.
fn rewire(graph: &mut GraphProto, conv: usize, next: usize, inputs: Vec<(usize, String)>) {
    let mut output = String::new();
    if let Some(next) = graph.node.get_mut(next) {
        output = next.output.drain(..).next().unwrap_or_default();
        next.input.clear();
    }
    if let Some(conv) = graph.node.get_mut(conv) {
        for (slot, name) in inputs {
            conv.input.resize(conv.input.len().max(slot + 1), String::new());
            if let Some(input) = conv.input.get_mut(slot) {
                *input = name;
            }
        }
        conv.output = vec![output];
    }
}
