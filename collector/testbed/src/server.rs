use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, Result, ensure};

/// A program that is ended when this is dropped.
#[derive(Debug)]
pub struct Server(Child);

impl Server {
    /// Starts one that says nothing.
    pub fn start(command: &mut Command) -> Result<Self> {
        Self::saying(command, Stdio::null())
    }

    /// Starts one that writes what it says to `file`.
    pub fn logging(command: &mut Command, file: &Path) -> Result<Self> {
        let log = File::create(file).with_context(|| format!("cannot make {}", file.display()))?;
        Self::saying(command, log.into())
    }

    fn saying(command: &mut Command, stdout: Stdio) -> Result<Self> {
        let quiet = command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::null());
        Ok(Self(quiet.spawn().with_context(|| format!("cannot start {command:?}"))?))
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Asks it to end by `signal`, such as `TERM`, and waits until it has; nothing where it ended
    /// by itself.
    pub fn stop(&mut self, signal: &str) -> Result<()> {
        if self.0.try_wait()?.is_none() {
            succeed(Command::new("kill").args(["-s", signal, &self.0.id().to_string()]))?;
            self.0.wait()?;
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Runs a command to its successful end; what it says.
pub fn succeed(command: &mut Command) -> Result<String> {
    let Output { status, stdout, stderr } = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {command:?}"))?;
    let [stdout, stderr] = [stdout, stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    ensure!(status.success(), "{command:?} ended with {status}: {stderr}{stdout}");
    Ok(stdout)
}
