//! The place of a row in its table's one sequence.

use std::fmt;

/// Which life of the node's store a row was appended in; made durable before its first append.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(u16);

impl Incarnation {
    /// The life with number `number`.
    pub const fn new(number: u16) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// A row's place in its table: the incarnation in the upper 16 bits, a counter in the lower 48.
///
/// It never repeats on a node and never goes backwards. [`Seq::ZERO`] stands before every row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(u64);

impl Seq {
    const COUNTER_BITS: u32 = 48;

    /// The place before every row.
    pub const ZERO: Self = Self(0);

    /// The place `counter` of a life. Counters start at 1.
    ///
    /// # Panics
    /// When the counter needs more than 48 bits, which takes nine years at a million rows a second.
    pub const fn new(incarnation: Incarnation, counter: u64) -> Self {
        assert!(counter < 1 << Self::COUNTER_BITS, "sequence counter exceeds 48 bits");
        Self((incarnation.0 as u64) << Self::COUNTER_BITS | counter)
    }

    /// The place that a stored number names.
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The number to store.
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The life it was given out in.
    pub const fn incarnation(self) -> Incarnation {
        Incarnation((self.0 >> Self::COUNTER_BITS) as u16)
    }

    /// Its number within that life.
    pub const fn counter(self) -> u64 {
        self.0 & ((1 << Self::COUNTER_BITS) - 1)
    }
}

/// Shows `incarnation.counter`.
impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.incarnation().get(), self.counter())
    }
}

/// A dense run of places within one life, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SeqRange {
    /// Place of the first row.
    pub first: Seq,
    /// Place of the last row.
    pub last: Seq,
}

impl SeqRange {
    /// The run of `rows` places that starts at `first`; `rows` is at least 1.
    pub fn new(first: Seq, rows: usize) -> Self {
        assert!(rows > 0, "a sequence range holds at least one row");
        Self { first, last: Seq(first.0 + rows as u64 - 1) }
    }

    /// How many rows it holds.
    pub fn rows(&self) -> u64 {
        self.last.0 - self.first.0 + 1
    }

    /// Takes in `next` where it begins within this run or right behind it; says whether it did.
    pub fn extend(&mut self, next: Self) -> bool {
        let joins = self.first <= next.first && next.first.0 <= self.last.0.saturating_add(1);
        if joins {
            self.last = self.last.max(next.last);
        }
        joins
    }

    /// The same places in as few runs as hold them, in their order.
    pub fn join(mut runs: Vec<Self>) -> Vec<Self> {
        runs.sort_unstable_by_key(|run| run.first);
        runs.dedup_by(|next, run| run.extend(*next));
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_life_comes_after_every_row_of_an_earlier_one() {
        let last_of_first = Seq::new(Incarnation::new(1), (1 << 48) - 1);
        let first_of_second = Seq::new(Incarnation::new(2), 1);
        assert!(last_of_first < first_of_second);
        assert_eq!(first_of_second.to_string(), "2.1");
    }

    #[test]
    fn runs_that_touch_or_overlap_become_one_and_others_stay_apart() {
        let life = |life, runs: &[(u64, u64)]| {
            let place = |counter| Seq::new(Incarnation::new(life), counter);
            let run = |&(first, last)| SeqRange { first: place(first), last: place(last) };
            runs.iter().map(run).collect::<Vec<_>>()
        };
        let runs = life(1, &[(9, 9), (1, 3), (4, 5), (7, 8), (2, 2)]);
        let joined = SeqRange::join([life(2, &[(1, 4)]), runs].concat());
        assert_eq!(joined, [life(1, &[(1, 5), (7, 9)]), life(2, &[(1, 4)])].concat());
        let (mut later, earlier) = (joined[1], joined[0]);
        assert!(!later.extend(earlier), "a run that begins before this one is none of it");
        assert_eq!(later, joined[1]);
    }
}
