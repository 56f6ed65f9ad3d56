//! gRPC: the calls that a server in Python says that it answered are the rows of `http_events`.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::Asked;
use crate::report::Report;
use crate::truth::{self, Conversations, Latency, Resolution};
use undine_testbed::{Server, Wire, python, wait_until};

pub(super) const MODULES: [&str; 1] = ["grpc"];

const PORT: &str = "18097";
const PEERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/grpc_peers.py");
/// What `content_type` says of gRPC.
const GRPC: &str = "2";

/// A call as the server tells of it.
#[derive(Debug, Deserialize)]
struct Told {
    /// The port of the client's end.
    port: u16,
    /// The number that the client gave it.
    id: u32,
    path: String,
    /// Sizes of all messages of a direction, each with the five bytes before it.
    sent: u64,
    received: u64,
    status: u32,
    message: String,
    took: u64,
}

pub(super) fn run(asked: &Asked, report: &mut Report) -> Result<()> {
    let (place, dir) = super::home()?;
    let record = dir.path().join("record");
    let act = || {
        let mut server = place.command(python());
        let _server = Server::start(server.args([PEERS, "serve", PORT]).arg(&record))?;
        wait_until(
            "the server",
            || Ok(fs::read_to_string(&record).is_ok_and(|it| !it.is_empty())),
        )?;
        let took = place.run(&python(), &[PEERS, "call", PORT, &asked.requests.to_string()])?;
        Ok((fs::read_to_string(&record)?, took))
    };
    let (seen, (told, took)) = asked.watch("grpc", Wire::Plain).during(&place.cgroup, act)?;
    let truth = told_of(&told, &took)?;
    let mut rows = Conversations::default();
    let columns = [
        "remote_port",
        "trace_role",
        "major_version",
        "content_type",
        "req_path",
        "req_body_size",
        "resp_body_size",
        "resp_headers",
        "resp_message",
        "latency",
        "quality",
    ];
    for row in seen.rows("http_events", columns)? {
        let [port, role, version, kind, path, sent, size, headers, message, latency, quality] = row;
        ensure!(role == "2", "a row of role {role}");
        let is_whole = version == "2" && kind == GRPC && quality == "0";
        ensure!(is_whole, "version {version}, content type {kind}, quality {quality}");
        let headers: Value = serde_json::from_str(&headers)?;
        let status = headers["grpc-status"].as_str().context("an answer without a status")?;
        let latency = Latency::Server(Duration::from_nanos(latency.parse()?));
        let what = format!("{path} {sent} {size} {status} {message}");
        rows.push(&port, what.trim_end().to_owned(), Some(latency));
    }
    truth::compare(report, "grpc", &truth, &rows, Resolution(Duration::ZERO));
    truth::nothing_lost(report, "grpc", &seen)
}

/// What both ends say: a line of the client is `ID NANOSECONDS`.
fn told_of(server: &str, client: &str) -> Result<Conversations> {
    let took = client.lines().map(|line| {
        let (id, took) = line.split_once(' ').context("the client says something else")?;
        Ok((id.parse()?, Duration::from_nanos(took.parse()?)))
    });
    let took: HashMap<u32, Duration> = took.collect::<Result<_>>()?;
    let mut truth = Conversations::default();
    // The first line says that it serves.
    for line in server.lines().skip(1) {
        let told: Told = serde_json::from_str(line)?;
        let client = *took.get(&told.id).context("a call that the client does not know")?;
        let Told { port, path, sent, received, status, message, .. } = told;
        let what = format!("{path} {sent} {received} {status} {message}");
        let server = Duration::from_nanos(told.took);
        let latency = Latency::Both { server, client };
        truth.push(&port.to_string(), what.trim_end().to_owned(), Some(latency));
    }
    Ok(truth)
}
