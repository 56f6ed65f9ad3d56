//! Mux: the exchanges that a client noted are the rows of `mux_events`, in the order of the answers.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde::Deserialize;

use super::Asked;
use crate::report::Report;
use crate::truth::{self, Conversations, Latency, Resolution};
use undine_testbed::{Place, Wire, mux};

pub(super) const PROGRAMS: [&str; 1] = ["python3"];

/// A line that the client prints.
#[derive(Debug, Deserialize)]
struct Told {
    port: u16,
    kind: i8,
    dest: String,
    request: u32,
    response: u32,
    failed: bool,
    took: Option<u64>,
}

pub(super) fn run(asked: &Asked, report: &mut Report) -> Result<()> {
    let place = Place::new("undine-evals")?;
    let (seen, told) = asked.watch("mux", Wire::Plain).during(&place.cgroup, || {
        let _server = mux::listen(&place)?;
        mux::talk(&place, asked.requests.div_ceil(mux::EXCHANGES))
    })?;
    let mut truth = Conversations::default();
    for line in told.lines() {
        let Told { port, kind, dest, request, response, failed, took } =
            serde_json::from_str(line)?;
        let latency = took.map(|took| Latency::Client(Duration::from_nanos(took)));
        let what = format!("{kind} {dest} {request} {response} {}", u8::from(failed));
        truth.push(&port.to_string(), what, latency);
    }
    let mut rows = Conversations::default();
    let columns = [
        "remote_port",
        "trace_role",
        "req_type",
        "dest",
        "req_size",
        "resp_size",
        "failed",
        "latency",
        "quality",
    ];
    for row in seen.rows("mux_events", columns)? {
        let [port, role, kind, dest, request, response, failed, latency, quality] = row;
        ensure!(role == "2" && quality == "0", "a row of role {role} and quality {quality}");
        let latency = Some(Latency::Server(Duration::from_nanos(latency.parse()?)));
        rows.push(&port, format!("{kind} {dest} {request} {response} {failed}"), latency);
    }
    truth::compare(report, "mux", &truth, &rows, Resolution(Duration::ZERO));
    truth::nothing_lost(report, "mux", &seen)
}
