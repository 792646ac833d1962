//! `sim`: from a fleet file and the flags of `load` to a report of what was only computed.

use crate::args;
use crate::load::{exit_code, read, script, tell};
use crate::telemetry::complain;
use anyhow::Context as _;
use loadtest::sim::Fleet;
use loadtest::{LoadError, Measurement};
use std::process::ExitCode;

pub(crate) fn run(args: &args::Sim) -> anyhow::Result<ExitCode> {
    match simulate(args) {
        Ok(measurement) => {
            tell(&args.script, &measurement)?;
            Ok(exit_code(&measurement))
        }
        Err(error) => {
            complain(&format!("{error:#}"));
            Ok(ExitCode::from(2)) // nothing but settings can be wrong
        }
    }
}

fn simulate(args: &args::Sim) -> anyhow::Result<Measurement> {
    let name = args.fleet.display().to_string();
    let mut fleet = Fleet::parse(&read(&args.fleet)?).with_context(|| name.clone())?;
    fleet.route = args.route.unwrap_or(fleet.route);
    fleet.batch = args.batch.unwrap_or(fleet.batch);
    let model = match (args.script.model.as_str(), fleet.models.as_slice()) {
        ("", [only]) => only.name.clone(),
        (named, _) => named.to_owned(),
    };
    let mut problems = Vec::new();
    let script = script(&args.script, &model, &mut problems)?;
    if !problems.is_empty() {
        return Err(LoadError::Settings(problems).into());
    }
    Ok(loadtest::sim::measure(&name, &fleet, &script, args.script.repeats)?)
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
        let args = ["sluice", "sim", path.to_str().unwrap()];
        let Command::Sim(args) = Cli::try_parse_from(args.iter().chain(flags))?.command else { panic!() };
        simulate(&args)
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
