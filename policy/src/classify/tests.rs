use super::*;
use crate::{Param, RequestedOutput, TensorSpec};
use proptest::prelude::*;

/// The elements of a BYTES tensor.
fn texts(mut bytes: &[u8]) -> Vec<String> {
    let mut out = Vec::new();
    while let Some((len, rest)) = bytes.split_first_chunk::<4>() {
        let (text, rest) = rest.split_at(u32::from_le_bytes(*len) as usize);
        out.push(String::from_utf8(text.to_vec()).unwrap());
        bytes = rest;
    }
    out
}

fn best(datatype: DataType, shape: &[i64], batched: bool, bytes: &[u8], count: usize) -> (Vec<i64>, Vec<String>) {
    let scores = Scores { output: "y", datatype, shape, batched, bytes };
    let (shape, bytes) = scores.best(count, &[]).unwrap();
    (shape.to_vec(), texts(&bytes))
}

fn fp32(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

#[test]
fn each_row_gives_its_best_classes_first() {
    let bytes = fp32(&[0.25, 7.0, -1.5, 0.1, 0.2, 0.3]);
    let (shape, rows) = best(DataType::Fp32, &[2, 3], true, &bytes, 2);
    assert_eq!(shape, [2, 2]);
    assert_eq!(rows, ["7.000000:1", "0.250000:0", "0.300000:2", "0.200000:1"]);
    let (shape, one) = best(DataType::Fp32, &[2, 3], false, &bytes, 2);
    assert_eq!((shape, one), (vec![2], vec!["7.000000:1".into(), "0.300000:5".into()]));
    let (shape, flat) = best(DataType::Fp32, &[1, 3, 2, 1], true, &bytes, 1);
    assert_eq!((shape, flat), (vec![1, 1], vec!["7.000000:1".into()]));
}

#[test]
fn more_classes_than_there_are_means_all_of_them() {
    assert_eq!(best(DataType::Fp32, &[1, 2], true, &fp32(&[1.0, 2.0]), usize::MAX).0, [1, 2]);
    assert_eq!(best(DataType::Fp32, &[1, 0], true, &[], 3), (vec![1, 0], vec![]));
    assert_eq!(best(DataType::Fp32, &[3], true, &fp32(&[1.0, 2.0, 3.0]), 5).0, [3, 1]);
    assert_eq!(best(DataType::Fp32, &[], false, &fp32(&[1.0]), 5), (vec![1], vec!["1.000000:0".into()]));
}

#[test]
fn equal_scores_keep_their_order_and_nan_comes_last() {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let (_, all) = best(DataType::Fp32, &[8], false, &fp32(&[nan, 1.0, 0.0, 1.0, -inf, inf, -0.0, nan]), 8);
    let want = ["inf:5", "1.000000:1", "1.000000:3", "0.000000:2", "-0.000000:6", "-inf:4", "nan:0", "nan:7"];
    assert_eq!(all, want);
}

/// What C++'s `std::to_string` gives for the same values.
#[test]
fn scores_of_every_type_are_written_as_triton_writes_them() {
    let check = |datatype, bytes: &[u8], want: &str| {
        assert_eq!(best(datatype, &[1], false, bytes, 1).1, [format!("{want}:0")], "{datatype}");
    };
    check(DataType::Bool, &[1], "1");
    check(DataType::Uint8, &[255], "255");
    check(DataType::Uint16, &u16::MAX.to_le_bytes(), "65535");
    check(DataType::Uint32, &u32::MAX.to_le_bytes(), "4294967295");
    check(DataType::Uint64, &u64::MAX.to_le_bytes(), "18446744073709551615");
    check(DataType::Int8, &(-128i8).to_le_bytes(), "-128");
    check(DataType::Int16, &i16::MIN.to_le_bytes(), "-32768");
    check(DataType::Int32, &(-7i32).to_le_bytes(), "-7");
    check(DataType::Int64, &i64::MIN.to_le_bytes(), "-9223372036854775808");
    check(DataType::Fp16, &f16::from_f32(0.1).to_le_bytes(), "0.099976");
    check(DataType::Bf16, &bf16::from_f32(0.1).to_le_bytes(), "0.100098");
    check(DataType::Fp32, &0.1f32.to_le_bytes(), "0.100000");
    check(DataType::Fp32, &1e-9f32.to_le_bytes(), "0.000000");
    check(DataType::Fp32, &16777216f32.to_le_bytes(), "16777216.000000");
    check(DataType::Fp64, &2.5e-6f64.to_le_bytes(), "0.000003"); // the nearest double lies above the tie
    check(DataType::Fp64, &0.0000005f64.to_le_bytes(), "0.000000"); // and here below it
    check(DataType::Fp64, &(1.0 / 128.0f64).to_le_bytes(), "0.007812"); // an exact tie goes to the even digit
    check(DataType::Fp64, &1e15f64.to_le_bytes(), "1000000000000000.000000");
}

/// Beyond 2^53 neighbours are one double.
#[test]
fn large_integers_are_told_apart() {
    let bytes: Vec<u8> = [u64::MAX - 1, u64::MAX].iter().flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!(best(DataType::Uint64, &[2], false, &bytes, 1).1, ["18446744073709551615:1"]);
}

#[test]
fn a_label_stands_behind_its_index_where_there_is_one() {
    let bytes = fp32(&[1.0, 2.0, 3.0]);
    let scores = Scores { output: "y", datatype: DataType::Fp32, shape: &[3], batched: false, bytes: &bytes };
    let (_, all) = scores.best(3, &["cat".to_owned(), String::new()]).unwrap();
    assert_eq!(texts(&all), ["3.000000:2", "2.000000:1", "1.000000:0:cat"]);
}

#[test]
fn what_has_no_scores_or_too_many_is_refused() {
    let scores = |datatype, shape, bytes| Scores { output: "y", datatype, shape, batched: true, bytes };
    let failure = scores(DataType::Bytes, &[1, 1], &[0; 4]).best(1, &[]).unwrap_err();
    assert!(matches!(failure, Failure::Parameter { .. }) && failure.to_string().contains("`y`"), "{failure}");
    for (shape, bytes) in [(&[1, 2][..], &[0; 4][..]), (&[-1, 1][..], &[0; 4][..]), (&[i64::MAX, 4][..], &[][..])] {
        let failure = scores(DataType::Fp32, shape, bytes).best(1, &[]).unwrap_err();
        assert!(matches!(failure, Failure::BadReply { .. }), "{failure}");
    }
    let many = vec![0; 1_000_001];
    assert!(matches!(scores(DataType::Int8, &[1, 1_000_001], &many).best(2, &[]), Ok((_, t)) if !t.is_empty()));
    let failure = scores(DataType::Int8, &[1, 1_000_001], &many).best(usize::MAX, &[]).unwrap_err();
    assert!(failure.to_string().contains("1000001 is over the limit of 1000000"), "{failure}");
    let label = "x".repeat(1 << 20);
    let failure = scores(DataType::Int8, &[65, 1], &many[..65]).best(1, &[label]).unwrap_err();
    assert!(failure.to_string().contains("bytes of class names and scores of output `y`"), "{failure}");
}

fn request(datatype: DataType, parameters: &[(&str, Param)]) -> (Envelope, Signature) {
    let parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let outputs = vec![RequestedOutput { name: "y".into(), parameters }, RequestedOutput { name: "z".into(), ..Default::default() }];
    let spec = |name: &str| TensorSpec { name: name.into(), datatype, shape: vec![-1, 3], optional: false, graph_shape: None };
    let signature = Signature { max_batch_size: 4, inputs: vec![], outputs: vec![spec("y"), spec("z")] };
    (Envelope { outputs, ..Default::default() }, signature)
}

#[test]
fn the_parameter_is_taken_and_only_its_output_changes() {
    let own = ("own", Param::Int64(1));
    let (mut envelope, signature) = request(DataType::Fp32, &[own.clone(), ("classification", Param::Int64(1))]);
    let classes = Classifications::take(&mut envelope, &signature).unwrap().unwrap();
    assert_eq!(envelope, request(DataType::Fp32, &[own]).0, "a worker never sees it, and other parameters stay");
    assert!(classes.wants("y") && !classes.wants("z"));

    let tensor =
        |name: &str| OutputTensor { name: name.into(), datatype: "FP32".into(), shape: Shape::from_slice(&[2, 3]), parameters: vec![] };
    let bytes = fp32(&[1.0, 2.0, 3.0, 6.0, 5.0, 4.0]);
    let labels =
        |output: &str| Labels { output: output.into(), activation: "none".into(), names: vec!["a".into(), "b".into(), "c".into()] };
    let mut y = tensor("y");
    let classified = classes.apply(&mut y, &bytes, Some(&labels("y"))).unwrap().unwrap();
    assert_eq!(texts(&classified), ["3.000000:2:c", "6.000000:0:a"]);
    assert_eq!((y.datatype.as_str(), y.shape.as_slice()), ("BYTES", &[2, 1][..]));
    let unnamed = classes.apply(&mut tensor("y"), &bytes, Some(&labels("z"))).unwrap().unwrap();
    assert_eq!(texts(&unnamed), ["3.000000:2", "6.000000:0"], "labels of another output are not used");
    let mut z = tensor("z");
    assert_eq!((classes.apply(&mut z, &bytes, None), z), (Ok(None), tensor("z")));
}

#[test]
fn a_request_without_the_parameter_gets_none() {
    let (mut envelope, signature) = request(DataType::Bytes, &[]);
    assert_eq!(Classifications::take(&mut envelope, &signature), Ok(None));
}

#[test]
fn a_bad_wish_is_refused_before_anything_runs() {
    let refuses = |datatype, parameters: &[(&str, Param)], needle: &str| {
        let (mut envelope, signature) = request(datatype, parameters);
        let failure = Classifications::take(&mut envelope, &signature).unwrap_err();
        assert!(matches!(failure, Failure::Parameter { .. }), "{failure}");
        assert!(failure.to_string().contains(needle) && failure.to_string().contains("`y`"), "{failure}");
    };
    refuses(DataType::Fp32, &[("classification", Param::Int64(0))], "got 0");
    refuses(DataType::Fp32, &[("classification", Param::Int64(-1))], "got -1");
    refuses(DataType::Fp32, &[("classification", Param::Double(1.0))], "got 1.0");
    refuses(DataType::Fp32, &[("classification", Param::String("5".into()))], "got \"5\"");
    refuses(DataType::Bytes, &[("classification", Param::Int64(1))], "BYTES");
    let region = (SharedMemory::REGION, Param::String("r".into()));
    refuses(DataType::Fp32, &[region, ("classification", Param::Int64(1))], "shared memory");
}

proptest! {
    /// Keeping the best in one pass gives what sorting everything gives.
    #[test]
    fn the_best_are_those_of_a_full_sort(values in prop::collection::vec(-4i8..4, 1..40), count in 1usize..50) {
        let bytes: Vec<u8> = values.iter().map(|v| v.to_le_bytes()[0]).collect();
        let mut sorted: Vec<(i8, usize)> = values.iter().copied().zip(0..).collect();
        sorted.sort_by_key(|(score, index)| (std::cmp::Reverse(*score), *index));
        let want: Vec<String> = sorted.iter().take(count).map(|(score, index)| format!("{score}:{index}")).collect();
        prop_assert_eq!(best(DataType::Int8, &[values.len() as i64], false, &bytes, count).1, want);
    }
}
