use super::*;
use crate::testing::{field, identity, interface, model, model_of, node, number, write_model};
use policy::DataType;
use proptest::prelude::*;
use std::os::unix::fs::symlink;

fn scan_bytes(bytes: &[u8]) -> Result<Scan, ScanError> {
    scan(write_model(bytes).path())
}

fn refusal(bytes: &[u8]) -> String {
    scan_bytes(bytes).unwrap_err().to_string()
}

/// A graph's initializer (or what else `wrap` makes of the tensor) whose data is elsewhere.
fn external(entries: &[(&str, &str)], wrap: impl Fn(Vec<u8>) -> Vec<u8>) -> Vec<u8> {
    let entry = |(key, value): &(&str, &str)| field(13, [field(1, key), field(2, value)].concat());
    let tensor = [number(2, 1), number(14, 1), entries.iter().flat_map(entry).collect()].concat();
    model_of(&wrap(tensor))
}

#[test]
fn a_good_model_tells_what_it_is_made_of() {
    let found = scan_bytes(&identity(DataType::Fp32, "Identity")).unwrap();
    assert_eq!(found.operators.into_iter().collect::<Vec<_>>(), [("Identity".to_owned(), 1)]);
    assert_eq!((found.nodes, found.opset, found.ir_version), (1, Some(17), Some(8)));
    assert_eq!(found.producer.as_deref(), Some("sluice-test"));
}

#[test]
fn what_is_no_whole_model_is_refused_with_its_size() {
    let whole = identity(DataType::Fp32, "Identity");
    for cut in 1..whole.len() {
        // Shorter is never accepted as the same model: either it is malformed or it has lost its graph.
        let text = refusal(&whole[..cut]);
        assert!(text.contains(&format!("{cut} bytes")), "{cut}: {text}");
    }
    assert!(refusal(b"").contains("no graph"));
    assert!(refusal(b"<html>no model here</html>").contains("not an ONNX file"));
    assert!(scan(Path::new("/nowhere/model.onnx")).unwrap_err().to_string().contains("cannot be read: entity not found"));
    assert!(scan(Path::new("/")).is_err());
}

#[test]
fn external_data_must_lie_in_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("model");
    std::fs::create_dir_all(inner.join("sub")).unwrap();
    std::fs::write(folder.path().join("secret"), [0; 64]).unwrap();
    std::fs::write(inner.join("sub/weights"), [0; 64]).unwrap();
    symlink(folder.path().join("secret"), inner.join("link")).unwrap();
    symlink(folder.path(), inner.join("linked_folder")).unwrap();
    let path = inner.join("model.onnx");
    let check = |location: &str, offset: &str, length: &str, expected: &str| {
        let entries = [("location", location), ("offset", offset), ("length", length)];
        std::fs::write(&path, external(&entries, |t| field(5, t))).unwrap();
        match scan(&path) {
            Ok(found) => assert_eq!(format!("{:?}", found.external_files), expected),
            Err(e) => assert!(!expected.is_empty() && e.to_string().contains(expected), "{location}: {e}"),
        }
    };
    check("sub/weights", "0", "64", r#"["sub/weights"]"#);
    check("./sub/./weights", "32", "32", r#"["sub/weights"]"#);
    check("sub/weights", "1", "64", "64 bytes at 1 are wanted, but the file has 64");
    check("sub/weights", "18446744073709551615", "1", "are wanted");
    check("sub/weights", "-1", "1", "offset is not a number");
    check("../secret", "0", "1", "leaves the model's folder");
    check("sub/../../secret", "0", "1", "leaves the model's folder");
    check(folder.path().join("secret").to_str().unwrap(), "0", "1", "absolute path");
    check("link", "0", "1", "symbolic link");
    check("linked_folder/secret", "0", "1", "symbolic link");
    check("sub", "0", "0", "not a regular file");
    check("gone", "0", "1", "no such file");
    check("", "0", "1", "not a file name");
    check("*/_ORT_MEM_ADDR_/*", "4096", "8", "no such file");
}

#[test]
fn external_data_is_found_wherever_a_tensor_can_be() {
    type Wrap = fn(Vec<u8>) -> Vec<u8>;
    let places: [(&str, Wrap); 7] = [
        ("sparse values", |t| field(15, field(1, t))),
        ("sparse indices", |t| field(15, field(2, t))),
        ("attribute", |t| field(1, field(5, field(5, t)))),
        ("attribute list", |t| field(1, field(5, field(10, t)))),
        ("sparse attribute", |t| field(1, field(5, field(22, field(1, t))))),
        ("subgraph", |t| field(1, field(5, field(6, field(5, t))))),
        ("subgraph list", |t| field(1, field(5, field(11, field(1, field(5, field(5, t))))))),
    ];
    for (place, wrap) in places {
        assert!(refusal(&external(&[("location", "../x")], wrap)).contains("leaves"), "{place}");
    }
    let function = external(&[("location", "/x")], |t| field(1, field(5, field(5, t))));
    let body =
        field(25, field(7, field(5, field(5, [number(14, 1), field(13, [field(1, "location"), field(2, "/x")].concat())].concat()))));
    assert!(refusal(&function).contains("absolute"));
    assert!(refusal(&[identity(DataType::Fp32, "Identity"), body].concat()).contains("absolute"));
    // A location without the mark, and the mark without a location.
    let unmarked = model_of(&field(5, field(13, [field(1, "location"), field(2, "/x")].concat())));
    assert!(refusal(&unmarked).contains("absolute"));
    assert!(refusal(&model_of(&field(5, number(14, 1)))).contains("but not where"));
}

#[test]
fn nesting_and_size_are_bounded() {
    let nested = |depth: u32| (0..depth).fold(node("Relu", "x", "y"), |inner, _| field(1, field(5, field(6, inner))));
    assert!(scan_bytes(&model_of(&nested(DEPTH_MAX))).is_ok());
    assert!(refusal(&model_of(&nested(DEPTH_MAX + 1))).contains("nested subgraphs: more than 16"));
    let empty_nodes = field(1, []).repeat(NODES_MAX as usize);
    assert_eq!(scan_bytes(&model_of(&empty_nodes)).unwrap().nodes, NODES_MAX);
    assert!(refusal(&model_of(&[empty_nodes, field(1, [])].concat())).contains("nodes: more than 200000"));
    assert!(refusal(&model_of(&node(&"x".repeat(5000), "x", "y"))).contains("bytes of a name"));
}

#[test]
fn only_tensors_the_protocol_can_carry_are_served() {
    let sequence = field(12, [field(1, "probabilities"), field(2, field(4, []))].concat());
    assert!(refusal(&model_of(&sequence)).contains("output `probabilities` is a sequence"));
    let complex = field(11, [field(1, "z"), field(2, field(1, number(1, 14)))].concat());
    assert!(refusal(&model_of(&complex)).contains("input `z` has ONNX element type 14"));
    assert!(scan_bytes(&model_of(&interface(11, "x", DataType::Bf16))).is_ok());
}

/// A tensor of `datatype` with dimensions one by one, or packed as newer writers do.
fn stored(datatype: u64, dims: &[u64], packed: bool) -> Vec<u8> {
    let dims = if packed {
        field(1, dims.iter().map(|d| *d as u8).collect::<Vec<_>>())
    } else {
        dims.iter().flat_map(|d| number(1, *d)).collect()
    };
    [dims, number(2, datatype), field(8, "w")].concat()
}

#[test]
fn weights_are_counted_by_type_wherever_they_are() {
    let constant = |operator: &str, tensor: Vec<u8>| field(1, [field(5, field(5, tensor)), field(4, operator)].concat());
    let text = [number(2, 8), number(1, 2), field(6, "four"), field(6, "")].concat();
    let graph = [
        field(5, stored(1, &[2, 3], false)),
        field(5, stored(1, &[], true)),
        field(5, stored(10, &[5], true)),
        field(5, stored(22, &[3], true)), // of 4 bits
        field(5, stored(99, &[3], true)),
        field(5, stored(98, &[3], true)),
        field(5, text),
        field(1, field(5, field(6, field(5, stored(7, &[4], true))))), // in a subgraph
        constant("Constant", stored(7, &[2], true)),
        constant("ConstantOfShape", stored(7, &[1], true)), // a setting, no weight
    ];
    let found = scan_bytes(&model_of(&graph.concat())).unwrap();
    let weights: Vec<_> = found.weights.iter().map(|(t, w)| (type_name(*t).into_owned(), w.tensors, w.elements, w.bytes)).collect();
    let row = |name: &str, tensors, elements, bytes| (name.to_owned(), tensors, elements, bytes);
    let expected = [
        row("unknown", 2, 6, 0),
        row("FP32", 2, 7, 28),
        row("INT64", 2, 6, 48),
        row("BYTES", 1, 2, 4),
        row("FP16", 1, 5, 10),
        row("INT4", 1, 3, 2),
    ];
    assert_eq!(weights, expected);
    let huge = scan_bytes(&model_of(&field(5, stored(1, &[u64::MAX >> 1, u64::MAX >> 1], false)).repeat(2))).unwrap();
    assert_eq!(huge.weights[&1].bytes, u64::MAX / 8 * 2 + 2); // the most there can be, twice, and no panic
}

#[test]
fn inputs_have_types_and_dimensions_and_are_not_filled_by_the_file() {
    let dims = [number(1, 3), field(2, "length"), vec![], number(1, u64::MAX), field(2, "")].map(|dim| field(1, dim)).concat();
    let shaped = field(11, [field(1, "x"), field(2, field(1, [number(1, 1), field(2, dims)].concat()))].concat());
    let unshaped = field(11, [field(1, "y"), field(2, field(1, number(1, 9)))].concat());
    let filled = field(11, [field(1, "w"), field(2, field(1, number(1, 1)))].concat());
    let graph = [shaped, unshaped, filled, field(5, stored(1, &[2], true)), interface(12, "z", DataType::Bytes)];
    let found = scan_bytes(&model_of(&graph.concat())).unwrap();
    let open = |name: &str| Dim::Open(Some(name.to_owned()));
    let expected = [Dim::Fixed(3), open("length"), Dim::Open(None), Dim::Open(None), Dim::Open(None)];
    let inputs: Vec<_> = found.inputs.iter().map(|i| (i.name.as_str(), i.datatype.as_str(), i.shape.as_deref())).collect();
    assert_eq!(inputs, [("x", "FP32", Some(&expected[..])), ("y", "BOOL", None)]);
    assert_eq!((found.outputs[0].datatype.as_str(), found.outputs[0].shape.clone()), ("BYTES", Some(vec![open("n"), open("m")])));
}

#[test]
fn what_describes_inputs_is_bounded() {
    let dims = field(1, []).repeat(1 << 20);
    let graph = field(11, [field(1, "x"), field(2, field(1, field(2, dims)))].concat());
    let limit = ScanError::TooLarge { what: "bytes to describe inputs and outputs", limit: INTERFACE_BYTES_MAX };
    assert!(scan_bytes(&model_of(&graph)).is_err_and(|e| e == limit));
}

#[test]
fn a_survey_describes_what_a_scan_refuses() {
    let bytes = external(&[("location", "../x")], |t| field(5, [t, number(1, 6)].concat()));
    let file = write_model(&bytes);
    let found = survey(file.path()).unwrap();
    assert_eq!(found.weights[&1], Weights { tensors: 1, elements: 6, bytes: 24 });
    assert_eq!(found.refusal, Some(scan(file.path()).unwrap_err()));
}

#[test]
fn the_fetched_models_get_the_verdicts_they_were_made_for() {
    let check = |name: &str, expected: Option<&str>| {
        let Some(path) = model(name) else { return };
        match (scan(&path), expected) {
            (Ok(_), None) => {}
            (Err(e), Some(text)) => assert!(e.to_string().contains(text), "{name}: {e}"),
            (other, _) => panic!("{name}: {other:?}"),
        }
    };
    check("bad/truncated.onnx", Some("not an ONNX file"));
    check("bad/external_outside.onnx", Some("leaves the model's folder"));
    check("bad/external_absolute.onnx", Some("absolute path"));
    check("bad/external_ok/model.onnx", None);
    check("bad/crash.onnx", None);
    check("bench/resnet50/1/model.onnx", None);
    check("test/slow/1/model.onnx", None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn any_bytes_end_in_a_verdict(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = scan_bytes(&bytes);
    }

    #[test]
    fn any_damage_ends_in_a_verdict(at in 0usize..200, byte in any::<u8>()) {
        let mut bytes = external(&[("location", "w")], |t| field(1, field(5, field(6, field(5, t)))));
        let at = at % bytes.len();
        bytes[at] = byte;
        let _ = scan_bytes(&bytes);
    }
}
