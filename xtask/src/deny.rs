//! Refuses banned crates without needing `cargo deny` to be installed.
//!
//! `cargo deny` reads the same list and checks licences and sources as well; it takes minutes to
//! install, so it is part of `cargo xtask full` only.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::shell::{root, say};

/// Fails if the lock file holds a crate that `deny.toml` bans.
pub(crate) fn check() -> Result<()> {
    let banned = names(&fs::read_to_string(root().join("deny.toml"))?, "{ crate = \"");
    let locked = names(&fs::read_to_string(root().join("Cargo.lock"))?, "name = \"");
    if banned.is_empty() {
        bail!("deny.toml bans nothing; is its layout still one crate a line?");
    }
    let found: Vec<_> = banned.iter().filter(|name| locked.contains(name)).collect();
    if !found.is_empty() {
        bail!("banned crates are in Cargo.lock: {found:?}; deny.toml says why");
    }
    say(format!("none of the {} banned crates is among {} locked", banned.len(), locked.len()));
    Ok(())
}

fn names(text: &str, before: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix(before))
        .filter_map(|rest| rest.split_once('"').map(|(name, _)| name.to_owned()))
        .collect()
}

/// Runs `cargo deny`, installing it first where it is missing.
pub(crate) fn full() -> Result<()> {
    use crate::shell::{cargo, run};
    if !cargo(&["deny", "--version"]).output().is_ok_and(|output| output.status.success()) {
        run(&mut cargo(&["install", "--locked", "cargo-deny"])).context("cannot get cargo-deny")?;
    }
    run(&mut cargo(&["deny", "check", "bans", "licenses", "sources"]))
}
