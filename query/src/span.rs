//! Ranges of time.

use undine_store::Segment;

/// A range of time: the first point, and the first that is no longer in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) from: i64,
    pub(crate) until: i64,
}

impl Span {
    pub(crate) const ALL: Self = Self { from: i64::MIN, until: i64::MAX };

    pub(crate) fn and(self, other: Self) -> Self {
        Self { from: self.from.max(other.from), until: self.until.min(other.until) }
    }

    /// From the first point of both to the last.
    pub(crate) fn or(self, other: Self) -> Self {
        Self { from: self.from.min(other.from), until: self.until.max(other.until) }
    }

    /// Whether it is said where it begins.
    pub(crate) fn has_start(self) -> bool {
        self.from > i64::MIN
    }

    pub(crate) fn has(self, time: i64) -> bool {
        (self.from..self.until).contains(&time)
    }

    /// Whether every row of the segment is in it.
    pub(crate) fn covers(self, segment: &Segment) -> bool {
        self.from <= segment.first_time.get() && segment.last_time.get() < self.until
    }
}
