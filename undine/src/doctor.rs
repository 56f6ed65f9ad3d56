//! `undine doctor`: what this kernel and these rights allow, and what to do about the rest.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use comfy_table::Table;
use serde_json::{Value, json};
use undine_collector::kernel::{self, Check, Outcome, ProbeReport};

use crate::cli::Doctor;

/// Checks the host and tries each probe on nobody; status 1 where capture cannot work.
///
/// # Errors
/// Where the report cannot be written.
pub(crate) fn run(args: &Doctor) -> Result<ExitCode> {
    let host = kernel::check_host();
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
        });
        format!("{report}\n")
    } else {
        for_people(&host, &probes, refusal.as_deref(), can_capture)
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

fn for_people(
    host: &[Check],
    probes: &[ProbeReport],
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
    format!("{rows}\n\n{verdict}\n")
}
