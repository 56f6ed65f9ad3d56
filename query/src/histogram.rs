//! Counts of one group's values in the buckets of the store's sketch, laid out so that counting a
//! value is one addition.
//!
//! ```text
//! one state        encoded: as it came; most groups of a long range have no other
//! few buckets      rest: sorted keys and counts (a Sketch)
//! more than that   dense: one counter for each bucket of some powers of two, rest: whatever is outside
//! ```
//!
//! What a bucket counts is what all parts hold of it, so the layout never shows in an answer: two
//! histograms of the same values give the same quantiles however the values came.

use datafusion::common::{DataFusionError, Result, exec_datafusion_err, exec_err};
use undine_store::sketch::{Sketch, key_of, middle_of};

/// Buckets of one power of two.
const OCTAVE: i32 = 128;
/// Buckets that have counters of their own: 32 powers of two, 16 KiB.
const DENSE_BUCKETS_MAX: usize = 32 * OCTAVE as usize;
/// Counters that are looked at together.
const STRIDE: usize = 16;
/// Buckets up to which keys and counts are kept sorted instead.
const SPARSE_BUCKETS_MAX: usize = 32;

/// Counts of values by bucket.
#[derive(Clone, Debug, Default)]
pub(crate) struct Histogram {
    /// Key of the first counter; a multiple of [`OCTAVE`].
    base: i32,
    dense: Vec<u32>,
    rest: Sketch,
    /// Empty as soon as anything else is counted.
    encoded: Box<[u8]>,
    /// Values that it counts.
    encoded_count: i64,
}

impl Histogram {
    /// Counts a value; NaN has no rank and is left out. What it took of memory is added to `bytes`.
    #[inline]
    pub(crate) fn add(&mut self, value: f64, bytes: &mut usize) {
        if !value.is_nan() {
            self.add_key(key_of(value), bytes);
        }
    }

    #[inline]
    fn add_key(&mut self, key: i32, bytes: &mut usize) {
        match self.dense.get_mut(key.wrapping_sub(self.base).cast_unsigned() as usize) {
            Some(count) if *count < u32::MAX => *count += 1,
            _ => self.add_elsewhere(key, 1, bytes),
        }
    }

    #[inline]
    fn add_n(&mut self, key: i32, n: i64, bytes: &mut usize) {
        let counter = self.dense.get_mut(key.wrapping_sub(self.base).cast_unsigned() as usize);
        match counter.map(|count| (u32::try_from(i64::from(*count) + n.min(1 << 32)), count)) {
            Some((Ok(sum), count)) => *count = sum,
            _ => self.add_elsewhere(key, n, bytes),
        }
    }

    /// Adds what has no counter, or more than it can hold.
    #[cold]
    fn add_elsewhere(&mut self, key: i32, n: i64, bytes: &mut usize) {
        if !self.encoded.is_empty() {
            self.unpack(bytes);
            return self.add_n(key, n, bytes);
        }
        let before = self.bytes();
        let full = self.covers(key);
        if !full && self.grow_to(key) {
            self.add_n(key, n, bytes);
        } else {
            let added = self.rest.merge_parts(&[key], &[n]);
            debug_assert!(added.is_ok(), "one key with a count above zero is a sketch");
            if self.dense.is_empty() && self.rest.buckets().len() > SPARSE_BUCKETS_MAX {
                self.densify();
            }
        }
        *bytes += self.bytes().saturating_sub(before);
    }

    fn covers(&self, key: i32) -> bool {
        (key.wrapping_sub(self.base).cast_unsigned() as usize) < self.dense.len()
    }

    /// Gives a key a counter, where there are counters and that does not make too many.
    fn grow_to(&mut self, key: i32) -> bool {
        if self.dense.is_empty() || key < OCTAVE {
            return false;
        }
        let octave = key - key.rem_euclid(OCTAVE);
        let end = self.base.saturating_add(i32::try_from(self.dense.len()).unwrap_or(i32::MAX));
        let base = self.base.min(octave);
        let buckets = usize::try_from(end.max(octave + OCTAVE) - base).unwrap_or(usize::MAX);
        if buckets > DENSE_BUCKETS_MAX {
            return false;
        }
        let mut dense = vec![0; buckets];
        let offset = usize::try_from(self.base - base).unwrap_or(0);
        dense[offset..offset + self.dense.len()].copy_from_slice(&self.dense);
        (self.base, self.dense) = (base, dense);
        true
    }

    /// Makes counters for the buckets so far.
    fn densify(&mut self) {
        let rest = std::mem::take(&mut self.rest);
        self.make_counters(rest.buckets());
        if self.dense.is_empty() {
            self.rest = rest;
            return;
        }
        let mut bytes = 0;
        for &(key, n) in rest.buckets() {
            self.add_n(key, n, &mut bytes);
        }
    }

    /// Makes counters, where there are none, for all positive ones of these ascending buckets, or for
    /// those around their middle if that would be too many.
    fn make_counters(&mut self, buckets: &[(i32, i64)]) {
        let positive = &buckets[buckets.partition_point(|&(key, _)| key < OCTAVE)..];
        let octave = |&(key, _): &(i32, i64)| key - key.rem_euclid(OCTAVE);
        let (Some(first), Some(middle), Some(last)) = (
            positive.first().map(octave),
            positive.get(positive.len() / 2).map(octave),
            positive.last().map(octave),
        ) else {
            return;
        };
        let buckets = usize::try_from(last + OCTAVE - first).unwrap_or(usize::MAX);
        (self.base, self.dense) = if buckets <= DENSE_BUCKETS_MAX {
            (first, vec![0; buckets])
        } else {
            (middle, vec![0; OCTAVE as usize])
        };
    }

    /// Adds the counts that [`encode`](Self::encode) wrote.
    pub(crate) fn merge_encoded(&mut self, state: &[u8], bytes: &mut usize) -> Result<()> {
        if self.is_empty()
            && let Some(count) = ascending_count(state)?
        {
            *bytes += state.len();
            (self.encoded, self.encoded_count) = (state.into(), count);
            return Ok(());
        }
        self.unpack(bytes);
        self.merge_buckets(state, bytes)
    }

    /// Counts what is there as one state.
    fn unpack(&mut self, bytes: &mut usize) {
        let encoded = std::mem::take(&mut self.encoded);
        self.encoded_count = 0;
        *bytes = bytes.saturating_sub(encoded.len());
        let merged = self.merge_buckets(&encoded, bytes);
        debug_assert!(merged.is_ok(), "it was read when it came");
    }

    fn merge_buckets(&mut self, mut state: &[u8], bytes: &mut usize) -> Result<()> {
        let mut before = 0;
        if self.dense.is_empty() && state.len() > 2 * SPARSE_BUCKETS_MAX {
            // As many counters as it needs at once, and not one power of two after the other.
            let mut buckets = Vec::with_capacity(state.len() / 2);
            while !state.is_empty() {
                buckets.push(take_bucket(&mut state, &mut before).ok_or_else(damaged)?);
            }
            if buckets.len() > SPARSE_BUCKETS_MAX && buckets.is_sorted() {
                let held = self.bytes();
                self.make_counters(&buckets);
                *bytes += self.bytes().saturating_sub(held);
            }
            for (key, n) in buckets {
                self.add_n(key, n, bytes);
            }
        }
        while !state.is_empty() {
            let (key, n) = take_bucket(&mut state, &mut before).ok_or_else(damaged)?;
            self.add_n(key, n, bytes);
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.dense.is_empty() && self.rest.buckets().is_empty() && self.encoded.is_empty()
    }

    /// Appends the counts to `out`: the distance of each key from the one before, zigzag, and its
    /// count, each in groups of 7 bits, lowest first.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        if !self.encoded.is_empty() {
            out.extend_from_slice(&self.encoded);
            return;
        }
        let mut before = 0;
        out.reserve(self.dense.len());
        self.for_each(&mut |key, n| put_bucket(out, &mut before, key, n));
    }

    /// The values of ranks `q * (count - 1)`, counted from 0 and rounded down, for ascending `qs`;
    /// none of nothing.
    pub(crate) fn quantiles<const N: usize>(&self, qs: [f64; N]) -> Option<[f64; N]> {
        let dense: i64 = self.dense.iter().map(|&n| i64::from(n)).sum();
        let rest = self.rest.buckets().iter().map(|&(_, n)| n);
        let count = rest.chain([self.encoded_count]).fold(dense, i64::saturating_add);
        if count == 0 {
            return None;
        }
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            reason = "a rank needs no more digits than a double has"
        )]
        let rank = |q: f64| (q.clamp(0.0, 1.0) * (count - 1) as f64).floor() as i64;
        // A double may round the last rank up, to one that no value has.
        let ranks = qs.map(|q| rank(q).min(count - 1));
        let mut search = Search { ranks, found: [0.0; N], at: 0, upto: 0 };
        self.for_each(&mut search);
        Some(search.found)
    }

    /// Each bucket and its count, ascending by key.
    fn for_each(&self, visit: &mut impl Visit) {
        for (key, n) in buckets(&self.encoded) {
            visit.bucket(key, n);
        }
        let end = self.base.saturating_add(i32::try_from(self.dense.len()).unwrap_or(i32::MAX));
        let rest = self.rest.buckets();
        let (below, rest) = rest.split_at(rest.partition_point(|&(key, _)| key < self.base));
        let (carried, above) = rest.split_at(rest.partition_point(|&(key, _)| key < end));
        for &(key, n) in below {
            visit.bucket(key, n);
        }
        let mut carried = carried.iter().copied().peekable();
        let (strides, _) = self.dense.as_chunks();
        for (key, counters) in (self.base..).step_by(STRIDE).zip(strides) {
            if carried.peek().is_some() {
                for (key, &n) in (key..).zip(counters) {
                    let more = carried.next_if(|&(other, _)| other == key).map_or(0, |(_, n)| n);
                    let n = i64::from(n).saturating_add(more);
                    if n > 0 {
                        visit.bucket(key, n);
                    }
                }
            } else if !visit.passes(counters) {
                // Most counters of a few values are zero, and which is hard to foresee.
                let mut held = held(counters);
                while held != 0 {
                    let at = held.trailing_zeros();
                    visit.bucket(key + at.cast_signed(), i64::from(counters[at as usize]));
                    held &= held - 1;
                }
            }
        }
        for &(key, n) in above {
            visit.bucket(key, n);
        }
    }

    /// Memory that it holds beside itself.
    fn bytes(&self) -> usize {
        self.dense.capacity() * size_of::<u32>()
            + size_of_val(self.rest.buckets())
            + self.encoded.len()
    }
}

/// What is done with buckets, which come ascending by key.
trait Visit {
    /// A bucket that counts something.
    fn bucket(&mut self, key: i32, n: i64);

    /// Whether the buckets of these counters need not be looked at one by one.
    fn passes(&mut self, _counters: &[u32; STRIDE]) -> bool {
        false
    }
}

impl<F: FnMut(i32, i64)> Visit for F {
    fn bucket(&mut self, key: i32, n: i64) {
        self(key, n);
    }
}

/// Looks for the values of ascending ranks.
struct Search<const N: usize> {
    ranks: [i64; N],
    found: [f64; N],
    /// The rank that is looked for.
    at: usize,
    /// Values in the buckets so far.
    upto: i64,
}

impl<const N: usize> Visit for Search<N> {
    fn bucket(&mut self, key: i32, n: i64) {
        self.upto = self.upto.saturating_add(n);
        while self.at < N && self.upto > self.ranks[self.at] {
            self.found[self.at] = middle_of(key);
            self.at += 1;
        }
    }

    fn passes(&mut self, counters: &[u32; STRIDE]) -> bool {
        let upto = self.upto.saturating_add(counters.iter().map(|&n| i64::from(n)).sum());
        let passes = self.ranks.get(self.at).is_none_or(|&rank| upto <= rank);
        if passes {
            self.upto = upto;
        }
        passes
    }
}

/// One bit for each counter that counts something, the first one's lowest.
fn held(counters: &[u32; STRIDE]) -> u32 {
    counters.iter().enumerate().fold(0, |held, (at, &n)| held | u32::from(n > 0) << at)
}

/// Appends the counts of a sketch that is two lists to `out`, as [`Histogram::encode`] does.
pub(crate) fn encode_lists(keys: &[i32], counts: &[i64], out: &mut Vec<u8>) -> Result<()> {
    if keys.len() != counts.len() || counts.iter().any(|&n| n < 1) {
        return exec_err!("a summary holds a damaged sketch: its lists do not fit");
    }
    let mut before = 0;
    keys.iter().zip(counts).for_each(|(&key, &n)| put_bucket(out, &mut before, key, n));
    Ok(())
}

#[inline]
fn put_bucket(out: &mut Vec<u8>, before: &mut i64, key: i32, n: i64) {
    let delta = i64::from(key) - *before;
    *before = i64::from(key);
    let (delta, n) = (((delta << 1) ^ (delta >> 63)).cast_unsigned(), n.cast_unsigned());
    if let (Ok(delta @ 0..0x80), Ok(n @ 0..0x80)) = (u8::try_from(delta), u8::try_from(n)) {
        // Neighbours are near, and most buckets of one group count little.
        out.extend_from_slice(&[delta, n]);
    } else {
        put(out, delta);
        put(out, n);
    }
}

#[inline]
fn take_bucket(state: &mut &[u8], before: &mut i64) -> Option<(i32, i64)> {
    let (delta, n) = if let &[delta @ 0..0x80, n @ 0..0x80, ref rest @ ..] = *state {
        // Neighbours are near, and most buckets of one group count little.
        *state = rest;
        (u64::from(delta), i64::from(n))
    } else {
        (take(state)?, take(state).and_then(|n| i64::try_from(n).ok())?)
    };
    let sign = -(delta & 1).cast_signed();
    *before = before.wrapping_add((delta >> 1).cast_signed() ^ sign);
    i32::try_from(*before).ok().filter(|_| n > 0).map(|key| (key, n))
}

/// The buckets of a state, up to where it is damaged.
fn buckets(mut state: &[u8]) -> impl Iterator<Item = (i32, i64)> {
    let mut before = 0;
    std::iter::from_fn(move || take_bucket(&mut state, &mut before))
}

/// How many values a state counts, if it holds some and its keys ascend, as everything that counts them
/// writes them.
fn ascending_count(mut state: &[u8]) -> Result<Option<i64>> {
    let (mut before, mut last, mut count) = (0, None, 0_i64);
    let mut ascends = !state.is_empty();
    while !state.is_empty() {
        let (key, n) = take_bucket(&mut state, &mut before).ok_or_else(damaged)?;
        ascends &= last.replace(key).is_none_or(|last| last < key);
        count = count.saturating_add(n);
    }
    Ok(ascends.then_some(count))
}

fn damaged() -> DataFusionError {
    exec_datafusion_err!("the state of a sketch is damaged")
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
}

#[inline]
fn take(bytes: &mut &[u8]) -> Option<u64> {
    let (mut value, mut shift) = (0_u64, 0);
    loop {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte < 0x80 {
            return Some(value);
        }
        shift += 7;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QS: [f64; 5] = [0.0, 0.25, 0.5, 0.99, 1.0];

    /// Values of many sizes, in no order.
    fn values(count: u64, spread: u32) -> impl Iterator<Item = f64> {
        (0..count).map(move |number| {
            let noise = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 12;
            let size = f64::from(u32::try_from(noise % u64::from(spread)).unwrap());
            #[expect(clippy::cast_precision_loss, reason = "52 bits")]
            let mantissa = 1.0 + noise as f64 / 2_f64.powi(52);
            mantissa * size.exp2()
        })
    }

    fn histogram(values: impl Iterator<Item = f64>) -> Histogram {
        let mut histogram = Histogram::default();
        let mut bytes = 0;
        values.for_each(|value| histogram.add(value, &mut bytes));
        assert_eq!(bytes, histogram.bytes(), "memory is counted as it is taken");
        histogram
    }

    #[expect(clippy::float_cmp, reason = "equal counts give equal quantiles")]
    fn check(values: &[f64]) {
        let mut sketch = Sketch::new();
        for &value in values {
            sketch.add(value);
        }
        let expected = QS.map(|q| sketch.quantile(q).unwrap());
        let whole = histogram(values.iter().copied());
        assert_eq!(whole.quantiles(QS).unwrap(), expected);
        let mut encoded = Vec::new();
        whole.encode(&mut encoded);
        let (mut merged, mut bytes) = (Histogram::default(), 0);
        let (half, other) = values.split_at(values.len() / 2);
        for part in [half, other] {
            let mut state = Vec::new();
            let part = histogram(part.iter().copied());
            part.encode(&mut state);
            merged.merge_encoded(&state, &mut bytes).unwrap();
            let (mut alone, mut bytes) = (Histogram::default(), 0);
            alone.merge_encoded(&state, &mut bytes).unwrap();
            assert_eq!((alone.quantiles(QS), bytes), (part.quantiles(QS), alone.bytes()));
            let mut again = Vec::new();
            alone.encode(&mut again);
            assert_eq!(again, state);
        }
        assert_eq!((merged.quantiles(QS).unwrap(), bytes), (expected, merged.bytes()));
        let mut again = Vec::new();
        merged.encode(&mut again);
        assert_eq!(again, encoded, "equal counts have equal bytes, whatever their layout");
        let (keys, counts) = sketch.to_parts();
        let mut of_lists = Vec::new();
        encode_lists(&keys, &counts, &mut of_lists).unwrap();
        assert_eq!(of_lists, encoded);
    }

    #[test]
    fn the_layout_never_shows_in_an_answer() {
        for (count, spread) in [(1, 1), (20, 4), (40, 1), (1000, 12), (20_000, 30), (20_000, 900)] {
            check(&values(count, spread).collect::<Vec<_>>());
        }
        check(&values(500, 9).map(|value| -value).collect::<Vec<_>>());
        let mixed: Vec<f64> = values(500, 9)
            .enumerate()
            .map(|(at, value)| match at % 4 {
                0 => -value,
                1 => 0.0,
                2 => value.recip(),
                _ => value,
            })
            .chain([f64::INFINITY, f64::NEG_INFINITY])
            .collect();
        check(&mixed);
    }

    #[test]
    fn a_counter_that_is_full_carries_into_the_rest() {
        let mut histogram = histogram(values(1000, 6));
        let (key, mut bytes) = (key_of(8.0), 0);
        let of = |histogram: &Histogram| {
            let mut found = 0;
            histogram.for_each(&mut |other, n: i64| found += if other == key { n } else { 0 });
            found
        };
        let before = of(&histogram);
        histogram.add_n(key, i64::from(u32::MAX) - 5, &mut bytes);
        histogram.add_n(key, i64::from(u32::MAX), &mut bytes);
        (0..10).for_each(|_| histogram.add(8.0, &mut bytes));
        assert_eq!(of(&histogram), before + 2 * i64::from(u32::MAX) + 5);
    }

    #[test]
    fn the_last_value_is_found_where_a_double_cannot_count_so_many() {
        let mut histogram = histogram(values(1000, 6));
        let (largest, mut bytes) = (histogram.quantiles([1.0]), 0);
        let base = histogram.base;
        histogram.add_n(base, (1 << 53) + 4 - 1000, &mut bytes);
        assert_eq!(histogram.quantiles([1.0]), largest);
    }

    #[test]
    fn few_values_take_little_room_and_extreme_ones_no_more_than_the_limit() {
        assert!(histogram(values(30, 3)).bytes() <= SPARSE_BUCKETS_MAX * 16);
        let wide = histogram(values(5000, 1000).map(|value| value * 1e-150));
        assert!(wide.dense.len() <= DENSE_BUCKETS_MAX);
    }

    #[test]
    fn a_damaged_state_is_refused() {
        let (mut histogram, mut bytes) = (Histogram::default(), 0);
        for state in [&[0x80_u8][..], &[2], &[2, 0], &[0xff; 11]] {
            assert!(histogram.merge_encoded(state, &mut bytes).is_err(), "{state:?}");
        }
        assert!(encode_lists(&[1], &[0], &mut Vec::new()).is_err());
        assert!(encode_lists(&[1], &[], &mut Vec::new()).is_err());
    }
}
