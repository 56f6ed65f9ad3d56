//! A program whose use of the CPU is known, because it measures that itself.

use std::collections::BTreeMap;
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
const SHARE_ERROR_MAX: f64 = 0.03;

/// By which part the samples may be fewer than the CPU time calls for, since a clock that several
/// programs share may take one a little later or not at all; or more, since at its start and its end the
/// program uses a little that it does not measure.
const SAMPLES_OFF_MAX: f64 = 0.1;

/// Samples by folded stack.
pub type Stacks = BTreeMap<String, u64>;

/// Compiles it with `flags` into `folder`. It is told `shares`, `kernel`, `deep` or `depths`, and for how
/// many seconds of CPU time.
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

    /// Holds `stacks`, a profile of it at `frequency_hz`, against what it says.
    pub fn judge(&self, stacks: &Stacks, frequency_hz: u32) -> Vec<Finding> {
        let samples = exact(stacks.values().sum());
        let expected = self.cpu_seconds * f64::from(frequency_hz);
        let all = Finding {
            what: "samples of what the CPU time calls for".to_owned(),
            seen: format!("{samples:.0} of {expected:.0}"),
            wanted: format!("100 % +- {:.0}", SAMPLES_OFF_MAX * 100.0),
            is_right: (samples - expected).abs() <= SAMPLES_OFF_MAX * expected,
        };
        let of = FUNCTIONS.iter().zip(self.of).map(|(function, truth)| {
            let seen = share(stacks, function);
            Finding {
                what: format!("share of {function}"),
                seen: format!("{:.2} %", seen * 100.0),
                wanted: format!("{:.2} % +- {:.0}", truth * 100.0, SHARE_ERROR_MAX * 100.0),
                is_right: (seen - truth).abs() <= SHARE_ERROR_MAX,
            }
        });
        std::iter::once(all).chain(of).collect()
    }
}

/// One thing that a profile says, beside what it should say.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What it is about.
    pub what: String,
    /// What the profile says.
    pub seen: String,
    /// What the program says, and how near that has to be.
    pub wanted: String,
    /// Whether it is as near.
    pub is_right: bool,
}

/// The share of all samples in whose stacks a frame is called `name`.
pub fn share(stacks: &Stacks, name: &str) -> f64 {
    let with = stacks.iter().filter(|(stack, _)| stack.split(';').any(|frame| frame == name));
    exact(with.map(|(_, count)| count).sum()) / exact(stacks.values().sum())
}

#[expect(clippy::cast_precision_loss, reason = "some thousand samples")]
fn exact(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::{Shares, Stacks};

    /// What is wrong with so many samples at 100 Hz of ten seconds, in the shares that were told.
    fn wrong(samples: u64) -> Vec<String> {
        let shares = Shares { of: [0.6, 0.3, 0.1], cpu_seconds: 10.0 };
        let parts = [("main;spin_sixty", 6), ("main;spin_thirty", 3), ("main;spin_ten", 1)];
        let stack = |(stack, tenths): (&str, u64)| (stack.to_owned(), samples / 10 * tenths);
        let stacks: Stacks = parts.map(stack).into();
        let findings = shares.judge(&stacks, 100);
        findings.into_iter().filter(|it| !it.is_right).map(|it| it.what).collect()
    }

    #[test]
    fn a_profile_has_neither_fewer_nor_more_samples_than_the_cpu_time_calls_for() {
        assert_eq!(wrong(1000), Vec::<String>::new());
        for samples in [500, 2000] {
            assert_eq!(wrong(samples), ["samples of what the CPU time calls for"]);
        }
    }
}
