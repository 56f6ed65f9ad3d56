//! Undine's composition root, command line and demo; the binary is a single call into it.
//!
//! Only this crate knows every other: [`appliance`] builds the components, connects them through the
//! ports of `undine-schema`, runs them and drains them in the order in which data flows.

mod cli;
mod config;
pub mod appliance;
mod telemetry;
mod client;
mod value;
mod doctor;
mod storage;
mod demo;
mod record;
pub mod receiver;
mod workload;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use appliance::Appliance;
use cli::{Cli, Command, Up};

/// Does what the command line says; a failure is one sentence on standard error and status 1.
pub fn run_command_line() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            fail(&error);
            ExitCode::FAILURE
        }
    }
}

#[expect(
    clippy::print_stderr,
    reason = "this is where errors reach the person who typed the command"
)]
fn fail(error: &anyhow::Error) {
    eprintln!("undine: {error:#}");
}

fn dispatch(command: Command) -> Result<ExitCode> {
    let done = |()| ExitCode::SUCCESS;
    match command {
        Command::Up(args) if args.print_defaults => print(config::DEFAULTS).map(done),
        Command::Up(args) => up(&args).map(done),
        Command::Demo(args) => {
            let _telemetry = telemetry::start("warn", None)?;
            runtime()?.block_on(demo::run(args))
        }
        Command::Run(args) => runtime()?.block_on(client::run(args)).map(done),
        Command::Query(args) => runtime()?.block_on(client::query(args)).map(done),
        Command::Get(what) => runtime()?.block_on(client::get(what)).map(done),
        Command::Doctor(args) => doctor::run(&args),
        Command::Storage(what) => runtime()?.block_on(storage::run(what)),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "undine", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::DemoService(args) => runtime()?.block_on(demo::serve(args)).map(done),
        Command::DemoReceiver(args) => runtime()?.block_on(receiver::receive(args)).map(done),
        Command::DemoLoad(args) => runtime()?.block_on(demo::send(args)).map(done),
    }
}

fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")
}

fn print(text: &str) -> Result<()> {
    use std::io::Write;
    std::io::stdout().lock().write_all(text.as_bytes()).context("cannot write to standard output")
}

/// Runs the appliance until SIGTERM or SIGINT.
fn up(args: &Up) -> Result<()> {
    let config = config::load(args.config.as_deref(), flags(args))?;
    let endpoint = Some(config.telemetry.otlp_endpoint.clone())
        .filter(|endpoint| !endpoint.is_empty())
        .or_else(config::otlp_endpoint);
    runtime()?.block_on(async {
        let mut telemetry = telemetry::start(&config.telemetry.log, endpoint.as_deref())?;
        let appliance = Appliance::build(config).await?;
        let handles = appliance.handles();
        telemetry.export_metrics(&handles.metrics)?;
        tracing::info!(page = %format!("http://{}/", handles.http), "undine is up");
        let shutdown = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let stop = shutdown.clone();
        let wait_for_signal = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("stopping");
            stop.cancel();
            // A second signal means that somebody has lost patience.
            interrupt.recv().await;
        };
        tokio::select! {
            result = appliance.run(shutdown) => result,
            () = wait_for_signal => anyhow::bail!("interrupted while stopping"),
        }
    })
}

fn flags(args: &Up) -> Vec<(&'static str, toml::Value)> {
    let mut flags = Vec::new();
    if !args.target.is_empty() {
        flags.push(("capture.targets", args.target.clone().into()));
    }
    if let Some(listen) = args.listen {
        flags.push(("server.listen", listen.to_string().into()));
    }
    if let Some(listen) = args.otlp_listen {
        flags.push(("otlp.listen", listen.to_string().into()));
    }
    if let Some(dir) = &args.data_dir {
        flags.push(("data_dir", dir.display().to_string().into()));
    }
    if let Some(path) = &args.record {
        flags.push(("capture.recording", path.display().to_string().into()));
    }
    if let Some(content) = args.record_content {
        flags.push(("capture.recording_content", content.name().into()));
    }
    if let Some(path) = &args.replay {
        flags.push(("capture.replay", path.display().to_string().into()));
    }
    if args.no_capture {
        flags.push(("capture.enabled", false.into()));
    }
    if args.strict {
        flags.push(("store.strict", true.into()));
    }
    flags
}
