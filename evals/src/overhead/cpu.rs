//! CPU time, to the nanosecond.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Calls in a row, short enough to come between two turns of other processes.
const CALLS: u32 = 5_000;
/// Rows of calls; the fastest counts.
const ROWS: u32 = 40;
/// Bytes of a thread's name that the kernel keeps.
const NAME_BYTES_MAX: usize = 15;

/// The CPU time of a process or thread since this was made.
#[derive(Debug)]
pub(super) struct Cpu {
    file: PathBuf,
    before: Duration,
}

impl Cpu {
    /// Of a process with one thread.
    pub(super) fn of_process(id: u32) -> Result<Self> {
        Self::of(PathBuf::from(format!("/proc/{id}/schedstat")))
    }

    /// Of the thread of this process that is called `name`.
    pub(super) fn of_thread(name: &str) -> Result<Self> {
        for task in fs::read_dir("/proc/self/task")? {
            let task = task?.path();
            let called = fs::read_to_string(task.join("comm")).unwrap_or_default();
            if called.trim_end() == &name[..name.len().min(NAME_BYTES_MAX)] {
                return Self::of(task.join("schedstat"));
            }
        }
        anyhow::bail!("this process has no thread {name}")
    }

    fn of(file: PathBuf) -> Result<Self> {
        let before = time(&file)?;
        Ok(Self { file, before })
    }

    pub(super) fn used(&self) -> Result<Duration> {
        Ok(time(&self.file)?.saturating_sub(self.before))
    }
}

/// The first number of a `schedstat`, which is the time spent on a CPU in nanoseconds.
fn time(file: &PathBuf) -> Result<Duration> {
    let text = fs::read_to_string(file).with_context(|| format!("no {}", file.display()))?;
    let nanos = text.split_ascii_whitespace().next().context("an empty schedstat")?;
    Ok(Duration::from_nanos(nanos.parse()?))
}

/// What a `write` to `/dev/null` costs this process in nanoseconds: a call of the kind that also
/// moves bytes on sockets, and that does next to nothing by itself.
pub(super) fn calls() -> Result<f64> {
    let mut null = fs::OpenOptions::new().write(true).open("/dev/null")?;
    let mut best = Duration::MAX;
    for _ in 0..ROWS {
        let start = Instant::now();
        for _ in 0..CALLS {
            null.write_all(b"x")?;
        }
        best = best.min(start.elapsed());
    }
    Ok(best.as_secs_f64() * 1e9 / f64::from(CALLS))
}
