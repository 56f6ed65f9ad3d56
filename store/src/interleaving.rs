//! Where a test may let another thread go on, so that it tries the orders in which threads meet.
//!
//! Under a test's scheduler all threads take turns on one, so a lock that another one holds is asked
//! for again and again. Outside of such tests a point is nothing, and a lock is a lock.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes a lock, also after a panic of whoever held it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    #[cfg(test)]
    while scheduled::is_on() {
        point();
        match mutex.try_lock() {
            Ok(guard) => return guard,
            Err(std::sync::TryLockError::WouldBlock) => {}
            Err(std::sync::TryLockError::Poisoned(guard)) => return guard.into_inner(),
        }
    }
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Another thread may go on here.
#[cfg(not(test))]
pub(crate) const fn point() {}

/// Another thread may go on here.
#[cfg(test)]
pub(crate) fn point() {
    scheduled::give_way();
}

#[cfg(test)]
pub(crate) mod scheduled {
    use std::cell::RefCell;
    use std::sync::{Arc, Condvar, Mutex, PoisonError};
    use std::thread;

    thread_local! {
        static OWN: RefCell<Option<(Arc<Turns>, usize)>> = const { RefCell::new(None) };
    }

    /// Whose turn it is; all others wait.
    struct Turns {
        state: Mutex<State>,
        changed: Condvar,
    }

    struct State {
        noise: u64,
        at_work: Vec<usize>,
        turn: usize,
        failed: bool,
    }

    /// Ends a thread's turns, also when it panics.
    struct Leave;

    impl Turns {
        /// Hands the turn to one of those that are at work, and waits for the own one.
        fn next(&self, own: usize, leaves: bool) {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if leaves {
                state.at_work.retain(|&thread| thread != own);
                state.failed |= thread::panicking();
            }
            if state.at_work.is_empty() {
                return;
            }
            // Marsaglia's xorshift64.
            let mut noise = state.noise;
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            state.noise = noise;
            let among = state.at_work.len() as u64;
            state.turn = state.at_work[usize::try_from(noise % among).unwrap()];
            if state.turn != own {
                self.changed.notify_all();
            }
            drop(state);
            if !leaves {
                self.wait(own);
            }
        }

        fn wait(&self, own: usize) {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let others_turn = |state: &mut State| state.turn != own && !state.failed;
            let waited = self.changed.wait_while(state, others_turn);
            let failed = waited.unwrap_or_else(PoisonError::into_inner).failed;
            assert!(!failed, "another thread failed");
        }
    }

    impl Drop for Leave {
        fn drop(&mut self) {
            if let Some((turns, own)) = OWN.take() {
                turns.next(own, true);
            }
        }
    }

    pub(super) fn is_on() -> bool {
        OWN.with_borrow(Option::is_some)
    }

    pub(super) fn give_way() {
        let own = OWN.with_borrow(|own| own.as_ref().map(|(turns, id)| (Arc::clone(turns), *id)));
        if let Some((turns, own)) = own {
            turns.next(own, false);
        }
    }

    /// Runs threads of which one works at a time, and another one, chosen by `seed`, after each
    /// point.
    pub(crate) fn run(seed: u64, works: Vec<Box<dyn FnOnce() + Send>>) {
        let at_work = (0..works.len()).collect();
        let state = State { noise: seed * 2 + 1, at_work, turn: 0, failed: false };
        let turns = Arc::new(Turns { state: Mutex::new(state), changed: Condvar::new() });
        thread::scope(|scope| {
            for (own, work) in works.into_iter().enumerate() {
                let turns = Arc::clone(&turns);
                scope.spawn(move || {
                    OWN.set(Some((Arc::clone(&turns), own)));
                    let _leave = Leave;
                    turns.wait(own);
                    work();
                });
            }
        });
    }

    #[test]
    fn seeds_try_different_orders_and_one_seed_the_same() {
        let order = |seed| {
            let order = Arc::new(Mutex::new(Vec::new()));
            let work = |name: char| -> Box<dyn FnOnce() + Send> {
                let order = Arc::clone(&order);
                Box::new(move || {
                    for _ in 0..4 {
                        super::lock(&order).push(name);
                        super::point();
                    }
                })
            };
            run(seed, vec![work('a'), work('b'), work('c')]);
            let order = super::lock(&order);
            order.iter().collect::<String>()
        };
        let orders: std::collections::BTreeSet<_> = (1..40).map(order).collect();
        assert!(orders.len() > 20, "{orders:?}");
        assert!(orders.iter().all(|order| order.len() == 12));
        assert_eq!(order(7), order(7));
    }
}
