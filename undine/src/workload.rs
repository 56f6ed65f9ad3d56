//! Programs that we start so that there is something to watch: waiting for them, and ending them.

use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

/// How long a child may take to be ready, or to stop.
pub(crate) const CHILD_TIME_MAX: Duration = Duration::from_secs(10);

/// Waits until a child is ready, which `ready` can see from outside.
pub(crate) fn wait_for<T>(
    process: &mut Child,
    name: &str,
    ready: impl Fn() -> Option<T>,
) -> Result<T> {
    let deadline = Instant::now() + CHILD_TIME_MAX;
    loop {
        if let Some(value) = ready() {
            return Ok(value);
        }
        if let Some(status) = process.try_wait()? {
            bail!("{name} ended at once with {status}");
        }
        ensure!(Instant::now() < deadline, "{name} is not ready after {CHILD_TIME_MAX:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Ends a child that is still there.
pub(crate) fn end(process: &mut Child) {
    if matches!(process.try_wait(), Ok(None)) {
        let ended = process.kill().and_then(|()| process.wait());
        drop(ended);
    }
}
