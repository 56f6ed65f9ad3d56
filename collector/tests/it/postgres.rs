//! A PostgreSQL server of the test's own, its programs, and what it logged.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use undine_collector::Cgroup;

use super::place::{Place, Server, skip, succeed, wait_until};

/// Where Debian puts the programs of each version.
const VERSIONS: &str = "/usr/lib/postgresql";
/// The password of its user, which no row may hold.
pub(crate) const PASSWORD: &str = "hunter2-and-more";

/// A statement that the server was sent, as it logged it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Logged {
    /// What was sent.
    pub(crate) command: String,
    /// Its SQL, with parameters as rows have them.
    pub(crate) request: String,
}

/// A server in a place of its own.
pub(crate) struct Postgres {
    programs: PathBuf,
    dir: TempDir,
    server: Server,
    place: Place,
}

impl Postgres {
    /// The folder of its programs, where they are installed; says so where they are not.
    pub(crate) fn installed() -> Option<PathBuf> {
        let versions = std::fs::read_dir(VERSIONS).into_iter().flatten().flatten();
        let programs = versions.map(|version| version.path().join("bin"));
        let found = programs.filter(|dir| dir.join("postgres").exists()).max();
        if found.is_none() {
            skip(&format!("there is no PostgreSQL in {VERSIONS}"));
        }
        found
    }

    /// Makes a database and serves it.
    pub(crate) fn start(programs: PathBuf, place: Place) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), programs, place, &[])
    }

    /// As [`Self::start`], to clients that want TLS too; with the certificate `cert.pem` in `dir`,
    /// and its key `key.pem`.
    pub(crate) fn start_with_tls(dir: TempDir, programs: PathBuf, place: Place) -> Self {
        let file = |setting, name| format!("{setting}={}", dir.path().join(name).display());
        let files = [file("ssl_cert_file", "cert.pem"), file("ssl_key_file", "key.pem")];
        Self::start_in(dir, programs, place, &["ssl=on", &files[0], &files[1]])
    }

    fn start_in(dir: TempDir, programs: PathBuf, place: Place, settings: &[&str]) -> Self {
        let secret = dir.path().join("password");
        std::fs::write(&secret, PASSWORD).unwrap();
        succeed(Command::new("chown").args(["-R", "postgres:"]).arg(dir.path()));
        let data = dir.path().join("data");
        let mut init = as_postgres(&mut Command::new("setpriv"));
        init.arg(programs.join("initdb")).args(["-N", "-A", "scram-sha-256", "-U", "me", "-D"]);
        succeed(init.arg(&data).arg(format!("--pwfile={}", secret.display())));
        let mut command = as_postgres(&mut place.command("setpriv"));
        command.arg(programs.join("postgres")).arg("-D").arg(&data);
        for setting in [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "fsync=off",
            "shared_buffers=16MB",
            "logging_collector=on",
            "log_destination=jsonlog",
            "log_filename=all.log",
            "log_statement=all",
        ] {
            command.args(["-c", setting]);
        }
        for setting in settings {
            command.args(["-c", setting]);
        }
        let postgres = Self { programs, dir, server: Server::start(&mut command), place };
        wait_until("PostgreSQL to answer", || {
            let mut command = postgres.program("pg_isready");
            command.env("PGSSLMODE", "disable").output().unwrap().status.success()
        });
        postgres
    }

    /// Whether one of its programs is installed; says so where it is not.
    pub(crate) fn has(&self, program: &str) -> bool {
        let found = self.programs.join(program).exists();
        if !found {
            skip(&format!("PostgreSQL comes without {program}"));
        }
        found
    }

    /// One of its programs, in the same place.
    pub(crate) fn program(&self, program: &str) -> Command {
        self.program_in(&self.place.cgroup, program)
    }

    /// One of its programs, in another cgroup and the same network.
    pub(crate) fn program_in(&self, cgroup: &Cgroup, program: &str) -> Command {
        let mut command = self.place.command_in(cgroup, self.programs.join(program));
        command
            .args(["-h", "127.0.0.1", "-U", "me"])
            .env("PGPASSWORD", PASSWORD)
            .env("PGDATABASE", "postgres");
        command
    }

    /// Runs SQL by `psql`, which is told to send each argument as one query, and gives it `stdin`.
    pub(crate) fn psql(&self, queries: &[&str], stdin: &str) -> Output {
        let mut command = self.program("psql");
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
    pub(crate) fn pgbench(&self, args: &[&str]) {
        let output = self.program("pgbench").args(args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() || said.contains("aborted"), "{said}");
    }

    /// Has one client of `pgbench` run a script once.
    pub(crate) fn script(&self, mode: &str, script: &str) {
        let path = self.file("script.sql", script);
        self.pgbench(&["-n", "-t", "1", "-M", mode, "-f", &path]);
    }

    /// Writes a file next to the server's data; its path.
    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Stops the server as its administrator would.
    pub(crate) fn stop(&mut self) {
        // It stops at once, whatever its clients are about.
        self.server.stop("INT");
    }

    /// What it logged so far, as it is.
    pub(crate) fn log_text(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("data/log/all.json")).unwrap()
    }

    /// What it logged: statements in their order, and what failed with its error and SQL.
    pub(crate) fn log(&self) -> (Vec<Logged>, Vec<[String; 2]>) {
        let text = self.log_text();
        let (mut statements, mut errors) = (Vec::new(), Vec::new());
        for line in text.lines() {
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
                let request = format!("query=[{sql}] params=[{}]", params(&field("detail")));
                statements.push(Logged { command, request });
            } else if field("error_severity") == "ERROR" {
                let error = format!("ERROR {}: {message}", field("state_code"));
                errors.push([error, field("statement")]);
            }
        }
        (statements, errors)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
    }
}

/// `parameters: $1 = '7', $2 = NULL` as rows have it; for values without quotes and commas.
fn params(detail: &str) -> String {
    let Some(list) = detail.strip_prefix("parameters: ") else { return String::new() };
    let value = |param: &str| match param.split_once(" = ").unwrap().1 {
        "NULL" => "<NULL>".to_owned(),
        quoted => quoted.trim_matches('\'').to_owned(),
    };
    list.split(", ").map(value).collect::<Vec<_>>().join(", ")
}

/// The server refuses to be root.
fn as_postgres(command: &mut Command) -> Command {
    let mut command = std::mem::replace(command, Command::new("true"));
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    command
}
