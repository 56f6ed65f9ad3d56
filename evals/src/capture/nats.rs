//! NATS: the commands that a client sent and was sent are the rows of `nats_events.beta`.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::Asked;
use crate::report::Report;
use crate::truth::{self, Conversations, Latency, Resolution};
use undine_testbed::brokers::{self, NATS_PORT};
use undine_testbed::{Place, Wire, python};

pub(super) const PROGRAMS: [&str; 2] = ["nats-server", "python3"];

const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/nats.py");
/// Commands of the server; what it sends it sends in an order of its own.
const OF_SERVER: [&str; 2] = ["INFO", "MSG"];

/// A line that the client prints.
#[derive(Debug, Deserialize)]
struct Told {
    port: u16,
    direction: String,
    what: String,
    took: Option<u64>,
}

pub(super) fn run(asked: &Asked, report: &mut Report) -> Result<()> {
    let place = Place::new("undine-evals")?;
    let (seen, told) = asked.watch("nats", Wire::Plain).during(&place.cgroup, || {
        let _server = brokers::nats(&place)?;
        place.run(&python(), &[CLIENT, &NATS_PORT.to_string(), &asked.requests.to_string()])
    })?;
    let mut truth = Conversations::default();
    for line in told.lines() {
        let Told { port, direction, what, took } = serde_json::from_str(line)?;
        truth.push(
            &format!("{port} {direction}"),
            what,
            took.map(|took| Latency::Client(Duration::from_nanos(took))),
        );
    }
    let mut rows = Conversations::default();
    let columns = ["remote_port", "trace_role", "cmd", "body", "latency", "failed", "resp"];
    let mut secrets = 0;
    for [port, role, command, body, latency, failed, response] in
        seen.rows("nats_events.beta", columns)?
    {
        ensure!(role == "2" && failed == "0", "a row of role {role}, failed {failed} {response}");
        secrets += usize::from(body.contains("hunter2"));
        let direction = if OF_SERVER.contains(&command.as_str()) { "server" } else { "client" };
        let body: Value = serde_json::from_str(&body).unwrap_or_default();
        let field = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        let what = match command.as_str() {
            "MSG" | "PUB" => format!("{command} {} {}", field("subject"), field("payload")),
            "SUB" => format!("{command} {}", field("subject")),
            _ => command,
        };
        let latency = Some(Latency::Server(Duration::from_nanos(latency.parse()?)));
        rows.push(&format!("{port} {direction}"), what, latency);
    }
    truth::compare(report, "nats", &truth, &rows, Resolution(Duration::ZERO));
    report.same("nats: rows with the password", secrets, 0);
    truth::nothing_lost(report, "nats", &seen)
}
