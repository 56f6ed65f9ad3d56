//! What the kernel has counted of events without telling them, and how much of it was taken.

use std::collections::HashMap;

use undine_ebpf::load::{Untold, UntoldKey};

/// How often an entry has to be the same before it is taken out of the kernel's map. Until then it
/// stays and only counts on, since what a program adds to an entry that is taken out is lost.
const IDLE_TAKES: u32 = 10;

/// The counts that were taken already.
#[derive(Debug, Default)]
pub(super) struct UntoldSeen(HashMap<UntoldKey, Seen>);

#[derive(Debug)]
struct Seen {
    count: u64,
    idle_takes: u32,
}

impl UntoldSeen {
    /// From all entries of the map, those with events that were not taken before, and the keys that
    /// can be taken out.
    pub(super) fn take(
        &mut self,
        entries: Vec<(UntoldKey, Untold)>,
    ) -> (Vec<(UntoldKey, Untold)>, Vec<UntoldKey>) {
        let (mut fresh, mut idle) = (Vec::new(), Vec::new());
        for (key, untold) in entries {
            let seen = self.0.entry(key).or_insert(Seen { count: 0, idle_takes: 0 });
            let count = untold.count.saturating_sub(seen.count);
            seen.count = untold.count;
            if count > 0 {
                seen.idle_takes = 0;
                fresh.push((key, Untold { count, ..untold }));
            } else {
                seen.idle_takes += 1;
                if seen.idle_takes >= IDLE_TAKES {
                    self.0.remove(&key);
                    idle.push(key);
                }
            }
        }
        (fresh, idle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_event_is_taken_once_and_an_entry_that_rests_goes() {
        let key = UntoldKey { conn: 7, event: 3, reason: 2 };
        let at = |count| vec![(key, Untold { count, ..Untold::default() })];
        let mut seen = UntoldSeen::default();
        let counts = |taken: &[(UntoldKey, Untold)]| taken.iter().map(|of| of.1.count).sum::<u64>();
        assert_eq!(counts(&seen.take(at(5)).0), 5);
        assert_eq!(counts(&seen.take(at(7)).0), 2);
        for _ in 1..IDLE_TAKES {
            assert_eq!(seen.take(at(7)), (vec![], vec![]));
        }
        assert_eq!(seen.take(at(7)), (vec![], vec![key]));
        // It begins anew.
        assert_eq!(counts(&seen.take(at(1)).0), 1);
    }
}
