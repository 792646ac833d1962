//! What is refused, one by one: each text is otherwise a good configuration of `simple`.

use super::super::ConfigError;
use super::complete_simple;

const BASE: &str = "max_batch_size: 8\n";

#[test]
fn the_base_is_good() {
    complete_simple(BASE).unwrap();
}

/// `x` in the first input.
fn in_input(x: &str) -> String {
    format!(r#"input {{ name: "INPUT0" data_type: TYPE_INT32 dims: 16 {x} }} input {{ name: "INPUT1" data_type: TYPE_INT32 dims: 16 }}"#)
}

fn in_output(x: &str) -> String {
    format!(r#"output {{ name: "OUTPUT0" data_type: TYPE_INT32 dims: 16 {x} }}"#)
}

#[test]
fn what_is_not_served_is_named() {
    let warmup = r#"model_warmup { name: "w" batch_size: 1 inputs { key: "INPUT0" value { data_type: TYPE_INT32 dims: 16 input_data_file: "f" } } }"#;
    let cases = [
        ("sequence_batching { }", "sequence_batching"),
        ("ensemble_scheduling { step { model_name: \"a\" } }", "ensemble_scheduling"),
        ("model_transaction_policy { decoupled: true }", "model_transaction_policy.decoupled"),
        ("batch_input { kind: BATCH_ITEM_SHAPE }", "batch_input"),
        ("batch_output { target_name: \"x\" }", "batch_output"),
        ("model_repository_agents { agents { name: \"checksum\" } }", "model_repository_agents"),
        ("model_operations { op_library_filename: \"x.so\" }", "model_operations.op_library_filename"),
        ("runtime: \"x\"", "runtime"),
        ("cc_model_filenames { key: \"7.5\" value: \"a.onnx\" }", "cc_model_filenames"),
        ("instance_group { kind: KIND_MODEL }", "instance_group[0].kind"),
        ("instance_group { kind: KIND_CPU } instance_group { kind: KIND_GPU }", "instance_group"),
        ("instance_group { kind: KIND_GPU gpus: [0, 1] }", "instance_group[0].gpus"),
        ("instance_group [{ kind: KIND_GPU gpus: 0 }, { kind: KIND_GPU gpus: 1 }]", "instance_group[1].gpus"),
        ("instance_group { profile: \"0\" }", "instance_group[0].profile"),
        ("instance_group { passive: true }", "instance_group[0].passive"),
        ("instance_group { secondary_devices { device_id: 1 } }", "instance_group[0].secondary_devices"),
        ("instance_group { rate_limiter { resources { name: \"r\" count: 1 } } }", "instance_group[0].rate_limiter.resources"),
        ("instance_group { host_policy: \"p\" }", "instance_group[0].host_policy"),
        ("optimization { cuda { graphs: true } }", "optimization.cuda"),
        ("optimization { cuda { graph_spec { batch_size: 1 } } }", "optimization.cuda"),
        ("optimization { gather_kernel_buffer_threshold: 1 }", "optimization.gather_kernel_buffer_threshold"),
        ("optimization { eager_batching: true }", "optimization.eager_batching"),
        (
            "optimization { execution_accelerators { cpu_execution_accelerator { name: \"openvino\" } } }",
            "optimization.execution_accelerators.cpu_execution_accelerator[openvino]",
        ),
        (
            "optimization { execution_accelerators { gpu_execution_accelerator { name: \"gpu_io\" } } }",
            "optimization.execution_accelerators.gpu_execution_accelerator[gpu_io]",
        ),
        (warmup, "model_warmup[0].inputs[INPUT0].input_data_file"),
    ]
    .map(|(text, field)| (text.to_owned(), field));
    let tensors = [
        (in_input("is_shape_tensor: true"), "input[INPUT0].is_shape_tensor"),
        (in_input("allow_ragged_batch: true"), "input[INPUT0].allow_ragged_batch"),
        (in_input("is_non_linear_format_io: true"), "input[INPUT0].is_non_linear_format_io"),
        (in_output("is_shape_tensor: true"), "output[OUTPUT0].is_shape_tensor"),
        (in_output("is_non_linear_format_io: true"), "output[OUTPUT0].is_non_linear_format_io"),
    ];
    for (text, expected) in cases.into_iter().chain(tensors) {
        match complete_simple(&format!("{BASE}{text}")) {
            Err(ConfigError::Unsupported { field, .. }) => assert_eq!(field, expected, "{text}"),
            other => panic!("{text}: {other:?}"),
        }
    }
}

#[test]
fn what_triton_sets_by_itself_or_only_informs_is_accepted() {
    let accepted = [
        "model_transaction_policy { decoupled: false }",
        "optimization { priority: PRIORITY_MAX graph { level: 1 } input_pinned_memory { enable: false } cuda { } }",
        "response_cache { enable: true }",
        "model_metrics { metric_control { metric_identifier { family: \"f\" } histogram_options { buckets: [1, 2.5] } } }",
        "metric_tags { key: \"a\" value: \"b\" } parameters { key: \"enable_mem_arena\" value { string_value: \"0\" } }",
        "instance_group { rate_limiter { priority: 2 } gpus: 3 }",
        "default_model_filename: \"my.model.onnx\" platform: \"onnxruntime_onnx\" backend: \"onnxruntime\" name: \"simple\"",
        "version_policy { all { } }",
    ];
    for text in accepted {
        complete_simple(&format!("{BASE}{text}")).unwrap_or_else(|e| panic!("{text}: {e}"));
    }
    complete_simple(&format!("{BASE}{}", in_output("label_filename: \"l.txt\""))).unwrap();
}

#[test]
fn a_value_that_means_nothing_is_named() {
    let batching = |text: &str| format!("max_batch_size: 8 dynamic_batching {{ {text} }}");
    let warmup = |batch: u32, input: &str| {
        format!(
            r#"max_batch_size: 8 model_warmup {{ batch_size: {batch} inputs {{ key: "INPUT0" value {{ {input} }} }}
               inputs {{ key: "INPUT1" value {{ data_type: TYPE_INT32 dims: 16 zero_data: true }} }} }}"#
        )
    };
    let good = "data_type: TYPE_INT32 dims: 16 random_data: true";
    complete_simple(&warmup(8, good)).unwrap();
    let threads = |n: &str| format!("parameters {{ key: \"intra_op_thread_count\" value {{ string_value: \"{n}\" }} }}");
    for (text, field, value) in [
        ("max_batch_size: -1".to_owned(), "max_batch_size", "-1"),
        (warmup(8, good).replace("model_warmup {", "model_warmup { count: 1001"), "model_warmup[0].count", "1001"),
        ("platform: \"tensorrt_plan\"".into(), "platform", "\"tensorrt_plan\""),
        ("backend: \"python\"".into(), "backend", "\"python\""),
        ("name: \"other\"".into(), "name", "\"other\""),
        ("default_model_filename: \"../m.onnx\"".into(), "default_model_filename", "\"../m.onnx\""),
        ("default_model_filename: \"..\"".into(), "default_model_filename", "\"..\""),
        ("default_model_filename: \"/m.onnx\"".into(), "default_model_filename", "\"/m.onnx\""),
        (in_output("label_filename: \"a/b\""), "output[OUTPUT0].label_filename", "\"a/b\""),
        ("version_policy { specific { versions: [1, 0] } }".into(), "version_policy.specific.versions", "0"),
        ("version_policy { specific { versions: -3 } }".into(), "version_policy.specific.versions", "-3"),
        ("version_policy { specific { } }".into(), "version_policy.specific.versions", "empty"),
        (batching("preferred_batch_size: 9"), "dynamic_batching.preferred_batch_size", "9"),
        (batching("preferred_batch_size: [4, 0]"), "dynamic_batching.preferred_batch_size", "0"),
        (batching("priority_levels: 4294967296 default_priority_level: 1"), "dynamic_batching.priority_levels", "4294967296"),
        (batching("priority_levels: 3"), "dynamic_batching.default_priority_level", "0"),
        (batching("priority_levels: 3 default_priority_level: 4"), "dynamic_batching.default_priority_level", "4"),
        (batching("default_priority_level: 1"), "dynamic_batching.default_priority_level", "1"),
        (
            batching("priority_levels: 3 default_priority_level: 1 priority_queue_policy { key: 4 value { } }"),
            "dynamic_batching.priority_queue_policy",
            "for priority 4",
        ),
        (batching("priority_queue_policy { key: 1 value { } }"), "dynamic_batching.priority_queue_policy", "for priority 1"),
        (batching("preserve_ordering: true priority_levels: 2 default_priority_level: 1"), "dynamic_batching.priority_levels", "2"),
        (
            batching("preserve_ordering: true default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 1 }"),
            "dynamic_batching.default_queue_policy.timeout_action",
            "DELAY",
        ),
        (batching("default_queue_policy { timeout_action: 7 }"), "dynamic_batching.default_queue_policy.timeout_action", "7"),
        (
            batching("priority_levels: 1 default_priority_level: 1 priority_queue_policy { key: 1 value { timeout_action: 2 } }"),
            "dynamic_batching.priority_queue_policy[1].timeout_action",
            "2",
        ),
        ("instance_group { count: -1 }".into(), "instance_group[0].count", "-1"),
        ("instance_group { count: 2000000000 } instance_group { count: 2000000000 }".into(), "instance_group", "4000000000 instances"),
        ("instance_group { kind: KIND_CPU gpus: 0 }".into(), "instance_group[0].gpus", "[0]"),
        ("instance_group { gpus: -2 }".into(), "instance_group[0].gpus", "-2"),
        ("instance_group { kind: 9 }".into(), "instance_group[0].kind", "9"),
        ("optimization { priority: 5 }".into(), "optimization.priority", "5"),
        (threads("0"), "parameters[intra_op_thread_count]", "\"0\""),
        (threads("-1"), "parameters[intra_op_thread_count]", "\"-1\""),
        (threads("two"), "parameters[intra_op_thread_count]", "\"two\""),
        (threads("1025"), "parameters[intra_op_thread_count]", "\"1025\""),
        ("input { data_type: TYPE_INT32 dims: 16 }".into(), "input.name", "empty"),
        ("input { name: \"INPUT0\" dims: 16 }".into(), "input[INPUT0].data_type", "0"),
        ("input { name: \"INPUT0\" data_type: 99 dims: 16 }".into(), "input[INPUT0].data_type", "99"),
        (in_input("dims: 0"), "input[INPUT0].dims", "[16,0]"),
        (in_input("dims: -2"), "input[INPUT0].dims", "[16,-2]"),
        (in_input("dims: 9223372036854775807"), "input[INPUT0].dims", "[16,9223372036854775807]"),
        (in_input("reshape { shape: [4, 5] }"), "input[INPUT0].reshape", "[4,5]"),
        (in_input("reshape { shape: [16, -1] }"), "input[INPUT0].reshape", "[16,-1]"),
        (in_input("reshape { shape: [] }"), "input[INPUT0].reshape", "[]"),
        (in_input("format: FORMAT_NHWC"), "input[INPUT0].format", "FORMAT_NHWC with 1 dims"),
        (in_input("format: 3"), "input[INPUT0].format", "3"),
        (format!("{0} {0}", in_input("")), "input[INPUT0].name", "listed twice"),
        (format!("{0} {0}", in_output("")), "output[OUTPUT0].name", "listed twice"),
        (warmup(9, good), "model_warmup[0].batch_size", "9"),
        (warmup(0, good), "model_warmup[0].batch_size", "0"),
        (warmup(1, "data_type: TYPE_INT32 dims: 16"), "model_warmup[0].inputs[INPUT0].zero_data", "not set"),
        (warmup(1, "dims: 16 zero_data: true"), "model_warmup[0].inputs[INPUT0].data_type", "0"),
        (warmup(1, "data_type: TYPE_INT32 dims: -1 zero_data: true"), "model_warmup[0].inputs[INPUT0].dims", "[-1]"),
        (warmup(1, "data_type: TYPE_INT32 dims: 17 zero_data: true"), "model_warmup[0].inputs[INPUT0]", "INT32 [17]"),
        (warmup(1, "data_type: TYPE_INT8 dims: 16 zero_data: true"), "model_warmup[0].inputs[INPUT0]", "INT8 [16]"),
        (warmup(1, good).replace("INPUT1", "INPUT7"), "model_warmup[0].inputs[INPUT7]", "there"),
        (format!("{BASE} model_warmup {{ batch_size: 1 }}"), "model_warmup[0].inputs[INPUT0]", "missing"),
    ] {
        match complete_simple(&text) {
            Err(ConfigError::Invalid { field: at, value: got, expected }) => {
                assert_eq!((at.as_str(), got.as_str()), (field, value), "{text}");
                assert!(!expected.is_empty());
            }
            other => panic!("{text}: {other:?}"),
        }
    }
}
