//! Looking at a graph and changing it: who makes and who takes a value, names, order, dead ends.

pub mod types;

use crate::onnx::pb::{AttributeProto, GraphProto, NodeProto, TensorProto, attribute_proto::AttributeType};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Where values of a graph come from and go. Holds for the graph as it was when this was made.
#[derive(Debug, Default)]
pub struct Index {
    /// The node that makes a value.
    pub producer: HashMap<String, usize>,
    /// Nodes that take a value and at which of their inputs, in order.
    pub consumers: HashMap<String, Vec<(usize, usize)>>,
    /// Initializers that nothing can override.
    pub constants: HashMap<String, usize>,
    /// What the model gives.
    pub outputs: HashSet<String>,
    /// Values that subgraphs take from outside of them.
    pub inner: HashSet<String>,
}

impl Index {
    /// Of `graph`.
    pub fn of(graph: &GraphProto) -> Self {
        let mut index = Self::default();
        for (at, node) in graph.node.iter().enumerate() {
            for (slot, input) in node.input.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
                index.consumers.entry(input.clone()).or_default().push((at, slot));
            }
            for output in node.output.iter().filter(|name| !name.is_empty()) {
                index.producer.insert(output.clone(), at);
            }
            for_each_subgraph(node, &mut |inner| taken(inner, &mut index.inner));
        }
        let inputs: HashSet<&str> = graph.input.iter().map(|i| i.name()).collect();
        // An initializer that is an input too is a default, which a caller may change.
        let fixed = graph.initializer.iter().enumerate().filter(|(_, t)| !inputs.contains(t.name()));
        index.constants = fixed.map(|(at, t)| (t.name().to_owned(), at)).collect();
        index.outputs = graph.output.iter().map(|o| o.name().to_owned()).collect();
        index
    }

    /// The one node that takes `value`, if nobody else sees it.
    pub fn only_consumer(&self, value: &str) -> Option<usize> {
        match self.consumers.get(value).map(Vec::as_slice) {
            Some([(node, _)]) if !self.outputs.contains(value) && !self.inner.contains(value) => Some(*node),
            _ => None,
        }
    }

    /// The initializer called `name`.
    pub fn constant<'g>(&self, graph: &'g GraphProto, name: &str) -> Option<&'g TensorProto> {
        graph.initializer.get(*self.constants.get(name)?)
    }
}

fn for_each_subgraph(node: &NodeProto, act: &mut impl FnMut(&GraphProto)) {
    for attribute in &node.attribute {
        attribute.g.iter().chain(&attribute.graphs).for_each(&mut *act);
    }
}

/// All names that nodes of `graph` and of graphs in it take.
fn taken(graph: &GraphProto, names: &mut HashSet<String>) {
    names.extend(graph.output.iter().map(|o| o.name().to_owned()));
    for node in &graph.node {
        names.extend(node.input.iter().cloned());
        for_each_subgraph(node, &mut |inner| taken(inner, names));
    }
}

/// Does a node hold graphs: If, Loop, Scan?
pub fn has_subgraph(node: &NodeProto) -> bool {
    node.attribute.iter().any(|a| a.g.is_some() || !a.graphs.is_empty())
}

/// A node of ONNX's own domain.
pub fn node(operator: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let own = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
    NodeProto {
        op_type: Some(operator.to_owned()),
        name: outputs.first().map(|o| format!("{o}_node")),
        input: own(inputs),
        output: own(outputs),
        ..NodeProto::default()
    }
}

/// Is it ONNX's own operator of this name?
pub fn is(node: &NodeProto, operator: &str) -> bool {
    node.op_type() == operator && matches!(node.domain(), "" | "ai.onnx")
}

/// An attribute that is an integer.
pub fn int(node: &NodeProto, name: &str) -> Option<i64> {
    node.attribute.iter().find(|a| a.name() == name).map(AttributeProto::i)
}

/// An attribute that is a float.
pub fn float(node: &NodeProto, name: &str) -> Option<f32> {
    node.attribute.iter().find(|a| a.name() == name).map(AttributeProto::f)
}

/// `node` with an integer attribute set.
pub fn with_int(mut node: NodeProto, name: &str, value: i64) -> NodeProto {
    node.attribute.retain(|a| a.name() != name);
    let r#type = Some(AttributeType::Int as i32);
    node.attribute.push(AttributeProto { name: Some(name.to_owned()), i: Some(value), r#type, ..AttributeProto::default() });
    node
}

/// Names that are not taken.
#[derive(Debug)]
pub struct Names(BTreeSet<String>);

impl Names {
    /// All that `graph` uses are taken.
    pub fn of(graph: &GraphProto) -> Self {
        let mut all = HashSet::new();
        taken(graph, &mut all);
        all.extend(graph.node.iter().flat_map(|n| n.output.iter().cloned().chain(n.name.clone())));
        all.extend(graph.initializer.iter().map(|t| t.name().to_owned()));
        all.extend(graph.input.iter().map(|i| i.name().to_owned()));
        Self(all.into_iter().collect())
    }

    /// `wanted`, or that with a number.
    pub fn fresh(&mut self, wanted: &str) -> String {
        let mut name = wanted.to_owned();
        let mut number = 1;
        while !self.0.insert(name.clone()) {
            name = format!("{wanted}_{number}");
            number += 1;
        }
        name
    }
}

/// Takes out nodes whose outputs nobody takes, and initializers likewise. How many nodes went.
pub fn remove_dead(graph: &mut GraphProto) -> usize {
    let before = graph.node.len();
    loop {
        let mut wanted: HashSet<String> = graph.output.iter().map(|o| o.name().to_owned()).collect();
        for node in &graph.node {
            wanted.extend(node.input.iter().cloned());
            for_each_subgraph(node, &mut |inner| taken(inner, &mut wanted));
        }
        let count = graph.node.len();
        graph.node.retain(|node| node.output.iter().any(|o| wanted.contains(o)));
        if graph.node.len() == count {
            let inputs: HashSet<String> = graph.input.iter().map(|i| i.name().to_owned()).collect();
            graph.initializer.retain(|t| wanted.contains(t.name()) || inputs.contains(t.name()));
            let made: HashSet<&str> = graph.node.iter().flat_map(|n| n.output.iter().map(String::as_str)).collect();
            graph.value_info.retain(|v| made.contains(v.name()));
            return before.saturating_sub(count);
        }
    }
}

/// Puts every node after those whose values it takes; nodes that are in order already keep their places.
pub fn sort(graph: &mut GraphProto) {
    let index = Index::of(graph);
    let mut waits: Vec<usize> = Vec::with_capacity(graph.node.len());
    let mut unlocks: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (at, node) in graph.node.iter().enumerate() {
        let mut from: BTreeSet<usize> = node.input.iter().filter_map(|i| index.producer.get(i)).copied().collect();
        let mut inner = HashSet::new();
        for_each_subgraph(node, &mut |g| taken(g, &mut inner));
        from.extend(inner.iter().filter_map(|i| index.producer.get(i)));
        from.remove(&at);
        waits.push(from.len());
        from.into_iter().for_each(|f| unlocks.entry(f).or_default().push(at));
    }
    let mut ready: BTreeSet<usize> = waits.iter().enumerate().filter(|(_, n)| **n == 0).map(|(at, _)| at).collect();
    let mut order = Vec::with_capacity(graph.node.len());
    while let Some(at) = ready.pop_first() {
        order.push(at);
        for next in unlocks.get(&at).into_iter().flatten() {
            if let Some(left) = waits.get_mut(*next) {
                *left = left.saturating_sub(1);
                if *left == 0 {
                    ready.insert(*next);
                }
            }
        }
    }
    if order.len() == graph.node.len() {
        // A circle cannot be put in order: left for the engine to refuse.
        let mut nodes: Vec<Option<NodeProto>> = std::mem::take(&mut graph.node).into_iter().map(Some).collect();
        graph.node = order.into_iter().filter_map(|at| nodes.get_mut(at).and_then(Option::take)).collect();
    }
}
