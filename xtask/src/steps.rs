//! The checks, in the order in which they run, each with the time that it may take.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::shell::{self, built, cargo, is_installed, say};
use crate::{bpf, buckets, deny, fuzz, interop, kernels, python, ui};

/// How a step ended without failing.
pub(crate) enum Outcome {
    Passed,
    Skipped(String),
}

/// One check.
pub(crate) struct Step {
    name: &'static str,
    minutes_max: u64,
    check: fn() -> Result<Outcome>,
}

/// What CI runs; CONTRIBUTING.md shows the same table.
pub(crate) fn test() -> Vec<Step> {
    vec![
        Step { name: "format", minutes_max: 1, check: format },
        Step { name: "deny", minutes_max: 1, check: || deny::check().map(passed) },
        Step { name: "object", minutes_max: 1, check: || bpf::check().map(passed) },
        Step { name: "build", minutes_max: 30, check: build },
        Step { name: "tests", minutes_max: 10, check: tests },
        Step { name: "kernels", minutes_max: 3, check: || kernels::check("5.10") },
        Step { name: "clippy", minutes_max: 6, check: clippy },
        Step { name: "capture", minutes_max: 3, check: capture },
        Step { name: "loss", minutes_max: 1, check: || eval(&["loss"]) },
        Step { name: "exact", minutes_max: 1, check: exact },
        Step { name: "tiers", minutes_max: 4, check: || eval(&["tiers"]) },
        Step { name: "buckets", minutes_max: 2, check: || buckets::check() },
        Step { name: "interop", minutes_max: 3, check: || interop::check() },
        Step { name: "scripts", minutes_max: 1, check: || eval(&["scripts"]) },
        Step { name: "demo", minutes_max: 4, check: demo },
        Step { name: "page", minutes_max: 2, check: || ui::check() },
    ]
}

/// What does not fit into CI's time.
pub(crate) fn full() -> Vec<Step> {
    vec![
        Step { name: "cargo-deny", minutes_max: 10, check: || deny::full().map(passed) },
        Step { name: "kernel-object", minutes_max: 10, check: || bpf::build().map(passed) },
        Step { name: "kernel-matrix", minutes_max: 15, check: || kernels::check_all() },
        Step { name: "demo-control", minutes_max: 5, check: demo_control },
        Step { name: "fuzz", minutes_max: 60, check: fuzz::step },
        Step { name: "capture-all", minutes_max: 15, check: || captured(&[]) },
        Step { name: "newest-go", minutes_max: 5, check: newest_go },
        Step { name: "buckets-fleet", minutes_max: 10, check: buckets::check_fleet },
        Step { name: "buckets-refused", minutes_max: 60, check: buckets::check_refused },
        Step { name: "model", minutes_max: 15, check: model },
        Step { name: "crash-50", minutes_max: 5, check: || eval(&["crash", "--rounds", "50"]) },
        Step { name: "overhead", minutes_max: 10, check: || eval(&["overhead"]) },
        Step { name: "resident", minutes_max: 3, check: || eval(&["resident"]) },
        Step { name: "benches", minutes_max: 20, check: benches },
    ]
}

fn passed((): ()) -> Outcome {
    Outcome::Passed
}

/// Runs the steps, or only those that are named, and says how long each took.
pub(crate) fn run_all(steps: &[&Step]) -> Vec<(&'static str, Duration, u64, Result<Outcome>)> {
    steps
        .iter()
        .map(|step| {
            say(format!("\n=== {} (at most {} min)", step.name, step.minutes_max));
            let start = Instant::now();
            let outcome = (step.check)();
            if let Err(error) = &outcome {
                say(format!("{} failed: {error:#}", step.name));
            }
            (step.name, start.elapsed(), step.minutes_max, outcome)
        })
        .collect()
}

/// Runs the steps called `only`, or all, and fails if any failed.
pub(crate) fn run(steps: &[Step], only: &[String]) -> Result<()> {
    if let Some(unknown) = only.iter().find(|name| !steps.iter().any(|step| step.name == **name)) {
        let names: Vec<_> = steps.iter().map(|step| step.name).collect();
        bail!("there is no step '{unknown}'; the steps are {}", names.join(", "));
    }
    let chosen: Vec<_> = steps
        .iter()
        .filter(|step| only.is_empty() || only.iter().any(|n| n == step.name))
        .collect();
    let results = run_all(&chosen);
    say("\nstep            min   of  outcome");
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (name, took, minutes_max, outcome) in &results {
        let word = match outcome {
            Ok(Outcome::Passed) => {
                passed += 1;
                "passed".to_owned()
            }
            Ok(Outcome::Skipped(why)) => {
                skipped += 1;
                format!("skipped: {why}")
            }
            Err(error) => {
                failed += 1;
                format!("failed: {error:#}")
            }
        };
        say(format!("{name:<14} {:>4.1} {minutes_max:>4}  {word}", took.as_secs_f64() / 60.0));
    }
    say(format!("\n{passed} passed, {failed} failed, {skipped} skipped"));
    if failed > 0 {
        bail!("{failed} steps failed");
    }
    Ok(())
}

fn format() -> Result<Outcome> {
    if !is_installed("rustfmt") {
        return Ok(Outcome::Skipped("rustfmt is not installed".to_owned()));
    }
    shell::run(&mut cargo(&["fmt", "--all", "--check"])).map(passed)
}

/// Builds everything once, tests too; the other steps only run what is there.
fn build() -> Result<Outcome> {
    let everything = ["--workspace", "--lib", "--bins", "--tests"];
    shell::run(cargo(&["build", "--release", "--locked"]).args(everything)).map(passed)
}

fn tests() -> Result<Outcome> {
    let mut tests = cargo(&["test", "--release", "--locked", "--workspace"]);
    // `x` has installed every server that the tests start and that Debian has, so none may be skipped for want
    // of it, and none of the peers.
    let tests = python::with_peers(&mut tests)?;
    shell::run(tests.env("UNDINE_TEST_SERVERS", "required")).map(passed)
}

fn clippy() -> Result<Outcome> {
    if !is_installed("cargo-clippy") {
        return Ok(Outcome::Skipped("clippy is not installed".to_owned()));
    }
    let lints = ["--", "-D", "warnings"];
    let mut args = vec!["clippy", "--release", "--locked", "--workspace", "--all-targets"];
    args.extend(lints);
    shell::run(&mut cargo(&args)).map(passed)
}

/// The protocols of which CI has servers and clients, plain and inside TLS; all but CQL.
const PROTOCOLS: &str = "http1,http2,grpc,mysql,pgsql,redis,dns,nats,kafka,mongodb,amqp,mux,\
                         https,http2s,mysql-tls,pgsql-tls,redis-tls";

/// So few requests of each protocol that two cores are done in time.
fn capture() -> Result<Outcome> {
    captured(&["--requests", "2000"])
}

fn captured(args: &[&str]) -> Result<Outcome> {
    let args = [&["capture", "--protocol", PROTOCOLS], args].concat();
    shell::run(python::with_peers(&mut built("evals", &args)?)?).map(passed)
}

/// TLS of programs that a Go compiled which is newer than Debian's.
fn newest_go() -> Result<Outcome> {
    let path = python::path_with_go()?;
    let tests =
        ["test", "--release", "--locked", "--workspace", "--test", "it", "--", "it::tls_go"];
    shell::run(cargo(&tests).env("PATH", path).env("UNDINE_TEST_SERVERS", "required")).map(passed)
}

/// Bytes by every call that moves any, and shares of the CPU's time.
fn exact() -> Result<Outcome> {
    eval(&["flavours"])?;
    eval(&["profile"])
}

fn eval(args: &[&str]) -> Result<Outcome> {
    shell::run(&mut built("evals", args)?).map(passed)
}

fn demo() -> Result<Outcome> {
    shell::run(&mut built("undine", &["demo", "--json", "--require-ebpf"])?).map(passed)
}

fn demo_control() -> Result<Outcome> {
    let args = ["demo", "--json", "--require-ebpf", "--control"];
    shell::run(&mut built("undine", &args)?).map(passed)
}

/// Random histories of a store and of queries, other ones each time.
fn model() -> Result<Outcome> {
    let store = "it::model::many_long_histories_of_a_store_give_the_answers_of_a_list_of_its_rows";
    let queries =
        "it::model::many_long_histories_of_a_store_give_queries_the_answers_of_a_list_of_its_rows";
    let args = ["test", "--release", "--locked", "--workspace", "--test", "it", "--"];
    shell::run(cargo(&args).args(["--ignored", "--exact", store, queries])).map(passed)
}

fn benches() -> Result<Outcome> {
    shell::run(&mut cargo(&["bench", "--workspace"])).map(passed)
}
