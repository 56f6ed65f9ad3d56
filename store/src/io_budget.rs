//! How much merges of segments may read and write: tokens for bytes, which come at a fixed rate.
//!
//! A use is never cut short, and may be larger than a second's tokens: it owes them, and whoever used them
//! waits until they have come. Seals do not wait, since memory waits for them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Paces what is read and written in the background.
#[derive(Debug)]
pub(crate) struct IoBudget {
    begun: Instant,
    /// None where there is no limit.
    tokens: Option<Mutex<Tokens>>,
    ended: Condvar,
    bytes: AtomicU64,
    waited_ns: AtomicU64,
}

/// What was read and written, and how long it was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) bytes: u64,
    pub(crate) waited: Duration,
}

impl IoBudget {
    pub(crate) fn new(bytes_per_second: Option<u64>) -> Self {
        Self {
            begun: Instant::now(),
            tokens: bytes_per_second.map(|rate| Mutex::new(Tokens::new(rate))),
            ended: Condvar::new(),
            bytes: AtomicU64::new(0),
            waited_ns: AtomicU64::new(0),
        }
    }

    /// Notes a use of `bytes` and blocks until it is within the budget, or the store ends.
    pub(crate) fn spend(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let Some(tokens) = &self.tokens else { return };
        let mut tokens = tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = self.begun.elapsed();
        let until = begun + tokens.take(bytes, begun);
        while !tokens.is_ended
            && let Some(rest) = until.checked_sub(self.begun.elapsed()).filter(|r| !r.is_zero())
        {
            let waited = self.ended.wait_timeout(tokens, rest);
            tokens = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(tokens);
        let waited = self.begun.elapsed().saturating_sub(begun).as_nanos();
        let waited = u64::try_from(waited).unwrap_or(u64::MAX);
        self.waited_ns.fetch_add(waited, Ordering::Relaxed);
    }

    /// Nobody waits any more.
    pub(crate) fn end(&self) {
        let Some(tokens) = &self.tokens else { return };
        tokens.lock().unwrap_or_else(PoisonError::into_inner).is_ended = true;
        self.ended.notify_all();
    }

    pub(crate) fn used(&self) -> Used {
        let waited = Duration::from_nanos(self.waited_ns.load(Ordering::Relaxed));
        Used { bytes: self.bytes.load(Ordering::Relaxed), waited }
    }
}

/// Bytes that may be used now; below zero those that are owed.
#[derive(Debug)]
struct Tokens {
    bytes_per_second: i128,
    left: i128,
    /// Since the beginning, when `left` was right.
    at: Duration,
    is_ended: bool,
}

impl Tokens {
    /// Those of a second.
    fn new(bytes_per_second: u64) -> Self {
        let rate = i128::from(bytes_per_second.max(1));
        Self { bytes_per_second: rate, left: rate, at: Duration::ZERO, is_ended: false }
    }

    /// Takes `bytes` and says how long it is until none are owed. Those of more than a second are not kept.
    fn take(&mut self, bytes: u64, now: Duration) -> Duration {
        const SECOND_NS: i128 = 1_000_000_000;
        let passed_ns = now.saturating_sub(self.at).as_nanos().cast_signed();
        let earned = passed_ns.saturating_mul(self.bytes_per_second) / SECOND_NS;
        self.at = now;
        self.left = (self.left + earned).min(self.bytes_per_second) - i128::from(bytes);
        let owed_ns = (-self.left).max(0) * SECOND_NS / self.bytes_per_second;
        Duration::from_nanos(u64::try_from(owed_ns).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn over_any_time_no_more_is_used_than_comes_in_it_and_one_second_before() {
        let mut tokens = Tokens::new(64 * MIB);
        let (mut now, mut used) = (Duration::ZERO, 0);
        for bytes in [10 * MIB, 200 * MIB, 1, 64 * MIB, 0, 31 * MIB].into_iter().cycle().take(600) {
            let wait = tokens.take(bytes, now);
            now += wait + Duration::from_micros(7);
            used += bytes;
            let come = now.as_secs_f64() + 1.0;
            #[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 bytes")]
            let most = (64 * MIB) as f64 * come + 1024.0;
            #[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 bytes")]
            let used = used as f64;
            assert!(used <= most, "{used} bytes after {now:?}");
        }
        let seconds = used / (64 * MIB);
        assert!(now < Duration::from_secs(seconds + 1), "nor is it waited for longer: {now:?}");
    }

    #[test]
    fn what_was_not_used_is_kept_for_a_second_and_no_longer() {
        let mut tokens = Tokens::new(100);
        assert_eq!(tokens.take(100, Duration::ZERO), Duration::ZERO);
        assert_eq!(tokens.take(50, Duration::ZERO), Duration::from_millis(500));
        let later = Duration::from_hours(1);
        assert_eq!(tokens.take(100, later), Duration::ZERO);
        assert_eq!(tokens.take(300, later), Duration::from_secs(3));
        assert_eq!(tokens.take(0, later + Duration::from_secs(1)), Duration::from_secs(2));
    }

    #[test]
    fn without_a_limit_bytes_are_counted_and_nobody_waits() {
        let budget = IoBudget::new(None);
        budget.spend(u64::MAX / 2);
        assert_eq!(budget.used(), Used { bytes: u64::MAX / 2, waited: Duration::ZERO });
    }

    #[test]
    fn nobody_waits_once_the_store_ends() {
        let budget = IoBudget::new(Some(1));
        std::thread::scope(|scope| {
            let spending = scope.spawn(|| budget.spend(u64::MAX / 4));
            while budget.used().bytes == 0 {
                std::thread::yield_now();
            }
            budget.end();
            spending.join().unwrap();
        });
        budget.spend(1);
        assert_eq!(budget.used().bytes, u64::MAX / 4 + 1);
    }
}
