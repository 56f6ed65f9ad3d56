//! Points in time, and where the time comes from.

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Nanoseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimeNs(i64);

impl TimeNs {
    /// The epoch itself, which also stands for "no time" where `PxL` has no null.
    pub const ZERO: Self = Self(0);

    /// The point `ns` nanoseconds after the epoch.
    pub const fn new(ns: i64) -> Self {
        Self(ns)
    }

    /// Nanoseconds since the epoch.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// The start of the window of `width` that holds this point; windows are aligned to the epoch.
    ///
    /// A width of zero leaves the point as it is.
    pub fn floor_to(self, width: Duration) -> Self {
        let width = duration_ns(width);
        if width == 0 { self } else { Self(self.0 - self.0.rem_euclid(width)) }
    }

    /// The first window edge at or after this point.
    pub fn ceil_to(self, width: Duration) -> Self {
        let floor = self.floor_to(width);
        if floor == self { self } else { floor.saturating_add(width) }
    }

    /// This point moved into the future, clipped at the end of the representable range.
    pub fn saturating_add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(duration_ns(by)))
    }

    /// This point moved into the past, clipped at the start of the representable range.
    pub fn saturating_sub(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(duration_ns(by)))
    }

    /// How long after `earlier` this point is; zero if it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl fmt::Display for TimeNs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn duration_ns(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// Where a component takes the time from, so that tests can hold it still.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The present moment.
    fn now(&self) -> TimeNs;
}

/// The machine's wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> TimeNs {
        #[expect(
            clippy::disallowed_methods,
            reason = "this is the clock that others are told to use"
        )]
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        TimeNs(duration_ns(since_epoch))
    }
}

/// A clock that moves only when it is told to.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// A clock that stands at `at`.
    pub fn new(at: TimeNs) -> Self {
        Self(AtomicI64::new(at.0))
    }

    /// Moves the clock to `at`.
    pub fn set(&self, at: TimeNs) {
        self.0.store(at.0, Ordering::SeqCst);
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(duration_ns(by), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> TimeNs {
        TimeNs(self.0.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_before_the_epoch_are_aligned_like_those_after_it() {
        let ten = Duration::from_nanos(10);
        assert_eq!(TimeNs::new(-1).floor_to(ten), TimeNs::new(-10));
        assert_eq!(TimeNs::new(19).floor_to(ten), TimeNs::new(10));
        assert_eq!(TimeNs::new(11).ceil_to(ten), TimeNs::new(20));
        assert_eq!(TimeNs::new(20).ceil_to(ten), TimeNs::new(20));
    }
}
