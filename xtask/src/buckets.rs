//! Runs the store's tests against servers of buckets: those that keep their promises, and those that do not.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use crate::python::environment;
use crate::shell::{cargo, command, is_installed, root, run};
use crate::steps::Outcome;

/// The servers, in the versions whose behaviour is known. Moto's own extra for servers would bring every
/// service of Amazon.
const FROM_PYPI: [&str; 3] = ["moto[s3]==5.2.5", "flask==3.1.3", "flask-cors==6.0.5"];
const FROM_NPM: [&str; 2] = ["s3rver@3.7.1", "azurite@3.35.0"];
/// Engines that read a bucket, and the extension with which one of them does, of the same version.
const ENGINES: [&str; 3] = ["duckdb==1.4.4", "duckdb-ext-httpfs==1.4.4.20260205", "chdb==4.4.0"];
/// Servers that do not keep their promises, whose builds take half an hour.
const FROM_CRATES: [(&str, &str, &[&str]); 2] =
    [("s3s-fs", "0.14.1", &["--features", "binary"]), ("garage", "2.5.0", &[])];

/// Installs the servers below `target` and runs the tests that start them.
pub(crate) fn check() -> Result<Outcome> {
    for program in ["python3", "npm", "node", "curl"] {
        if !is_installed(program) {
            return Ok(Outcome::Skipped(format!("{program} is not installed")));
        }
    }
    let dir = root().join("target/bucket-test");
    std::fs::create_dir_all(&dir)?;
    let npm = command("npm", &["install", "--no-save", "--no-audit", "--no-fund", "--prefix"])
        .arg(&dir)
        .args(FROM_NPM)
        .stdout(Stdio::null())
        .spawn()
        .context("cannot start npm")?;
    let from_pypi = environment(&dir.join("moto"), &FROM_PYPI);
    let from_npm = npm.wait_with_output()?;
    from_pypi?;
    ensure!(from_npm.status.success(), "npm cannot install {FROM_NPM:?}");
    run_tests(&["it::servers::a_store", "it::servers::a_bucket"])
}

/// Lets other engines read what two nodes have in a bucket.
pub(crate) fn check_fleet() -> Result<Outcome> {
    for program in ["python3", "curl"] {
        if !is_installed(program) {
            return Ok(Outcome::Skipped(format!("{program} is not installed")));
        }
    }
    let dir = root().join("target/bucket-test");
    std::fs::create_dir_all(&dir)?;
    environment(&dir.join("moto"), &FROM_PYPI)?;
    environment(&dir.join("engines"), &ENGINES)?;
    run_tests(&["it::servers::other_engines"])
}

/// Builds the servers that must be refused and runs the tests that start them.
pub(crate) fn check_refused() -> Result<Outcome> {
    let dir = root().join("target/bucket-test");
    for (name, version, options) in FROM_CRATES {
        if !dir.join("bin").join(name).exists() {
            let install = ["install", name, "--version", version, "--locked", "--root"];
            run(cargo(&install).arg(&dir).args(options))?;
        }
    }
    run_tests(&["it::servers::s3s_fs_is", "it::servers::garage_is"])
}

fn run_tests(names: &[&str]) -> Result<Outcome> {
    let tests = ["test", "--release", "--locked", "--workspace", "--test", "it", "--"];
    let ignored = ["--ignored", "--test-threads=2"];
    run(cargo(&tests).args(ignored).args(names)).map(|()| Outcome::Passed)
}
