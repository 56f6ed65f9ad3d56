//! `undine doctor`: what this kernel and these rights allow, and what to do about the rest.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use comfy_table::Table;
use serde_json::{Value, json};
use undine_collector::kernel::{self, Check, CostSample, Outcome, ProbeReport, ProgramCost};

use crate::cli::Doctor;

/// Checks the host and tries each probe on nobody; status 1 where capture cannot work.
///
/// # Errors
/// Where the report cannot be written.
pub(crate) fn run(args: &Doctor) -> Result<ExitCode> {
    let host = kernel::check_host();
    // Before probes of our own are tried, which would be measured too.
    let cost = kernel::cost_of_running().unwrap_or_else(|error| {
        tracing::debug!(%error, "the cost of running programs cannot be measured");
        None
    });
    let probes = kernel::probe_report();
    let refusal = probes.as_ref().err().map(|error| format!("{:#}", anyhow::anyhow!("{error}")));
    let probes = probes.unwrap_or_default();
    let can_capture = refusal.is_none() && carry_bytes(&probes);
    let text = if args.json {
        let report = json!({
            "can_capture": can_capture,
            "host": host.iter().map(host_json).collect::<Vec<_>>(),
            "probes": probes.iter().map(probe_json).collect::<Vec<_>>(),
            "refusal": refusal,
            "running": cost.as_ref().map(cost_json),
        });
        format!("{report}\n")
    } else {
        for_people(&host, &probes, cost.as_ref(), refusal.as_deref(), can_capture)
    };
    std::io::stdout()
        .lock()
        .write_all(text.as_bytes())
        .context("cannot write to standard output")?;
    Ok(if can_capture { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether requests can be seen through these probes: both directions, or system calls.
fn carry_bytes(probes: &[ProbeReport]) -> bool {
    let works = |name: &str| {
        probes.iter().any(|probe| {
            probe.probe == name && matches!(probe.outcome, Outcome::Attached | Outcome::Standby)
        })
    };
    works("sys_exit") || works("sock_send_length") && works("sock_recv_length")
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
    for probe in probes {
        let (outcome, why) = word(&probe.outcome);
        let found = if why.is_empty() { outcome.to_owned() } else { format!("{outcome}: {why}") };
        let mark =
            if matches!(probe.outcome, Outcome::Attached | Outcome::Standby) { "ok" } else { "NO" };
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
