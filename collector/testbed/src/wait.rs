use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long a program may take to do what is waited for: a database on a slow machine needs most
/// of it to start.
const WAIT_MAX: Duration = Duration::from_mins(3);
/// How often it is looked whether it has.
const WAIT_LOOK: Duration = Duration::from_millis(10);

/// Waits for something that another program does and that nothing tells us of.
///
/// # Errors
///
/// `what` was not so for three minutes, or it could not be looked whether it is.
pub fn wait_until(what: &str, is_so: impl Fn() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + WAIT_MAX;
    while !is_so()? {
        if Instant::now() >= deadline {
            bail!("waited {WAIT_MAX:?} for {what}");
        }
        // Between two looks, so that the program that is waited for has the CPU.
        std::thread::sleep(WAIT_LOOK);
    }
    Ok(())
}
