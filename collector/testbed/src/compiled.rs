use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use crate::installed::find;
use crate::server::succeed;

/// Where the programs in C are, whose truth tests and scenarios share.
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/it");

/// Compiles `NAME.c` with `flags` into `folder`.
pub fn compile(name: &str, flags: &[&str], folder: &Path) -> Result<PathBuf> {
    ensure!(find("cc").is_some(), "there is no C compiler; install it with: apt-get install gcc");
    let program = folder.join(name);
    let mut cc = Command::new("cc");
    cc.arg("-O1").args(flags).arg(format!("{SOURCES}/{name}.c")).arg("-o").arg(&program);
    succeed(&mut cc)?;
    Ok(program)
}
