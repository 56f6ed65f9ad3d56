//! What the parsers say of gaps: where they begin after one, and which rows are missing because of it.

use crate::data_stream::Missing;
use crate::event::Uncaptured;

/// Why rows are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// Messages of the kernel were lost.
    RingFull,
    /// Bytes outside of a body were left out since the ring was filling.
    RingFilling,
    /// Bytes outside of a body were truncated.
    Truncated,
    /// Bytes outside of a body never were in a buffer.
    Bypassed,
    /// The bytes are not what the protocol allows.
    ParseError,
    /// A response came that answers no request that was seen.
    Unrequested,
    /// More requests wait for their response than may.
    InFlightFull,
    /// The connection was there before capture began.
    Midstream,
}

impl Cause {
    /// The reason in the table `data_loss`.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::RingFull => "ring_full",
            Self::RingFilling => "ring_filling",
            Self::Truncated => "truncated",
            Self::Bypassed => "bypassed",
            Self::ParseError => "parse_error",
            Self::Unrequested => "unrequested",
            Self::InFlightFull => "in_flight_full",
            Self::Midstream => "midstream",
        }
    }

    /// The cause of a hole.
    pub const fn of(missing: Missing) -> Self {
        match missing {
            Missing::Lost => Self::RingFull,
            Missing::Uncaptured(Uncaptured::Shed) => Self::RingFilling,
            Missing::Uncaptured(Uncaptured::Truncated | Uncaptured::Fault) => Self::Truncated,
            Missing::Uncaptured(Uncaptured::Bypassed | Uncaptured::Elided) => Self::Bypassed,
        }
    }
}

/// Rows that are missing because a connection was out of step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostRows {
    /// Why, first of all.
    pub cause: Cause,
    /// At least this many.
    pub rows_min: u64,
    /// At most this many.
    pub rows_max: u64,
    /// Bytes that went by unread in the direction of requests, or of either if servers push.
    pub request_bytes: u64,
}

/// How a connection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With its first byte.
    AtItsBeginning,
    /// After bytes that were not seen, `request_bytes` of them in the direction of requests.
    AfterGap {
        /// Why they were not.
        cause: Cause,
        /// How many there were.
        request_bytes: u64,
    },
}

/// Counts what a connection misses while it is out of step, until that is told.
#[derive(Debug)]
pub(crate) struct GapAccount {
    request_bytes_min: u64,
    cause: Cause,
    rows: u64,
    unread_request_bytes: u64,
}

impl GapAccount {
    /// An account of a protocol whose requests have at least `request_bytes_min` bytes.
    pub(crate) const fn new(request_bytes_min: u64, start: Start) -> Self {
        let (cause, unread_request_bytes) = match start {
            Start::AtItsBeginning => (Cause::ParseError, 0),
            Start::AfterGap { cause, request_bytes } => (cause, request_bytes),
        };
        Self { request_bytes_min, cause, rows: 0, unread_request_bytes }
    }

    /// Takes note why a gap begins; the first cause counts until it is told.
    pub(crate) const fn begin(&mut self, cause: Cause) {
        if !self.has_rows() {
            self.cause = cause;
        }
    }

    /// Counts a row that is certainly missing.
    pub(crate) const fn lose_row(&mut self) {
        self.rows += 1;
    }

    /// Counts bytes that went by unread in the direction of requests.
    pub(crate) const fn unread(&mut self, bytes: u64) {
        self.unread_request_bytes = self.unread_request_bytes.saturating_add(bytes);
    }

    /// Whether rows are known to be missing.
    pub(crate) const fn has_rows(&self) -> bool {
        self.rows > 0 || self.unread_request_bytes >= self.request_bytes_min
    }

    /// Takes the rows that are known to be missing since the last call.
    pub(crate) fn take(&mut self) -> Option<LostRows> {
        let unread = self.unread_request_bytes / self.request_bytes_min;
        if self.rows + unread == 0 {
            return None;
        }
        // The remainder stays, so that the bounds of several calls add up to that of one.
        self.unread_request_bytes %= self.request_bytes_min;
        let rows_min = std::mem::take(&mut self.rows);
        Some(LostRows {
            cause: self.cause,
            rows_min,
            rows_max: rows_min + unread,
            request_bytes: unread * self.request_bytes_min,
        })
    }
}
