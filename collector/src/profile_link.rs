//! The reader's end of the profiler's thread.

use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::profiler::{BATCHES_MAX, Batch, Command, Profiler};

/// A running profiler.
#[derive(Debug)]
pub(crate) struct ProfileLink {
    commands: Sender<Command>,
    batches: Receiver<Batch>,
    thread: JoinHandle<()>,
}

impl ProfileLink {
    /// Starts the thread.
    pub(crate) fn start(profiler: Profiler) -> io::Result<Self> {
        // Only the reader's loop sends, and only one command at a time.
        let (commands, told) = mpsc::channel();
        let (hand_over, batches) = mpsc::sync_channel(BATCHES_MAX);
        let thread = std::thread::Builder::new()
            .name("undine-profiler".to_owned())
            .spawn(move || profiler.run(&told, &hand_over))?;
        Ok(Self { commands, batches, thread })
    }

    /// Asks for everything that was sampled before now; a batch that answers is the last of it.
    pub(crate) fn flush(&self) {
        self.tell(Command::Flush);
    }

    /// The next batch, for which it waits up to `wait`.
    pub(crate) fn next(&self, wait: Duration) -> Option<Batch> {
        match self.batches.recv_timeout(wait) {
            Ok(batch) => Some(batch),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => None,
        }
    }

    /// Whether the thread has ended, which it does by itself only where it panics.
    pub(crate) fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Ends the thread, and says so where it had panicked.
    pub(crate) fn stop(self) {
        let Self { commands, batches, thread } = self;
        if commands.send(Command::Stop).is_err() {
            tracing::debug!("the profiler has ended by itself");
        }
        // Its last batch has nowhere to go: what was sampled was drained before.
        drop(batches);
        if thread.join().is_err() {
            tracing::error!("the profiler panicked; there are no CPU profiles since then");
        }
    }

    fn tell(&self, command: Command) {
        if self.commands.send(command).is_err() {
            tracing::debug!("the profiler has ended");
        }
    }
}
