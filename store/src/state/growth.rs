//! By how much a counter grew, over restarts of what it counts.
//!
//! Of two neighbouring readings, the later one adds what it is above the earlier, and where it is
//! below, the counter began again at zero and adds all of itself. Over a stretch of readings that is
//!
//! ```text
//! increase = last - first + Σ what a restart forgot (the reading before it)
//! ```
//!
//! so a stretch is its first and last reading and what was forgotten in between, and two stretches
//! that follow each other join into one. That is exact however often readings are joined, and in
//! whatever order, as long as neighbours are joined. Where stretches overlap, which takes late
//! readings, the forgotten is the most that one of them, or their ends together, know of: exact
//! where nothing restarted meanwhile, and never too much.

/// A reading: when, and what. Of two at one time the lower one is earlier.
pub(super) type Reading = (i64, i64);

/// A stretch of readings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Growth {
    pub(super) first: Reading,
    pub(super) last: Reading,
    /// Sum of the readings before each restart.
    forgotten: i64,
}

impl Growth {
    /// Of no reading.
    pub(super) const NONE: Self =
        Self { first: (i64::MAX, i64::MAX), last: (i64::MIN, i64::MIN), forgotten: 0 };

    pub(super) const fn of(reading: Reading) -> Self {
        Self { first: reading, last: reading, forgotten: 0 }
    }

    /// From what a summary keeps.
    pub(super) const fn of_states(first: Reading, last: Reading, increase: i64) -> Self {
        let plain = last.1.wrapping_sub(first.1);
        Self { first, last, forgotten: increase.wrapping_sub(plain) }
    }

    pub(super) const fn increase(&self) -> i64 {
        self.last.1.wrapping_sub(self.first.1).wrapping_add(self.forgotten)
    }

    /// Joins another stretch of the same counter.
    pub(super) fn join(&mut self, other: &Self) {
        if *self == Self::NONE {
            *self = *other;
        } else if *other != Self::NONE {
            *self = if self.last <= other.first {
                self.then(other)
            } else if other.last <= self.first {
                other.then(self)
            } else {
                self.beside(other)
            };
        }
    }

    fn then(&self, next: &Self) -> Self {
        let forgotten = self.forgotten.wrapping_add(next.forgotten);
        let forgotten = forgotten.wrapping_add(forgotten_between(self.last, next.first));
        Self { first: self.first, last: next.last, forgotten }
    }

    fn beside(&self, other: &Self) -> Self {
        let mut ends = [self.first, self.last, other.first, other.last];
        ends.sort_unstable();
        let between = ends.windows(2).map(|pair| forgotten_between(pair[0], pair[1]));
        let between = between.fold(0, i64::wrapping_add);
        let forgotten = self.forgotten.max(other.forgotten).max(between);
        Self { first: ends[0], last: ends[3], forgotten }
    }
}

const fn forgotten_between(earlier: Reading, later: Reading) -> i64 {
    if later.1 < earlier.1 { earlier.1 } else { 0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn joined(readings: &[Reading]) -> Growth {
        let mut growth = Growth::NONE;
        for &reading in readings {
            growth.join(&Growth::of(reading));
        }
        growth
    }

    /// From the definition.
    fn plain(readings: &[Reading]) -> i64 {
        let step = |pair: &[Reading]| {
            let (earlier, later) = (pair[0].1, pair[1].1);
            if later < earlier { later } else { later - earlier }
        };
        readings.windows(2).map(step).sum()
    }

    /// Readings a second apart; `None` is a restart.
    fn readings(steps: &[Option<i64>]) -> Vec<Reading> {
        let mut value = 0;
        let next = |(at, step): (usize, &Option<i64>)| {
            value = step.map_or(1, |step| value + step);
            (i64::try_from(at).unwrap(), value)
        };
        steps.iter().enumerate().map(next).collect()
    }

    fn step() -> impl Strategy<Value = Option<i64>> {
        prop_oneof![6 => (0..1000_i64).prop_map(Some), 1 => Just(None)]
    }

    proptest! {
        #[test]
        fn neighbours_join_to_the_exact_increase_in_any_order(
            steps in prop::collection::vec(step(), 1..60),
            joins in prop::collection::vec(any::<prop::sample::Index>(), 60),
        ) {
            let readings = readings(&steps);
            let mut parts: Vec<Growth> = readings.iter().map(|&r| Growth::of(r)).collect();
            for join in &joins {
                if parts.len() > 1 {
                    let at = join.index(parts.len() - 1);
                    let next = parts.remove(at + 1);
                    // Either way round.
                    let (mut a, b) =
                        if at % 2 == 0 { (parts[at], next) } else { (next, parts[at]) };
                    a.join(&b);
                    parts[at] = a;
                }
            }
            let whole = joined(&readings);
            prop_assert_eq!(whole.increase(), plain(&readings));
            if let [part] = parts.as_slice() {
                prop_assert_eq!(part, &whole);
            }
            let kept = Growth::of_states(whole.first, whole.last, whole.increase());
            prop_assert_eq!(kept, whole);
        }

        #[test]
        fn late_readings_change_nothing_where_nothing_restarted(
            steps in prop::collection::vec(0..1000_i64, 1..60),
            order in any::<prop::sample::Selector>(),
        ) {
            let steps: Vec<_> = steps.into_iter().map(Some).collect();
            let readings = readings(&steps);
            let mut left: Vec<usize> = (0..readings.len()).collect();
            let mut growth = Growth::NONE;
            while !left.is_empty() {
                let at = order.select(0..left.len());
                growth.join(&Growth::of(readings[left.swap_remove(at)]));
            }
            prop_assert_eq!(growth, joined(&readings));
            prop_assert_eq!(growth.increase(), plain(&readings));
        }

        #[test]
        fn late_readings_around_a_restart_never_add_what_was_not_counted(
            steps in prop::collection::vec(step(), 2..40),
            late in any::<prop::sample::Index>(),
        ) {
            let all = readings(&steps);
            let mut in_time = all.clone();
            let late = in_time.remove(late.index(all.len()));
            let mut growth = joined(&in_time);
            growth.join(&Growth::of(late));
            prop_assert!(growth.increase() <= plain(&all), "{growth:?} of {all:?}");
            prop_assert!(growth.increase() >= 0);
        }
    }
}
