use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use crate::installed::find;
use crate::server::succeed;

/// Where the programs in C are, whose truth tests and scenarios share.
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/it");

/// What Go compiled once.
const GO_CACHE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/go-cache");
/// What leaves C out of a program in Go.
pub const WITHOUT_C: [&str; 2] = ["-tags", "netgo,osusergo"];

/// Compiles `NAME.c` with `flags` into `folder`.
pub fn compile(name: &str, flags: &[&str], folder: &Path) -> Result<PathBuf> {
    ensure!(find("cc").is_some(), "there is no C compiler; install it with: apt-get install gcc");
    let program = folder.join(name);
    let mut cc = Command::new("cc");
    cc.arg("-O1").args(flags).arg(format!("{SOURCES}/{name}.c")).arg("-o").arg(&program);
    succeed(&mut cc)?;
    Ok(program)
}

/// Compiles `source`, a program in Go, with `flags` as `program`.
pub fn compile_go(source: &str, flags: &[&str], program: &Path) -> Result<()> {
    ensure!(find("go").is_some(), "there is no Go; install it with: apt-get install golang-go");
    let file = program.with_extension("go");
    fs::write(&file, source)?;
    let mut go = Command::new("go");
    // Go's own library takes most of the time, the first time.
    go.env("GOCACHE", GO_CACHE).env("GO111MODULE", "off");
    succeed(go.arg("build").args(flags).arg("-o").arg(program).arg(file)).map(drop)
}
