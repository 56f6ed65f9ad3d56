//! Follows `incidents` and fills one receiver's outbox.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use undine_schema::tables::{DataLoss, INCIDENTS};
use undine_schema::{Feed, Progress, Seq};

use super::ReceiverStats;
use super::notice::Notice;
use super::outbox::{Entry, Outbox, State};
use super::sender::on_disk;
use crate::delivery::{Delays, DeliveryLog, RetryPolicy};

/// Rows that are read at once.
const ROWS_MAX: usize = 256;

/// Carries incidents from the table to one receiver's outbox.
#[derive(Debug)]
pub(super) struct Follower {
    pub(super) name: String,
    pub(super) feed: Arc<dyn Feed>,
    pub(super) newest: watch::Receiver<Seq>,
    pub(super) outbox: Arc<Outbox>,
    pub(super) state: State,
    pub(super) retry: RetryPolicy,
    pub(super) log: DeliveryLog,
    pub(super) stats: Arc<ReceiverStats>,
    /// Rung when there is a new entry.
    pub(super) pending: Arc<Notify>,
    /// Rung when there is room for more.
    pub(super) room: Arc<Notify>,
}

impl Follower {
    /// Follows until `shutdown` fires, then takes what is there by then.
    ///
    /// A full outbox is not read into: the rows wait in the table.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        let mut delays = self.retry.delays();
        let mut is_last = false;
        loop {
            self.newest.mark_unchanged();
            let wait = self.catch_up(&mut delays).await;
            if is_last || self.stats.is_disabled() {
                return;
            }
            tokio::select! {
                () = shutdown.cancelled() => is_last = true,
                () = tokio::time::sleep(wait) => {}
                () = self.room.notified() => {}
                changed = self.newest.changed() => if changed.is_err() {
                    // The table has no writer any more, so nothing will come.
                    shutdown.cancelled().await;
                    is_last = true;
                },
            }
        }
    }

    /// Takes every row that fits, and says how long to wait at most before the next attempt.
    pub(super) async fn catch_up(&mut self, delays: &mut Delays) -> Duration {
        loop {
            match self.step().await {
                Ok(Step::Took) => *delays = self.retry.delays(),
                Ok(Step::Nothing) => return FOREVER,
                Err(error) => {
                    tracing::error!(receiver = self.name, %error,
                        "incidents cannot be queued for a webhook; they wait in their table");
                    return delays.next(None);
                }
            }
        }
    }

    async fn step(&mut self) -> Result<Step, StepError> {
        let room = self.outbox.room().min(ROWS_MAX);
        if room == 0 {
            return Ok(Step::Nothing);
        }
        let progress = self.feed.read(&INCIDENTS, self.state.cursor(), room).await?;
        if progress.cursor == self.state.cursor() {
            return Ok(Step::Nothing);
        }
        let missed_rows = progress.missed_rows;
        let (state, entries) = self.prepare(&progress);
        let next = state.clone();
        // The entries first: a crash in between repeats them, under the same keys.
        on_disk(&self.outbox, move |outbox| {
            outbox.push(&entries)?;
            outbox.set_state(&state)
        })
        .await?;
        self.state = next;
        self.stats.pending.store(self.outbox.len() as u64, Ordering::Relaxed);
        self.pending.notify_one();
        if missed_rows > 0 {
            self.missed(missed_rows);
        }
        Ok(Step::Took)
    }

    fn prepare(&self, progress: &Progress) -> (State, Vec<Entry>) {
        let mut state = self.state.clone();
        let queued_at = self.log.now().get();
        let mut entries = Vec::new();
        for mut notice in progress.slices.iter().flat_map(Notice::of) {
            state.open.follow(&mut notice);
            entries.push(Entry { notice, queued_at, attempts: 0 });
        }
        state.set_cursor(progress.cursor);
        (state, entries)
    }

    fn missed(&self, rows: u64) {
        self.stats.missed_rows.fetch_add(rows, Ordering::Relaxed);
        tracing::warn!(
            receiver = self.name,
            rows,
            "incidents were evicted before a webhook was told"
        );
        let rows = i64::try_from(rows).unwrap_or(i64::MAX);
        self.log.loss(&DataLoss {
            source_table: INCIDENTS.name,
            reason: "evicted",
            rows_min: rows,
            rows_max: rows,
            detail: &format!("webhook {}", self.name),
            ..DataLoss::default()
        });
    }
}

/// Long enough to mean: until something happens.
const FOREVER: Duration = Duration::from_hours(24);

enum Step {
    Took,
    Nothing,
}

#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error("the table cannot be read: {0}")]
    Feed(#[from] undine_schema::FeedError),
    #[error("the outbox cannot be written: {0}")]
    Outbox(#[from] std::io::Error),
}
