//! How probes, libraries and tracepoints fare, as rows of `probe_status`.

use undine_ebpf::load::RUNG_PAYLOAD_BYTES;
use undine_schema::tables::ProbeStatus;
use undine_schema::trace::TraceState;

use super::{Reader, Source, own_process};
use crate::error_log::Status;
use crate::kernel::{Control, CostSample, Outcome, ProbeReport};
use crate::tls::LibraryReport;

impl Reader {
    pub(super) fn write_library_status(&mut self, libraries: &[LibraryReport]) {
        if libraries.is_empty() {
            return;
        }
        let upid = own_process().map(|own| self.work.pipeline.upid(own)).unwrap_or_default();
        let now = self.clock.now();
        for library in libraries {
            let (status, error) = status_of(&library.outcome);
            let functions: serde_json::Map<_, _> = library
                .manners
                .iter()
                .map(|(name, manner)| ((*name).to_owned(), manner.name().into()))
                .collect();
            let info = serde_json::json!({ "functions": functions });
            self.work.pipeline.probe_status(&ProbeStatus {
                time_: now,
                upid,
                source_connector: "tls",
                tracepoint: &format!("uprobe:{}", library.name),
                status,
                error,
                info: &info.to_string(),
            });
        }
    }

    /// Ends tracepoints whose time is over, and writes how they fare.
    pub(super) fn write_trace_status(&mut self) {
        let Some(tracing) = &self.tracing else { return };
        let now = self.clock.now();
        let told = tracing.keep_house(now);
        for (name, calls) in told.lost {
            let text = format!("what tracepoint {name} saw is not all told");
            self.work.errors.report("dynamic_trace", Status::Exhausted, &text, calls);
        }
        let upid = own_process().map(|own| self.work.pipeline.upid(own)).unwrap_or_default();
        for change in told.changes {
            let info = serde_json::json!({
                "state": change.state.name(),
                "table": change.table,
                "expires": change.expires.get(),
                "calls": change.counts.calls,
                "rows": change.counts.rows,
            });
            let is_failure = change.state == TraceState::Failed;
            self.work.pipeline.probe_status(&ProbeStatus {
                time_: now,
                upid,
                source_connector: "dynamic_trace",
                tracepoint: &change.name,
                status: if is_failure { Status::Unavailable as i64 } else { 0 },
                error: if is_failure { &change.reason } else { "" },
                info: &info.to_string(),
            });
        }
    }

    /// Tells how often the kernel left programs out, as far as that was not told.
    pub(super) fn tell_skipped_runs(&mut self, control: &Control) {
        let skipped = control.skipped_runs();
        for probe in control.probes() {
            let total = skipped.get(probe.probe).copied().unwrap_or_default();
            let told = self.skipped_runs.insert(probe.probe.to_owned(), total).unwrap_or_default();
            let text = format!(
                "an interrupt came to {} while {} ran there, which the kernel then left out",
                probe.attach_point, probe.probe
            );
            let runs = total.saturating_sub(told);
            self.work.errors.report(source_of(probe), Status::System, &text, runs);
        }
    }

    /// Writes how each probe fared, and what it costs where that was measured.
    pub(super) fn write_probe_status(&mut self, cost: Option<&CostSample>) {
        let Source::Kernel(kernel) = &self.source else { return };
        let control = kernel.control();
        self.write_probes(control.probes(), cost);
        if self.trace_told {
            self.write_probes(&control.trace_reports(), cost);
        }
    }

    /// Writes how the programs for traced functions fared, once they are loaded.
    pub(super) fn write_trace_programs(&mut self) {
        let Source::Kernel(kernel) = &self.source else { return };
        if !self.trace_told {
            let reports = kernel.control().trace_reports();
            self.write_probes(&reports, None);
            self.trace_told = !reports.is_empty();
        }
    }

    fn write_probes(&mut self, probes: &[ProbeReport], cost: Option<&CostSample>) {
        let upid = own_process().map(|own| self.work.pipeline.upid(own)).unwrap_or_default();
        let now = self.clock.now();
        for probe in probes {
            let (status, why) = status_of(&probe.outcome);
            let error = match (why, probe.remedy.as_str()) {
                ("", _) => String::new(),
                (why, "") => why.to_owned(),
                (why, remedy) => format!("{why}; {remedy}"),
            };
            let kind = match status {
                0 => None,
                7 => Some(Status::Denied),
                10 => Some(Status::Unavailable),
                _ => Some(Status::System),
            };
            if cost.is_none()
                && let Some(kind) = kind
            {
                let text = format!("{} is not attached: {error}", probe.attach_point);
                self.work.errors.report(source_of(probe), kind, &text, 1);
            }
            let mut info = probe_info(probe, cost, self.work.shed);
            let skipped = self.skipped_runs.get(probe.probe).filter(|runs| **runs > 0);
            if let Some(runs) = skipped {
                info["skipped_runs"] = (*runs).into();
            }
            self.work.pipeline.probe_status(&ProbeStatus {
                time_: now,
                upid,
                source_connector: source_of(probe),
                tracepoint: &probe.attach_point,
                status,
                error: &error,
                info: &info.to_string(),
            });
        }
    }
}

/// How `probe_status` says how a probe fared: gRPC's number, and why.
fn status_of(outcome: &Outcome) -> (i64, &str) {
    match outcome {
        Outcome::Attached | Outcome::Standby => (0, ""),
        Outcome::Denied(why) => (7, why),
        Outcome::Missing(why) => (10, why),
        Outcome::Refused(why) => (12, why),
    }
}

/// What `probe_status.info` says of a probe.
fn probe_info(probe: &ProbeReport, cost: Option<&CostSample>, shed: [u64; 3]) -> serde_json::Value {
    let standby = matches!(probe.outcome, Outcome::Standby);
    let mut info = serde_json::json!({ "program": probe.probe, "standby": standby });
    // Of all hooks together, since they share the ring.
    if probe.moves_bytes() && shed != [0; 3] {
        let rungs = RUNG_PAYLOAD_BYTES.iter().zip(shed);
        let cut = rungs.map(|(bytes, operations)| (bytes.to_string(), operations.into()));
        info["operations_cut_to_bytes"] = cut.collect::<serde_json::Map<_, _>>().into();
    }
    if let Some(sample) = cost
        && let Some(cost) = sample.programs.get(probe.probe)
    {
        info["runs_per_second"] = sample.runs_per_second(cost).into();
        info["run_ns"] = cost.run_ns().into();
        info["cpu_ppm"] = sample.cpu_ppm(cost).into();
    }
    info
}

/// Which part of the collector wants a probe.
fn source_of(probe: &ProbeReport) -> &'static str {
    match probe.attach_point.split_once(':') {
        Some(("perf_event", _)) => "profiler",
        Some(("uprobe", name)) if name.starts_with("trace_") => "dynamic_trace",
        Some(("uprobe", _)) => "tls",
        _ => "sockets",
    }
}
