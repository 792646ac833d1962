use super::*;
use bytes::{Buf as _, Bytes};
use policy::{Code, Failure, Param, Retry};
use proptest::prelude::*;

mod binary;
mod reply;

/// Reads a body that is all JSON.
fn read(json: &str) -> Result<RestRequest, Failure> {
    read_request(Chain::from(json.as_bytes().to_vec()), None, "m", "3")
}

/// A request with one input.
fn one(datatype: &str, shape: &str, data: &str) -> String {
    format!(r#"{{"inputs":[{{"name":"x","shape":{shape},"datatype":"{datatype}","data":{data}}}]}}"#)
}

/// A request with one input, these members more.
fn with(members: &str) -> String {
    format!(r#"{{"inputs":[{{"name":"x","shape":[1],"datatype":"UINT8","data":[1]}}],{members}}}"#)
}

/// An input's bytes.
fn bytes(request: &RestRequest, input: usize) -> Vec<u8> {
    request.raw[input].clone().into_bytes().to_vec()
}

/// The failure is the caller's, and its text has `needle`.
fn check_refused(result: Result<RestRequest, Failure>, needle: &str) {
    let failure = result.expect_err(needle);
    assert_eq!(failure.wire(), (Code::InvalidArgument, 400, Retry::Never), "{failure}");
    assert!(failure.to_string().contains(needle), "{failure} has no {needle:?}");
    assert!(failure.to_string().len() < 500, "{failure} is long");
}

fn refused(json: &str, needle: &str) {
    check_refused(read(json), needle);
}

#[test]
fn every_datatype_reads_into_its_raw_bytes() {
    let check = |datatype: &str, shape: &str, data: &str, expected: &[u8]| {
        let request = read(&one(datatype, shape, data)).unwrap();
        assert_eq!(bytes(&request, 0), expected, "{datatype} {data}");
        assert_eq!(request.envelope.inputs[0].byte_length, expected.len() as u64);
    };
    check("BOOL", "[4]", "[true,false,1,0]", &[1, 0, 1, 0]);
    check("UINT8", "[2]", "[0,255]", &[0, 255]);
    check("INT8", "[2]", "[-128,127]", &[128, 127]);
    check("UINT16", "[1]", "[65535]", &[255, 255]);
    check("INT16", "[1]", "[-2]", &[254, 255]);
    check("UINT32", "[1]", "[4294967295]", &[255; 4]);
    check("INT32", "[1]", "[-2147483648]", &i32::MIN.to_le_bytes());
    check("UINT64", "[1]", "[18446744073709551615]", &[255; 8]);
    check("INT64", "[2]", "[-9223372036854775808, 9007199254740993]", &[i64::MIN, 9_007_199_254_740_993].map(i64::to_le_bytes).concat());
    check("FP32", "[4]", "[1,-0.0,1.5e3,16777217]", &[1f32, -0.0, 1500.0, 16_777_216.0].map(f32::to_le_bytes).concat());
    check("FP32", "[2]", "[3.4028234663852886e38,1e-99]", &[f32::MAX, 0.0].map(f32::to_le_bytes).concat());
    check("FP64", "[2]", "[0.1,1e308]", &[0.1f64, 1e308].map(f64::to_le_bytes).concat());
    check("BYTES", "[3]", r#"["ab","","é"]"#, b"\x02\0\0\0ab\0\0\0\0\x02\0\0\0\xc3\xa9");
    check("BYTES", "[2]", r#"["\u0000\"\\]","\ud83d\ude00"]"#, b"\x04\0\0\0\0\"\\]\x04\0\0\0\xf0\x9f\x98\x80");
}

#[test]
fn data_may_be_nested_flat_mixed_or_a_scalar() {
    for data in ["[1,2,3,4]", "[[1,2],[3,4]]", "[[1,2],3,[[4]]]", " [ [ 1 , 2 ] , [\n3\t,\r4 ] ] ", "[[],[1,2,3],[[],4]]"] {
        assert_eq!(bytes(&read(&one("UINT8", "[2,2]", data)).unwrap(), 0), [1, 2, 3, 4], "{data}");
    }
    for data in ["5", "[5]", "[[[5]]]"] {
        assert_eq!(bytes(&read(&one("UINT8", "[]", data)).unwrap(), 0), [5], "{data}");
    }
    for data in ["[]", "[[],[]]"] {
        assert!(bytes(&read(&one("FP32", "[2,0]", data)).unwrap(), 0).is_empty());
    }
}

#[test]
fn members_come_in_any_order_and_unknown_ones_are_ignored() {
    let json = r#" {"new":[{"a":[1e999,null]}],"outputs":[{"parameters":{"classification":2,"binary_data":true},"name":"y"},{"name":"z"}],
        "inputs":[{"data":[1.5],"zzz":{},"datatype":"FP32","parameters":{"p":"q"},"shape":[1],"name":"x"}],
        "parameters":{"a":true,"b":-7,"c":18446744073709551615,"d":0.1,"e":"\u0041","binary_data_output":false},"id":"\"i"} "#;
    let request = read(json).unwrap();
    let envelope = &request.envelope;
    assert_eq!((envelope.model.as_str(), envelope.version.as_str(), envelope.id.as_str()), ("m", "3", "\"i"));
    let expected = [Param::Bool(true), Param::Int64(-7), Param::Uint64(u64::MAX), Param::Double(0.1), Param::String("A".into())];
    assert_eq!(envelope.parameters.iter().map(|(_, value)| value.clone()).collect::<Vec<_>>(), expected);
    assert_eq!(envelope.inputs[0].parameters, [("p".to_owned(), Param::String("q".into()))]);
    assert_eq!(envelope.outputs[0].parameters, [("classification".to_owned(), Param::Int64(2))]);
    assert_eq!(bytes(&request, 0), 1.5f32.to_le_bytes());
    assert_eq!(["y", "z", "other"].map(|output| request.reply.is_binary(output)), [true, false, false]);
    let nulls = with(r#""id":null,"parameters":null,"outputs":null"#);
    assert_eq!(read(&nulls).unwrap().envelope.id, "");
}

#[test]
fn what_is_said_of_an_output_goes_before_what_is_said_of_the_request() {
    let json = with(r#""parameters":{"binary_data_output":true},"outputs":[{"name":"y","parameters":{"binary_data":false}},{"name":"z"}]"#);
    let request = read(&json).unwrap();
    assert_eq!(["y", "z"].map(|output| request.reply.is_binary(output)), [false, true]);
    assert!(request.envelope.parameters.is_empty() && request.envelope.outputs.iter().all(|output| output.parameters.is_empty()));
}

#[test]
fn a_value_that_does_not_fit_is_named_with_type_and_input() {
    let value = |datatype: &str, data: &str, shown: &str| {
        let data = format!("[0,{data}]");
        let (element, datatype_text) = (format!("value {shown} of element 1"), format!("does not fit datatype {datatype}"));
        refused(&one(datatype, "[2]", &data), &element);
        refused(&one(datatype, "[2]", &data), &datatype_text);
        refused(&one(datatype, "[2]", &data), "input `x`");
    };
    let edges = [("UINT8", "256"), ("INT8", "128"), ("INT8", "-129"), ("UINT16", "65536"), ("INT16", "-32769"), ("UINT32", "-1")];
    let more = [("INT32", "2147483648"), ("UINT64", "18446744073709551616"), ("INT64", "9223372036854775808"), ("BOOL", "2")];
    for (datatype, number) in edges.into_iter().chain(more) {
        value(datatype, number, number);
    }
    for other in ["1.5", "1.0", "1e2", "true", "null", "\"1\""] {
        value("INT32", other, other);
    }
    for other in ["3.5e38", "-3.4028235678e38", "1e999", "false", "null", "\"1\""] {
        value("FP32", other, other);
    }
    value("FP64", "-1e309", "-1e309");
    value("BOOL", "\"true\"", "\"true\"");
    value("INT8", &"9".repeat(1000), &format!("{}...", "9".repeat(40)));
    for other in ["1", "true", "null"] {
        refused(&one("BYTES", "[1]", &format!("[{other}]")), &format!("value {other} of element 0 does not fit datatype BYTES"));
    }
    for lone in [r#""\ud800""#, r#""\udc00x""#, r#""\ud800\u0041""#] {
        refused(&one("BYTES", "[1]", &format!("[{lone}]")), "a string of whole Unicode characters");
    }
}

#[test]
fn what_json_cannot_carry_is_pointed_to_binary_data() {
    for data in ["[NaN]", "[1,-Infinity]", "[\n 1,\n Infinity\n]", "[nan]", "[-inf]"] {
        refused(&one("FP32", "[1]", data), "binary_data_size");
    }
    refused(&one("FP16", "[1]", "[1]"), "FP16 values cannot be sent as JSON");
    refused(&one("BF16", "[1]", "[1]"), "binary_data_size");
    refused(&one("FP32", "[1]", "[[1,]"), "line 1 column");
}

#[test]
fn another_number_of_values_than_the_shape_has_is_refused_with_both() {
    refused(&one("FP32", "[2,2]", "[1,2,3]"), "shape [2,2] has 4 elements, data has 3");
    refused(&one("FP32", "[2]", "[1,2,3,4,5]"), "shape [2] has 2 elements, data has 5");
    refused(&one("BYTES", "[2]", r#"["a"]"#), "shape [2] has 2 elements, data has 1");
    refused(&one("FP32", "[]", "[]"), "shape [] has 1 elements, data has 0");
}

/// `check_request` has a sentence for them; here they cost nothing.
#[test]
fn an_unknown_datatype_or_an_impossible_shape_is_left_to_the_check() {
    for (datatype, shape) in [("FLOAT", "[1]"), ("FP32", "[-1]"), ("FP32", "[536870912]"), ("FP64", "[9223372036854775807,4]")] {
        let request = read(&one(datatype, shape, "[1]")).unwrap();
        assert!(request.raw[0].is_empty() && request.envelope.inputs[0].byte_length == 0);
    }
}

#[test]
fn every_other_mistake_is_named() {
    refused("", "EOF");
    refused("[]", "expected an object");
    refused(r#"["id",null,null,null]"#, "expected an object");
    refused(r#"{"inputs":[["x","FP32",[1],null,[1]]]}"#, "expected an object");
    refused("{}", "no inputs");
    refused(r#"{"inputs":{}}"#, "expected an array");
    refused(r#"{"inputs":[{"shape":[1],"datatype":"FP32","data":[1]}]}"#, "an input has no name");
    refused(r#"{"inputs":[{"name":"x","shape":[1],"data":[1]}]}"#, "input `x` has no datatype");
    refused(r#"{"inputs":[{"name":"x","datatype":"FP32","data":[1]}]}"#, "input `x` has no shape");
    refused(r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1]}]}"#, "input `x`: has neither data nor binary_data_size");
    refused(&one("FP32", "[1.5]", "[1]"), "1.5");
    refused(&one("FP32", "[1]", "[{}]"), "object");
    refused(&one("FP32", "[1]", "[1]]"), "line 1");
    refused(&with(r#""outputs":[{}]"#), "an output has no name");
    refused(&with(r#""id":5"#), "expected a string");
    refused(&with(r#""id":"a","id":"b""#), "duplicate field `id`");
    refused(&with(r#""inputs":[]"#), "duplicate field `inputs`");
    refused(&with(r#""parameters":{"p":1,"p":1}"#), "parameter `p`: appears twice");
    refused(&with(r#""parameters":{"p":null}"#), "parameter `p`: expected a boolean, a number or a string, got null");
    refused(&with(r#""parameters":{"p":[1]}"#), "got an array");
    refused(&with(r#""parameters":{"p":{}}"#), "got an object");
    refused(&with(r#""parameters":{"p":18446744073709551616}"#), "does not fit 64 bits");
    refused(&with(r#""parameters":{"p":1e999}"#), "does not fit 64 bits");
    refused(&with(r#""parameters":{"p":"\ud800"}"#), "parameter `p`: the string cannot be read");
    refused(&with(r#""parameters":{"binary_data_output":1}"#), "parameter `binary_data_output`: expected true or false");
    refused(&with(r#""outputs":[{"name":"y","parameters":{"binary_data":"yes"}}]"#), "parameter `binary_data`: expected true or false");
    check_refused(read_request(Chain::from(vec![b'{', 0xff]), None, "m", ""), "not UTF-8 behind byte 1");
}

#[test]
fn counts_and_lengths_are_limited() {
    let input = r#"{"name":"x","shape":[0],"datatype":"UINT8","data":[]}"#;
    let inputs = |count: usize| format!(r#"{{"inputs":[{}]}}"#, vec![input; count].join(","));
    assert_eq!(read(&inputs(64)).unwrap().raw.len(), 64);
    refused(&inputs(100_000), "number of inputs: 100000 is over the limit of 64");
    refused(&with(&format!(r#""outputs":[{}]"#, vec![r#"{"name":"y"}"#; 65].join(","))), "number of outputs: 65 is over the limit of 64");
    let parameters = |count: usize| (0..count).map(|i| format!(r#""p{i}":{i}"#)).collect::<Vec<_>>().join(",");
    assert_eq!(read(&with(&format!(r#""parameters":{{{}}}"#, parameters(64)))).unwrap().envelope.parameters.len(), 64);
    refused(
        &with(&format!(r#""parameters":{{{}}}"#, parameters(100_000))),
        "number of parameters of the request: 100000 is over the limit",
    );
    refused(&with(&format!(r#""outputs":[{{"name":"y","parameters":{{{}}}}}]"#, parameters(65))), "of output `y`: 65");
    refused(&one("FP32", "[1,1,1,1,1,1,1,1,1]", "[1]"), "number of dimensions of input `x`: 9 is over the limit of 8");
    refused(&one("FP32", "[1]", "[1]").replace("\"x\"", &format!("\"{}\"", "n".repeat(129))), "129 is over the limit of 128");
    refused(&with(&format!(r#""parameters":{{"{}":1}}"#, "n".repeat(129))), "129 is over the limit of 128");
    refused(&with(&format!(r#""id":{{"{}":1}}"#, "n".repeat(9000))), "line 1");
    refused(&with(r#""id":"ok""#).replace("[1]", &format!("\"{}\"", "n".repeat(9000))), "nnn... at line 1 column");
    let long = Chain::from(vec![b' '; limits::JSON_BYTES_MAX + 1]);
    check_refused(read_request(long, None, "m", ""), "67108865 is over the limit of 67108864");
}

#[test]
fn nesting_is_limited_and_never_exhausts_the_stack() {
    let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    assert_eq!(bytes(&read(&one("UINT8", "[1]", &nested(100))).unwrap(), 0), [1]);
    refused(&one("UINT8", "[1]", &nested(101)), "nesting depth of the data of input `x`: 101 is over the limit of 100");
    refused(&one("UINT8", "[1]", &nested(1_000_000)), "nesting depth");
    // What is skipped is skipped in a loop.
    assert!(read(&with(&format!(r#""unknown":{}"#, nested(1_000_000)))).is_ok());
    let objects = format!("{}1{}", r#"{"a":"#.repeat(300_000), "}".repeat(300_000));
    assert!(read(&with(&format!(r#""unknown":{objects}"#))).is_ok());
    refused(&with(&format!(r#""parameters":{{"p":{objects}}}"#)), "got an object");
    refused(&with(&format!(r#""id":{}"#, nested(1_000_000))), "expected a string");
    refused(&one("UINT8", &nested(1_000_000), "[1]"), "line 1");
    refused(&"[".repeat(1_000_000), "expected an object");
    refused(&format!(r#"{{"unknown":{}"#, "[".repeat(1_000_000)), "EOF");
    refused(&one("BYTES", "[1]", &objects), "object");
}

#[test]
fn a_shape_that_claims_much_reserves_no_more_than_the_data_can_fill() {
    assert_eq!(data::room(policy::DataType::Fp64, 1 << 28, "[1,2]".len()), 24);
    assert_eq!(data::room(policy::DataType::Fp32, 2, "[1.0000,2.0000]".len()), 8);
    assert_eq!(data::room(policy::DataType::Bytes, 1 << 28, 5), 5);
}

/// `values` written as JSON read back as their little-endian bytes, flat and in rows of two.
fn check_round_trip<T: serde::Serialize>(datatype: &str, values: &[T], raw: &[u8]) {
    let flat = serde_json::to_string(values).unwrap();
    let rows = serde_json::to_string(&values.chunks(2).collect::<Vec<_>>()).unwrap();
    for data in [flat, rows] {
        let request = read(&one(datatype, &format!("[{}]", values.len()), &data)).unwrap();
        assert_eq!(bytes(&request, 0), raw, "{datatype} {data}");
    }
}

/// A good body of two inputs, its JSON's length, and what is behind it.
fn mixed() -> (Vec<u8>, usize) {
    let json = r#"{"id":"é\u00e9","parameters":{"p":1.5,"q":"s","binary_data_output":true},"inputs":[
        {"name":"a","shape":[2,2],"datatype":"FP32","data":[[1,-2.5e1],[3,4]]},{"name":"c","shape":[2],"datatype":"BYTES","data":["x\n","y"]},
        {"name":"b","shape":[3],"datatype":"INT8","parameters":{"binary_data_size":3}}],"outputs":[{"name":"y","parameters":{"binary_data":false}}]}"#;
    ([json.as_bytes(), b"abc"].concat(), json.len())
}

proptest! {
    #[test]
    fn any_tensor_written_by_serde_json_reads_back_as_its_raw_bytes(bits in prop::collection::vec(any::<u64>(), 0..40), text in prop::collection::vec(prop::collection::vec(any::<char>(), 0..6), 0..6)) {
        macro_rules! check {
            ($datatype:literal, $type:ty, $make:expr) => {{
                let values: Vec<$type> = bits.iter().map($make).collect();
                let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                check_round_trip($datatype, &values, &raw);
            }};
        }
        let finite32 = |bits: &u64| Some(f32::from_bits(*bits as u32)).filter(|v| v.is_finite()).unwrap_or(0.5);
        let finite64 = |bits: &u64| Some(f64::from_bits(*bits)).filter(|v| v.is_finite()).unwrap_or(0.5);
        check!("UINT8", u8, |b| *b as u8);
        check!("UINT16", u16, |b| *b as u16);
        check!("UINT32", u32, |b| *b as u32);
        check!("UINT64", u64, |b| *b);
        check!("INT8", i8, |b| *b as i8);
        check!("INT16", i16, |b| *b as i16);
        check!("INT32", i32, |b| *b as i32);
        check!("INT64", i64, |b| *b as i64);
        check!("FP32", f32, finite32);
        check!("FP64", f64, finite64);
        let bools: Vec<bool> = bits.iter().map(|b| b % 2 == 1).collect();
        check_round_trip("BOOL", &bools, &bools.iter().map(|b| u8::from(*b)).collect::<Vec<_>>());
        let strings: Vec<String> = text.iter().map(|chars| chars.iter().collect()).collect();
        let raw: Vec<u8> = strings.iter().flat_map(|s| [&(s.len() as u32).to_le_bytes(), s.as_bytes()].concat()).collect();
        check_round_trip("BYTES", &strings, &raw);
    }

    #[test]
    fn no_bytes_make_the_reader_panic(body in prop::collection::vec(any::<u8>(), 0..200), json_len in prop::option::of(0usize..250)) {
        let _ = read_request(Chain::from(body), json_len, "m", "");
    }

    /// What is still read has, for every input, the bytes its envelope says.
    #[test]
    fn no_change_to_a_good_body_makes_the_reader_panic(changes in prop::collection::vec((0usize..500, prop_oneof![any::<u8>(), prop::sample::select(br#"[]{},:"\-.e0u"#.to_vec())], 0usize..3), 1..6), len_change in -3isize..4, whole in any::<bool>()) {
        let (mut body, json_len) = mixed();
        for (at, byte, how) in changes {
            let at = at % body.len();
            match how {
                0 => body[at] = byte,
                1 => body.insert(at, byte),
                _ => drop(body.remove(at)),
            }
        }
        let json_len = (!whole).then(|| json_len.saturating_add_signed(len_change));
        if let Ok(request) = read_request(Chain::from(body), json_len, "m", "") {
            prop_assert_eq!(request.raw.len(), request.envelope.inputs.len());
            for (bytes, input) in request.raw.iter().zip(&request.envelope.inputs) {
                prop_assert_eq!(bytes.len() as u64, input.byte_length);
            }
        }
    }
}
