//! Tensors behind the JSON part, and bodies without one.

use super::*;
use policy::{DataType, Signature, TensorSpec};

/// A request whose inputs are UINT8 and declare these sizes.
fn declaring(sizes: &[&str]) -> String {
    let input = |(i, size): (usize, &&str)| {
        format!(r#"{{"name":"x{i}","shape":[1],"datatype":"UINT8","parameters":{{"binary_data_size":{size},"p":1}}}}"#)
    };
    format!(r#"{{"inputs":[{}]}}"#, sizes.iter().enumerate().map(input).collect::<Vec<_>>().join(","))
}

fn read_parts(json: &str, behind: &[u8]) -> Result<RestRequest, Failure> {
    read_request(Chain::from([json.as_bytes(), behind].concat()), Some(json.len()), "m", "")
}

#[test]
fn binary_tensors_are_taken_in_order_and_stay_slices_of_the_body() {
    let (body, json_len) = mixed();
    let body = Bytes::from(body);
    let request = read_request(Chain::from(body.clone()), Some(json_len), "m", "").unwrap();
    assert_eq!(bytes(&request, 0), [1f32, -25.0, 3.0, 4.0].map(f32::to_le_bytes).concat());
    assert_eq!(bytes(&request, 1), b"\x02\0\0\0x\n\x01\0\0\0y");
    assert_eq!(request.raw[2].chunk().as_ptr(), body[json_len..].as_ptr(), "a copy was made");
    assert_eq!(request.envelope.id, "éé");
    let request = read_parts(&declaring(&["2", "0", "3"]), b"abcde").unwrap();
    assert_eq!([0, 1, 2].map(|i| bytes(&request, i)), [b"ab".to_vec(), vec![], b"cde".to_vec()]);
    assert_eq!(request.envelope.inputs[2].byte_length, 3);
    assert_eq!(request.envelope.inputs[2].parameters, [("p".to_owned(), Param::Int64(1))], "how bytes travel is no one else's business");
}

#[test]
fn any_framing_of_the_body_reads_the_same() {
    let (body, json_len) = mixed();
    let whole = read_request(Chain::from(body.clone()), Some(json_len), "m", "").unwrap();
    for size in 1..40 {
        let mut chain = Chain::default();
        body.chunks(size).for_each(|part| chain.push(Bytes::copy_from_slice(part)));
        let request = read_request(chain, Some(json_len), "m", "").unwrap();
        assert_eq!(request.envelope, whole.envelope);
        assert_eq!([0, 1, 2].map(|i| bytes(&request, i)), [0, 1, 2].map(|i| bytes(&whole, i)));
    }
}

#[test]
fn bytes_that_do_not_add_up_are_refused_with_both_numbers() {
    let refused = |json: &str, behind: &[u8], needle: &str| check_refused(read_parts(json, behind), needle);
    refused(&declaring(&["2", "4"]), b"abcde", "input `x1`: binary_data_size is 4, but 3 bytes are left");
    refused(&declaring(&["2"]), b"abcde", "3 bytes are left behind the binary data of the last input");
    refused(&declaring(&["18446744073709551615"]), b"abcde", "5 bytes are left behind the JSON");
    for size in ["-1", "1.0", "true", "\"1\""] {
        refused(&declaring(&[size]), b"a", "input `x0`: binary_data_size is not a whole number of bytes");
    }
    refused(&declaring(&["1"]).replace("\"shape\"", r#""data":[1],"shape""#), b"a", "input `x0`: has both data and binary_data_size");
    let json = declaring(&["1"]);
    check_refused(read(&json), "binary_data_size is 1, but 0 bytes are left behind the JSON (see Inference-Header-Content-Length)");
    let len = json.len();
    let beyond = read_request(Chain::from(json.clone().into_bytes()), Some(len + 7), "m", "");
    check_refused(beyond, &format!("Inference-Header-Content-Length is {}, but the body has {len} bytes", len + 7));
    check_refused(read_request(Chain::from(json.clone().into_bytes()), Some(usize::MAX), "m", ""), "Inference-Header-Content-Length");
    check_refused(read_request(Chain::from(json.into_bytes()), Some(len - 1), "m", ""), "EOF");
}

#[test]
fn an_input_in_shared_memory_takes_no_bytes() {
    let shared = |more: &str, parameter: &str| {
        format!(
            r#"{{"inputs":[{{"name":"s","shape":[4],"datatype":"UINT8","parameters":{{"shared_memory_region":"r","shared_memory_byte_size":4{parameter}}}{more}}},
            {{"name":"x","shape":[1],"datatype":"UINT8","parameters":{{"binary_data_size":1}}}}]}}"#
        )
    };
    let request = read_parts(&shared("", ""), b"z").unwrap();
    assert_eq!([0, 1].map(|i| bytes(&request, i)), [vec![], b"z".to_vec()]);
    assert_eq!(request.envelope.inputs[0].parameters.len(), 2);
    check_refused(read_parts(&shared("", r#","binary_data_size":4"#), b"aaaaz"), "input `s`: is in shared memory");
    check_refused(read_parts(&shared(r#","data":[1,2,3,4]"#, ""), b"z"), "input `s`: is in shared memory");
}

fn spec(datatype: DataType, shape: &[i64]) -> TensorSpec {
    TensorSpec { name: "x".into(), datatype, shape: shape.to_vec(), optional: false, graph_shape: None }
}

fn read_raw(max_batch_size: u32, inputs: &[TensorSpec], body: &[u8]) -> Result<RestRequest, Failure> {
    let signature = Signature { max_batch_size, inputs: inputs.to_vec(), outputs: vec![] };
    read_raw_binary(Chain::from(body.to_vec()), &signature, "m", "3")
}

#[test]
fn a_raw_body_becomes_the_only_input() {
    let check = |max_batch_size: u32, datatype: DataType, shape: &[i64], body: &[u8], expected: &[i64]| {
        let request = read_raw(max_batch_size, &[spec(datatype, shape)], body).unwrap();
        let input = &request.envelope.inputs[0];
        assert_eq!((input.name.as_str(), input.datatype.as_str(), input.shape.as_slice()), ("x", datatype.as_str(), expected));
        assert_eq!(input.byte_length, request.raw[0].len() as u64);
        assert_eq!((request.envelope.model.as_str(), request.envelope.version.as_str()), ("m", "3"));
        assert!(request.reply.is_binary("y"));
        bytes(&request, 0)
    };
    assert_eq!(check(4, DataType::Int16, &[-1, 2], b"abcd", &[1, 2]), b"abcd");
    check(4, DataType::Int16, &[-1, -1, 2], b"abcdefgh", &[1, 2, 2]);
    check(0, DataType::Int16, &[-1, 2], b"abcdefgh", &[2, 2]);
    check(0, DataType::Int16, &[-1], b"", &[0]);
    check(0, DataType::Fp16, &[], b"ab", &[]);
    assert_eq!(check(4, DataType::Bytes, &[-1, -1], b"ab", &[1, 1]), b"\x02\0\0\0ab");
    assert_eq!(check(0, DataType::Bytes, &[1], b"", &[1]), b"\0\0\0\0");
}

#[test]
fn a_raw_body_is_not_copied_for_its_length_in_front() {
    let body = Bytes::from_static(b"a picture");
    let signature = Signature { max_batch_size: 0, inputs: vec![spec(DataType::Bytes, &[1])], outputs: vec![] };
    let request = read_raw_binary(Chain::from(body.clone()), &signature, "m", "").unwrap();
    assert_eq!(request.raw[0].slices().nth(1).unwrap().as_ptr(), body.as_ptr());
}

#[test]
fn a_raw_body_that_does_not_tell_its_shape_is_refused() {
    let x = || spec(DataType::Int16, &[-1, 2]);
    check_refused(read_raw(0, &[], b"ab"), "this one has 0");
    check_refused(read_raw(0, &[x(), x()], b"ab"), "a model with one input, this one has 2");
    check_refused(read_raw(0, &[spec(DataType::Int16, &[-1, -1])], b"ab"), "input `x`: has more than one dimension of free size");
    check_refused(read_raw(0, &[x()], b"abcde"), "the body has 5 bytes, expected a multiple of 4");
    check_refused(read_raw(0, &[spec(DataType::Int16, &[-1, 0])], b""), "multiple of 0");
    check_refused(read_raw(0, &[spec(DataType::Int16, &[i64::MAX, 4])], b"ab"), "cannot fill");
    check_refused(read_raw(4, &[spec(DataType::Bytes, &[-1, 2])], b"ab"), "one BYTES element, the model takes 2");
}
