//! What every delivery has in common: the record of its attempts, and when the next one is due.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use undine_schema::tables::{DATA_LOSS, DELIVERIES, DataLoss, DataLosses, Deliveries, Delivery};
use undine_schema::{Append, AppendError, Clock, Frame, TimeNs};

/// How failed deliveries are repeated.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// The wait after the first failure; it doubles from there, with jitter.
    pub first_delay: Duration,
    /// The longest wait, also where a receiver asks for a longer one.
    pub delay_max: Duration,
}

impl RetryPolicy {
    /// The waits between attempts, without end.
    pub(crate) fn delays(self) -> Delays {
        let builder = ExponentialBuilder::new()
            .with_min_delay(self.first_delay)
            .with_max_delay(self.delay_max)
            .with_factor(2.0)
            .with_jitter()
            .without_max_times();
        Delays { policy: self, backoff: builder.build() }
    }
}

/// The waits between the attempts of one delivery.
#[derive(Debug)]
pub(crate) struct Delays {
    policy: RetryPolicy,
    backoff: ExponentialBackoff,
}

impl Delays {
    /// The next wait: what the receiver asked for, or exponentially more than the last.
    pub(crate) fn next(&mut self, asked: Option<Duration>) -> Duration {
        let grown = self.backoff.next().unwrap_or(self.policy.delay_max);
        asked.map_or(grown, |asked| asked.max(self.policy.first_delay)).min(self.policy.delay_max)
    }
}

/// Writes attempts to `deliveries` and losses to `data_loss`.
#[derive(Clone, Debug)]
pub struct DeliveryLog {
    append: Arc<dyn Append>,
    clock: Arc<dyn Clock>,
    unrecorded_rows: Arc<AtomicU64>,
}

impl DeliveryLog {
    /// A log that writes through `append` with the time of `clock`.
    pub fn new(append: Arc<dyn Append>, clock: Arc<dyn Clock>) -> Self {
        Self { append, clock, unrecorded_rows: Arc::default() }
    }

    /// Rows that the store refused; deliveries go on without them.
    pub fn unrecorded_rows(&self) -> u64 {
        self.unrecorded_rows.load(Ordering::Relaxed)
    }

    /// The present moment.
    pub(crate) fn now(&self) -> TimeNs {
        self.clock.now()
    }

    /// Records an attempt that ended now.
    pub(crate) fn attempt(&self, attempt: &Delivery<'_>) {
        let mut rows = Deliveries::new(1);
        rows.push(&Delivery { time_: self.now(), ..*attempt });
        self.write(Frame::captured(&DELIVERIES, rows.finish()));
    }

    /// Records that something was not delivered and never will be.
    pub(crate) fn loss(&self, loss: &DataLoss<'_>) {
        let mut rows = DataLosses::new(1);
        rows.push(&DataLoss { time_: self.now(), stage: "export", ..*loss });
        self.write(Frame::captured(&DATA_LOSS, rows.finish()));
    }

    /// The frame's level needs no wait: rows are as durable as everything that is captured.
    fn write(&self, frame: Frame) {
        if let Err(error) = self.append.append(frame) {
            self.unrecorded_rows.fetch_add(1, Ordering::Relaxed);
            if !matches!(error, AppendError::Stopping) {
                tracing::warn!(%error, "the outcome of a delivery could not be recorded");
            }
        }
    }
}

/// A span of time as nanoseconds for a table.
pub(crate) fn duration_ns(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// An error with its causes, for a message that has no room for a source.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_maximum_and_a_receivers_wish_counts_up_to_it() {
        let policy = RetryPolicy {
            first_delay: Duration::from_millis(100),
            delay_max: Duration::from_secs(1),
        };
        let mut delays = policy.delays();
        let first = delays.next(None);
        assert!((100..=200).contains(&first.as_millis()), "{first:?}");
        assert_eq!(delays.next(Some(Duration::from_millis(700))), Duration::from_millis(700));
        assert_eq!(delays.next(Some(Duration::from_hours(1))), Duration::from_secs(1));
        assert_eq!(delays.next(Some(Duration::ZERO)), Duration::from_millis(100));
        for _ in 0..100 {
            assert!(delays.next(None) <= Duration::from_secs(1));
        }
    }
}
