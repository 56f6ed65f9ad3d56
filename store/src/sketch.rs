//! A quantile sketch that merges exactly, in any order: counts in log-linear buckets.
//!
//! A bucket is the upper bits of an IEEE double: its exponent and the first 7 bits of its mantissa,
//! so 128 buckets share each power of two and a bucket's middle is at most 0.4 % away from any
//! value in it. Two sketches of the same values are equal bit by bit, however the values were
//! split, since a merge adds integers.
//!
//! In a segment a sketch is two lists of one length, `m_sketch_keys` (ascending) and
//! `m_sketch_counts`, so any engine can read it. The value of key `k` is 0 for 0, for `k > 0`
//! `2^((k >> 7) - 1023) * (1 + ((k & 127) + 0.5) / 128)`, and the mirror image for `k < 0`. The
//! 99th percentile of latency by service in `DuckDB`:
//!
//! ```sql
//! WITH buckets AS (
//!   SELECT service, unnest(latency_sketch_keys) AS k, unnest(latency_sketch_counts) AS n
//!   FROM delta_scan('tables/http_events/1m/NODE')
//! ), sums AS (
//!   SELECT service, k, sum(n) AS n FROM buckets GROUP BY service, k
//! ), ranks AS (
//!   SELECT service, k, sum(n) OVER (PARTITION BY service ORDER BY k) AS upto,
//!          sum(n) OVER (PARTITION BY service) AS total
//!   FROM sums
//! ), found AS (
//!   SELECT service, min(k) AS k FROM ranks WHERE upto > floor(0.99 * (total - 1)) GROUP BY service
//! )
//! SELECT service, CASE WHEN k = 0 THEN 0 ELSE
//!   sign(k) * pow(2, (abs(k) >> 7) - 1023) * (1 + ((abs(k) & 127) + 0.5) / 128) END AS p99
//! FROM found
//! ```

/// Bits of the mantissa that tell buckets apart.
const MANTISSA_BITS: u32 = 7;
/// Bits of a double below those of a bucket.
const DROPPED_BITS: u32 = 52 - MANTISSA_BITS;

/// Largest distance of a quantile from a value of that rank, as a share of the value.
pub const RELATIVE_ERROR_MAX: f64 = 0.004;

/// Counts of values by bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sketch {
    /// Ascending by key, no count is zero.
    buckets: Vec<(i32, i64)>,
}

/// Why two lists are no sketch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PartsError {
    /// One list is longer.
    #[error("a sketch has {keys} keys but {counts} counts")]
    Lengths {
        /// Length of the keys.
        keys: usize,
        /// Length of the counts.
        counts: usize,
    },
    /// A key does not follow its predecessor.
    #[error("key {key} of a sketch does not stand in ascending order")]
    Order {
        /// The key.
        key: i32,
    },
    /// A count is not positive.
    #[error("key {key} of a sketch has count {count}, which is below 1")]
    Count {
        /// The key.
        key: i32,
        /// Its count.
        count: i64,
    },
}

impl Sketch {
    /// A sketch of nothing.
    pub const fn new() -> Self {
        Self { buckets: Vec::new() }
    }

    /// Counts a value. NaN has no rank and is left out.
    pub fn add(&mut self, value: f64) {
        self.add_n(value, 1);
    }

    /// Counts a value `n` times; nothing where `n` is below 1.
    pub fn add_n(&mut self, value: f64, n: i64) {
        if n < 1 || value.is_nan() {
            return;
        }
        self.add_key(key_of(value), n);
    }

    /// Adds the counts of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.merge_buckets(other.buckets.iter().copied());
    }

    /// Adds the counts of a sketch that is still in its two lists; see [`from_parts`](Self::from_parts).
    ///
    /// # Errors
    /// When the lists are no sketch; nothing is then added.
    pub fn merge_parts(&mut self, keys: &[i32], counts: &[i64]) -> Result<(), PartsError> {
        check_parts(keys, counts)?;
        self.merge_buckets(keys.iter().copied().zip(counts.iter().copied()));
        Ok(())
    }

    /// How many values it counts.
    pub fn count(&self) -> i64 {
        self.buckets.iter().map(|&(_, n)| n).sum()
    }

    /// Whether it counts none.
    pub fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    /// The value of rank `q * (count - 1)`, counted from 0 and rounded down, within
    /// [`RELATIVE_ERROR_MAX`]; `q` is clipped to 0..=1. None of nothing.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            reason = "a rank needs no more digits than a double has"
        )]
        let rank = (q.clamp(0.0, 1.0) * (count - 1) as f64).floor() as i64;
        let mut upto = 0;
        let found = self.buckets.iter().find(|&&(_, n)| {
            upto += n;
            upto > rank
        });
        found.or(self.buckets.last()).map(|&(key, _)| middle_of(key))
    }

    /// The keys, ascending, and their counts.
    pub fn to_parts(&self) -> (Vec<i32>, Vec<i64>) {
        self.buckets.iter().copied().unzip()
    }

    /// The buckets as key and count, ascending by key.
    pub fn buckets(&self) -> &[(i32, i64)] {
        &self.buckets
    }

    /// The sketch that [`to_parts`](Self::to_parts) took apart.
    ///
    /// # Errors
    /// When the lists differ in length, the keys do not ascend or a count is below 1.
    pub fn from_parts(keys: &[i32], counts: &[i64]) -> Result<Self, PartsError> {
        check_parts(keys, counts)?;
        Ok(Self { buckets: keys.iter().copied().zip(counts.iter().copied()).collect() })
    }

    fn add_key(&mut self, key: i32, n: i64) {
        match self.buckets.binary_search_by_key(&key, |&(key, _)| key) {
            Ok(at) => self.buckets[at].1 = self.buckets[at].1.saturating_add(n),
            Err(at) => self.buckets.insert(at, (key, n)),
        }
    }

    /// Adds buckets that ascend by key.
    fn merge_buckets(&mut self, others: impl ExactSizeIterator<Item = (i32, i64)>) {
        if others.len() < 8 {
            others.for_each(|(key, n)| self.add_key(key, n));
            return;
        }
        let (mut at, mut new) = (0, Vec::new());
        for (key, n) in others {
            at += self.buckets[at..].iter().take_while(|&&(own, _)| own < key).count();
            match self.buckets.get_mut(at) {
                Some((own, count)) if *own == key => *count = count.saturating_add(n),
                _ => new.push((key, n)),
            }
        }
        // From the end, where there is room.
        let (mut from, mut to) = (self.buckets.len(), self.buckets.len() + new.len());
        self.buckets.resize(to, (0, 0));
        for bucket in new.into_iter().rev() {
            let above = self.buckets[..from].iter().rev().take_while(|&&own| own > bucket).count();
            self.buckets.copy_within(from - above..from, to - above);
            (from, to) = (from - above, to - above - 1);
            self.buckets[to] = bucket;
        }
    }
}

/// A sketch that values are counted into: their keys wait until they are many, and are sorted together.
#[derive(Debug, Default)]
pub(crate) struct Counting {
    sketch: Sketch,
    waiting: Vec<i32>,
}

impl Counting {
    /// Keys that wait.
    const WAITING_MAX: usize = 1024;

    /// Counts a value. NaN has no rank and is left out.
    #[inline]
    pub(crate) fn add(&mut self, value: f64) {
        if value.is_nan() {
            return;
        }
        self.waiting.push(key_of(value));
        if self.waiting.len() >= Self::WAITING_MAX {
            self.settle();
        }
    }

    /// As [`Sketch::merge_parts`].
    pub(crate) fn merge_parts(&mut self, keys: &[i32], counts: &[i64]) -> Result<(), PartsError> {
        self.sketch.merge_parts(keys, counts)
    }

    /// What was counted so far.
    pub(crate) fn settled(&mut self) -> &Sketch {
        self.settle();
        &self.sketch
    }

    fn settle(&mut self) {
        self.waiting.sort_unstable();
        let runs = self.waiting.chunk_by(|a, b| a == b);
        let buckets: Vec<_> = runs.map(|run| (run[0], run.len().cast_signed() as i64)).collect();
        self.sketch.merge_buckets(buckets.into_iter());
        self.waiting.clear();
    }
}

/// The bucket of a value that is not NaN. Values nearer to zero than the smallest normal double
/// are zero.
#[inline]
pub fn key_of(value: f64) -> i32 {
    let magnitude = value.abs();
    if magnitude < f64::MIN_POSITIVE {
        return 0;
    }
    let key = (magnitude.to_bits() >> DROPPED_BITS) as i32;
    if value < 0.0 { -key } else { key }
}

/// The middle of a bucket.
pub fn middle_of(key: i32) -> f64 {
    if key == 0 {
        return 0.0;
    }
    let infinity = key_of(f64::INFINITY);
    if key.abs() >= infinity {
        return f64::INFINITY.copysign(f64::from(key));
    }
    let bits = u64::from(key.unsigned_abs()) << DROPPED_BITS | 1 << (DROPPED_BITS - 1);
    f64::from_bits(bits).copysign(f64::from(key))
}

fn check_parts(keys: &[i32], counts: &[i64]) -> Result<(), PartsError> {
    if keys.len() != counts.len() {
        return Err(PartsError::Lengths { keys: keys.len(), counts: counts.len() });
    }
    if let Some(pair) = keys.windows(2).find(|pair| pair[0] >= pair[1]) {
        return Err(PartsError::Order { key: pair[1] });
    }
    match keys.iter().zip(counts).find(|&(_, &count)| count < 1) {
        Some((&key, &count)) => Err(PartsError::Count { key, count }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sketch_of(values: &[f64]) -> Sketch {
        let mut sketch = Sketch::new();
        for &value in values {
            sketch.add(value);
        }
        sketch
    }

    fn any_value() -> impl Strategy<Value = f64> {
        prop_oneof![
            4 => 1e-9..1e12_f64,
            2 => -1e12..-1e-9_f64,
            1 => Just(0.0),
            1 => proptest::num::f64::NORMAL,
        ]
    }

    proptest! {
        #[test]
        fn a_quantile_is_within_the_stated_error_of_the_value_of_that_rank(
            mut values in prop::collection::vec(any_value(), 1..300),
            q in 0.0..=1.0_f64,
        ) {
            let answer = sketch_of(&values).quantile(q).unwrap();
            values.sort_by(f64::total_cmp);
            #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small index")]
            let exact = values[(q * (values.len() - 1) as f64).floor() as usize];
            prop_assert!(
                (answer - exact).abs() <= exact.abs() * RELATIVE_ERROR_MAX,
                "{answer} for {exact}"
            );
        }

        #[test]
        fn a_merge_gives_the_sketch_of_all_values_however_they_were_split(
            values in prop::collection::vec(any_value(), 0..200),
            places in prop::collection::vec(0..5_usize, 200),
        ) {
            let mut parts = vec![Vec::new(); 5];
            for (&value, &place) in values.iter().zip(&places) {
                parts[place].push(value);
            }
            let mut forwards = Sketch::new();
            for part in &parts {
                forwards.merge(&sketch_of(part));
            }
            let mut backwards = Sketch::new();
            for part in parts.iter().rev() {
                let (keys, counts) = sketch_of(part).to_parts();
                backwards.merge_parts(&keys, &counts).unwrap();
            }
            prop_assert_eq!(&forwards, &sketch_of(&values));
            prop_assert_eq!(&backwards, &forwards);
            let mut counting = Counting::default();
            for &value in values.iter().cycle().take(values.len() * 20) {
                counting.add(value);
            }
            let (keys, counts) = forwards.to_parts();
            let counts: Vec<_> = counts.into_iter().map(|count| count * 20).collect();
            prop_assert_eq!(counting.settled(), &Sketch::from_parts(&keys, &counts).unwrap());
            let (keys, counts) = forwards.to_parts();
            prop_assert_eq!(Sketch::from_parts(&keys, &counts), Ok(forwards));
        }
    }

    #[test]
    fn the_formula_in_the_documentation_gives_the_middle_of_a_bucket() {
        for value in [1.0, 1.5, 1_234_567.0, 3e-7, -42.0] {
            let key = key_of(value);
            let (exponent, mantissa) = ((key.abs() >> 7) - 1023, key.abs() & 127);
            let documented = f64::from(key.signum())
                * 2_f64.powi(exponent)
                * (1.0 + (f64::from(mantissa) + 0.5) / 128.0);
            assert!((middle_of(key) - documented).abs() < f64::EPSILON * documented.abs() * 4.0);
        }
    }

    #[test]
    fn infinities_have_buckets_and_nan_has_none() {
        let sketch = sketch_of(&[f64::NEG_INFINITY, f64::NAN, f64::INFINITY]);
        assert_eq!(sketch.count(), 2);
        assert_eq!(sketch.quantile(0.0), Some(f64::NEG_INFINITY));
        assert_eq!(sketch.quantile(1.0), Some(f64::INFINITY));
    }

    #[test]
    fn lists_that_are_no_sketch_are_refused() {
        assert_eq!(Sketch::from_parts(&[1], &[]), Err(PartsError::Lengths { keys: 1, counts: 0 }));
        assert_eq!(Sketch::from_parts(&[2, 2], &[1, 1]), Err(PartsError::Order { key: 2 }));
        assert_eq!(Sketch::from_parts(&[2], &[0]), Err(PartsError::Count { key: 2, count: 0 }));
    }
}
