//! MongoDB: the commands of which a driver tells, as sent and as answered, are the rows of
//! `mongodb_events`.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::Asked;
use crate::report::Report;
use crate::truth::{self, Conversations, Latency, Resolution, canonical};
use undine_testbed::{Wire, mongodb, python};

pub(super) const MODULES: [&str; 1] = ["pymongo"];

const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/mongodb.py");
/// Of these the driver does not tell.
const GREETINGS: [&str; 2] = ["hello", "ismaster"];
/// Of a longer text than this only its beginning is in a row; no other comes near.
const WHOLE_BYTES_MAX: usize = 8 * 1024;

/// A command, as the driver tells of it.
#[derive(Debug, Deserialize)]
struct Told {
    client: u32,
    command: String,
    request: Value,
    reply: Value,
    status: String,
    took: Option<u64>,
}

pub(super) fn run(asked: &Asked, report: &mut Report) -> Result<()> {
    let (place, dir) = super::home()?;
    let (seen, told) = asked.watch("mongodb", Wire::Plain).during(&place.cgroup, || {
        let _server = mongodb::start(&place, dir.path())?;
        place.run(&python(), &[CLIENT, &mongodb::PORT.to_string(), &asked.requests.to_string()])
    })?;
    let mut truth = Conversations::default();
    for line in told.lines() {
        let Told { client, command, request, reply, status, took } = serde_json::from_str(line)?;
        let what = what(&command, &request.to_string(), &status, &reply.to_string())?;
        let latency = took.map(|took| Latency::Client(Duration::from_nanos(took)));
        truth.push(&client.to_string(), what, latency);
    }
    let mut rows = Conversations::default();
    let columns = [
        "remote_port",
        "trace_role",
        "req_cmd",
        "req_body",
        "resp_status",
        "resp_body",
        "latency",
        "quality",
    ];
    for row in seen.rows("mongodb_events", columns)? {
        let [port, role, command, request, status, reply, latency, quality] = row;
        ensure!(role == "2", "a row of role {role}");
        if GREETINGS.contains(&command.as_str()) {
            continue;
        }
        ensure!(quality == "0", "a {command} whose quality is {quality}");
        let latency = Some(Latency::Server(Duration::from_nanos(latency.parse()?)));
        rows.push(&port, what(&command, &request, &status, &reply)?, latency);
    }
    let resolution = Resolution(Duration::from_micros(1));
    truth::compare(report, "mongodb", &truth.nameless(), &rows.nameless(), resolution);
    truth::nothing_lost(report, "mongodb", &seen)
}

/// All of a command that is compared; the elements of documents in any order.
fn what(command: &str, request: &str, status: &str, reply: &str) -> Result<String> {
    let whole = |text: &str| {
        if text.len() <= WHOLE_BYTES_MAX { canonical(text) } else { Ok("a long one".to_owned()) }
    };
    Ok(format!("{command} {} {status} {}", whole(request)?, whole(reply)?))
}
