//! Gives memory that was freed back to the system, as long as the appliance runs.
//!
//! The C library keeps what is freed for the thread that had it. Reading the kernel's types at the
//! start and writing segments at every seal take tens of megabytes each, for a moment and on other
//! threads than what comes next, so that without this they would stay resident for good.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// How often it is given back.
const INTERVAL: Duration = Duration::from_secs(10);

/// Gives back what is free now, and again at every interval until `shutdown` fires.
///
/// # Errors
/// Where the thread that does so panics.
pub(super) async fn give_back_until(shutdown: CancellationToken) -> Result<()> {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            _ = ticks.tick() => {}
        }
        // It takes some milliseconds.
        tokio::task::spawn_blocking(give_back_memory)
            .await
            .context("giving memory back panicked")?;
    }
}

/// Gives every page of memory back that holds nothing.
#[cfg(target_env = "gnu")]
pub fn give_back_memory() {
    #[expect(unsafe_code, reason = "the C library's allocator has no other door")]
    // SAFETY: malloc_trim(3) may be called by any thread at any time, and changes nothing that is
    // allocated.
    let gave = unsafe { libc::malloc_trim(0) };
    tracing::trace!(gave, "gave free memory back");
}

/// Other allocators do so by themselves.
#[cfg(not(target_env = "gnu"))]
pub fn give_back_memory() {}

#[cfg(test)]
#[cfg(target_env = "gnu")]
mod tests {
    use super::*;

    /// Resident bytes of this process that are no file's.
    fn resident() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    #[test]
    fn what_was_freed_in_the_middle_of_what_is_used_is_given_back() {
        const CHUNK_BYTES: usize = 16 * 1024;
        const CHUNKS: usize = 16 * 1024;
        let chunks: Vec<Vec<u8>> = (0..CHUNKS).map(|_| vec![1; CHUNK_BYTES]).collect();
        let full = resident();
        // One in 256 stays, so that what is free between them is not the end of anything.
        let kept: Vec<_> = chunks.into_iter().step_by(256).collect();
        give_back_memory();
        let after = resident();
        let half = (CHUNKS * CHUNK_BYTES / 2) as u64;
        assert!(after + half < full, "{full} bytes before, {after} after");
        assert!(kept.iter().flatten().all(|byte| *byte == 1));
    }
}
