//! A PostgreSQL server, its programs, and its log of one JSON object in each line.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use undine_collector::Cgroup;

use crate::scene::Scene;
use crate::server::{Server, succeed};
use crate::wait::wait_until;

/// Where Debian puts the programs of each version.
pub const VERSIONS: &str = "/usr/lib/postgresql";
/// The password of its user, which no row may hold.
pub const PASSWORD: &str = "hunter2-and-more";
/// What it logs last, through the same pipe as everything before.
const LAST: &str = "database system is shut down";
/// The server refuses to be root.
const AS_POSTGRES: [&str; 3] = ["--reuid=postgres", "--regid=postgres", "--clear-groups"];

/// The folder of its programs, where all of `needed` are among them.
pub fn programs(needed: &[&str]) -> Option<PathBuf> {
    let versions = fs::read_dir(VERSIONS).into_iter().flatten().flatten();
    let programs = versions.map(|version| version.path().join("bin"));
    programs.filter(|dir| needed.iter().all(|program| dir.join(program).exists())).max()
}

/// A server that runs.
#[derive(Debug)]
pub struct Postgres<'s> {
    /// Where.
    pub scene: Scene<'s>,
    programs: PathBuf,
    server: Server,
}

impl<'s> Postgres<'s> {
    /// Makes a database and serves it with more settings.
    pub fn start(scene: Scene<'s>, programs: &Path, settings: &[&str]) -> Result<Self> {
        let secret = scene.path("password");
        fs::write(&secret, PASSWORD)?;
        succeed(Command::new("chown").args(["-R", "postgres:"]).arg(scene.folder))?;
        let as_postgres = |program: &str| {
            let mut command = scene.command("setpriv");
            command.args(AS_POSTGRES).arg(programs.join(program)).arg("-D").arg(scene.path("data"));
            command
        };
        let mut init = as_postgres("initdb");
        init.args(["-N", "-A", "scram-sha-256", "-U", "me"]);
        succeed(init.arg(format!("--pwfile={}", secret.display())))?;
        let mut server = as_postgres("postgres");
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
        ] {
            server.args(["-c", setting]);
        }
        if scene.is_tls() {
            let key = format!("ssl_key_file={}", scene.key());
            let certificate = format!("ssl_cert_file={}", scene.certificate());
            server.args(["-c", "ssl=on", "-c", &key, "-c", &certificate]);
        }
        for setting in settings {
            server.args(["-c", setting]);
        }
        let server = Server::start(&mut server)?;
        let postgres = Self { scene, programs: programs.to_owned(), server };
        wait_until("PostgreSQL to answer", || {
            let mut ready = postgres.client("pg_isready");
            ready.env("PGSSLMODE", "disable").stdin(Stdio::null()).stdout(Stdio::null());
            Ok(ready.status()?.success())
        })?;
        Ok(postgres)
    }

    /// Whether one of its programs is installed.
    pub fn has(&self, program: &str) -> bool {
        self.programs.join(program).exists()
    }

    /// One of its clients.
    pub fn client(&self, program: &str) -> Command {
        self.client_in(&self.scene.place.cgroup, program)
    }

    /// One of its clients, in another cgroup and the same network.
    pub fn client_in(&self, cgroup: &Cgroup, program: &str) -> Command {
        self.told(self.scene.command_in(cgroup, self.programs.join(program)))
    }

    /// A client that is none of its programs and finds it by libpq's variables.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.told(self.scene.command(program))
    }

    /// Tells a client where it is.
    fn told(&self, mut command: Command) -> Command {
        command.env("PGHOST", "127.0.0.1").env("PGUSER", "me");
        command.env("PGPASSWORD", PASSWORD).env("PGDATABASE", "postgres");
        if self.scene.is_tls() {
            command.env("PGSSLMODE", "require");
        }
        command
    }

    /// Whether it has logged `text`; what it has not may be about to be.
    pub fn has_logged(&self, text: &str) -> Result<bool> {
        Ok(self.read_log()?.contains(text))
    }

    /// Stops it at once, whatever its clients are about; what it logged.
    pub fn stop(mut self) -> Result<String> {
        self.server.stop("INT")?;
        // Another process writes the log, and may be behind.
        wait_until("the end of PostgreSQL's log", || self.has_logged(LAST))?;
        self.read_log()
    }

    fn read_log(&self) -> Result<String> {
        fs::read_to_string(self.scene.path("data/log/all.json")).context("cannot read its log")
    }
}

impl Drop for Postgres<'_> {
    fn drop(&mut self) {
        // Killed, it would leave shared memory behind. It may have ended by itself.
        drop(self.server.stop("INT"));
    }
}

/// `parameters: $1 = '7', $2 = NULL` as rows have it; for values without quotes and commas.
pub fn params(detail: &str) -> String {
    let Some(list) = detail.strip_prefix("parameters: ") else { return String::new() };
    let value = |param: &str| match param.split_once(" = ").map_or("", |(_, value)| value) {
        "NULL" => "<NULL>".to_owned(),
        quoted => quoted.trim_matches('\'').to_owned(),
    };
    list.split(", ").map(value).collect::<Vec<_>>().join(", ")
}
