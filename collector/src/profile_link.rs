//! The reader's end of the profiler's thread.

use std::io;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::profiler::{BATCHES_MAX, Batch, Flush, Profiler};

/// A running profiler.
#[derive(Debug)]
pub(crate) struct ProfileLink {
    flushes: SyncSender<Flush>,
    batches: Receiver<Batch>,
    thread: JoinHandle<()>,
    /// The number of the last flush.
    asked: u64,
}

impl ProfileLink {
    /// Starts the thread.
    pub(crate) fn start(profiler: Profiler) -> io::Result<Self> {
        let (flushes, told) = mpsc::sync_channel(1);
        let (hand_over, batches) = mpsc::sync_channel(BATCHES_MAX);
        let thread = std::thread::Builder::new()
            .name("undine-profiler".to_owned())
            .spawn(move || profiler.run(&told, &hand_over))?;
        Ok(Self { flushes, batches, thread, asked: 0 })
    }

    /// Asks for everything that was sampled before now; the batch that answers the number that is
    /// given, or a later one, is the last of it.
    pub(crate) fn flush(&mut self) -> u64 {
        match self.flushes.try_send(Flush(self.asked + 1)) {
            Ok(()) => self.asked += 1,
            // One that waits already asks for the same.
            Err(error) => tracing::debug!(%error, "the profiler is not asked again"),
        }
        self.asked
    }

    /// The next batch, for which it waits up to `wait`.
    pub(crate) fn next(&self, wait: Duration) -> Option<Batch> {
        self.batches.recv_timeout(wait).ok()
    }

    /// Whether the thread has ended, which it does by itself only where it panics.
    pub(crate) fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Ends the thread, and says so where it had panicked. What it has not handed over is lost.
    pub(crate) fn stop(self) {
        let Self { flushes, batches, thread, .. } = self;
        drop((flushes, batches));
        if thread.join().is_err() {
            tracing::error!("the profiler panicked; there are no CPU profiles since then");
        }
    }
}
