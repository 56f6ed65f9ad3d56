//! Running programs and speaking to the person who started us.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The workspace's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

/// Writes a line for people.
#[expect(clippy::print_stdout, reason = "a chore speaks to the terminal")]
pub(crate) fn say(text: impl AsRef<str>) {
    println!("{}", text.as_ref());
}

/// What cargo tells this program of its own package. Some build scripts ask to run again when it
/// changes, and would do so whenever a person calls cargo between two chores.
const OF_THIS_PACKAGE: [&str; 8] = [
    "CARGO_MANIFEST_DIR",
    "CARGO_MANIFEST_LINKS",
    "CARGO_PKG_NAME",
    "CARGO_PKG_VERSION",
    "CARGO_PKG_VERSION_MAJOR",
    "CARGO_PKG_VERSION_MINOR",
    "CARGO_PKG_VERSION_PATCH",
    "CARGO_PKG_VERSION_PRE",
];

/// A cargo command in the workspace's root, with the toolchain that runs this program.
pub(crate) fn cargo(args: &[&str]) -> Command {
    #[expect(clippy::disallowed_methods, reason = "cargo tells its children which cargo it is")]
    let cargo = std::env::var("CARGO").unwrap_or_else(|_unset| "cargo".to_owned());
    let mut command = command(&cargo, args);
    for name in OF_THIS_PACKAGE {
        command.env_remove(name);
    }
    command
}

/// A command in the workspace's root, never allowed to watch more than it is told to.
pub(crate) fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).current_dir(root()).env("UNDINE_SCOPE", "required");
    command
}

/// A program of ours that is built already: it lies beside this one.
pub(crate) fn built(name: &str, args: &[&str]) -> Result<Command> {
    let program = std::env::current_exe()?.with_file_name(name);
    if !program.exists() {
        bail!("{} is not built; run: cargo build --release --workspace", program.display());
    }
    Ok(command(&program.to_string_lossy(), args))
}

/// Runs a command to its end; its failure is an error that names it.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}

/// Whether a program can be found on the PATH.
pub(crate) fn is_installed(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}
