//! Against the graph: what is completed, what fits, what contradicts, and what the readers make of it.

use super::super::*;
use super::{complete_simple, shapes, simple, spec};
use policy::batch::{Batching, QueuePolicy, TimeoutAction};
use policy::{ExecutionProvider, TensorSpec, Version};

fn contradiction(result: Result<Completed, ConfigError>) -> String {
    match result {
        Err(error @ ConfigError::Contradiction { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn without_a_configuration_the_graph_says_all() {
    let (inputs, outputs) = simple();
    let batched = complete(None, "simple", &inputs, &outputs, None).unwrap();
    assert_eq!((batched.config.max_batch_size, batched.signature.max_batch_size), (4, 4));
    assert_eq!(batched.config.input[1].dims, [16]);
    assert_eq!(batched.signature.inputs, inputs);
    assert_eq!(batched.signature.outputs, outputs);
    assert_eq!((batched.instances, batched.provider), (None, None));
    assert_eq!(batching(&batched.config), Batching::default());
    assert_eq!(version_policy(&batched.config), VersionPolicy::Latest(1));
    let json = to_json(&batched.config);
    assert_eq!(json["dynamic_batching"]["preferred_batch_size"], serde_json::json!([4]));

    assert_eq!(complete(None, "simple", &inputs, &outputs, Some(32)).unwrap().signature.max_batch_size, 32);
    let unlimited = complete(None, "simple", &inputs, &outputs, Some(u32::MAX)).unwrap();
    assert_eq!(unlimited.config.max_batch_size, i32::MAX);

    let fixed = [spec("OUTPUT0", DataType::Int32, &[1, 16])];
    let single = complete(None, "simple", &inputs, &fixed, Some(32)).unwrap();
    assert_eq!((single.config.max_batch_size, &single.config.scheduling_choice), (0, &None));
    assert_eq!(single.config.input[0].dims, [-1, 16]);
    assert_eq!(shapes(&single.signature.inputs)[0], ("INPUT0", &[-1, 16][..], None));
}

#[test]
fn a_tensor_of_only_a_batch_is_shown_as_one_element_per_row() {
    let (inputs, _) = simple();
    let labels = [spec("label", DataType::Int64, &[-1])];
    let done = complete(None, "m", &inputs, &labels, None).unwrap();
    assert_eq!((done.config.output[0].dims.as_slice(), done.config.output[0].reshape.clone()), (&[1][..], Some(Default::default())));
    assert_eq!(shapes(&done.signature.outputs), [("label", &[-1, 1][..], Some(&[-1][..]))]);
    // A scalar without a batch stays one.
    let scalar = complete(None, "m", &[spec("x", DataType::Fp32, &[])], &[spec("y", DataType::Fp32, &[])], None).unwrap();
    assert_eq!(shapes(&scalar.signature.inputs), [("x", &[][..], None)]);
}

#[test]
fn completing_again_changes_nothing() {
    let (inputs, outputs) = simple();
    let scalars = [spec("x", DataType::Fp32, &[])];
    let labels = [spec("label", DataType::Int64, &[-1])];
    for (text, inputs, outputs) in [
        ("", &inputs[..], &outputs[..]),
        ("max_batch_size: 8 instance_group { count: 2 kind: KIND_GPU }", &inputs, &outputs),
        ("version_policy { latest { } } dynamic_batching { preferred_batch_size: 2 }", &inputs, &outputs),
        ("output { name: \"OUTPUT1\" data_type: TYPE_INT32 dims: 16 }", &inputs, &outputs),
        ("optimization { execution_accelerators { gpu_execution_accelerator { name: \"tensorrt\" } } }", &inputs, &outputs),
        ("", &scalars, &scalars),
        ("", &inputs, &labels),
    ] {
        let once = complete(Some(parse_text(text).unwrap()), "m", inputs, outputs, Some(6)).unwrap();
        let kept = from_json(&to_json(&once.config)).unwrap();
        let twice = complete(Some(kept), "m", inputs, outputs, Some(7)).unwrap();
        assert_eq!((&twice.config, &twice.signature), (&once.config, &once.signature), "{text}");
    }
}

#[test]
fn the_author_s_lists_decide_order_batch_and_outputs() {
    let done = complete_simple(
        r#"max_batch_size: 8
           input [ { name: "INPUT1" data_type: TYPE_INT32 dims: 16 }, { name: "INPUT0" data_type: TYPE_INT32 dims: 16 } ]
           output { name: "OUTPUT1" data_type: TYPE_INT32 dims: 16 }"#,
    )
    .unwrap();
    assert_eq!(shapes(&done.signature.inputs), [("INPUT1", &[-1, 16][..], None), ("INPUT0", &[-1, 16], None)]);
    assert_eq!(shapes(&done.signature.outputs), [("OUTPUT1", &[-1, 16][..], None)]);
    assert_eq!(done.config.scheduling_choice, None);

    // Both lists given and no batch limit: the dims are all of the shape, and may fix what the graph leaves open.
    let whole = r#"input [ { name: "INPUT0" data_type: TYPE_INT32 dims: [2, 16] }, { name: "INPUT1" data_type: TYPE_INT32 dims: [-1, 16] } ]
                   output { name: "OUTPUT0" data_type: TYPE_INT32 dims: [ -1, 16 ] }"#;
    let done = complete_simple(whole).unwrap();
    assert_eq!(done.signature.max_batch_size, 0);
    assert_eq!(shapes(&done.signature.inputs), [("INPUT0", &[2, 16][..], None), ("INPUT1", &[-1, 16], None)]);
}

#[test]
fn a_reshape_is_what_the_graph_sees() {
    let inputs = [spec("x", DataType::Fp32, &[-1, -1, 2, 6])];
    let outputs = [spec("y", DataType::Fp32, &[-1])];
    let text = r#"max_batch_size: 2
                  input { name: "x" data_type: TYPE_FP32 dims: [ -1, 3, 4 ] reshape { shape: [ -1, 2, 6 ] } }
                  output { name: "y" data_type: TYPE_FP32 dims: 1 reshape { } }"#;
    let done = complete(Some(parse_text(text).unwrap()), "m", &inputs, &outputs, None).unwrap();
    assert_eq!(shapes(&done.signature.inputs), [("x", &[-1, -1, 3, 4][..], Some(&[-1, -1, 2, 6][..]))]);
    assert_eq!(shapes(&done.signature.outputs), [("y", &[-1, 1][..], Some(&[-1][..]))]);

    // One picture at a time, as Triton's densenet: the graph's fixed batch comes by a reshape.
    let inputs = [spec("data_0", DataType::Fp32, &[1, 3, 224, 224])];
    let outputs = [spec("fc6_1", DataType::Fp32, &[1, 1000, 1, 1])];
    let text = r#"input { name: "data_0" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, 224, 224 ] reshape { shape: [ 1, 3, 224, 224 ] } }
                  output { name: "fc6_1" data_type: TYPE_FP32 dims: 1000 reshape { shape: [ 1, 1000, 1, 1 ] } }"#;
    let done = complete(Some(parse_text(text).unwrap()), "m", &inputs, &outputs, None).unwrap();
    assert_eq!(shapes(&done.signature.inputs), [("data_0", &[3, 224, 224][..], Some(&[1, 3, 224, 224][..]))]);
}

#[test]
fn a_contradiction_names_both_sides() {
    let both = |first: &str| format!(r#"max_batch_size: 8 input {{ {first} }} input {{ name: "INPUT1" data_type: TYPE_INT32 dims: 16 }}"#);
    for (text, expected) in [
        (both(r#"name: "INPUT0" data_type: TYPE_INT32 dims: 17"#), vec!["input `INPUT0`", "[-1,17]", "[-1,16]"]),
        (both(r#"name: "INPUT0" data_type: TYPE_INT32 dims: -1"#), vec!["input `INPUT0`", "[-1,-1]", "[-1,16]"]),
        (both(r#"name: "INPUT0" data_type: TYPE_INT32 dims: [4, 4]"#), vec!["input `INPUT0`", "[-1,4,4]", "[-1,16]"]),
        (both(r#"name: "INPUT0" data_type: TYPE_INT32"#), vec!["input `INPUT0`", "[-1]", "[-1,16]"]),
        (
            both(r#"name: "INPUT0" data_type: TYPE_INT32 dims: 16 reshape { shape: [4, 4] }"#),
            vec!["input `INPUT0`", "reshapes to [-1,4,4]", "[-1,16]"],
        ),
        (both(r#"name: "INPUT0" data_type: TYPE_FP32 dims: 16"#), vec!["input `INPUT0`", "FP32", "INT32"]),
        (both(r#"name: "IN" data_type: TYPE_INT32 dims: 16"#), vec!["input `IN`", "lists it", "`INPUT0`, `INPUT1`"]),
        (both(r#"name: "INPUT0" data_type: TYPE_INT32 dims: 16 optional: true"#), vec!["input `INPUT0`", "optional", "no default"]),
        (r#"input { name: "INPUT1" data_type: TYPE_INT32 dims: 16 }"#.into(), vec!["input `INPUT0`", "does not list it", "needs it"]),
        (r#"output { name: "OUT" data_type: TYPE_INT32 dims: 16 }"#.into(), vec!["output `OUT`", "lists it", "`OUTPUT0`, `OUTPUT1`"]),
        (r#"output { name: "OUTPUT0" data_type: TYPE_INT32 dims: 1 }"#.into(), vec!["output `OUTPUT0`", "[-1,1]", "[-1,16]"]),
    ] {
        let error = contradiction(complete_simple(&text));
        assert!(expected.iter().all(|part| error.contains(part)), "{text}: {error}");
    }
    // A batch limit needs a batch dimension, listed or not.
    let (inputs, _) = simple();
    for shape in [&[1, 16][..], &[8, 16], &[]] {
        let outputs = [spec("y", DataType::Int32, shape)];
        let error = contradiction(complete(Some(parse_text("max_batch_size: 8").unwrap()), "m", &inputs, &outputs, None));
        assert!(error.contains("output `y`") && error.contains("max_batch_size") && error.contains(&policy::Dims::from(shape).to_string()));
    }
}

#[test]
fn an_input_with_a_default_may_be_left_out() {
    let (mut inputs, outputs) = simple();
    inputs[1] = TensorSpec { optional: true, ..inputs[1].clone() };
    let done = |text: &str| complete(Some(parse_text(text).unwrap()), "m", &inputs, &outputs, None).unwrap();
    let only = r#"input { name: "INPUT0" data_type: TYPE_INT32 dims: 16 }"#;
    assert_eq!(done(only).signature.inputs.len(), 1);
    let optional = |text: &str| done(text).signature.inputs.iter().map(|input| input.optional).collect::<Vec<_>>();
    assert_eq!(optional(""), [false], "offered only where the author lists it");
    assert_eq!(optional(&format!(r#"{only} input {{ name: "INPUT1" data_type: TYPE_INT32 dims: 16 optional: true }}"#)), [false, true]);
    assert_eq!(optional(&format!(r#"{only} input {{ name: "INPUT1" data_type: TYPE_INT32 dims: 16 }}"#)), [false, false]);
}

#[test]
fn queue_rules_are_read_one_to_one() {
    let done = complete_simple(
        r#"max_batch_size: 8
           dynamic_batching {
             preferred_batch_size: [ 2, 4, 8 ]
             max_queue_delay_microseconds: 150
             priority_levels: 3
             default_priority_level: 2
             default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 900 allow_timeout_override: true max_queue_size: 16 }
             priority_queue_policy { key: 1 value { max_queue_size: 5 } }
           }"#,
    )
    .unwrap();
    let queue =
        QueuePolicy { timeout_action: TimeoutAction::Delay, default_timeout_us: 900, allow_timeout_override: true, queue_len_max: 16 };
    let expected = Batching {
        max_delay_us: 150,
        preferred_rows: vec![2, 4],
        preserve_ordering: false,
        priority_levels: 3,
        default_priority: 2,
        queue,
        queue_by_priority: [(1, QueuePolicy { queue_len_max: 5, ..Default::default() })].into(),
    };
    assert_eq!(batching(&done.config), expected);
    let ordered = complete_simple("max_batch_size: 8 dynamic_batching { preserve_ordering: true }").unwrap();
    assert_eq!(batching(&ordered.config), Batching { preserve_ordering: true, ..Default::default() });
}

#[test]
fn instances_and_provider_are_what_the_author_wrote() {
    let tensorrt = "optimization { execution_accelerators { gpu_execution_accelerator { name: \"tensorrt\" } } }";
    let cuda = "optimization { execution_accelerators { gpu_execution_accelerator { name: \"cuda\" } } }";
    for (text, instances, provider, kind) in [
        (String::new(), None, None, "KIND_CPU"),
        ("instance_group { }".into(), Some(1), None, "KIND_CPU"),
        ("instance_group { count: 3 kind: KIND_CPU }".into(), Some(3), Some(ExecutionProvider::Cpu), "KIND_CPU"),
        ("instance_group { count: 3 gpus: 0 }".into(), Some(3), None, "KIND_CPU"),
        ("instance_group [ { count: 2 kind: KIND_GPU }, { kind: KIND_GPU } ]".into(), Some(3), Some(ExecutionProvider::Cuda), "KIND_GPU"),
        (tensorrt.into(), None, Some(ExecutionProvider::Tensorrt), "KIND_GPU"),
        (cuda.into(), None, Some(ExecutionProvider::Cuda), "KIND_GPU"),
        (format!("{tensorrt} instance_group {{ kind: KIND_GPU }}"), Some(1), Some(ExecutionProvider::Tensorrt), "KIND_GPU"),
        (format!("{tensorrt} instance_group {{ kind: KIND_CPU }}"), Some(1), Some(ExecutionProvider::Cpu), "KIND_CPU"),
    ] {
        let done = complete_simple(&text).unwrap();
        assert_eq!((done.instances, done.provider), (instances, provider), "{text}");
        assert_eq!(to_json(&done.config)["instance_group"][0]["kind"], kind, "{text}");
    }
}

#[test]
fn versions_warm_ups_threads_and_labels_are_read() {
    let policy = |text: &str| version_policy(&parse_text(&format!("version_policy {{ {text} }}")).unwrap());
    assert_eq!(policy(""), VersionPolicy::Latest(1));
    assert_eq!(policy("latest { num_versions: 2 }"), VersionPolicy::Latest(2));
    assert_eq!(policy("latest { }"), VersionPolicy::Latest(1));
    assert_eq!(policy("all { }"), VersionPolicy::All);
    let version = |text| Version::parse(text).unwrap();
    assert_eq!(policy("specific { versions: [ 3, 1 ] }"), VersionPolicy::Specific(vec![version("3"), version("1")]));

    let done = complete_simple(
        r#"max_batch_size: 8
           model_warmup {
             name: "first" batch_size: 2 count: 5
             inputs { key: "INPUT1" value { data_type: TYPE_INT32 dims: 16 zero_data: false } }
             inputs { key: "INPUT0" value { data_type: TYPE_INT32 dims: 16 random_data: true } }
           }
           output { name: "OUTPUT1" data_type: TYPE_INT32 dims: 16 label_filename: "labels.txt" }
           output { name: "OUTPUT0" data_type: TYPE_INT32 dims: 16 }
           parameters { key: "intra_op_thread_count" value { string_value: " 2" } }"#,
    )
    .unwrap();
    let input = |name: &str, fill| WarmupInput { name: name.into(), datatype: DataType::Int32, dims: vec![16], fill };
    let inputs = vec![input("INPUT0", Fill::Random), input("INPUT1", Fill::Zero)];
    assert_eq!(warmups(&done.config), [Warmup { name: "first".into(), batch_size: 2, count: 5, inputs }]);
    assert_eq!(intra_threads(&done.config), Some(2));
    assert_eq!(label_files(&done.config).collect::<Vec<_>>(), [("OUTPUT1", "labels.txt")]);
}

#[test]
fn a_warm_up_of_gigabytes_is_refused() {
    let (inputs, outputs) = ([spec("x", DataType::Fp64, &[-1, -1])], [spec("y", DataType::Fp64, &[-1, 1])]);
    let warmup = |dim: i64, rows: u32| {
        let text = format!(
            r#"max_batch_size: 8
               model_warmup {{ batch_size: {rows} inputs {{ key: "x" value {{ data_type: TYPE_FP64 dims: {dim} zero_data: true }} }} }}"#
        );
        complete(Some(parse_text(&text).unwrap()), "m", &inputs, &outputs, None)
    };
    let most = i64::from(i32::MAX) / 8;
    warmup(most, 1).unwrap();
    for (dim, rows) in [(most, 2), (most + 1, 1), (i64::MAX, 8)] {
        assert!(matches!(warmup(dim, rows), Err(ConfigError::Invalid { .. })), "{dim} {rows}");
    }
}
