//! AMQP: the methods that a client sent and was sent are the rows of `amqp_events`.
//!
//! What the server tells unasked it sends when it likes, so each channel's order is that of either side.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::Asked;
use crate::report::Report;
use crate::truth::{self, Conversations, Latency, Resolution, canonical};
use undine_testbed::brokers::{self, RABBITMQ_PORT};
use undine_testbed::{Wire, python};

pub(super) const MODULES: [&str; 1] = ["pika"];

const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/amqp.py");
/// The password, which no row may hold.
const PASSWORD: &str = "guest";

/// A line that the client prints.
#[derive(Debug, Deserialize)]
struct Told {
    port: u16,
    channel: u16,
    begins: String,
    ids: [u16; 4],
    request: Value,
    response: Value,
    took: Option<u64>,
}

pub(super) fn run(asked: &Asked, report: &mut Report) -> Result<()> {
    let (place, dir) = super::home()?;
    let (seen, told) = asked.watch("amqp", Wire::Plain).during(&place.cgroup, || {
        let _server = brokers::rabbitmq(&place, dir.path())?;
        place.run(&python(), &[CLIENT, &RABBITMQ_PORT.to_string(), &asked.requests.to_string()])
    })?;
    let mut truth = Conversations::default();
    for line in told.lines() {
        let Told { port, channel, begins, ids, request, response, took } =
            serde_json::from_str(line)?;
        let latency = took.map(|took| Latency::Client(Duration::from_nanos(took)));
        let [request, response] = [request, response].map(|it| canonical(&it.to_string()));
        let what = format!("{} {} {}", ids.map(|id| id.to_string()).join(" "), request?, response?);
        truth.push(&format!("{port} {channel} {begins}"), what, latency);
    }
    let mut rows = Conversations::default();
    let columns = [
        "remote_port",
        "trace_role",
        "channel",
        "req_class_id",
        "req_method_id",
        "resp_class_id",
        "resp_method_id",
        "req_msg",
        "resp_msg",
        "latency",
        "quality",
    ];
    let mut secrets = 0;
    for row in seen.rows("amqp_events", columns)? {
        let [port, role, channel, ids @ .., request, response, latency, quality] = row;
        ensure!(role == "2" && quality == "0", "a row of role {role}, quality {quality}");
        secrets += usize::from(request.contains(PASSWORD) || response.contains(PASSWORD));
        let begins = if ids[0] == "0" { "server" } else { "client" };
        let latency = Some(Latency::Server(Duration::from_nanos(latency.parse()?)));
        let what = format!("{} {} {}", ids.join(" "), canonical(&request)?, canonical(&response)?);
        rows.push(&format!("{port} {channel} {begins}"), what, latency);
    }
    truth::compare(report, "amqp", &truth, &rows, Resolution(Duration::ZERO));
    report.same("amqp: rows with the password", secrets, 0);
    truth::nothing_lost(report, "amqp", &seen)
}
