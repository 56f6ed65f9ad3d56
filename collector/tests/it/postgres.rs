//! What the tests do with a PostgreSQL server, and what they take from its log.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Output, Stdio};

use serde_json::Value;
use undine_testbed::postgres::{self, Postgres, VERSIONS};

use super::place::skip;

/// A statement that the server was sent, as it logged it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Logged {
    /// What was sent.
    pub(crate) command: String,
    /// Its SQL, with parameters as rows have them.
    pub(crate) request: String,
}

/// The folder of its programs, where they are installed; says so where they are not.
pub(crate) fn programs() -> Option<PathBuf> {
    let found = postgres::programs(&["postgres", "psql", "pgbench"]);
    if found.is_none() {
        skip(&format!("there is no PostgreSQL in {VERSIONS}"));
    }
    found
}

/// Runs SQL by `psql`, which is told to send each argument as one query, and gives it `stdin`.
pub(crate) fn psql(postgres: &Postgres<'_>, queries: &[&str], stdin: &str) -> Output {
    let mut command = postgres.client("psql");
    command.args(["--no-psqlrc", "--quiet"]);
    for query in queries {
        command.args(["-c", query]);
    }
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pipes.spawn().unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// Runs `pgbench`, whose clients give up at an error.
pub(crate) fn pgbench(postgres: &Postgres<'_>, args: &[&str]) {
    let output = postgres.client("pgbench").args(args).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() || said.contains("aborted"), "{said}");
}

/// Has one client of `pgbench` run a script once.
pub(crate) fn script(postgres: &Postgres<'_>, mode: &str, script: &str) {
    let path = postgres.scene.text("script.sql");
    std::fs::write(&path, script).unwrap();
    pgbench(postgres, &["-n", "-t", "1", "-M", mode, "-f", &path]);
}

/// What a server logged: statements in their order, and what failed with its error and SQL.
pub(crate) fn logged(log: &str) -> (Vec<Logged>, Vec<[String; 2]>) {
    let (mut statements, mut errors) = (Vec::new(), Vec::new());
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let field = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        let message = field("message");
        if let Some(sql) = message.strip_prefix("statement: ") {
            let command = "Query".to_owned();
            statements.push(Logged { command, request: sql.to_owned() });
        } else if let Some((_, sql)) =
            message.strip_prefix("execute ").and_then(|rest| rest.split_once(": "))
        {
            let command = "Execute".to_owned();
            let params = postgres::params(&field("detail"));
            statements
                .push(Logged { command, request: format!("query=[{sql}] params=[{params}]") });
        } else if field("error_severity") == "ERROR" {
            let error = format!("ERROR {}: {message}", field("state_code"));
            errors.push([error, field("statement")]);
        }
    }
    (statements, errors)
}
