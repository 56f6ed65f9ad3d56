//! Which window of time is exported next. Pure arithmetic: no clock, no state.

use std::time::Duration;

use undine_schema::TimeNs;

/// A half-open range of time, `[start, end)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The first moment that it covers.
    pub start: TimeNs,
    /// The first moment that it does not cover.
    pub end: TimeNs,
}

impl Window {
    /// The last moment that it covers, which is what `px.plugin.end_time` means.
    pub const fn last(self) -> TimeNs {
        TimeNs::new(self.end.get() - 1)
    }
}

/// How a script's windows lie in time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Calendar {
    /// Length of a window; windows are aligned to the epoch.
    pub(super) frequency: Duration,
    /// How long after a window's end its rows may still arrive.
    pub(super) lateness: Duration,
    /// How far back windows are made up for; at least one window long.
    pub(super) catch_up_max: Duration,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Export this window.
    Run(Window),
    /// Give this range up: it is too old to be made up for.
    Skip(Window),
    /// Nothing before this moment.
    WaitUntil(TimeNs),
}

impl Calendar {
    /// Where a script starts that never ran: with the window that `now` lies in.
    pub(super) fn first(self, now: TimeNs) -> TimeNs {
        now.floor_to(self.frequency)
    }

    /// What to do at `now` when everything before `covered_to` was exported or given up.
    ///
    /// Windows follow each other without a gap, whatever `now` does. The first one after a change
    /// of frequency ends at the next edge of the new one.
    pub(super) fn step(self, covered_to: TimeNs, now: TimeNs) -> Step {
        let settled = now.saturating_sub(self.lateness);
        let oldest = settled.saturating_sub(self.catch_up_max).floor_to(self.frequency);
        if covered_to < oldest {
            return Step::Skip(Window { start: covered_to, end: oldest });
        }
        let end = TimeNs::new(covered_to.get().saturating_add(1)).ceil_to(self.frequency);
        if end <= settled {
            Step::Run(Window { start: covered_to, end })
        } else {
            Step::WaitUntil(end.saturating_add(self.lateness))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn calendar(frequency: u32, lateness: u32, catch_up_max: u32) -> Calendar {
        Calendar {
            frequency: Duration::from_nanos(frequency.into()),
            lateness: Duration::from_nanos(lateness.into()),
            catch_up_max: Duration::from_nanos(catch_up_max.into()),
        }
    }

    const fn window(start: i64, end: i64) -> Window {
        Window { start: TimeNs::new(start), end: TimeNs::new(end) }
    }

    #[test]
    fn a_window_is_due_once_its_lateness_has_passed() {
        let calendar = calendar(10, 3, 100);
        let step = |now| calendar.step(TimeNs::new(20), TimeNs::new(now));
        assert_eq!(step(32), Step::WaitUntil(TimeNs::new(33)));
        assert_eq!(step(33), Step::Run(window(20, 30)));
        assert_eq!(step(5), Step::WaitUntil(TimeNs::new(33)), "the clock went back");
        assert_eq!(window(20, 30).last(), TimeNs::new(29));
    }

    #[test]
    fn after_a_long_pause_old_windows_are_given_up_in_one_piece() {
        let calendar = calendar(10, 3, 25);
        assert_eq!(calendar.step(TimeNs::new(20), TimeNs::new(100)), Step::Skip(window(20, 70)));
        assert_eq!(calendar.step(TimeNs::new(70), TimeNs::new(100)), Step::Run(window(70, 80)));
    }

    #[test]
    fn a_new_frequency_starts_where_the_old_one_ended() {
        let calendar = calendar(60, 0, 600);
        assert_eq!(calendar.step(TimeNs::new(70), TimeNs::new(500)), Step::Run(window(70, 120)));
    }

    proptest! {
        /// A script runs under a clock that moves and stops, its process dies between any two
        /// steps, and its frequency changes: what was exported or given up is all of time, once.
        #[test]
        fn windows_cover_all_time_once_over_restarts_and_jumps(
            start in 0_i64..1_000_000,
            lives in prop::collection::vec(
                (1_u32..50, 0_u32..30, 0_u32..200, prop::collection::vec(-40_i64..300, 0..30)),
                1..8),
        ) {
            let mut now = start;
            // What is on disk: all that a restart keeps.
            let mut stored: Option<i64> = None;
            let mut done: Vec<Window> = Vec::new();
            for (frequency, lateness, more, moves) in lives {
                let calendar = calendar(frequency, lateness, frequency + more);
                let first = calendar.first(TimeNs::new(now)).get();
                let mut covered_to = *stored.get_or_insert(first);
                for by in moves {
                    now += by;
                    match calendar.step(TimeNs::new(covered_to), TimeNs::new(now)) {
                        Step::Run(window) => {
                            let length = window.end.get() - window.start.get();
                            prop_assert!(length > 0 && length <= i64::from(frequency));
                            prop_assert!(window.end.get() + i64::from(lateness) <= now);
                            done.push(window);
                        }
                        Step::Skip(window) => {
                            let kept_from = now - i64::from(lateness + frequency + more);
                            prop_assert!(window.end.get() <= kept_from, "only what is too old");
                            done.push(window);
                        }
                        Step::WaitUntil(until) => {
                            prop_assert!(until.get() > now);
                            continue;
                        }
                    }
                    covered_to = done.last().map_or(covered_to, |window| window.end.get());
                    stored = Some(covered_to);
                }
            }
            for pair in done.windows(2) {
                prop_assert_eq!(pair[0].end, pair[1].start);
            }
            for window in &done {
                prop_assert!(window.start < window.end);
            }
        }
    }
}
