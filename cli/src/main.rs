//! The one binary. The only place where parts are wired together, and where environment and arguments are read.
//!
//! Exit codes: 0 good, 1 failed, 2 wrong usage.

mod args;
mod client;
mod config_file;
mod doctor;
mod get;
mod infer;
#[cfg(feature = "worker")]
mod inspect;
mod load;
mod plan;
#[cfg(any(feature = "gateway", feature = "worker", feature = "controller"))]
mod role;
mod sim;
mod telemetry;
#[cfg(feature = "worker")]
mod variants;
mod wanted;

use args::{Cli, Command, Model};
use clap::FromArgMatches as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(feature = "worker")]
    if std::env::args_os().nth(1).is_some_and(|a| a == worker::validate::SUBCOMMAND) {
        return worker::validate::child_main();
    }
    #[cfg(feature = "worker")]
    if std::env::args_os().nth(1).is_some_and(|a| a == worker::runner::SUBCOMMAND) {
        return worker::runner::child_main();
    }
    let matches = match config_file::apply(<Cli as clap::CommandFactory>::command(), std::env::args_os().collect()) {
        Ok(command) => command.get_matches(), // leaves with code 2 on wrong usage
        Err(problems) => {
            telemetry::complain(&problems);
            return ExitCode::from(2);
        }
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().thread_name("sluice-control").build() {
        Ok(runtime) => runtime,
        Err(error) => {
            telemetry::complain(&format!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        let telemetry = telemetry::init(&cli.telemetry)?;
        let result = run(cli.command, &telemetry).await;
        telemetry.flush();
        result
    });
    runtime.shutdown_background();
    match result {
        Ok(code) => code,
        Err(error) => {
            telemetry::complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[cfg_attr(not(feature = "gateway"), expect(unused_variables, reason = "only a gateway changes its telemetry"))]
async fn run(command: Command, telemetry: &telemetry::Guard) -> anyhow::Result<ExitCode> {
    match command {
        #[cfg(all(feature = "gateway", feature = "worker", feature = "controller"))]
        Command::Up(args) => role::up::run(args, std::sync::Arc::new(telemetry.control())).await?,
        #[cfg(feature = "gateway")]
        Command::Gateway(args) => role::gateway::run(args, std::sync::Arc::new(telemetry.control())).await?,
        #[cfg(feature = "worker")]
        Command::Worker(args) => role::worker::run(args).await?,
        #[cfg(feature = "controller")]
        Command::Controller(args) => role::controller::run(args).await?,
        Command::Apply(args) => return wanted::apply(args).await,
        Command::Plan(args) => return plan::run(args).await,
        Command::Model(Model::Load(args)) => return wanted::load(args).await,
        Command::Model(Model::Unload(args)) => return wanted::unload(args).await,
        Command::Model(Model::Delete(args)) => return wanted::delete(args).await,
        Command::Load(args) => return load::run(*args).await,
        Command::Sim(args) => return sim::run(&args).await,
        Command::Get(args) => get::run(args).await?,
        Command::Infer(args) => infer::run(args).await?,
        #[cfg(feature = "worker")]
        Command::Inspect(args) => return inspect::run(args).await,
        #[cfg(feature = "worker")]
        Command::Variants(args) => return variants::run(args).await,
        Command::Doctor(args) => return doctor::run(args).await,
    }
    Ok(ExitCode::SUCCESS)
}
