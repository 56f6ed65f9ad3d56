//! Latencies of one window: how many requests took how long.
//!
//! Buckets are log-linear, 32 to an octave, so that a quantile is within 1.6 % of the true one for
//! every latency from a microsecond to 18 minutes; taking in a latency costs a few nanoseconds.

use serde::{Deserialize, Serialize};

const SUB_BITS: u32 = 5;
const FIRST_OCTAVE: u32 = 10;
const LAST_OCTAVE: u32 = 39;
const BUCKETS: usize = ((LAST_OCTAVE - FIRST_OCTAVE + 1) << SUB_BITS) as usize;

/// Counts of latencies by size.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Sparse", into = "Sparse")]
pub(crate) struct Histogram {
    /// Empty until the first latency, then one count a bucket.
    counts: Vec<u32>,
    total: u64,
}

impl Histogram {
    /// Takes in one latency; negative ones count as zero.
    pub(crate) fn add(&mut self, latency_ns: i64) {
        if self.counts.is_empty() {
            self.counts = vec![0; BUCKETS];
        }
        let count = &mut self.counts[bucket(latency_ns)];
        *count = count.saturating_add(1);
        self.total += 1;
    }

    /// Takes in what another window held.
    pub(crate) fn merge(&mut self, other: &Self) {
        if other.counts.is_empty() {
            return;
        }
        if self.counts.is_empty() {
            self.counts = vec![0; BUCKETS];
        }
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count = count.saturating_add(*more);
        }
        self.total += other.total;
    }

    /// How many latencies it holds.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// The latency in nanoseconds that a share `q` of the requests did not exceed, or nothing if
    /// there were none.
    pub(crate) fn quantile(&self, q: f64) -> Option<f64> {
        let rank = q.clamp(0.0, 1.0) * as_f64(self.total.checked_sub(1)?);
        let mut before = 0.0;
        for (index, &count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let here = f64::from(count);
            if rank < before + here {
                let (low, high) = edges(index);
                return Some(low + (high - low) * (rank - before + 0.5) / here.max(1.0));
            }
            before += here;
        }
        None
    }

    /// The share of requests that took longer than `latency_ns`, from 0 to 1.
    pub(crate) fn share_above(&self, latency_ns: f64) -> f64 {
        if self.total == 0 {
            return 0.0;
        }
        let above: f64 = self
            .counts
            .iter()
            .enumerate()
            .filter(|(index, count)| **count > 0 && edges(*index).0 >= latency_ns)
            .map(|(_, count)| f64::from(*count))
            .sum();
        above / as_f64(self.total)
    }
}

/// The form in which a histogram is saved: only the buckets that hold something.
#[derive(Serialize, Deserialize)]
struct Sparse(Vec<(u16, u32)>);

impl From<Histogram> for Sparse {
    fn from(histogram: Histogram) -> Self {
        let filled = histogram.counts.iter().zip(0_u16..).filter(|(count, _)| **count > 0);
        Self(filled.map(|(count, index)| (index, *count)).collect())
    }
}

impl From<Sparse> for Histogram {
    fn from(sparse: Sparse) -> Self {
        let mut histogram = Self::default();
        for (index, count) in sparse.0 {
            if histogram.counts.is_empty() {
                histogram.counts = vec![0; BUCKETS];
            }
            if let Some(slot) = histogram.counts.get_mut(usize::from(index)) {
                *slot = count;
                histogram.total += u64::from(count);
            }
        }
        histogram
    }
}

fn bucket(latency_ns: i64) -> usize {
    let ns = u64::try_from(latency_ns).unwrap_or(0).max(1 << FIRST_OCTAVE);
    let octave = ns.ilog2();
    if octave > LAST_OCTAVE {
        return BUCKETS - 1;
    }
    let sub = (ns >> (octave - SUB_BITS)) & ((1 << SUB_BITS) - 1);
    #[expect(clippy::cast_possible_truncation, reason = "there are 960 buckets")]
    let index = (u64::from(octave - FIRST_OCTAVE) << SUB_BITS | sub) as usize;
    index
}

fn edges(index: usize) -> (f64, f64) {
    #[expect(clippy::cast_possible_truncation, reason = "there are 960 buckets")]
    let octave = (index >> SUB_BITS) as u32 + FIRST_OCTAVE;
    let sub = (index & ((1 << SUB_BITS) - 1)) as u64;
    let step = 1_u64 << (octave - SUB_BITS);
    let low = (1_u64 << octave) + sub * step;
    (as_f64(low), as_f64(low + step))
}

/// A count as a double; exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
pub(crate) fn as_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_two_percent_over_six_decades() {
        for scale in [2_000_i64, 1_000_000, 1_000_000_000] {
            let mut histogram = Histogram::default();
            for step in 1..=1000 {
                histogram.add(scale * step);
            }
            for q in [0.5, 0.9, 0.99] {
                let truth = as_f64(scale.unsigned_abs()) * (q * 999.0 + 1.0);
                let found = histogram.quantile(q).unwrap();
                assert!((found / truth - 1.0).abs() < 0.02, "{q} of {scale}: {found}, not {truth}");
            }
        }
    }

    #[test]
    fn a_saved_histogram_comes_back_equal() {
        let mut histogram = Histogram::default();
        for latency in [-5, 0, 1_500, 1_000_000, i64::MAX] {
            histogram.add(latency);
        }
        let text = serde_json::to_string(&histogram).unwrap();
        assert_eq!(serde_json::from_str::<Histogram>(&text).unwrap(), histogram);
        assert_eq!(histogram.total(), 5);
    }

    #[test]
    fn an_empty_histogram_has_no_quantile() {
        assert_eq!(Histogram::default().quantile(0.5), None);
        assert_eq!(serde_json::from_str::<Histogram>("[]").unwrap(), Histogram::default());
    }
}
