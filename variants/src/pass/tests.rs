//! Small graphs, and what passes make of them.

use super::scale::Scale;
use super::*;
use crate::graph::{is, node};
use crate::onnx::pb::{self, tensor_proto::DataType};
use crate::onnx::{self, Model};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn value(name: &str) -> pb::ValueInfoProto {
    let shape = pb::TensorShapeProto { dim: vec![pb::tensor_shape_proto::Dimension::default(); 2] };
    let tensor = pb::type_proto::Tensor { elem_type: Some(DataType::Float as i32), shape: Some(shape) };
    let kind = pb::TypeProto { value: Some(pb::type_proto::Value::TensorType(tensor)), ..Default::default() };
    pb::ValueInfoProto { name: Some(name.to_owned()), r#type: Some(kind), ..Default::default() }
}

fn model(nodes: Vec<pb::NodeProto>, weights: Vec<pb::TensorProto>, output: &str) -> Model {
    let graph =
        pb::GraphProto { node: nodes, initializer: weights, input: vec![value("x")], output: vec![value(output)], ..Default::default() };
    let opset = pb::OperatorSetIdProto { domain: None, version: Some(17) };
    Model { proto: pb::ModelProto { ir_version: Some(8), opset_import: vec![opset], graph: Some(graph), ..Default::default() } }
}

fn operators(model: &Model) -> Vec<&str> {
    model.graph().node.iter().map(|n| n.op_type()).collect()
}

fn floats(count: usize, seed: u64) -> Vec<f32> {
    (0..count as u64).map(|i| ((i * 7919 + seed) % 101) as f32 / 50.0 - 1.0).collect()
}

/// Two convolutions with a Clip between them and a sum behind.
fn network() -> Model {
    let nodes = vec![
        node("Conv", &["x", "w1", "b1"], &["c1"]),
        node("Clip", &["c1", "zero", "six"], &["r1"]),
        node("Conv", &["r1", "w2", "b2"], &["c2"]),
        node("Add", &["c2", "r1"], &["s"]),
        node("Conv", &["s", "w2", "b2"], &["y"]),
    ];
    let weights = vec![
        onnx::make("w1", &[4, 3, 1, 1], &floats(12, 1)),
        onnx::make("b1", &[4], &floats(4, 2)),
        onnx::make("w2", &[4, 4, 1, 1], &floats(16, 3)),
        onnx::make("b2", &[4], &floats(4, 4)),
        onnx::make("zero", &[], &[0.0]),
        onnx::make("six", &[], &[6.0]),
    ];
    model(nodes, weights, "y")
}

fn qdq(activations: Activations) -> Qdq {
    let ranges = [("x", [-1.0, 1.0]), ("c1", [-3.0, 7.0]), ("r1", [0.0, 6.0]), ("c2", [-2.0, 2.0]), ("s", [-2.0, 8.0]), ("y", [-9.0, 9.0])];
    Qdq {
        activations,
        per_channel: true,
        reduce_range: false,
        operators: Qdq::operators_of_convolutions(),
        keep: BTreeSet::new(),
        ranges: Ranges(ranges.into_iter().map(|(name, range)| (name.to_owned(), range)).collect()),
    }
}

fn applied(pass: impl Into<Pass>, mut model: Model) -> (Model, Done) {
    let done = pass.into().apply(&mut model).unwrap();
    (model, done)
}

#[test]
fn a_clip_between_quantized_nodes_is_the_saturation_of_unsigned_integers() {
    let (made, _) = applied(qdq(Activations::U8), network());
    assert!(!operators(&made).contains(&"Clip"));
    let zero = made.graph().initializer.iter().find(|t| t.name() == "r1_zero_point").unwrap();
    assert_eq!(zero.raw_data.as_ref().unwrap().as_ref(), [0], "below zero there is nothing");
    // Signed and symmetric integers go below zero: it must stay.
    let (made, _) = applied(qdq(Activations::S8), network());
    assert!(operators(&made).contains(&"Clip"));
}

#[test]
fn only_bounds_that_saturation_gives_are_left_to_it() {
    let with_bounds = |low: f32, high: f32| {
        let mut model = network();
        model.graph_mut().initializer[4] = onnx::make("zero", &[], &[low]);
        model.graph_mut().initializer[5] = onnx::make("six", &[], &[high]);
        operators(&applied(qdq(Activations::U8), model).0).contains(&"Clip")
    };
    assert!(!with_bounds(-1.0, 6.0) && with_bounds(1.0, 6.0) && with_bounds(-6.0, -1.0));
    let mut computed = network();
    computed.graph_mut().node[1].input[2] = "x".to_owned();
    assert!(operators(&applied(qdq(Activations::U8), computed).0).contains(&"Clip"));
    // A value that only moves has its source's range, but not one that is clipped on the way.
    let nodes = vec![
        node("Conv", &["x", "w1", "b1"], &["c1"]),
        node("MaxPool", &["c1"], &["p"]),
        node("Relu", &["p"], &["r1"]),
        node("Conv", &["r1", "w2", "b2"], &["y"]),
    ];
    let (made, _) = applied(qdq(Activations::U8), model(nodes, network().graph().initializer.clone(), "y"));
    let scale = |name: &str| made.graph().initializer.iter().find(|t| t.name() == name).map(|t| onnx::floats(t).unwrap()[0]);
    assert_eq!((scale("r1_scale"), scale("c1_scale")), (Some(6.0 / 255.0), Some(10.0 / 255.0)));
}

#[test]
fn outputs_stay_floats_under_their_names_and_weights_in_float_are_gone() {
    let (made, done) = applied(qdq(Activations::U8), network());
    let last = made.graph().node.iter().find(|n| n.output == ["y"]).unwrap();
    assert!(is(last, "Conv"), "the output is what the convolution gives, not quantized again");
    assert_eq!(done.changed, 4);
    let left: Vec<&str> = made.graph().initializer.iter().map(|t| t.name()).filter(|n| ["w1", "w2", "b1", "b2"].contains(n)).collect();
    assert_eq!(left, [""; 0]);
    // Shared weights are stored once.
    assert_eq!(made.graph().initializer.iter().filter(|t| t.name().starts_with("w2_quantized")).count(), 3, "integers, scale, zero point");
}

#[test]
fn what_is_kept_and_what_has_no_range_stays_in_float_and_is_told() {
    let mut pass = qdq(Activations::U8);
    pass.keep.insert("c2".to_owned());
    pass.ranges.0.remove("s");
    let (made, done) = applied(pass.clone(), network());
    assert_eq!(pass.targets(network().graph()), ["c1"]);
    let float = made.graph().node.iter().find(|n| n.output == ["c2"]).unwrap();
    assert_eq!(float.input[1], "w2");
    let said = done.lines.join("\n");
    assert!(said.contains("costs most fidelity") && said.contains("no range was measured"), "{said}");
    pass.ranges.0.clear();
    assert!(matches!(Pass::from(pass).apply(&mut network()), Err(VariantError::NotApplicable(_))));
}

#[test]
fn passes_are_the_same_bytes_each_time_and_after_a_card() {
    let dynamic = Dynamic { signed: true, per_channel: true, reduce_range: false, operators: ["Conv".to_owned()].into() };
    let passes = [
        Pass::Fold(Fold::default()),
        qdq(Activations::U8).into(),
        qdq(Activations::S8).into(),
        dynamic.into(),
        WeightOnly { bits: 4, block: 32, accuracy_level: 4 }.into(),
        Cast { to: To::Fp16, keep: Cast::usually_kept() }.into(),
    ];
    let product = || model(vec![node("MatMul", &["x", "w"], &["y"])], vec![onnx::make("w", &[40, 3], &floats(120, 5))], "y");
    for pass in passes {
        let network = || if matches!(pass, Pass::WeightOnly(_)) { product() } else { network() };
        let made = applied(pass.clone(), network()).0.encode();
        let card = toml::to_string(&pass).unwrap();
        let again: Pass = serde_json::from_value(toml::from_str::<serde_json::Value>(&card).unwrap()).unwrap();
        assert_eq!(again, pass);
        assert!(applied(again, network()).0.encode() == made, "{card}");
    }
}

#[test]
fn nodes_come_after_what_they_take_whatever_a_pass_appends() {
    for pass in [Pass::from(qdq(Activations::U8)), Cast { to: To::Bf16, keep: BTreeSet::new() }.into()] {
        let mut opset22 = network();
        opset22.proto.opset_import[0].version = Some(22);
        let made = applied(pass, opset22).0;
        let mut known: BTreeSet<&str> = made.graph().initializer.iter().map(|t| t.name()).chain(["x", ""]).collect();
        for node in &made.graph().node {
            assert!(node.input.iter().all(|i| known.contains(i.as_str())), "{} is too early", node.name());
            known.extend(node.output.iter().map(String::as_str));
        }
    }
}

#[test]
fn half_precision_takes_and_gives_what_clients_know() {
    let (made, _) = applied(Cast { to: To::Fp16, keep: ["Add".to_owned()].into() }, network());
    let casts = made.graph().node.iter().filter(|n| is(n, "Cast"));
    let pairs: BTreeSet<(String, String)> = casts.map(|n| (n.input[0].clone(), n.output[0].clone())).collect();
    assert!(pairs.contains(&("x".into(), "x_16".into())) && pairs.iter().any(|(_, to)| to == "y"), "{pairs:?}");
    // The Add that stays in float takes floats: casts back before it, and forth behind it.
    let add = made.graph().node.iter().find(|n| is(n, "Add")).unwrap();
    assert_eq!(add.input, ["c2_32", "r1_32"]);
    let floats = made.graph().initializer.iter().filter(|t| t.data_type() == DataType::Float as i32).count();
    assert_eq!(floats, 0, "every weight is in 16 bits");
}

#[test]
fn batch_normalisation_and_a_bias_behind_go_into_the_convolution() {
    let nodes = vec![
        node("Conv", &["x", "w"], &["c"]),
        node("BatchNormalization", &["c", "gamma", "beta", "mean", "var"], &["n"]),
        node("Identity", &["n"], &["i"]),
        node("Conv", &["i", "w"], &["d"]),
        node("Add", &["d", "term"], &["y"]),
    ];
    let weights = vec![
        onnx::make("w", &[2, 2, 1, 1], &[1.0, 2.0, 3.0, 4.0]),
        onnx::make("gamma", &[2], &[2.0, 1.0]),
        onnx::make("beta", &[2], &[0.5, 0.0]),
        onnx::make("mean", &[2], &[1.0, 0.0]),
        onnx::make("var", &[2], &[4.0 - 1e-5, 1.0 - 1e-5]),
        onnx::make("term", &[2, 1, 1], &[7.0, 8.0]),
    ];
    let (made, done) = applied(Pass::Fold(Fold::default()), model(nodes, weights, "y"));
    assert_eq!((operators(&made), done.changed), (vec!["Conv", "Conv"], 3));
    let of = |name: &str| onnx::floats(made.graph().initializer.iter().find(|t| t.name() == name).unwrap()).unwrap();
    let close = |a: Vec<f32>, b: &[f32]| assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4), "{a:?}");
    let first = &made.graph().node[0];
    close(of(&first.input[1]), &[1.0, 2.0, 3.0, 4.0]);
    close(of(&first.input[2]), &[-0.5, 0.0]);
    close(of(&made.graph().node[1].input[2]), &[7.0, 8.0]);
}

#[test]
fn weights_by_blocks_are_within_half_a_step_of_what_they_were() {
    let (rows, columns) = (40usize, 3usize);
    let values = floats(rows * columns, 5);
    for bits in [4u8, 8] {
        let weights = vec![onnx::make("w", &[rows as i64, columns as i64], &values)];
        let pass = WeightOnly { bits, block: 16, accuracy_level: 4 };
        let (made, _) = applied(pass, model(vec![node("MatMul", &["x", "w"], &["y"])], weights, "y"));
        let of = |name: &str| made.graph().initializer.iter().find(|t| t.name() == name).unwrap().clone();
        let (packed, scales) = (of("w_packed"), onnx::floats(&of("w_scales")).unwrap());
        assert_eq!(packed.dims, [3, 3, if bits == 4 { 8 } else { 16 }]);
        let bytes = packed.raw_data.unwrap();
        for (at, value) in values.iter().enumerate() {
            let (row, column) = (at / columns, at % columns);
            let (block, inside) = (row / 16, row % 16);
            let scale = scales[column * 3 + block];
            let integer = match bits {
                4 => i32::from(bytes[(column * 3 + block) * 8 + inside / 2] >> (4 * (inside % 2)) & 15) - 8,
                _ => i32::from(bytes[(column * 3 + block) * 16 + inside]) - 128,
            };
            assert!((integer as f32 * scale - value).abs() <= scale / 2.0 + 1e-6, "{bits} bits, element {at}");
        }
        assert!(made.proto.opset_import.iter().any(|set| set.domain() == "com.microsoft"));
    }
}

#[test]
fn a_bias_that_does_not_fit_widens_the_steps_of_its_weights() {
    let mut weights = [Scale { scale: 1e-9, zero: 0 }, Scale { scale: 1.0, zero: 0 }];
    scale::make_room(&mut weights, Scale { scale: 0.01, zero: 0 }, &[5.0, 5.0]);
    assert!((5.0 / (0.01 * f64::from(weights[0].scale))) < f64::from(i32::MAX));
    assert_eq!(weights[1].scale, 1.0);
}

#[test]
fn newer_operator_sets_and_missing_operators_are_told() {
    let mut newer = network();
    newer.proto.opset_import[0].version = Some(OPSET_MAX + 1);
    let said = Pass::from(qdq(Activations::U8)).apply(&mut newer).unwrap_err().to_string();
    assert!(said.contains("24 is newer"), "{said}");
    let loops = vec![pb::NodeProto {
        attribute: vec![pb::AttributeProto { name: Some("body".into()), g: Some(pb::GraphProto::default()), ..Default::default() }],
        ..node("Loop", &["x"], &["y"])
    }];
    let said = Pass::from(Cast { to: To::Fp16, keep: BTreeSet::new() }).apply(&mut model(loops, vec![], "y")).unwrap_err().to_string();
    assert!(said.contains("control flow (Loop)"), "{said}");
    let said = Pass::from(WeightOnly { bits: 3, block: 16, accuracy_level: 0 }).apply(&mut network()).unwrap_err().to_string();
    assert!(said.contains("3 bits"), "{said}");
}

#[test]
fn a_weight_that_lies_about_its_size_is_an_error_not_a_panic() {
    let mut bad = network();
    bad.graph_mut().initializer[0].dims = vec![4, 3, 1, 999];
    assert!(matches!(Pass::from(qdq(Activations::U8)).apply(&mut bad), Err(VariantError::Tensor { .. })));
    let mut bad = network();
    bad.graph_mut().initializer[0].dims = vec![i64::MAX, i64::MAX];
    assert!(matches!(Pass::from(Cast { to: To::Fp16, keep: BTreeSet::new() }).apply(&mut bad), Err(VariantError::Tensor { .. })));
}

proptest! {
    #[test]
    fn every_value_of_a_range_comes_back_within_half_a_step(low in -100f32..100.0, width in 0.001f32..100.0, at in 0f32..1.0, symmetric: bool) {
        let (high, integers) = (low + width, if symmetric { (-127, 127) } else { (0, 255) });
        let found = scale::of_range(low, high, integers, symmetric);
        let value = low + width * at;
        let back = (found.quantize(value, integers) - found.zero) as f32 * found.scale;
        // The zero point is rounded, so an end may be cut by half a step.
        prop_assert!((back - value).abs() <= found.scale * 1.01, "{value} became {back} by {found:?}");
        prop_assert_eq!((found.quantize(0.0, integers) - found.zero) as f32 * found.scale, 0.0);
    }

    #[test]
    fn no_float_makes_a_scale_that_cannot_be(low: f32, high: f32) {
        let found = scale::of_range(low, high, (0, 255), false);
        prop_assert!(found.scale > 0.0 && found.scale.is_finite() && (0..=255).contains(&found.zero), "{found:?}");
        let _ = found.quantize(low, (0, 255));
    }

    #[test]
    fn whatever_a_graph_is_wired_like_passes_end(edges in prop::collection::vec((0usize..6, 0usize..6, 0usize..5), 1..12)) {
        let names: Vec<String> = (0..6).map(|i| format!("v{i}")).collect();
        let weights = vec![onnx::make("w", &[1, 1, 1, 1], &[1.0]), onnx::make("b", &[1], &[0.5])];
        let ranges: BTreeMap<String, [f32; 2]> = names.iter().map(|n| (n.clone(), [-1.0, 1.0])).collect();
        for pass in [Pass::Fold(Fold::default()), Qdq { ranges: Ranges(ranges), ..qdq(Activations::U8) }.into()] {
            let _ = pass.apply(&mut model(nodes_of(&edges, &names), weights.clone(), "v5"));
        }
    }
}

fn nodes_of(edges: &[(usize, usize, usize)], names: &[String]) -> Vec<pb::NodeProto> {
    const KINDS: [&str; 5] = ["Conv", "Add", "Clip", "Identity", "Reshape"];
    edges.iter().map(|(from, to, kind)| node(KINDS[*kind], &[&names[*from], "w", "b"], &[&names[*to]])).collect()
}
