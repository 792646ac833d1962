use super::*;
use bytes::Bytes;
use proptest::prelude::*;

fn request() -> pb::ModelInferRequest {
    let input = |name: &str| pb::model_infer_request::InferInputTensor {
        name: name.into(),
        datatype: "FP32".into(),
        shape: vec![1, 2],
        ..Default::default()
    };
    pb::ModelInferRequest {
        model_name: "m".into(),
        model_version: "3".into(),
        id: "x".into(),
        parameters: [("p".to_owned(), pb::InferParameter { parameter_choice: Some(ParameterChoice::Int64Param(-7)) })].into(),
        inputs: vec![input("a"), input("b")],
        outputs: vec![pb::model_infer_request::InferRequestedOutputTensor { name: "y".into(), ..Default::default() }],
        raw_input_contents: vec![Bytes::from_static(b"12345678"), Bytes::from_static(b"abcdefgh")],
    }
}

#[test]
fn what_an_opening_does_not_settle_is_read_whole() {
    let none = |change: fn(&mut pb::ModelInferRequest)| {
        let mut message = request();
        change(&mut message);
        let bytes = message.encode_to_vec();
        assert!(read_opening(&Chain::from(bytes.clone()), bytes.len() as u64).is_none(), "{message:?}");
    };
    none(|m| m.inputs[0].datatype = "BYTES".into());
    none(|m| m.inputs[0].datatype = "FP31".into());
    none(|m| m.inputs[0].shape = vec![1, 3]);
    none(|m| m.inputs[0].shape = vec![-1, 2]);
    none(|m| m.inputs[0].shape = vec![i64::MAX, 2, 2]);
    none(|m| drop(m.raw_input_contents.pop()));
    none(|m| m.raw_input_contents.clear());
    let typed = pb::InferTensorContents { fp32_contents: vec![1.0, 2.0], ..Default::default() };
    let mut message = request();
    message.inputs[0].contents = Some(typed);
    let bytes = message.encode_to_vec();
    assert!(read_opening(&Chain::from(bytes.clone()), bytes.len() as u64).is_none());
    let bytes = shared(request(), &[0]).encode_to_vec();
    assert!(read_opening(&Chain::from(bytes.clone()), bytes.len() as u64).is_none());
    // Another field behind the tensors.
    let mut bytes = request().encode_to_vec();
    bytes.extend([0x1a, 1, b'z']);
    assert!(read_opening(&Chain::from(bytes.clone()), bytes.len() as u64).is_none());
}

/// The message cut into frames of `size` bytes.
fn frames(bytes: &[u8], size: usize) -> Chain {
    let mut chain = Chain::default();
    bytes.chunks(size.max(1)).for_each(|c| chain.push(Bytes::copy_from_slice(c)));
    chain
}

fn envelope_of(message: &pb::ModelInferRequest) -> Result<(Envelope, Vec<Chain>), Failure> {
    read_request(message.encode_to_vec().into())
}

#[test]
fn tensors_stay_slices_of_the_message() {
    let bytes = Bytes::from(request().encode_to_vec());
    let (envelope, raw) = read_request(bytes.clone().into()).unwrap();
    assert_eq!((envelope.model.as_str(), envelope.version.as_str(), envelope.id.as_str()), ("m", "3", "x"));
    assert_eq!(envelope.parameter("p"), Some(&Param::Int64(-7)));
    assert_eq!(envelope.inputs[1].byte_length, 8);
    let tensor = raw[1].clone().into_bytes();
    let offset = tensor.as_ptr() as usize - bytes.as_ptr() as usize;
    assert_eq!(&bytes[offset..offset + 8], b"abcdefgh");
}

#[test]
fn typed_and_raw_exclude_each_other() {
    let mut both = request();
    both.inputs[0].contents = Some(pb::InferTensorContents { fp32_contents: vec![1.0], ..Default::default() });
    assert_eq!(envelope_of(&both).unwrap_err(), Failure::RawAndTyped { input: "a".into() });
    let mut short = request();
    short.raw_input_contents.pop();
    assert_eq!(envelope_of(&short).unwrap_err(), Failure::RawCount { inputs: 2, raw: 1 });
}

/// Puts the inputs with these indices into shared memory.
fn shared(mut message: pb::ModelInferRequest, inputs: &[usize]) -> pb::ModelInferRequest {
    let region = pb::InferParameter { parameter_choice: Some(ParameterChoice::StringParam("r".into())) };
    for index in inputs {
        message.inputs[*index].parameters.insert(SharedMemory::REGION.into(), region.clone());
    }
    message
}

fn lengths(raw: &[Chain]) -> Vec<usize> {
    raw.iter().map(Chain::len).collect()
}

#[test]
fn raw_contents_belong_to_the_inputs_that_are_not_in_shared_memory() {
    let mut mixed = shared(request(), &[0]);
    mixed.raw_input_contents.remove(0);
    let (envelope, raw) = envelope_of(&mixed).unwrap();
    assert_eq!(lengths(&raw), [0, 8]);
    assert_eq!(&raw[1].clone().into_bytes()[..], b"abcdefgh");
    assert_eq!((envelope.inputs[0].byte_length, envelope.inputs[1].byte_length), (0, 8));
    assert!(SharedMemory::is_named_in(&envelope.inputs[0].parameters));

    assert_eq!(envelope_of(&shared(request(), &[1])).unwrap_err(), Failure::RawCount { inputs: 1, raw: 2 });
    assert_eq!(envelope_of(&shared(request(), &[0, 1])).unwrap_err(), Failure::RawCount { inputs: 0, raw: 2 });
    let mut all = shared(request(), &[0, 1]);
    all.inputs[0].datatype = "FP16".into(); // a type without typed contents: nothing is converted
    all.raw_input_contents.clear();
    assert_eq!(lengths(&envelope_of(&all).unwrap().1), [0, 0]);
}

#[test]
fn typed_contents_stand_beside_shared_memory_but_not_on_the_same_input() {
    let contents = Some(pb::InferTensorContents { fp32_contents: vec![1.0, -2.0], ..Default::default() });
    let mut typed = shared(request(), &[1]);
    typed.raw_input_contents.clear();
    typed.inputs[0].contents = contents.clone();
    assert_eq!(lengths(&envelope_of(&typed).unwrap().1), [8, 0]);
    typed.inputs[1].contents = contents;
    let failure = envelope_of(&typed).unwrap_err();
    assert!(matches!(&failure, Failure::TypedContents { input, .. } if input == "b"), "{failure}");
}

#[test]
fn typed_contents_become_the_raw_bytes() {
    let mut typed = request();
    typed.raw_input_contents.clear();
    typed.inputs[0].contents = Some(pb::InferTensorContents { fp32_contents: vec![1.0, -2.0], ..Default::default() });
    typed.inputs[1].datatype = "INT8".into();
    typed.inputs[1].contents = Some(pb::InferTensorContents { int_contents: vec![-1, 127], ..Default::default() });
    let (_, raw) = envelope_of(&typed).unwrap();
    assert_eq!(&raw[0].clone().into_bytes()[..], [1f32.to_le_bytes(), (-2f32).to_le_bytes()].concat());
    assert_eq!(&raw[1].clone().into_bytes()[..], [0xff, 0x7f]);
    typed.inputs[1].contents = Some(pb::InferTensorContents { int_contents: vec![128], ..Default::default() });
    assert!(envelope_of(&typed).unwrap_err().to_string().contains("128 does not fit"));
    typed.inputs[1].contents = Some(pb::InferTensorContents { fp32_contents: vec![1.0], ..Default::default() });
    assert!(envelope_of(&typed).unwrap_err().to_string().contains("belong in int_contents"));
}

#[test]
fn what_decodes_into_many_times_its_size_is_refused_before_it_is_decoded() {
    let refused = |change: &dyn Fn(&mut pb::model_infer_request::InferInputTensor)| {
        let mut message = request();
        message.raw_input_contents.clear();
        change(&mut message.inputs[0]);
        envelope_of(&message).unwrap_err().to_string()
    };
    assert!(refused(&|input| input.shape = vec![1; 2000]).contains("dimensions"));
    let contents = pb::InferTensorContents { int64_contents: vec![0; limits::TYPED_BYTES_MAX + 1], ..Default::default() };
    assert!(refused(&|input| input.contents = Some(contents.clone())).contains("raw_input_contents"));
    let parameter =
        |i: usize| (format!("parameter-{i:040}"), pb::InferParameter { parameter_choice: Some(ParameterChoice::Int64Param(1)) });
    assert!(refused(&|input| input.parameters = (0..100).map(parameter).collect()).contains("parameters"));
}

#[test]
fn a_reply_reads_back() {
    let reply = Reply {
        model: "m".into(),
        version: "1".into(),
        id: "i".into(),
        parameters: vec![("sluice_variant".into(), Param::String("fp32@ort".into()))],
        outputs: vec![
            OutputTensor { name: "e".into(), datatype: "FP32".into(), shape: Shape::from_slice(&[0]), parameters: vec![] },
            OutputTensor { name: "y".into(), datatype: "INT8".into(), shape: Shape::from_slice(&[3]), parameters: vec![] },
        ],
    };
    let raw = [Chain::default(), Chain::from(vec![1u8, 2, 3])];
    let (back, raw_back) = read_reply(write_reply(&reply, &raw)).unwrap();
    assert_eq!(back, reply);
    assert_eq!(&raw_back[1].clone().into_bytes()[..], [1, 2, 3]);
    let wrapped = pb::ModelStreamInferResponse::decode(write_stream_reply(&reply, &raw, "no")).unwrap();
    assert_eq!((wrapped.error_message.as_str(), wrapped.infer_response.unwrap().raw_output_contents.len()), ("no", 2));
}

proptest! {
    #[test]
    fn what_is_written_is_what_the_generated_types_read(
        names in prop::collection::vec("[a-zäß]{0,200}", 2..6),
        number in any::<i64>(),
        sizes in prop::collection::vec(prop::sample::select(vec![0usize, 1, 127, 128, 5_000, 70_000]), 1..4),
    ) {
        let outputs: Vec<_> = sizes.iter().enumerate().map(|(i, size)| OutputTensor {
            name: format!("{}{i}", names[0]),
            datatype: "UINT8".into(),
            shape: Shape::from_slice(&[*size as i64, 1]),
            parameters: vec![(names[1].clone(), Param::Bool(true))],
        }).collect();
        let parameters = vec![
            ("text".to_owned(), Param::String(names[1].clone())),
            ("number".to_owned(), Param::Int64(number)),
            ("none".to_owned(), Param::Uint64(0)),
            ("real".to_owned(), Param::Double(0.5)),
        ];
        let reply = Reply { model: names[0].clone(), version: "1".into(), id: names[1].clone(), parameters, outputs };
        let raw: Vec<_> = sizes.iter().map(|size| Chain::from(vec![7u8; *size])).collect();
        let read = pb::ModelInferResponse::decode(write_reply(&reply, &raw)).unwrap();
        prop_assert_eq!((&read.model_name, &read.id, read.parameters.len()), (&reply.model, &reply.id, 4));
        let expected = [ParameterChoice::StringParam(names[1].clone()), ParameterChoice::Int64Param(number), ParameterChoice::Uint64Param(0)];
        for (name, expected) in ["text", "number", "none"].iter().zip(expected) {
            prop_assert_eq!(read.parameters[*name].parameter_choice.clone(), Some(expected));
        }
        for ((output, read), (size, raw)) in reply.outputs.iter().zip(&read.outputs).zip(sizes.iter().zip(&read.raw_output_contents)) {
            prop_assert_eq!((&output.name, &output.datatype, output.shape.as_slice()), (&read.name, &read.datatype, read.shape.as_slice()));
            prop_assert_eq!((read.parameters.len(), raw.len()), (1, *size));
        }
    }

    #[test]
    fn any_framing_reads_the_same(size in 1usize..40) {
        let bytes = request().encode_to_vec();
        let (envelope, raw) = read_request(frames(&bytes, size)).unwrap();
        let (whole, whole_raw) = read_request(bytes.into()).unwrap();
        prop_assert_eq!(&envelope, &whole);
        for (a, b) in raw.iter().zip(&whole_raw) {
            prop_assert_eq!(a.clone().into_bytes(), b.clone().into_bytes());
        }
        let (again, _) = read_request(write_request(&envelope, &raw)).unwrap();
        prop_assert_eq!(again, envelope);
    }

    #[test]
    fn an_opening_says_what_the_whole_will_or_nothing(cut in 0usize..100, size in 1usize..40) {
        let bytes = request().encode_to_vec();
        let front = frames(&bytes[..cut.min(bytes.len())], size);
        let (whole, raw) = read_request(bytes.clone().into()).unwrap();
        let first_raw = bytes.len() - 20; // two records of 8 bytes
        let opening = read_opening(&front, bytes.len() as u64);
        prop_assert_eq!(opening.is_some(), cut > first_raw);
        let Some((envelope, layout, records)) = opening else { return Ok(()) };
        prop_assert_eq!(envelope, whole);
        prop_assert_eq!((layout.total(), records.len()), (20, cut.min(bytes.len()) - first_raw));
        let (mut feeder, inflow) = crate::inflow::inflow(layout);
        feeder.push(records.into_bytes()).unwrap();
        feeder.push(Bytes::copy_from_slice(&bytes[cut.min(bytes.len())..])).unwrap();
        drop(feeder);
        let out = futures_util::FutureExt::now_or_never(inflow.collect()).unwrap().unwrap();
        prop_assert_eq!(lengths(&out), lengths(&raw));
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), size in 1usize..40) {
        let _ = read_request(frames(&bytes, size));
        let _ = read_reply(frames(&bytes, size));
    }

    #[test]
    fn no_cut_message_is_taken_for_a_whole_one_with_other_tensors(cut in 0usize..100) {
        let bytes = request().encode_to_vec();
        let cut = cut.min(bytes.len());
        if let Ok((_, raw)) = read_request(Chain::from(bytes[..cut].to_vec())) {
            prop_assert!(raw.iter().all(|c| c.len() == 8 || c.is_empty()));
        }
    }
}
