//! What this process has used of the processors.

use std::io;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// CPU time of all threads of this process, those that have ended too, to the nanosecond.
pub(crate) fn cpu_time() -> Result<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    #[expect(unsafe_code, reason = "the standard library has no such clock")]
    // SAFETY: `time` outlives the call, which only writes it.
    let outcome = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    ensure!(outcome == 0, "no CPU time: {}", io::Error::last_os_error());
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Ok(Duration::new(seconds.context("negative seconds")?, nanos.context("negative nanoseconds")?))
}
