//! `sim`: from a fleet file, or the records of a running cluster, and the flags of `load` to a report of what was only computed.

use crate::args;
use crate::client;
use crate::load::{exit_code, read, script, tell};
use crate::telemetry::{complain, say};
use anyhow::Context as _;
use loadtest::sim::Fleet;
use loadtest::{LoadError, Measurement};
use proto::sluice::GetRequest;
use serde::de::DeserializeOwned;
use std::path::Path;
use std::process::ExitCode;

pub(crate) async fn run(args: &args::Sim) -> anyhow::Result<ExitCode> {
    let wrong = |error: anyhow::Error| {
        complain(&format!("{error:#}"));
        Ok(ExitCode::from(2)) // nothing but settings can be wrong
    };
    let (source, model) = match source(args) {
        Ok(found) => found,
        Err(error) => return wrong(error),
    };
    let fleet = match source {
        Source::File(path) => from_file(path),
        Source::Cluster(url) => Ok(from_cluster(url).await?),
    };
    match fleet.and_then(|fleet| simulate(&source.to_string(), fleet, args, &model)) {
        Ok(measurement) => {
            tell(&args.script, &measurement)?;
            if let Source::Cluster(_) = source {
                say(&format!("not in the records, taken for granted: {}", Fleet::NOT_IN_RECORDS));
            }
            Ok(exit_code(&measurement))
        }
        Err(error) => wrong(error),
    }
}

/// Where the fleet is described.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Source<'a> {
    File(&'a Path),
    Cluster(&'a str),
}

impl std::fmt::Display for Source<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Cluster(url) => write!(f, "of the cluster at {url}"),
        }
    }
}

/// Which of the two was given, and the model that was named, if any. Beside --server the first word is the model: there is no file.
fn source(args: &args::Sim) -> anyhow::Result<(Source<'_>, String)> {
    let model = args.script.model.as_str();
    match (&args.server, &args.fleet) {
        (None, Some(file)) => Ok((Source::File(file), model.to_owned())),
        (None, None) => anyhow::bail!("no fleet: expected FLEET.toml, or --server URL of a running cluster"),
        (Some(url), None) => Ok((Source::Cluster(url), String::new())),
        (Some(_), Some(file)) if !model.is_empty() || file.is_file() => {
            anyhow::bail!("{} and --server: expected one of the two", file.display())
        }
        (Some(_), Some(named)) if args.script.mix.is_some() => {
            anyhow::bail!("{} and --mix: expected one of the two, since the mix names the models", named.display())
        }
        (Some(url), Some(named)) => Ok((Source::Cluster(url), named.to_string_lossy().into_owned())),
    }
}

fn from_file(path: &Path) -> anyhow::Result<Fleet> {
    Fleet::parse(&read(path)?).with_context(|| path.display().to_string())
}

async fn from_cluster(url: &str) -> anyhow::Result<Fleet> {
    let (workers, replicas) = (records(url, "workers").await?, records(url, "replicas").await?);
    let fleet = Fleet::of_records(&workers, &replicas, &records(url, "models").await?);
    anyhow::ensure!(!fleet.workers.is_empty(), "no replica is ready in the cluster at {url}: see `sluice get replicas`");
    Ok(fleet)
}

async fn records<T: DeserializeOwned>(url: &str, kind: &str) -> anyhow::Result<Vec<T>> {
    let request = GetRequest { kind: kind.to_owned(), name: String::new() };
    let answer = client::admin(url).await?.get(request).await.map_err(|s| client::said(&s))?.into_inner();
    answer.records.iter().map(|record| serde_json::from_str(&record.json).with_context(|| format!("record {}", record.key))).collect()
}

fn simulate(name: &str, mut fleet: Fleet, args: &args::Sim, model: &str) -> anyhow::Result<Measurement> {
    fleet.route = args.route.unwrap_or(fleet.route);
    fleet.batch = args.batch.unwrap_or(fleet.batch);
    let model = match (model, fleet.models.as_slice()) {
        ("", [only]) => &only.name,
        (named, _) => named,
    };
    let mut problems = Vec::new();
    let script = script(&args.script, model, &mut problems)?;
    if !problems.is_empty() {
        return Err(LoadError::Settings(problems).into());
    }
    Ok(loadtest::sim::measure(name, &fleet, &script, args.script.repeats)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser as _;

    fn measured(fleet: &str, flags: &[&str]) -> anyhow::Result<Measurement> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fleet.toml");
        std::fs::write(&path, fleet).unwrap();
        let args = parse(&[&[path.to_str().unwrap()], flags].concat())?;
        let (source, model) = source(&args)?;
        simulate(&source.to_string(), from_file(&path)?, &args, &model)
    }

    fn parse(flags: &[&str]) -> anyhow::Result<args::Sim> {
        let Command::Sim(args) = Cli::try_parse_from(["sluice", "sim"].iter().chain(flags))?.command else { panic!() };
        Ok(*args)
    }

    #[test]
    fn the_fleet_is_a_file_or_a_server_and_never_both_or_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fleet.toml");
        std::fs::write(&path, FLEET).unwrap();
        let file = path.to_str().unwrap();
        let found = |flags: &[&str], from: Source<'_>, named: &str| {
            assert_eq!(source(&parse(flags).unwrap()).unwrap(), (from, named.to_owned()), "{flags:?}");
        };
        found(&[file], Source::File(&path), "");
        found(&[file, "a"], Source::File(&path), "a");
        found(&["--server", "http://h:1"], Source::Cluster("http://h:1"), "");
        found(&["--server", "http://h:1", "a"], Source::Cluster("http://h:1"), "a");
        let refused = |flags: &[&str], says: &str| {
            let error = source(&parse(flags).unwrap()).unwrap_err().to_string();
            assert!(error.contains(says), "{flags:?}: {error}");
        };
        refused(&[], "no fleet: expected FLEET.toml, or --server URL");
        refused(&["--server", "http://h:1", file], "fleet.toml and --server: expected one of the two");
        refused(&["--server", "http://h:1", "fleet.toml", "a"], "fleet.toml and --server: expected one of the two");
        refused(&["--server", "http://h:1", "a", "--mix", "m.toml"], "a and --mix: expected one of the two");
    }

    const FLEET: &str = "[[model]]\nname = \"a\"\n[[worker]]\nmodels = [\"a\"]\nalpha_us = 1000\n";

    #[test]
    fn the_flags_of_load_are_those_of_sim_and_the_only_model_need_not_be_named() {
        let flags = ["-r", "200", "--arrivals", "gamma", "--cv", "2", "-d", "1", "-w", "0.5", "-n", "2", "--route", "two-choices"];
        let text = measured(FLEET, &flags).unwrap().to_string();
        assert!(text.contains("SIMULATED") && text.contains("gamma with CV 2, 200/s · 2 × 1.0 s"), "{text}");
        assert!(measured(FLEET, &["a", "-d", "1", "--batch", "linger"]).is_ok());
    }

    #[test]
    fn the_example_in_the_documentation_is_a_fleet() {
        let text = measured(include_str!("../../docs/fleet.toml"), &["-r", "500", "-d", "0.5", "--deadline-ms", "40"]).unwrap().to_string();
        assert!(text.contains("SIMULATED fleet") && text.contains("errors 0"), "{text}");
    }

    #[test]
    fn a_wrong_flag_or_file_is_said() {
        let check = |fleet: &str, flags: &[&str], says: &str| {
            let error = format!("{:#}", measured(fleet, flags).unwrap_err());
            assert!(error.contains(says), "{error}");
        };
        check(FLEET, &["--route", "best"], "not one of finish, round-robin");
        check(FLEET, &["-c", "4"], "unexpected argument");
        check(FLEET, &["b"], "model b: not one of the fleet's models a");
        check(FLEET, &["-n", "0"], "repeats 0 must be from 1");
        check("gateways = 0", &[], "fleet.toml: TOML parse error");
        check(&FLEET.replace("1000", "-1"), &[], "worker 1: alpha_us: -1; expected 0 to");
    }
}
