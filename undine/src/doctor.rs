//! `undine doctor`: what this kernel and these rights allow, and what to do about the rest.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use comfy_table::Table;
use serde_json::{Value, json};
use undine_collector::kernel::{
    self, Check, CostSample, Outcome, ProbeReport, ProgramCost, Rung, rungs,
};

use crate::cli::Doctor;

/// Checks the host and tries each probe on nobody; status 1 where capture cannot work.
///
/// # Errors
/// Where the report cannot be written.
pub(crate) fn run(args: &Doctor) -> Result<ExitCode> {
    let mut host = kernel::check_host();
    host.push(bpftrace());
    // Before probes of our own are tried, which would be measured too.
    let cost = kernel::cost_of_running().unwrap_or_else(|error| {
        tracing::debug!(%error, "the cost of running programs cannot be measured");
        None
    });
    let probes = kernel::probe_report();
    let refusal = probes.as_ref().err().map(|error| format!("{:#}", anyhow::anyhow!("{error}")));
    let probes = probes.unwrap_or_default();
    let rungs = rungs(&probes);
    let can_capture = refusal.is_none() && used(&rungs).is_some();
    let text = if args.json {
        let report = json!({
            "can_capture": can_capture,
            "host": host.iter().map(host_json).collect::<Vec<_>>(),
            "hooks": rungs.iter().map(|rung| rung_json(rung, used(&rungs))).collect::<Vec<_>>(),
            "probes": probes.iter().map(probe_json).collect::<Vec<_>>(),
            "refusal": refusal,
            "running": cost.as_ref().map(cost_json),
        });
        format!("{report}\n")
    } else {
        for_people(&host, &rungs, &probes, cost.as_ref(), refusal.as_deref(), can_capture)
    };
    std::io::stdout()
        .lock()
        .write_all(text.as_bytes())
        .context("cannot write to standard output")?;
    Ok(if can_capture { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What scripts may have bpftrace do here; Undine itself does without it.
fn bpftrace() -> Check {
    let found = match (undine_collector::trace::bpftrace::installed(), has_tracefs()) {
        (None, _) => "not installed; scripts that run its programs (pxtrace) need it".to_owned(),
        (Some(path), true) => format!("{}; scripts may run its programs", path.display()),
        (Some(path), false) => {
            format!(
                "{}; scripts may run its programs, but for tracepoints, which need tracefs",
                path.display()
            )
        }
    };
    Check { name: "bpftrace", ok: true, found, remedy: String::new() }
}

fn has_tracefs() -> bool {
    std::path::Path::new("/sys/kernel/tracing/events").exists()
}

/// The hooks through which Undine sees the bytes of sockets here: the best that are not refused.
fn used(rungs: &[Rung]) -> Option<&Rung> {
    rungs.iter().find(|rung| rung.refusal.is_none())
}

/// Whether `rung` is used, and why not.
fn state<'a>(rung: &'a Rung, used: Option<&Rung>) -> (&'static str, &'a str) {
    match &rung.refusal {
        Some(why) => ("refused", why),
        None if used == Some(rung) => ("used", ""),
        None => ("standby", ""),
    }
}

fn rung_json(rung: &Rung, used: Option<&Rung>) -> Value {
    let (state, why) = state(rung, used);
    json!({ "name": rung.hooks.to_string(), "state": state, "why": why })
}

fn word(outcome: &Outcome) -> (&'static str, &str) {
    match outcome {
        Outcome::Attached => ("works", ""),
        Outcome::Standby => ("standby", ""),
        Outcome::Missing(why) => ("missing", why),
        Outcome::Denied(why) => ("denied", why),
        Outcome::Refused(why) => ("refused", why),
    }
}

fn host_json(check: &Check) -> Value {
    json!({ "name": check.name, "ok": check.ok, "found": check.found, "remedy": check.remedy })
}

fn probe_json(probe: &ProbeReport) -> Value {
    let (outcome, why) = word(&probe.outcome);
    json!({
        "probe": probe.probe,
        "attach_point": probe.attach_point,
        "outcome": outcome,
        "why": why,
        "remedy": probe.remedy,
    })
}

fn cost_json(sample: &CostSample) -> Value {
    let program = |(name, cost): (&String, &ProgramCost)| {
        json!({
            "program": name,
            "runs_per_second": sample.runs_per_second(cost),
            "run_ns": cost.run_ns(),
            "cpu_ppm": sample.cpu_ppm(cost),
        })
    };
    Value::Array(sample.programs.iter().map(program).collect())
}

/// What the programs of an Undine that runs here cost, a line each.
fn cost_for_people(sample: &CostSample) -> String {
    let mut rows = Table::new();
    rows.load_preset(comfy_table::presets::NOTHING);
    rows.set_header(["running program", "runs/s", "ns each", "% of a CPU"]);
    for (name, cost) in &sample.programs {
        let ppm = sample.cpu_ppm(cost);
        rows.add_row([
            name.clone(),
            sample.runs_per_second(cost).to_string(),
            cost.run_ns().to_string(),
            format!("{}.{:03}", ppm / 10_000, ppm % 10_000 / 10),
        ]);
    }
    format!("\n{rows}\n")
}

fn for_people(
    host: &[Check],
    rungs: &[Rung],
    probes: &[ProbeReport],
    cost: Option<&CostSample>,
    refusal: Option<&str>,
    can_capture: bool,
) -> String {
    let mut rows = Table::new();
    rows.load_preset(comfy_table::presets::NOTHING);
    for check in host {
        rows.add_row([if check.ok { "ok" } else { "NO" }, check.name, &check.found, &check.remedy]);
    }
    let used = used(rungs);
    for rung in rungs {
        let (state, why) = state(rung, used);
        let mark = match used {
            None => "NO",
            Some(_) if rung.refusal.is_some() => "--",
            Some(_) => "ok",
        };
        let name = format!("hooks on {}", rung.hooks);
        rows.add_row([mark, &name, state, why]);
    }
    for probe in probes {
        let (outcome, why) = word(&probe.outcome);
        let found = if why.is_empty() { outcome.to_owned() } else { format!("{outcome}: {why}") };
        let runs = matches!(probe.outcome, Outcome::Attached | Outcome::Standby);
        let of_another_rung = |rung: &Rung| used != Some(rung) && rung.hooks.include(probe.probe);
        let mark = if runs {
            "ok"
        } else if used.is_some() && rungs.iter().any(of_another_rung) {
            "--"
        } else {
            "NO"
        };
        rows.add_row([
            mark,
            &format!("{} on {}", probe.probe, probe.attach_point),
            &found,
            &probe.remedy,
        ]);
    }
    let verdict = match (can_capture, refusal) {
        (true, _) => "Undine can capture here.".to_owned(),
        (false, Some(why)) => {
            format!("Undine cannot capture here: {why}. As root it usually can: sudo undine doctor")
        }
        (false, None) => "Undine cannot capture here; the lines marked NO say why.".to_owned(),
    };
    let cost = cost.map(cost_for_people).unwrap_or_default();
    format!("{rows}\n{cost}\n{verdict}\n")
}
