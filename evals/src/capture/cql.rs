//! CQL: the statements that a client sent and how they ended are the rows of `cql_events`, in the order of
//! the answers.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::Asked;
use crate::report::Report;
use crate::truth::{self, Conversations, Latency, Resolution};
use undine_testbed::{Place, Wire, python};

pub(super) const PROGRAMS: [&str; 1] = ["cqlsrv"];
pub(super) const MODULES: [&str; 1] = ["cassandra"];

const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/cql.py");
/// Codes of requests that hold a statement: a query, a preparation, an execution.
const STATEMENTS: [&str; 3] = ["7", "9", "10"];
/// In what the driver asks for itself, which it asks of the server's own tables.
const OF_DRIVER: &str = " system.";

/// A line that the client prints.
#[derive(Debug, Deserialize)]
struct Told {
    client: u32,
    asked: u8,
    answered: u8,
    statement: String,
    outcome: Option<u64>,
    took: Option<u64>,
}

pub(super) fn run(asked: &Asked, report: &mut Report) -> Result<()> {
    let place = Place::new("undine-evals")?;
    let (seen, told) = asked
        .watch("cql", Wire::Plain)
        .during(&place.cgroup, || place.run(&python(), &[CLIENT, &asked.requests.to_string()]))?;
    let mut truth = Conversations::default();
    for line in told.lines() {
        let Told { client, asked, answered, statement, outcome, took } =
            serde_json::from_str(line).with_context(|| format!("the client says {line}"))?;
        let latency = took.map(|took| Latency::Client(Duration::from_nanos(took)));
        let what = format!("{asked} {answered} {outcome:?} {statement}");
        truth.push(&client.to_string(), what, latency);
    }
    let mut rows = Conversations::default();
    let columns = [
        "remote_port",
        "trace_role",
        "req_op",
        "req_body",
        "resp_op",
        "resp_body",
        "latency",
        "quality",
    ];
    for row in seen.rows("cql_events", columns)? {
        let [port, role, asked, statement, answered, body, latency, quality] = row;
        ensure!(role == "2", "a row of role {role}");
        if !STATEMENTS.contains(&asked.as_str()) || statement.contains(OF_DRIVER) {
            continue;
        }
        ensure!(quality == "0", "a statement whose quality is {quality}");
        let outcome = outcome(&body).with_context(|| format!("the response {body}"))?;
        let latency = Some(Latency::Server(Duration::from_nanos(latency.parse()?)));
        rows.push(&port, format!("{asked} {answered} {outcome:?} {statement}"), latency);
    }
    let (truth, rows) = (truth.nameless(), rows.nameless());
    truth::compare(report, "cql", &truth, &rows, Resolution(Duration::ZERO));
    truth::nothing_lost(report, "cql", &seen)
}

/// How many rows a response has, or the code of its error.
fn outcome(body: &str) -> Result<Option<u64>> {
    let body: Value = serde_json::from_str(body)?;
    match body["error"].as_str() {
        Some(code) => Ok(Some(u64::from_str_radix(code.trim_start_matches("0x"), 16)?)),
        None => Ok(body["rows"].as_u64()),
    }
}
