//! Replies.

use super::*;
use policy::{OutputTensor, Reply, Shape};
use serde_json::{Value, json};
use std::str::FromStr;

fn output(name: &str, datatype: &str, count: usize) -> OutputTensor {
    OutputTensor { name: name.into(), datatype: datatype.into(), shape: Shape::from_slice(&[count as i64]), parameters: vec![] }
}

fn reply(outputs: Vec<OutputTensor>) -> Reply {
    Reply { model: "m".into(), version: "3".into(), outputs, ..Reply::default() }
}

/// One output as JSON text.
fn one_as_json(datatype: &str, count: usize, raw: &[u8]) -> Result<String, Failure> {
    let written = write_reply(reply(vec![output("y", datatype, count)]), vec![Chain::from(raw.to_vec())], &ReplyForm::default())?;
    assert_eq!(written.json_len, None);
    Ok(String::from_utf8(written.body.into_bytes().to_vec()).unwrap())
}

#[test]
fn every_datatype_is_written_as_json() {
    let check = |datatype: &str, count: usize, raw: &[u8], data: &str| {
        let expected = format!(
            r#"{{"model_name":"m","model_version":"3","outputs":[{{"name":"y","datatype":"{datatype}","shape":[{count}],"data":{data}}}]}}"#
        );
        let text = one_as_json(datatype, count, raw).unwrap();
        assert_eq!(text, expected);
        serde_json::from_str::<Value>(&text).unwrap();
    };
    check("BOOL", 2, &[1, 0], "[true,false]");
    check("UINT8", 2, &[0, 255], "[0,255]");
    check("INT8", 2, &[128, 127], "[-128,127]");
    check("UINT16", 1, &[255, 255], "[65535]");
    check("INT16", 1, &[254, 255], "[-2]");
    check("UINT32", 1, &[255; 4], "[4294967295]");
    check("INT32", 1, &i32::MIN.to_le_bytes(), "[-2147483648]");
    check("UINT64", 1, &[255; 8], "[18446744073709551615]");
    check("INT64", 1, &i64::MIN.to_le_bytes(), "[-9223372036854775808]");
    check("FP32", 4, &[0.1f32, 1.0, -0.0, 3e+38].map(f32::to_le_bytes).concat(), "[0.1,1.0,-0.0,3e+38]");
    check("FP64", 2, &[0.1f64, 1e300].map(f64::to_le_bytes).concat(), "[0.1,1e+300]");
    check("BYTES", 3, b"\x02\0\0\0a\"\0\0\0\0\x02\0\0\0\xc3\xa9", r#"["a\"","","é"]"#);
    check("FP32", 0, &[], "[]");
    check("BYTES", 0, &[], "[]");
}

#[test]
fn json_and_binary_outputs_come_in_their_order() {
    let mut shared = output("s", "FP16", 1);
    shared.parameters =
        vec![("shared_memory_region".into(), Param::String("r".into())), ("shared_memory_byte_size".into(), Param::Int64(2))];
    let outputs = vec![output("a", "INT8", 1), output("b", "FP16", 2), shared, output("c", "BYTES", 0), output("d", "UINT8", 3)];
    let parameters = [Param::Bool(true), Param::Int64(-1), Param::Uint64(u64::MAX), Param::Double(1.0), Param::String("\n".into())];
    let parameters = ["p", "q", "r", "s", "t"].map(str::to_owned).into_iter().zip(parameters).collect();
    let reply = Reply { id: "i".into(), parameters, ..reply(outputs) };
    let last = Bytes::from_static(b"\x01\x02\x03");
    let raw = vec![vec![255u8].into(), vec![1u8, 2, 3, 4].into(), Chain::default(), Chain::default(), Chain::from(last.clone())];
    let form = ReplyForm { binary: true, outputs: vec![("a".into(), false)] };
    let written = write_reply(reply, raw, &form).unwrap();
    assert_eq!(written.body.slices().last().unwrap().as_ptr(), last.as_ptr(), "a copy was made");
    let body = written.body.into_bytes();
    let (text, behind) = body.split_at(written.json_len.unwrap());
    assert_eq!(behind, [1, 2, 3, 4, 1, 2, 3]);
    let expected = json!({
        "model_name": "m", "model_version": "3", "id": "i",
        "parameters": {"p": true, "q": -1, "r": u64::MAX, "s": 1.0, "t": "\n"},
        "outputs": [
            {"name": "a", "datatype": "INT8", "shape": [1], "data": [-1]},
            {"name": "b", "datatype": "FP16", "shape": [2], "parameters": {"binary_data_size": 4}},
            {"name": "s", "datatype": "FP16", "shape": [1], "parameters": {"shared_memory_region": "r", "shared_memory_byte_size": 2}},
            {"name": "c", "datatype": "BYTES", "shape": [0], "parameters": {"binary_data_size": 0}},
            {"name": "d", "datatype": "UINT8", "shape": [3], "parameters": {"binary_data_size": 3}},
        ],
    });
    assert_eq!(serde_json::from_slice::<Value>(text).unwrap(), expected);
}

#[test]
fn what_json_cannot_carry_names_the_output_and_the_way_out() {
    let refused = |datatype: &str, raw: &[u8], needle: &str| {
        let failure = one_as_json(datatype, 1, raw).unwrap_err();
        assert!(matches!(failure, Failure::NotJson { .. }), "{failure:?}");
        assert_eq!(failure.wire(), (Code::InvalidArgument, 400, Retry::Never));
        for part in [needle, "output `y`", "binary_data: true"] {
            assert!(failure.to_string().contains(part), "{failure} has no {part:?}");
        }
    };
    refused("FP32", &[0.0f32, f32::NAN].map(f32::to_le_bytes).concat(), "element 1 is NaN");
    refused("FP64", &[f64::NEG_INFINITY].map(f64::to_le_bytes).concat(), "element 0 is NaN or infinite");
    refused("FP16", &[0, 0], "no FP16");
    refused("BF16", &[0, 0], "no BF16");
    refused("BYTES", b"\0\0\0\0\x01\0\0\0\xff", "element 1 is not UTF-8");
    refused("UINT8", &vec![0; limits::JSON_BYTES_MAX + 1], "67108865 bytes");
}

#[test]
fn a_reply_that_contradicts_itself_is_not_passed_on() {
    let refused = |result: Result<RestReply, Failure>| assert!(matches!(result, Err(Failure::BadReply { .. })), "{result:?}");
    for (datatype, raw) in
        [("FP32", &[0u8; 3][..]), ("INT64", &[0; 9]), ("FLOAT", &[0; 4]), ("BYTES", &[1, 0]), ("BYTES", &[2, 0, 0, 0, b'a'])]
    {
        refused(write_reply(reply(vec![output("y", datatype, 1)]), vec![Chain::from(raw.to_vec())], &ReplyForm::default()));
    }
    refused(write_reply(reply(vec![output("y", "INT8", 1)]), vec![], &ReplyForm::all_binary()));
}

/// The numbers of the one output, read from the text by the standard library.
fn numbers<T: FromStr<Err: std::fmt::Debug>>(text: &str) -> Vec<T> {
    serde_json::from_str::<Value>(text).unwrap();
    let (_, data) = text.split_once("\"data\":[").unwrap();
    let (data, _) = data.split_once(']').unwrap();
    data.split(',').filter(|number| !number.is_empty()).map(|number| number.parse().unwrap()).collect()
}

proptest! {
    #[test]
    fn any_reply_reads_back_as_the_same_numbers(bits in prop::collection::vec(any::<u64>(), 0..40), text in prop::collection::vec(prop::collection::vec(any::<char>(), 0..6), 0..6)) {
        macro_rules! check {
            ($datatype:literal, $type:ty, $make:expr) => {{
                let values: Vec<$type> = bits.iter().map($make).collect();
                let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                prop_assert_eq!(numbers::<$type>(&one_as_json($datatype, values.len(), &raw).unwrap()), values);
            }};
        }
        check!("UINT8", u8, |b| *b as u8);
        check!("UINT16", u16, |b| *b as u16);
        check!("UINT32", u32, |b| *b as u32);
        check!("UINT64", u64, |b| *b);
        check!("INT8", i8, |b| *b as i8);
        check!("INT16", i16, |b| *b as i16);
        check!("INT32", i32, |b| *b as i32);
        check!("INT64", i64, |b| *b as i64);
        check!("FP32", f32, |b: &u64| Some(f32::from_bits(*b as u32)).filter(|v| v.is_finite()).unwrap_or(0.5));
        check!("FP64", f64, |b: &u64| Some(f64::from_bits(*b)).filter(|v| v.is_finite()).unwrap_or(0.5));
        let strings: Vec<String> = text.iter().map(|chars| chars.iter().collect()).collect();
        let raw: Vec<u8> = strings.iter().flat_map(|s| [&(s.len() as u32).to_le_bytes(), s.as_bytes()].concat()).collect();
        let parsed: Value = serde_json::from_str(&one_as_json("BYTES", strings.len(), &raw).unwrap()).unwrap();
        prop_assert_eq!(&parsed["outputs"][0]["data"], &json!(strings));
    }

    #[test]
    fn no_bytes_make_the_writer_panic(raw in prop::collection::vec(any::<u8>(), 0..60), datatype in 0usize..14) {
        let _ = one_as_json(policy::DataType::ALL[datatype].as_str(), 1, &raw);
    }
}
