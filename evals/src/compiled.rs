//! Programs in C of the collector's own tests, whose truth scenarios share.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use undine_testbed::{find, succeed};

/// Where they are.
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../collector/tests/it");

/// Compiles `NAME.c` with `flags` into `dir`.
pub(crate) fn compile(name: &str, flags: &[&str], dir: &Path) -> Result<PathBuf> {
    ensure!(find("cc").is_some(), "there is no C compiler; install it with: apt-get install gcc");
    let program = dir.join(name);
    let mut cc = Command::new("cc");
    cc.arg("-O1").args(flags).arg(format!("{SOURCES}/{name}.c")).arg("-o").arg(&program);
    succeed(&mut cc)?;
    Ok(program)
}
