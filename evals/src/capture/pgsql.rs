//! PostgreSQL, plain and inside TLS: the statements in its own JSON log are the rows of `pgsql_events`,
//! with the durations that it logs.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::scene::{Scene, Wire};
use crate::report::Report;
use crate::truth::{self, Conversations, Latency, Resolution};
use undine_testbed::{Server, succeed};

/// Where Debian puts the programs of each version.
const VERSIONS: &str = "/usr/lib/postgresql";
const PORT: &str = "5432";
/// The password of its user, which no row may hold.
const PASSWORD: &str = "hunter2-and-more";
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

/// The folder of its programs, where `pgbench` is among them.
pub(super) fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir(VERSIONS).into_iter().flatten().flatten();
    let programs = versions.map(|version| version.path().join("bin"));
    programs.filter(|dir| dir.join("postgres").exists() && dir.join("pgbench").exists()).max()
}

pub(super) fn run(wire: Wire, requests: u32, report: &mut Report) -> Result<()> {
    let programs = programs().with_context(|| format!("there is no PostgreSQL in {VERSIONS}"))?;
    let scene = Scene::new(wire)?;
    let postgres = Postgres { programs, scene: &scene };
    let server = postgres.start()?;
    let act = || postgres.load(server, requests);
    let (seen, truth) = scene.watch().during(&scene.place.cgroup, act)?;
    let mut rows = Conversations::default();
    let columns =
        ["remote_port", "trace_role", "encrypted", "req_cmd", "req", "resp", "failed", "latency"];
    let mut secrets = 0;
    for row in seen.rows("pgsql_events", columns)? {
        secrets += usize::from(row.concat().contains(PASSWORD));
        let [port, role, encrypted, command, request, response, failed, latency] = row;
        ensure!(role == "2", "a row of role {role}");
        ensure!(encrypted == scene.encrypted(), "a row whose encrypted is {encrypted}");
        let failed = if failed == "1" { response.as_str() } else { "" };
        let latency = Latency::Server(Duration::from_nanos(latency.parse()?));
        rows.push(&port, format!("{command} {request} {failed}"), Some(latency));
    }
    let name = scene.subject("pgsql");
    truth::compare(report, &name, &truth, &rows, Resolution(Duration::from_micros(1)));
    report.same(format!("{name}: rows with the password"), secrets, 0);
    truth::nothing_lost(report, &name, &seen)
}

/// A server and its clients.
struct Postgres<'a> {
    programs: PathBuf,
    scene: &'a Scene,
}

impl Postgres<'_> {
    /// Lets clients do what they do, and ends the server.
    fn load(&self, mut server: Server, requests: u32) -> Result<Conversations> {
        let mut session = self.client("psql");
        session.args(["--no-psqlrc", "--quiet"]);
        for statement in STATEMENTS {
            session.args(["-c", statement]);
        }
        // It ends with the status of its last statement, and others fail.
        succeed(&mut session)?;
        succeed(self.client("pgbench").args(["-i", "-q"]))?;
        // A transaction of the usual script has seven statements; a third of them in each mode.
        let transactions = (requests / (3 * 7 * 4)).max(1).to_string();
        for mode in ["simple", "extended", "prepared"] {
            succeed(self.client("pgbench").args([
                "-n",
                "-c",
                "4",
                "-t",
                &transactions,
                "-M",
                mode,
            ]))?;
        }
        server.stop("INT")?;
        let log = fs::read_to_string(self.scene.dir().join("data/log/all.json"))?;
        logged(&log)
    }

    /// Makes a database and serves it.
    fn start(&self) -> Result<Server> {
        let secret = self.scene.dir().join("password");
        fs::write(&secret, PASSWORD)?;
        succeed(Command::new("chown").args(["-R", "postgres:"]).arg(self.scene.dir()))?;
        let data = self.scene.dir().join("data");
        let mut init = self.as_postgres("initdb");
        init.args(["-N", "-A", "scram-sha-256", "-U", "me", "-D"]).arg(&data);
        succeed(init.arg(format!("--pwfile={}", secret.display())))?;
        let mut server = self.as_postgres("postgres");
        server.arg("-D").arg(&data).args(["-p", PORT]);
        for setting in [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "fsync=off",
            "shared_buffers=32MB",
            "logging_collector=on",
            "log_destination=jsonlog",
            "log_filename=all.log",
            "log_rotation_age=0",
            "log_rotation_size=0",
            "log_min_duration_statement=0",
        ] {
            server.args(["-c", setting]);
        }
        if self.scene.is_tls() {
            let key = format!("ssl_key_file={}", self.scene.key());
            let certificate = format!("ssl_cert_file={}", self.scene.certificate());
            server.args(["-c", "ssl=on", "-c", &key, "-c", &certificate]);
        }
        let server = Server::start(&mut server)?;
        let ready = self.programs.join("pg_isready");
        let ready = ready.to_str().context("a path that is no text")?;
        self.scene.place.wait_for(ready, &["-h", "127.0.0.1", "-p", PORT])?;
        Ok(server)
    }

    /// One of the programs as the user that the server insists on.
    fn as_postgres(&self, program: &str) -> Command {
        let mut command = self.scene.command("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
        command.arg(self.programs.join(program));
        command
    }

    fn client(&self, program: &str) -> Command {
        let mut command = self.scene.command(self.programs.join(program));
        command.args(["-h", "127.0.0.1", "-p", PORT, "-U", "me"]);
        command.env("PGSSLMODE", if self.scene.is_tls() { "require" } else { "disable" });
        command.env("PGPASSWORD", PASSWORD).env("PGDATABASE", "postgres");
        command
    }
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
            let params = params(field("detail"));
            let what = format!("Execute query=[{sql}] params=[{params}] ");
            truth.push(&port, what, Some(Latency::Server(before + took)));
        } else if what.starts_with("bind ") {
            *parts.entry(port).or_default() += took;
        }
    }
    Ok(truth)
}

/// `parameters: $1 = '7', $2 = NULL` as rows have it; for values without quotes and commas.
fn params(detail: &str) -> String {
    let Some(list) = detail.strip_prefix("parameters: ") else { return String::new() };
    let value = |param: &str| match param.split_once(" = ").map_or("", |(_, value)| value) {
        "NULL" => "<NULL>".to_owned(),
        quoted => quoted.trim_matches('\'').to_owned(),
    };
    list.split(", ").map(value).collect::<Vec<_>>().join(", ")
}
