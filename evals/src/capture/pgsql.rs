//! PostgreSQL, plain and inside TLS: the statements in its own JSON log are the rows of `pgsql_events`,
//! with the durations that it logs.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Asked;
use crate::report::Report;
use crate::truth::{self, Conversations, Latency, Resolution};
use undine_testbed::postgres::{self, PASSWORD, Postgres, VERSIONS};
use undine_testbed::{Scene, Wire, python, succeed};

/// The programs that are needed.
pub(super) const PROGRAMS: [&str; 3] = ["postgres", "psql", "pgbench"];
/// What asks inside TLS too.
pub(super) const MODULE: &str = "psycopg";
const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/pgsql_tls.py");
/// What a session does once, beside what `pgbench` does: each is sent as one query.
const STATEMENTS: [&str; 11] = [
    "CREATE TABLE people (id int PRIMARY KEY, name text)",
    "INSERT INTO people VALUES (7, 'Ann'), (8, NULL)",
    "SELECT id, name FROM people ORDER BY id",
    "BEGIN; DELETE FROM people WHERE id = 8; COMMIT",
    "INSERT INTO people VALUES (7, 'twice')",
    "SELECT * FROM nowhere",
    "SELECT pg_sleep(0.05)",
    "COPY people TO STDOUT",
    "SELECT repeat('x', 1000000)",
    "COPY (SELECT generate_series(1, 100000)) TO STDOUT",
    "SELECT pg_sleep(0.2)",
];

pub(super) fn run(wire: Wire, asked: &Asked, report: &mut Report) -> Result<()> {
    let programs = postgres::programs(&PROGRAMS);
    let programs = programs.with_context(|| format!("there is no PostgreSQL in {VERSIONS}"))?;
    let (place, dir) = super::home()?;
    let scene = Scene { place: &place, folder: dir.path(), wire };
    scene.prepare()?;
    let server = Postgres::start(scene, &programs, &["log_min_duration_statement=0"])?;
    let (seen, truth) = asked
        .watch(&super::subject("pgsql", wire), wire)
        .during(&place.cgroup, || load(server, asked.requests))?;
    let mut rows = Conversations::default();
    let columns =
        ["remote_port", "trace_role", "encrypted", "req_cmd", "req", "resp", "failed", "latency"];
    let mut secrets = 0;
    for row in seen.rows("pgsql_events", columns)? {
        secrets += usize::from(row.concat().contains(PASSWORD));
        let [port, role, encrypted, command, request, response, failed, latency] = row;
        ensure!(role == "2", "a row of role {role}");
        ensure!(encrypted == super::encrypted(wire), "a row whose encrypted is {encrypted}");
        let failed = if failed == "1" { response.as_str() } else { "" };
        let latency = Latency::Server(Duration::from_nanos(latency.parse()?));
        rows.push(&port, format!("{command} {request} {failed}"), Some(latency));
    }
    let name = super::subject("pgsql", wire);
    truth::compare(report, &name, &truth, &rows, Resolution(Duration::from_micros(1)));
    report.same(format!("{name}: rows with the password"), secrets, 0);
    truth::nothing_lost(report, &name, &seen)
}

/// Lets clients do what they do, and ends the server.
fn load(server: Postgres<'_>, requests: u32) -> Result<Conversations> {
    let mut session = server.client("psql");
    session.args(["--no-psqlrc", "--quiet"]);
    for statement in STATEMENTS {
        session.args(["-c", statement]);
    }
    // It ends with the status of its last statement, and others fail.
    succeed(&mut session)?;
    succeed(server.client("pgbench").args(["-i", "-q"]))?;
    // A transaction of the usual script has seven statements; a third of them in each mode.
    let transactions = (requests / (3 * 7 * 4)).max(1).to_string();
    for mode in ["simple", "extended", "prepared"] {
        let args = ["-n", "-c", "4", "-t", &transactions, "-M", mode];
        succeed(server.client("pgbench").args(args))?;
    }
    if server.scene.is_tls() {
        let mut psycopg = server.command(python());
        succeed(psycopg.args([CLIENT, &requests.to_string()]))?;
    }
    logged(&server.stop()?)
}

/// The statements of each session. One of the extended protocol takes as long as its parts.
fn logged(log: &str) -> Result<Conversations> {
    let mut truth = Conversations::default();
    let mut parts: BTreeMap<String, Duration> = BTreeMap::new();
    for line in log.lines() {
        let line: Value = serde_json::from_str(line)?;
        let field = |name: &str| line[name].as_str().unwrap_or_default();
        let Some(port) = line["remote_port"].as_u64().map(|port| port.to_string()) else {
            continue;
        };
        let message = field("message");
        if field("error_severity") == "ERROR" {
            let error = format!("ERROR {}: {message}", field("state_code"));
            truth.push(&port, format!("Query {} {error}", field("statement")), None);
            continue;
        }
        let Some((took, what)) =
            message.strip_prefix("duration: ").and_then(|rest| rest.split_once(" ms  "))
        else {
            continue;
        };
        let took = Duration::from_secs_f64(took.parse::<f64>()? / 1e3);
        if let Some(sql) = what.strip_prefix("statement: ") {
            truth.push(&port, format!("Query {sql} "), Some(Latency::Server(took)));
        } else if let Some((_, sql)) =
            what.strip_prefix("execute ").and_then(|rest| rest.split_once(": "))
        {
            let before = parts.remove(&port).unwrap_or_default();
            let params = postgres::params(field("detail"));
            let what = format!("Execute query=[{sql}] params=[{params}] ");
            truth.push(&port, what, Some(Latency::Server(before + took)));
        } else if what.starts_with("bind ") {
            *parts.entry(port).or_default() += took;
        }
    }
    Ok(truth)
}
