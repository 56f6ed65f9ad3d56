//! A program whose use of the CPU is known, because it measures that itself.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::compiled::compile;

/// Flags for frame pointers everywhere; without the second, compilers leave them out of functions that
/// call no other, so that their callers are missed.
pub const FRAME_POINTERS: [&str; 2] = ["-fno-omit-frame-pointer", "-mno-omit-leaf-frame-pointer"];
/// A flag for none.
pub const NO_FRAME_POINTERS: [&str; 1] = ["-fomit-frame-pointer"];
/// The functions whose shares it says, in this order.
pub const FUNCTIONS: [&str; 3] = ["spin_sixty", "spin_thirty", "spin_ten"];
/// How far a share that a profile shows may be from the truth.
pub const SHARE_ERROR_MAX: f64 = 0.03;

/// Compiles it with `flags` into `folder`. It is told `shares`, `kernel` or `deep`, and for how many
/// seconds of CPU time.
pub fn build(flags: &[&str], folder: &Path) -> Result<PathBuf> {
    compile("spin", &[&["-fno-optimize-sibling-calls"], flags].concat(), folder)
}

/// What it says that `shares` came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shares {
    /// Of each of the [`FUNCTIONS`], from 0 to 1.
    pub of: [f64; 3],
    /// CPU time of all, in seconds.
    pub cpu_seconds: f64,
}

impl Shares {
    /// Reads what it said.
    pub fn read(said: &str) -> Result<Self> {
        let numbers = said.split_whitespace().map(str::parse).collect::<Result<Vec<f64>, _>>()?;
        let [sixty, thirty, ten, cpu_seconds] = numbers[..] else { bail!("it says {said:?}") };
        Ok(Self { of: [sixty, thirty, ten], cpu_seconds })
    }
}
