//! A running bpftrace: started, read until it ends, ended when it is told to.
//!
//! ```text
//! thread "bpftrace-rows": starts the child ─► program into stdin ─► reads stdout ─► rows; sees its end
//! thread "bpftrace-errors": reads stderr, of which the beginning is kept
//! ```
//!
//! The kernel kills the child when the first of these threads ends, so it never outlives Undine.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{ChildStderr, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use undine_schema::trace::{TraceColumn, TraceCounts, TraceTable};

use super::output;
use super::rows::{PrintedRows, Told};
use crate::kernel::Child;

/// How long bpftrace may take to compile a program and attach its probes.
const START_TIME_MAX: Duration = Duration::from_secs(15);
/// How long it may take to end by itself when it is told to, and after that when it is killed.
const END_TIME_MAX: Duration = Duration::from_secs(2);
/// Longest line of its output, in bytes; longer ones are counted as dropped.
const LINE_BYTES_MAX: usize = 16 * 1024;
/// Most bytes that are kept of what it says of errors.
const ERROR_BYTES_MAX: usize = 16 * 1024;
/// Most bytes of a reason that is made of that.
const REASON_BYTES_MAX: usize = 400;
/// What it runs with besides: more probes than anyone reads are a mistake.
const ENVIRONMENT: [(&str, &str); 3] = [
    ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
    ("BPFTRACE_MAX_PROBES", "128"),
    ("BPFTRACE_MAX_BPF_PROGS", "128"),
];

/// A program that runs, or has run.
#[derive(Debug)]
pub(crate) struct Running {
    columns: Arc<[TraceColumn]>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    rows: Mutex<PrintedRows>,
    stage: Mutex<Stage>,
    changed: Condvar,
}

#[derive(Debug)]
enum Stage {
    /// There is no process yet.
    Begins,
    /// It compiles and attaches.
    Starts(Arc<Child>),
    /// Its probes stand.
    Runs(Arc<Child>),
    /// It is gone; what it said of that.
    Ended(String),
}

impl Running {
    /// Starts bpftrace with a program and waits until its probes stand.
    ///
    /// # Errors
    /// Where it cannot be started, refuses the program or takes too long, in its own words.
    pub(super) fn start(
        path: &Path,
        program: String,
        columns: Arc<[TraceColumn]>,
        rows: PrintedRows,
    ) -> Result<Self, String> {
        let shared = Arc::new(Shared {
            rows: Mutex::new(rows),
            stage: Mutex::new(Stage::Begins),
            changed: Condvar::new(),
        });
        let mut command = Command::new(path);
        command.args(["-f", "json", "-"]).current_dir("/").env_clear().envs(ENVIRONMENT);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("bpftrace-rows".to_owned())
            .spawn(move || {
                let said = theirs.run(command, &program);
                theirs.enter(Stage::Ended(said.unwrap_or_else(|error| error.to_string())));
            })
            .map_err(|error| format!("no thread for bpftrace: {error}"))?;
        let running = Self { columns, shared };
        let deadline = Instant::now() + START_TIME_MAX;
        let is_starting = |stage: &Stage| matches!(stage, Stage::Begins | Stage::Starts(_));
        let stage = running.shared.wait_while(deadline, is_starting);
        match &*stage {
            Stage::Runs(_) => {
                drop(stage);
                Ok(running)
            }
            Stage::Ended(said) if said.is_empty() => Err("it ended without a word".to_owned()),
            Stage::Ended(said) => Err(said.clone()),
            Stage::Begins | Stage::Starts(_) => {
                drop(stage);
                running.end();
                Err(format!("its probes do not stand after {} s", START_TIME_MAX.as_secs()))
            }
        }
    }

    pub(crate) fn columns(&self) -> &Arc<[TraceColumn]> {
        &self.columns
    }

    pub(crate) fn counts(&self) -> TraceCounts {
        self.shared.rows().counts()
    }

    pub(crate) fn table(&self) -> TraceTable {
        self.shared.rows().table()
    }

    /// What it said when it ended; `None` as long as it runs.
    pub(crate) fn ended(&self) -> Option<String> {
        match &*self.shared.stage() {
            Stage::Ended(said) => Some(said.clone()),
            _ => None,
        }
    }

    /// Asks it to end, and does not wait.
    pub(crate) fn interrupt(&self) {
        if let Some(child) = self.shared.child() {
            child.interrupt();
        }
    }

    /// Kills it, and does not wait.
    pub(crate) fn kill(&self) {
        if let Some(child) = self.shared.child() {
            child.kill();
        }
    }

    /// Ends it, and waits until it is gone.
    pub(crate) fn end(&self) {
        let is_there = |stage: &Stage| !matches!(stage, Stage::Ended(_));
        for stop in [Self::interrupt, Self::kill] {
            stop(self);
            let stage = self.shared.wait_while(Instant::now() + END_TIME_MAX, is_there);
            if !is_there(&stage) {
                return;
            }
        }
        tracing::warn!("bpftrace does not end");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Shared {
    fn rows(&self) -> MutexGuard<'_, PrintedRows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn child(&self) -> Option<Arc<Child>> {
        match &*self.stage() {
            Stage::Starts(child) | Stage::Runs(child) => Some(Arc::clone(child)),
            Stage::Begins | Stage::Ended(_) => None,
        }
    }

    fn enter(&self, stage: Stage) {
        *self.stage() = stage;
        self.changed.notify_all();
    }

    /// Waits while the stage is such a one, until `deadline`.
    fn wait_while(
        &self,
        deadline: Instant,
        is_so: impl Fn(&Stage) -> bool,
    ) -> MutexGuard<'_, Stage> {
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = self.changed.wait_timeout_while(self.stage(), left, |stage| is_so(stage));
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Runs bpftrace to its end; what it said of errors.
    fn run(&self, mut command: Command, program: &str) -> io::Result<String> {
        let (child, pipes) = Child::start(&mut command)?;
        let child = Arc::new(child);
        self.enter(Stage::Starts(Arc::clone(&child)));
        let errors = pipes.stderr.map(read_errors).transpose();
        if let Some(mut stdin) = pipes.stdin
            && let Err(error) = stdin.write_all(program.as_bytes())
        {
            // It says on its other pipes why it did not read.
            tracing::debug!(%error, "bpftrace did not read its program");
        }
        let lacks_probes =
            pipes.stdout.is_some_and(|stdout| self.read(&child, BufReader::new(stdout)));
        // It may have closed its output and live on, and nobody would read it.
        child.kill();
        let status = child.wait()?;
        let said = errors?.and_then(|thread| thread.join().ok()).unwrap_or_default();
        let mut reason = reason(&said);
        if reason.is_empty() && lacks_probes {
            "none of its probes' places is there".clone_into(&mut reason);
        }
        Ok(if reason.is_empty() && !status.success() { status.to_string() } else { reason })
    }

    /// Reads to the end; gives whether bpftrace found nothing to attach to.
    fn read(&self, child: &Arc<Child>, mut output: impl BufRead) -> bool {
        let mut line = Vec::new();
        loop {
            line.clear();
            let limit = LINE_BYTES_MAX as u64 + 1;
            match output.by_ref().take(limit).read_until(b'\n', &mut line) {
                Ok(0) => return false,
                Ok(_) if line.ends_with(b"\n") || line.len() <= LINE_BYTES_MAX => {}
                Ok(_) => {
                    self.rows().drop_line();
                    match skip_line(&mut output) {
                        Ok(()) => continue,
                        Err(_gone) => return false,
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "the output of bpftrace cannot be read");
                    return false;
                }
            }
            let message = output::parse(&line);
            let told = self.rows().take(&message, Instant::now());
            match told {
                Told::Ready => self.enter(Stage::Runs(Arc::clone(child))),
                Told::NoProbes => return true,
                Told::Printed => {}
            }
        }
    }
}

/// Reads to the end of a line and keeps nothing.
fn skip_line(output: &mut impl BufRead) -> io::Result<()> {
    loop {
        let waiting = output.fill_buf()?;
        let (end, used) = match waiting.iter().position(|byte| *byte == b'\n') {
            Some(at) => (true, at + 1),
            None => (waiting.is_empty(), waiting.len()),
        };
        output.consume(used);
        if end {
            return Ok(());
        }
    }
}

fn read_errors(mut stderr: ChildStderr) -> io::Result<std::thread::JoinHandle<Vec<u8>>> {
    std::thread::Builder::new().name("bpftrace-errors".to_owned()).spawn(move || {
        let mut kept = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = stderr.read(&mut buffer) {
            let room = ERROR_BYTES_MAX.saturating_sub(kept.len());
            kept.extend_from_slice(&buffer[..read.min(room)]);
        }
        kept
    })
}

/// What bpftrace said of its end, without what it always says.
fn reason(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let harmless = ["RLIMIT_MEMLOCK", "failed to detach probe", "WARNING: "];
    let mut errors = Vec::new();
    for line in text.lines().filter(|line| !harmless.iter().any(|word| line.contains(word))) {
        // Where in the program it is would be a place in the rewritten one.
        if let Some((_, what)) = line.split_once("ERROR: ") {
            errors.push(what.trim());
        } else if let Some((_, what)) = line.split_once("error: ") {
            errors.push(what.trim());
        }
    }
    let mut reason = errors.join("; ");
    if let Some((cut, _)) = reason.char_indices().find(|(at, _)| *at >= REASON_BYTES_MAX) {
        reason.truncate(cut);
        reason.push('…');
    }
    reason.retain(|char| !char.is_control());
    reason
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_what_bpftrace_says_of_errors() {
        let said = "ERROR: Unknown error -1: couldn't set RLIMIT_MEMLOCK for bpftrace.\n\
                    stdin:1:1-16: WARNING: vfs_read is not traceable\n\
                    stdin:1:9-17: ERROR: Undefined map: @x\n\
                    BEGIN { print(@x) }\n        ~~~~~~~~\n\
                    ERROR: failed to detach probe: uprobe:/bin/x:f\n";
        assert_eq!(reason(said.as_bytes()), "Undefined map: @x");
        let long = format!("ERROR: {}", "é".repeat(1000));
        assert!(reason(long.as_bytes()).len() < REASON_BYTES_MAX + 8);
        assert_eq!(reason(b"\xff"), "");
    }
}
