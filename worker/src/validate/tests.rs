//! Verdicts on the fetched models, each reached in a child: this test binary, called as `sluice __validate` would be.

use super::*;
use crate::engine::{EngineName, Fallback};
use crate::testing::{library, model, openvino_library, reshape_to, write_model};
use std::time::Instant;

/// Not a test: what the child runs. The harness takes the subcommand for the name of the only test to run.
#[test]
fn __validate() {
    if std::env::args().nth(1).as_deref() == Some(SUBCOMMAND) {
        child_main();
    }
}

fn request(model: PathBuf) -> Option<Request> {
    let (provider, device_id) = (ExecutionProvider::Cpu, 0);
    let (engine, libraries, intra_threads) = (EngineName::Ort, vec![library()?], NonZeroUsize::MIN);
    Some(Request { model, engine, hint: None, libraries, provider, device_id, fallback: Fallback::Never, intra_threads })
}

async fn verdict_on(path: PathBuf, limits: Limits) -> Option<Verdict> {
    Some(validate(&std::env::current_exe().unwrap(), &request(path)?, limits).await)
}

async fn invalid(name: &str, limits: Limits, expected: &str) {
    let Some(path) = model(name) else { return };
    let Some(verdict) = verdict_on(path, limits).await else { return };
    let Verdict::Invalid { reason } = &verdict else { panic!("{name}: {verdict:?}") };
    assert!(reason.contains(expected) && !reason.contains("/root") && !reason.contains("/home"), "{name}: {reason}");
}

async fn valid(path: PathBuf) -> Option<Facts> {
    match verdict_on(path, Limits::default()).await? {
        Verdict::Valid(facts) => Some(*facts),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_good_model_is_valid_with_what_was_measured() {
    let Some(path) = model("test/add_sub/1/model.onnx") else { return };
    let Some(facts) = valid(path).await else { return };
    assert_eq!(facts.inputs.iter().map(|i| &*i.name).collect::<Vec<_>>(), ["INPUT0", "INPUT1"]);
    assert_eq!(facts.provider.used, [("CPUExecutionProvider".to_owned(), 2)]);
    assert!(facts.warmed() && facts.not_exercised.is_none() && facts.bytes_resident > 0 && !facts.engine_version.is_empty());
    let Some(resnet) = model("bench/resnet50/1/model.onnx").filter(|p| p.exists()) else { return };
    let Some(facts) = valid(resnet).await else { return };
    assert!(facts.bytes_resident > 90 << 20, "{facts:?}"); // its weights have 102 MB
    // Sound of 512 samples, with a state whose rows are not its first dimension.
    let Some(silero) = model("demo/silero_vad/1/model.onnx").filter(|p| p.exists()) else { return };
    let Some(facts) = valid(silero).await else { return };
    assert!(facts.warmed(), "{facts:?}");
    let Some(external) = model("bad/external_ok/model.onnx") else { return };
    let Some(facts) = valid(external).await else { return };
    assert_eq!(facts.external_files, [PathBuf::from("weights.bin")]);
}

#[tokio::test]
async fn a_bad_file_is_invalid_and_the_reason_says_why() {
    invalid("bad/truncated.onnx", Limits::default(), "not an ONNX file, or not all of it").await;
    invalid("bad/external_outside.onnx", Limits::default(), "leaves the model's folder").await;
    invalid("bad/external_absolute.onnx", Limits::default(), "absolute path").await;
    invalid("bad/unsupported_op.onnx", Limits::default(), "NoSuchOperator").await;
}

#[tokio::test]
async fn a_crash_of_the_runtime_is_a_verdict() {
    invalid("bad/crash.onnx", Limits::default(), "the runtime crashed (signal 11, out of stack) while loading").await;
}

#[tokio::test]
async fn a_run_without_end_is_stopped() {
    let (time, started) = (Duration::from_secs(3), Instant::now());
    let limits = Limits { time, ..Limits::default() };
    invalid("bad/hang.onnx", limits, "did not finish loading and one run within 3 s; stopped while running").await;
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn memory_beyond_the_limit_is_refused_with_the_limit() {
    invalid("bad/memory_bomb.onnx", Limits::default(), "needs more memory while running than the 8192 MiB").await;
    let limits = Limits { memory_bytes: 100 << 20, ..Limits::default() };
    invalid("bench/resnet50/1/model.onnx", limits, "than the 100 MiB").await;
}

#[tokio::test]
async fn a_run_that_fails_on_guesses_is_valid_but_not_exercised() {
    let file = write_model(&reshape_to([7, 11]));
    let Some(facts) = valid(file.path().to_owned()).await else { return };
    assert!(!facts.warmed() && facts.not_exercised.is_some_and(|why| why.contains("Reshape")));
    // Sizes above 1 are tried: this one takes 1 x 32 and 8 x 8, among others.
    let file = write_model(&reshape_to([4, 8]));
    assert!(valid(file.path().to_owned()).await.unwrap().warmed());
}

#[tokio::test]
async fn what_is_this_hosts_fault_is_no_verdict_on_the_model() {
    let Some(path) = model("test/add_sub/1/model.onnx") else { return };
    let Some(mut request) = request(path) else { return };
    let check = |verdict: Verdict, expected: &str| match verdict {
        Verdict::NotRun { reason } => assert!(reason.contains(expected), "{reason}"),
        other => panic!("{other:?}"),
    };
    check(validate(Path::new("/nowhere/sluice"), &request, Limits::default()).await, "start");
    check(validate(Path::new("/bin/true"), &request, Limits::default()).await, "ended with status 0 while starting");
    request.libraries = vec![PathBuf::from("/nowhere/libonnxruntime.so")];
    let binary = std::env::current_exe().unwrap();
    check(validate(&binary, &request, Limits::default()).await, "no ONNX Runtime library");
}

/// What is said of `name` with OpenVINO, told to compute in `hint`.
async fn openvino_on(path: PathBuf, hint: Option<PrecisionHint>, limits: Limits) -> Option<Verdict> {
    let (engine, libraries) = (EngineName::Openvino, vec![openvino_library()?]);
    let request = Request { engine, hint, libraries, ..request(path)? };
    Some(validate(&std::env::current_exe().unwrap(), &request, limits).await)
}

#[tokio::test]
async fn an_engine_validates_with_its_own_library_and_in_the_precision_it_will_compute_in() {
    let Some(path) = model("demo/efficientnet_lite0/1/model.onnx") else { return };
    let Some(verdict) = openvino_on(path.clone(), None, Limits::default()).await else { return };
    let Verdict::Valid(facts) = verdict else { panic!("{verdict:?}") };
    assert_eq!(facts.provider.used[0].0, "OpenVINO CPU f32");
    assert!(facts.warmed() && facts.bytes_resident > 18 << 20 && facts.engine_version.starts_with("20"), "{facts:?}");
    match openvino_on(path, Some(PrecisionHint::Bf16), Limits::default()).await.unwrap() {
        Verdict::Valid(facts) => assert_eq!(facts.provider.used[0].0, "OpenVINO CPU bf16"),
        Verdict::Invalid { reason } => assert!(reason.contains("bf16 is not supported"), "{reason}"),
        other => panic!("{other:?}"),
    }
    let mut request = request(model("test/add_sub/1/model.onnx").unwrap()).unwrap();
    request.hint = Some(PrecisionHint::Bf16);
    let verdict = validate(&std::env::current_exe().unwrap(), &request, Limits::default()).await;
    assert!(matches!(&verdict, Verdict::Invalid { reason } if reason.contains("precision of the file")), "{verdict:?}");
}

#[tokio::test]
async fn what_harms_openvino_is_a_verdict_too() {
    let hang = Limits { time: Duration::from_secs(5), ..Limits::default() };
    let checks = [
        ("bad/hang.onnx", hang, "within 5 s; stopped while running"),
        (
            "bad/memory_bomb.onnx",
            Limits { memory_bytes: 4 << 30, ..Limits::default() },
            "needs more memory while running than the 4096 MiB",
        ),
        ("bad/unsupported_op.onnx", Limits::default(), "NoSuchOperator"),
        ("bad/crash.onnx", Limits::default(), "TreeEnsembleRegressor"),
        ("test/identity_string/1/model.onnx", Limits::default(), "BYTES"),
    ];
    for (name, limits, expected) in checks {
        let Some(path) = model(name) else { return };
        let Some(verdict) = openvino_on(path, None, limits).await else { return };
        assert!(matches!(&verdict, Verdict::Invalid { reason } if reason.contains(expected)), "{name}: {verdict:?}");
    }
}
