use super::log::Level;
use super::*;
use policy::Code;
use proto::trace::is_sampled;
use std::sync::Mutex;

/// Telemetry that only remembers its filter.
pub(crate) struct Fake {
    pub(crate) filter: Mutex<String>,
    pub(crate) exports: bool,
}

impl Default for Fake {
    fn default() -> Self {
        Self { filter: Mutex::new("info".to_owned()), exports: false }
    }
}

impl Telemetry for Fake {
    fn filter(&self) -> String {
        self.filter.lock().unwrap().clone()
    }

    fn set_filter(&self, directives: &str) -> Result<(), String> {
        directives.clone_into(&mut self.filter.lock().unwrap());
        Ok(())
    }

    fn exports_traces(&self) -> bool {
        self.exports
    }
}

fn exporting() -> Settings {
    Settings::new(Arc::new(Fake { exports: true, ..Fake::default() }))
}

/// Sets one trace setting of `m`, `n` or all.
fn set(settings: &Settings, model: &str, name: &str, values: &[&str]) -> Result<BTreeMap<String, Vec<String>>, Failure> {
    let values = values.iter().map(|v| (*v).to_owned()).collect();
    settings.trace(model, &BTreeMap::from([(name.to_owned(), values)]), |known| ["m", "n"].contains(&known))
}

fn shown(settings: &Settings, model: &str, name: &str) -> String {
    settings.trace(model, &BTreeMap::new(), |_| true).unwrap()[name].join(",")
}

/// Which of `requests` requests for `model` without a context are traced.
fn traced(settings: &Settings, model: &str, requests: usize) -> Vec<usize> {
    (0..requests).filter(|_| is_sampled(settings.trace_context(model, None).as_ref())).collect()
}

fn refused<T: std::fmt::Debug>(result: Result<T, Failure>, words: &[&str]) {
    let failure = result.unwrap_err();
    assert_eq!(failure.wire().0, Code::InvalidArgument, "{failure}");
    let text = failure.to_string();
    assert!(words.iter().all(|word| text.contains(word)), "{text} should tell {words:?}");
}

#[test]
fn one_request_of_every_trace_rate_is_traced() {
    let settings = exporting();
    assert_eq!(traced(&settings, "m", 1000).len(), 1000, "every request at first");
    set(&settings, "", "trace_rate", &["7"]).unwrap();
    assert_eq!(traced(&settings, "m", 700), (0..700).step_by(7).collect::<Vec<_>>());
}

#[test]
fn requests_on_many_threads_share_one_rate() {
    let settings = exporting();
    set(&settings, "", "trace_rate", &["10"]).unwrap();
    let count = || traced(&settings, "m", 1000).len();
    let total: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(count)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(total, 400);
}

#[test]
fn a_trace_count_runs_out_and_another_setting_does_not_refill_it() {
    let settings = exporting();
    set(&settings, "", "trace_count", &["3"]).unwrap();
    assert_eq!(traced(&settings, "m", 2), [0, 1]);
    assert_eq!(shown(&settings, "", "trace_count"), "1");
    set(&settings, "", "trace_rate", &["2"]).unwrap();
    set(&settings, "n", "trace_rate", &["1"]).unwrap(); // a model without a count of its own takes from the common one
    assert_eq!((traced(&settings, "n", 5), traced(&settings, "m", 5)), (vec![0], vec![]));
    set(&settings, "", "trace_count", &["-1"]).unwrap();
    assert_eq!(traced(&settings, "m", 4), [0, 2]);
}

#[test]
fn a_model_has_its_own_settings_until_they_are_cleared() {
    let settings = exporting();
    set(&settings, "", "trace_level", &["OFF"]).unwrap();
    set(&settings, "m", "trace_level", &["TIMESTAMPS"]).unwrap();
    set(&settings, "m", "trace_rate", &["2"]).unwrap();
    assert_eq!((traced(&settings, "m", 4), traced(&settings, "n", 4)), (vec![0, 2], vec![]));
    assert_eq!((shown(&settings, "m", "trace_level"), shown(&settings, "n", "trace_level")), ("TIMESTAMPS".into(), "OFF".into()));
    set(&settings, "", "trace_rate", &["5"]).unwrap();
    assert_eq!(shown(&settings, "m", "trace_rate"), "2");

    set(&settings, "m", "trace_rate", &[]).unwrap();
    assert_eq!(shown(&settings, "m", "trace_rate"), "5", "cleared, it is the global one");
    set(&settings, "m", "trace_level", &[]).unwrap();
    assert_eq!(traced(&settings, "m", 10), Vec::<usize>::new());
    set(&settings, "", "trace_level", &[]).unwrap();
    set(&settings, "", "trace_rate", &[]).unwrap();
    assert_eq!(traced(&settings, "m", 2), [0, 1], "cleared for all, it is the default");
}

#[test]
fn the_flag_of_the_caller_wins() {
    let settings = exporting();
    let caller = |flags: &str| TraceContext { parent: format!("00-{:032x}-{:016x}-{flags}", 1, 1), state: "a=b".into() };
    assert_eq!(settings.trace_context("m", Some(caller("00"))), Some(caller("00")));
    set(&settings, "", "trace_level", &["OFF"]).unwrap();
    assert_eq!(settings.trace_context("m", Some(caller("01"))), Some(caller("01")));
    assert_eq!(traced(&settings, "m", 1), Vec::<usize>::new());
}

#[test]
fn without_an_exporter_a_request_goes_on_as_it_came_and_tracing_cannot_be_switched_on() {
    let settings = Settings::new(Arc::new(Fake::default()));
    assert_eq!(settings.trace_context("m", None), None);
    assert_eq!(shown(&settings, "", "trace_level"), "OFF");
    refused(set(&settings, "", "trace_level", &["TIMESTAMPS"]), &["trace_level", "--otlp"]);
}

#[test]
fn a_trace_setting_that_cannot_be_is_refused_by_name_and_nothing_changes() {
    let settings = exporting();
    let before = settings.trace("", &BTreeMap::new(), |_| true).unwrap();
    refused(set(&settings, "", "trace_speed", &["1"]), &["trace_speed", "trace_rate", "trace_file", "log_frequency"]);
    refused(set(&settings, "", "trace_rate", &["0"]), &["trace_rate", "\"0\"", "from 1"]);
    refused(set(&settings, "", "trace_rate", &["1", "2"]), &["trace_rate", "one value", "2"]);
    refused(set(&settings, "", "trace_count", &["-2"]), &["trace_count", "-2", "-1"]);
    refused(set(&settings, "", "trace_count", &["many"]), &["trace_count", "\"many\""]);
    refused(set(&settings, "", "trace_level", &["TIMESTAMPS", "TENSORS"]), &["trace_level", "TENSORS"]);
    refused(set(&settings, "", "trace_level", &["OFF", "TIMESTAMPS"]), &["trace_level", "OFF,TIMESTAMPS"]);
    refused(set(&settings, "", "trace_file", &["/tmp/t"]), &["trace_file", "/tmp/t", "--otlp"]);
    refused(set(&settings, "", "trace_mode", &["triton"]), &["trace_mode", "triton", "opentelemetry"]);
    refused(set(&settings, "", "log_frequency", &["10"]), &["log_frequency", "10"]);
    let changes = BTreeMap::from([("trace_count", "5"), ("trace_rate", "0")].map(|(k, v)| (k.to_owned(), vec![v.to_owned()])));
    refused(settings.trace("", &changes, |_| true), &["trace_rate"]);
    assert_eq!(settings.trace("", &before, |_| true).unwrap(), before, "what was read can be written back");
    assert_eq!(set(&settings, "x", "trace_rate", &["2"]), Err(Failure::UnknownModel { model: "x".into() }));
}

fn log_of(filter: &str) -> (Settings, Arc<Fake>) {
    let fake = Arc::new(Fake { filter: Mutex::new(filter.to_owned()), exports: false });
    (Settings::new(fake.clone()), fake)
}

fn log(settings: &Settings, changes: &[(&str, LogValue)]) -> Result<BTreeMap<String, LogValue>, Failure> {
    settings.log(&changes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
}

use LogValue::{Bool, String as Text, U32};

#[test]
fn the_levels_of_a_filter_and_of_the_settings_are_the_same() {
    let ours = |level: &str, ours: &str| {
        let targets = ["controller", "gateway", "policy", "proto", "registry", "sluice", "worker"];
        targets.iter().fold(level.to_owned(), |filter, target| format!("{filter},{target}={ours}"))
    };
    for (filter, switches, verbose, written) in [
        ("off", [false, false, false], 0, "off".to_owned()),
        ("h2=debug", [false, false, false], 0, "off".to_owned()),
        ("error", [true, false, false], 0, "error".to_owned()),
        ("gateway=trace, WARN", [true, true, false], 0, "warn".to_owned()),
        ("info", [true, true, true], 0, "info".to_owned()),
        ("debug", [true, true, true], 1, ours("info", "debug")),
        ("trace", [true, true, true], 2, ours("info", "trace")),
    ] {
        let (settings, _) = log_of(filter);
        let [error, warning, info] = switches.map(Bool);
        let expected = [
            ("log_error", error),
            ("log_file", Text(String::new())),
            ("log_format", Text("default".into())),
            ("log_info", info),
            ("log_verbose_level", U32(verbose)),
            ("log_warning", warning),
        ];
        let expected = expected.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        assert_eq!(log(&settings, &[]), Ok(expected), "{filter}");
        assert_eq!(Level::of(filter).filter(), written, "{filter}");
    }
}

#[test]
fn changed_levels_are_put_in_force_and_the_flags_come_back_with_their_level() {
    let (settings, fake) = log_of("warn,gateway=debug");
    let changed = log(&settings, &[("log_info", Bool(true)), ("log_verbose_level", U32(3))]).unwrap();
    assert_eq!((&changed["log_info"], &changed["log_verbose_level"]), (&Bool(true), &U32(3)));
    assert!(fake.filter().starts_with("info,") && fake.filter().contains("gateway=trace"), "{}", fake.filter());
    log(&settings, &[("log_info", Bool(false)), ("log_verbose_level", U32(0)), ("log_warning", Bool(false))]).unwrap();
    assert_eq!(fake.filter(), "error");
    log(&settings, &[("log_warning", Bool(true))]).unwrap();
    assert_eq!(fake.filter(), "warn,gateway=debug");
}

#[test]
fn a_log_setting_that_cannot_be_is_refused_by_name_and_nothing_changes() {
    let (settings, fake) = log_of("info");
    let before = log(&settings, &[]).unwrap();
    refused(log(&settings, &[("log_warning", Bool(false))]), &["log_warning", "log_info"]);
    refused(log(&settings, &[("log_error", Bool(false)), ("log_info", Bool(false))]), &["log_error", "log_warning"]);
    let quiet = [("log_info", Bool(false)), ("log_verbose_level", U32(1))];
    refused(log(&settings, &quiet), &["log_info", "log_verbose_level"]);
    refused(log(&settings, &[("log_level", U32(1))]), &["log_level", "log_verbose_level", "log_file"]);
    refused(log(&settings, &[("log_info", U32(1))]), &["log_info", "true or false", "1"]);
    refused(log(&settings, &[("log_verbose_level", Text("1".into()))]), &["log_verbose_level", "whole number", "\"1\""]);
    refused(log(&settings, &[("log_file", Text("/tmp/log".into()))]), &["log_file", "/tmp/log", "standard error"]);
    refused(log(&settings, &[("log_format", Text("json".into()))]), &["log_format", "json", "ISO8601"]);
    assert_eq!(settings.log(&before).unwrap(), before, "what was read can be written back");
    assert_eq!(fake.filter(), "info");
}
