//! Reading: the two forms of text, bounds, and JSON out and back.

use super::super::*;
use super::{complete_simple, simple};
use crate::inference::model_config::SchedulingChoice;
use proptest::prelude::*;
use serde_json::json;

/// As in Triton's documentation: comments, lists in brackets, repeated fields, messages with and without a colon.
const DENSENET: &str = r#"
# Image classification.
name: "densenet_onnx"
platform: "onnxruntime_onnx"
max_batch_size : 0
input [
  {
    name: "data_0"          # the picture
    data_type: TYPE_FP32
    format: FORMAT_NCHW
    dims: [ 3, 224, 224 ]
    reshape { shape: [ 1, 3, 224, 224 ] }
  }
]
output # the classes
[
  {
    name: "fc6_1"
    data_type: TYPE_FP32
    dims: [ 1000 ]
    reshape { shape: [ 1, 1000, 1, 1 ] }
    label_filename: "densenet_labels.txt"
  }
]
instance_group: { count: 2 kind: KIND_CPU };
parameters { key: "intra_op_thread_count" value: { string_value: "3" } }
metric_tags < key: 'team', value: "vis" "ion" >
"#;

const REPEATED: &str = r#"
backend: "onnxruntime" max_batch_size: 8
input { name: "INPUT0" data_type: TYPE_INT32 dims: 16 }
input { name: "INPUT1" data_type: 8 dims: [16] }
output { name: "OUTPUT0" data_type: TYPE_INT32 dims: 16 }
output { name: "OUTPUT1" data_type: TYPE_INT32 dims: 16 }
dynamic_batching { preferred_batch_size: 4 preferred_batch_size: [2, 8] max_queue_delay_microseconds: 100 }
"#;

#[test]
fn both_forms_of_text_are_read() {
    let densenet = parse_text(DENSENET).unwrap();
    assert_eq!((densenet.name.as_str(), densenet.max_batch_size), ("densenet_onnx", 0));
    assert_eq!(densenet.input[0].dims, [3, 224, 224]);
    assert_eq!(densenet.output[0].reshape.as_ref().unwrap().shape, [1, 1000, 1, 1]);
    assert_eq!(densenet.metric_tags["team"], "vision");
    assert_eq!(label_files(&densenet).collect::<Vec<_>>(), [("fc6_1", "densenet_labels.txt")]);
    assert_eq!((intra_threads(&densenet), instances(&densenet)), (Some(3), Some(2)));

    let repeated = parse_text(REPEATED).unwrap();
    assert_eq!(repeated.input.len(), 2);
    assert_eq!(repeated.input[1].data_type, repeated.input[0].data_type);
    let Some(SchedulingChoice::DynamicBatching(batching)) = repeated.scheduling_choice else { panic!("{repeated:?}") };
    assert_eq!(batching.preferred_batch_size, [4, 2, 8]);
}

#[test]
fn a_mistake_in_the_text_is_named_with_its_line() {
    for (text, line, what) in [
        ("name: \"m\"\nmax_batchsize: 4", Some(2), "field 'max_batchsize' not found"),
        ("input {\n\n dimz: 3 }", Some(3), "field 'dimz' not found for message 'inference.ModelInput'"),
        ("# one\nmax_batch_size: many", Some(2), "expected an integer"),
        ("\ninput { data_type: FP32 }", Some(2), "'FP32' was not found"),
        ("name: \"a\"\nname: \"b\"", Some(2), "already set"),
        ("max_batch_size: 3000000000", Some(1), "out of range"),
        ("dynamic_batching { } \n sequence_batching { }", Some(2), "already set"),
        ("name: \"never ends", None, "end of input"),
        ("input { name: \"x\"", None, "end of input"),
        ("\n}", Some(2), "a field name"),
    ] {
        match parse_text(text) {
            Err(ConfigError::Syntax { line: at, what: got }) => {
                assert_eq!(at, line, "{text:?}: {got}");
                assert!(got.contains(what), "{text:?}: {got}");
            }
            other => panic!("{text:?}: {other:?}"),
        }
    }
    let long = parse_text(&format!("x{}: 1", "y".repeat(100_000))).unwrap_err().to_string();
    assert!(long.len() < 400, "{}", long.len());
}

#[test]
fn nesting_is_refused_before_it_can_overflow_a_stack() {
    for (text, deep) in [
        ("{".repeat(10 << 20), false),
        ("{".repeat(500_000), true),
        ("[a/inference.ModelConfig]{".repeat(40_000), true),
        ("[a/inference.ModelConfig]<".repeat(40_000), true),
        ("input:[".repeat(100_000), true),
        ("\"\\\"\" '\"' # }}}\n{\n".repeat(40), true),
    ] {
        match parse_text(&text) {
            Err(ConfigError::TooDeep { most: NESTING_MAX, .. }) => assert!(deep),
            Err(ConfigError::TooLarge { bytes, most: TEXT_BYTES_MAX }) => assert!(!deep && bytes == 10 << 20),
            other => panic!("{:.40}: {other:?}", text),
        }
    }
    for text in ["{".repeat(10 << 20), "[".repeat(1 << 20), r#"{"input":["#.repeat(50_000)] {
        assert!(matches!(parse_json(&text), Err(ConfigError::TooLarge { .. } | ConfigError::Syntax { .. })));
    }
    let error = parse_text(&format!("name: \"m\"\n{}", "input{".repeat(40))).unwrap_err();
    assert_eq!(error, ConfigError::TooDeep { line: 2, most: NESTING_MAX });
    // Brackets in strings and comments are none.
    let quoted = format!("# {}\nname: \"{}\\\"{}\"", "{".repeat(99), "[".repeat(99), "<".repeat(99));
    assert_eq!(parse_text(&quoted).unwrap().name.len(), 199);
}

#[test]
fn a_long_token_does_not_overflow_a_stack() {
    let long = |c: &str| c.repeat((TEXT_BYTES_MAX - 100) / c.len());
    for text in [
        format!("# {}\nname: \"m\"", long("x")),
        format!("name: {}\"m\"", long(" \n")),
        format!("name: \"{}\"", long("é")),
        format!("name: \"{}\"", long("\\n")),
        format!("name: {}", long("\"a\" ")),
        long("#\n"),
    ] {
        parse_text(&text).unwrap();
    }
    for text in [long("x"), format!("max_batch_size: {}", long("7")), long("\u{0}"), long("é"), long("x:"), format!("a: .{}", long("1"))] {
        parse_text(&text).unwrap_err();
    }
}

#[test]
fn a_load_call_may_spell_fields_either_way() {
    let snake = parse_json(r#"{"max_batch_size": 8, "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [3, "-1"]}]}"#).unwrap();
    let camel = parse_json(r#"{"maxBatchSize": "8", "input": [{"name": "x", "dataType": 11, "dims": [3, -1]}]}"#).unwrap();
    assert_eq!(snake, camel);
    assert_eq!((snake.max_batch_size, snake.input[0].dims.as_slice()), (8, [3, -1].as_slice()));
    for (text, what) in [
        (r#"{"max_batch": 8}"#, "'max_batch' at line 1"),
        (r#"{"max_batch_size": "eight"}"#, "invalid digit"),
        (r#"{"name": "m""#, "EOF"),
        ("", "EOF"),
        ("[]", "a map"),
    ] {
        let error = parse_json(text).unwrap_err().to_string();
        assert!(error.contains(what), "{text}: {error}");
    }
}

#[test]
fn json_is_spelt_as_triton_does() {
    let config = complete_simple("max_batch_size: 8 dynamic_batching { max_queue_delay_microseconds: 5000000000 }").unwrap().config;
    let value = to_json(&config);
    let input = |name: &str| {
        json!({
            "name": name, "data_type": "TYPE_INT32", "format": "FORMAT_NONE", "dims": [16], "is_shape_tensor": false,
            "allow_ragged_batch": false, "optional": false, "is_non_linear_format_io": false,
        })
    };
    let output = |name: &str| {
        json!({
            "name": name, "data_type": "TYPE_INT32", "dims": [16], "label_filename": "", "is_shape_tensor": false,
            "is_non_linear_format_io": false,
        })
    };
    let expected = json!({
        "name": "simple", "platform": "onnxruntime_onnx", "backend": "onnxruntime", "runtime": "",
        "version_policy": { "latest": { "num_versions": 1 } },
        "max_batch_size": 8,
        "input": [input("INPUT0"), input("INPUT1")],
        "output": [output("OUTPUT0"), output("OUTPUT1")],
        "batch_input": [], "batch_output": [],
        "optimization": {
            "priority": "PRIORITY_DEFAULT", "input_pinned_memory": { "enable": true }, "output_pinned_memory": { "enable": true },
            "gather_kernel_buffer_threshold": 0, "eager_batching": false,
        },
        "dynamic_batching": {
            "preferred_batch_size": [8], "max_queue_delay_microseconds": 5_000_000_000_u64, "preserve_ordering": false,
            "priority_levels": 0, "default_priority_level": 0, "priority_queue_policy": {},
        },
        "instance_group": [{
            "name": "simple_0", "kind": "KIND_CPU", "count": 1, "gpus": [], "secondary_devices": [], "profile": [], "passive": false,
            "host_policy": "",
        }],
        "default_model_filename": "model.onnx", "cc_model_filenames": {}, "metric_tags": {}, "parameters": {}, "model_warmup": [],
    });
    assert_eq!(value, expected);
}

#[test]
fn triton_s_numbers_and_our_types_go_both_ways() {
    for (i, expected) in (1..=14).zip(DataType::ALL.iter().filter(|&&d| d != DataType::Bf16).chain([&DataType::Bf16])) {
        assert_eq!(datatype(i), Some(*expected), "{i}");
        assert_eq!(type_number(*expected) as i32, i);
    }
    assert_eq!((datatype(0), datatype(15), datatype(-1)), (None, None, None));
}

fn any_config() -> impl Strategy<Value = ModelConfig> {
    use crate::inference::*;
    let text = "[a-zA-Z0-9_\" é\\\\]{0,12}";
    let shape = prop::collection::vec(any::<i64>(), 0..4);
    let reshape = prop::option::of(shape.clone().prop_map(|shape| ModelTensorReshape { shape }));
    let input = (text, 0..16_i32, shape.clone(), reshape, any::<bool>()).prop_map(|(name, data_type, dims, reshape, optional)| {
        ModelInput { name, data_type, dims, reshape, optional, ..Default::default() }
    });
    let rules = (0..2_i32, any::<u64>(), any::<bool>(), any::<u32>()).prop_map(|(timeout_action, timeout, allow, most)| ModelQueuePolicy {
        timeout_action,
        default_timeout_microseconds: timeout,
        allow_timeout_override: allow,
        max_queue_size: most,
    });
    let batching = (any::<u64>(), prop::collection::hash_map(any::<u64>(), rules.clone(), 0..3), prop::option::of(rules)).prop_map(
        |(delay, by_priority, rules)| {
            model_config::SchedulingChoice::DynamicBatching(ModelDynamicBatching {
                max_queue_delay_microseconds: delay,
                priority_queue_policy: by_priority,
                default_queue_policy: rules,
                ..Default::default()
            })
        },
    );
    let versions = prop::collection::vec(any::<i64>(), 0..3).prop_map(|versions| ModelVersionPolicy {
        policy_choice: Some(model_version_policy::PolicyChoice::Specific(model_version_policy::Specific { versions })),
    });
    let tags = prop::collection::hash_map(text, text, 0..3);
    ((text, any::<i32>(), prop::collection::vec(input, 0..3)), (prop::option::of(batching), prop::option::of(versions), tags)).prop_map(
        |((name, max_batch_size, input), (scheduling_choice, version_policy, metric_tags))| ModelConfig {
            name,
            max_batch_size,
            input,
            scheduling_choice,
            version_policy,
            metric_tags,
            ..Default::default()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn json_reads_back_what_it_wrote(config in any_config()) {
        let value = to_json(&config);
        prop_assert_eq!(&from_json(&value).unwrap(), &config);
        // As text, too: what is kept in a record.
        prop_assert_eq!(&parse_json(&value.to_string()).unwrap(), &config);
    }

    #[test]
    fn no_text_panics(text in r#"([a-z_]{1,16}|input|dims|name|[:{}\[\]<>,;"'#\\/.0-9 \n-]){0,60}"#) {
        let (inputs, outputs) = simple();
        if let Ok(config) = parse_text(&text) {
            let _ = complete(Some(config), "simple", &inputs, &outputs, None);
        }
        let _ = parse_json(&text);
    }
}
