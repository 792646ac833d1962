use super::*;
use crate::{Code, InputTensor, RequestedOutput, Shape};
use proptest::prelude::*;

fn spec(name: &str, datatype: DataType, shape: &[i64]) -> TensorSpec {
    TensorSpec { name: name.into(), datatype, shape: shape.to_vec(), optional: false, graph_shape: None }
}

/// Two batched fp32 inputs of three columns, one output; at most four rows.
fn signature() -> Signature {
    Signature {
        max_batch_size: 4,
        inputs: vec![spec("a", DataType::Fp32, &[-1, 3]), spec("b", DataType::Fp32, &[-1, 3])],
        outputs: vec![spec("y", DataType::Fp32, &[-1, 3])],
    }
}

fn input(name: &str, datatype: &str, shape: &[i64], byte_length: u64) -> InputTensor {
    InputTensor { name: name.into(), datatype: datatype.into(), shape: Shape::from_slice(shape), byte_length, ..Default::default() }
}

fn good() -> Envelope {
    Envelope { inputs: vec![input("b", "FP32", &[2, 3], 24), input("a", "FP32", &[2, 3], 24)], ..Default::default() }
}

#[test]
fn a_right_request_passes_in_any_input_order() {
    assert_eq!(check_request(&signature(), &good()), Ok(Checked { rows: 2 }));
}

/// Breaks the good request in one way and wants INVALID_ARGUMENT with a text that has `needle`.
fn refuses(needle: &str, change: impl FnOnce(&mut Envelope)) {
    let mut envelope = good();
    change(&mut envelope);
    let failure = check_request(&signature(), &envelope).expect_err(needle);
    assert_eq!(failure.wire().0, Code::InvalidArgument, "{failure}");
    assert!(failure.to_string().contains(needle), "{failure} has no {needle:?}");
}

#[test]
fn each_mistake_is_named_with_its_numbers() {
    refuses("`c` is not one of the model's inputs: a, b", |e| e.inputs[0].name = "c".into());
    refuses("expected 2 inputs, got 1", |e| drop(e.inputs.pop()));
    refuses("`zz` is not one of the model's outputs: y", |e| e.outputs.push(RequestedOutput { name: "zz".into(), ..Default::default() }));
    refuses("`y` is asked for twice", |e| e.outputs = vec![RequestedOutput { name: "y".into(), ..Default::default() }; 2]);
    refuses("\"FLOAT\" is not one of the protocol's", |e| e.inputs[0].datatype = "FLOAT".into());
    refuses("expected datatype FP32, got INT64", |e| e.inputs[0].datatype = "INT64".into());
    refuses("expected shape [-1,3], got [2,4]", |e| e.inputs[0].shape = Shape::from_slice(&[2, 4]));
    refuses("expected shape [-1,3], got [6]", |e| e.inputs[0].shape = Shape::from_slice(&[6]));
    refuses("negative", |e| e.inputs[0].shape = Shape::from_slice(&[-2, 3]));
    refuses("expected 24 bytes for shape [2,3] of FP32, got 23", |e| e.inputs[0].byte_length = 23);
    refuses("5 rows is over the max_batch_size of 4 of model", |e| {
        e.inputs = vec![input("a", "FP32", &[5, 3], 60), input("b", "FP32", &[5, 3], 60)];
    });
    refuses("carry the same batch", |e| e.inputs[0] = input("b", "FP32", &[1, 3], 12));
    refuses("no rows", |e| e.inputs[0].shape = Shape::from_slice(&[0, 3]));
    refuses("65 is over the limit of 64", |e| e.inputs = vec![input("a", "FP32", &[2, 3], 24); 65]);
}

/// A duplicate is only reachable with the right count, so it has its own case.
#[test]
fn a_duplicate_input_is_named() {
    let mut envelope = good();
    envelope.inputs[0].name = "a".into();
    let failure = check_request(&signature(), &envelope).unwrap_err();
    assert_eq!(failure, Failure::DuplicateInput { input: "a".into() });
}

#[test]
fn shapes_whose_product_overflows_are_refused() {
    let signature = Signature { max_batch_size: 0, inputs: vec![spec("a", DataType::Fp32, &[-1, -1, -1])], outputs: vec![] };
    for shape in [[1i64 << 31, 1, 1], [i64::MAX, 2, 1], [1 << 22, 1 << 22, 1 << 22], [(1 << 31) - 1, (1 << 31) - 1, 16]] {
        let envelope = Envelope { inputs: vec![input("a", "FP32", &shape, 0)], ..Default::default() };
        assert!(matches!(check_request(&signature, &envelope), Err(Failure::BadShape { .. })), "{shape:?}");
    }
    let long = Envelope { inputs: vec![input("a", "FP32", &[1; 9], 4)], ..Default::default() };
    assert!(check_request(&signature, &long).unwrap_err().to_string().contains("more than 8"));
}

proptest! {
    /// P1: whatever is accepted has exactly the bytes its shape says, judged by 128-bit arithmetic.
    #[test]
    fn accepted_means_product_times_size_is_the_length(dims in prop::collection::vec(prop_oneof![0i64..5, any::<i64>()], 0..10), length in prop_oneof![0u64..200, any::<u64>()], dtype in 0usize..13) {
        let datatype = DataType::ALL[dtype];
        let signature = Signature { max_batch_size: 0, inputs: vec![spec("a", datatype, &vec![-1; dims.len()])], outputs: vec![] };
        let envelope = Envelope { inputs: vec![input("a", datatype.as_str(), &dims, length)], ..Default::default() };
        if check_request(&signature, &envelope).is_ok() {
            let product: i128 = dims.iter().map(|d| i128::from(*d)).product();
            prop_assert_eq!(product * datatype.size().unwrap() as i128, i128::from(length));
        }
    }
}
