//! Which items of a request could not be kept, and why.

use std::fmt;

/// Why one span or data point is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// A trace id is not 16 bytes, or all of them are zero.
    TraceId,
    /// A span id is not 8 bytes, or all of them are zero; or a parent's is not 8 bytes.
    SpanId,
    /// A time is missing, lies after the year 2262, or an end lies before its start.
    Time,
    /// There is no value, or it is not a finite number; tables have no nulls.
    Value,
    /// Buckets do not fit their bounds.
    Buckets,
    /// A metric of a kind that is not known here.
    Kind,
    /// The rows of the request would be too large.
    TooLarge,
}

impl Refusal {
    const ALL: [Self; 7] = [
        Self::TraceId,
        Self::SpanId,
        Self::Time,
        Self::Value,
        Self::Buckets,
        Self::Kind,
        Self::TooLarge,
    ];

    const fn phrase(self) -> &'static str {
        match self {
            Self::TraceId => "without a valid 16-byte trace id",
            Self::SpanId => "without a valid 8-byte span id",
            Self::Time => "with a missing or impossible time",
            Self::Value => "without a finite value",
            Self::Buckets => "with buckets that do not fit their bounds",
            Self::Kind => "of an unknown kind of metric",
            Self::TooLarge => {
                "beyond the size that one request may expand to; send smaller batches"
            }
        }
    }
}

/// How many items of a request were refused, by reason.
#[derive(Clone, Debug, Default)]
pub(super) struct Refused([u64; Refusal::ALL.len()]);

impl Refused {
    pub(super) fn add(&mut self, refusal: Refusal) {
        self.0[refusal as usize] += 1;
    }

    pub(super) fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    pub(super) fn total_signed(&self) -> i64 {
        i64::try_from(self.total()).unwrap_or(i64::MAX)
    }
}

/// Writes a sentence for the sender's developer, empty where nothing was refused.
impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reasons = Refusal::ALL.into_iter().map(|refusal| (self.0[refusal as usize], refusal));
        for (position, (count, refusal)) in reasons.filter(|(count, _)| *count > 0).enumerate() {
            let lead = if position == 0 { "refused " } else { ", " };
            write!(f, "{lead}{count} {}", refusal.phrase())?;
        }
        Ok(())
    }
}

/// Bytes of text that the rows of one request may still take.
#[derive(Debug)]
pub(super) struct TextBudget(usize);

impl TextBudget {
    pub(super) const fn new(bytes_max: usize) -> Self {
        Self(bytes_max)
    }

    /// Takes `bytes`, or leaves the budget as it is.
    pub(super) fn take(&mut self, bytes: usize) -> Result<(), Refusal> {
        self.0 = self.0.checked_sub(bytes).ok_or(Refusal::TooLarge)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_counted_by_reason_and_told_in_one_sentence() {
        let mut refused = Refused::default();
        assert_eq!(refused.to_string(), "");
        refused.add(Refusal::Time);
        refused.add(Refusal::TraceId);
        refused.add(Refusal::Time);
        assert_eq!(refused.total(), 3);
        assert_eq!(
            refused.to_string(),
            "refused 1 without a valid 16-byte trace id, 2 with a missing or impossible time"
        );
    }
}
