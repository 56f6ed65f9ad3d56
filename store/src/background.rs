//! Work that may wait: on a thread of its own, which takes the time that others leave.
//!
//! Such a thread runs where a core has nothing else of ours to do (`SCHED_IDLE`, `sched(7)`; beside other
//! cgroups it counts as the whole process does). Once somebody needs the work done it goes as everything
//! else, and after a while in any case as a thread that is nice. A lock that others wait for is never held
//! by a thread that stands still: see [`hold`].

use std::cell::RefCell;
use std::future::{self, Future};
use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::interleaving;

/// How long work takes what others leave, before it takes a part of what they would like to have.
const PATIENCE: Duration = Duration::from_secs(10);

/// How nice (`nice(1)`) a thread is that gives way: where all cores are busy, a quarter of one is left to
/// it, since a thread's weight falls to four fifths with each step (1,024 at 0, 335 at 5).
const NICENESS: i32 = 5;

/// How far work stays behind what somebody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Priority {
    /// It takes what others leave. As [`Low`](Self::Low) where the process may not take this back.
    Idle,
    /// It gives way.
    Low,
    /// It does not wait.
    Usual,
}

/// A thread that may be told to go faster.
#[derive(Debug)]
struct Worker {
    priority: AtomicU8,
    /// The thread's number, until its work is done: later the number may be another's.
    id: Mutex<Option<libc::pid_t>>,
    /// How nice the process is.
    niceness: i32,
}

thread_local! {
    static OWN: RefCell<Option<Arc<Worker>>> = const { RefCell::new(None) };
}

/// Does `work` on a thread called `name`; nothing where it panics or no thread can be made. It does not
/// wait any more from when `urgent` resolves.
pub(crate) async fn run<T: Send + 'static>(
    name: &str,
    priority: Priority,
    urgent: impl Future<Output = ()>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    run_patiently(name, priority, PATIENCE, urgent, work).await
}

/// As [`run`], with its patience.
async fn run_patiently<T: Send + 'static>(
    name: &str,
    priority: Priority,
    patience: Duration,
    urgent: impl Future<Output = ()>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let priority = if may_come_back() { priority } else { priority.max(Priority::Low) };
    let worker = Arc::new(Worker {
        priority: AtomicU8::new(priority as u8),
        id: Mutex::new(None),
        niceness: niceness(),
    });
    let (done, mut result) = oneshot::channel();
    let own = Arc::clone(&worker);
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let at_work = own.begin();
        let made = work();
        drop(at_work);
        // Who asked may have gone; the work is done all the same.
        drop(done.send(made));
    });
    if let Err(error) = thread {
        tracing::error!(%error, name, "background work has no thread");
        return None;
    }
    let mut urgent = std::pin::pin!(urgent);
    let mut patience = std::pin::pin!(async {
        match priority {
            Priority::Idle => tokio::time::sleep(patience).await,
            Priority::Low | Priority::Usual => future::pending().await,
        }
    });
    loop {
        tokio::select! {
            made = &mut result => return made.ok(),
            () = &mut patience, if worker.priority() == Priority::Idle => worker.hurry(Priority::Low),
            () = &mut urgent, if worker.priority() != Priority::Usual => worker.hurry(Priority::Usual),
        }
    }
}

impl Worker {
    fn priority(&self) -> Priority {
        match self.priority.load(Ordering::SeqCst) {
            0 => Priority::Idle,
            1 => Priority::Low,
            _ => Priority::Usual,
        }
    }

    /// Makes the calling thread the worker.
    fn begin(self: Arc<Self>) -> AtWork {
        OWN.set(Some(Arc::clone(&self)));
        #[expect(unsafe_code, reason = "the standard library does not tell a thread's number")]
        // SAFETY: the call takes nothing and cannot fail.
        let id = unsafe { libc::gettid() };
        *self.id.lock().unwrap_or_else(PoisonError::into_inner) = Some(id);
        self.follow(0);
        AtWork(self)
    }

    /// Lets the work wait less from now on.
    fn hurry(&self, priority: Priority) {
        self.priority.store(priority as u8, Ordering::SeqCst);
        if let Some(id) = *self.id.lock().unwrap_or_else(PoisonError::into_inner) {
            self.follow(id);
        }
    }

    /// Sets a thread, 0 for the calling one, to the priority that the work has now.
    fn follow(&self, id: libc::pid_t) {
        loop {
            let priority = self.priority();
            let nice = if priority == Priority::Usual { 0 } else { NICENESS };
            let niced = set_niceness(id, self.niceness.max(nice));
            self.say_if_refused(niced.and(set_policy(id, priority == Priority::Idle)));
            // Both threads may do this at once; whoever comes last sees what was decided.
            if priority == self.priority() {
                return;
            }
        }
    }

    fn say_if_refused(&self, outcome: io::Result<()>) {
        if let Err(error) = outcome {
            let priority = self.priority();
            tracing::warn!(%error, ?priority, "background work has not the priority it should have");
        }
    }
}

/// A thread that is at work. What follows is waited for, so it goes as everything else then.
struct AtWork(Arc<Worker>);

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.say_if_refused(set_policy(0, false));
        *self.0.id.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// A lock that others wait for. Whoever has it lets go of it soon, though no core is idle.
#[derive(Debug)]
pub(crate) struct Held<'a, T> {
    guard: MutexGuard<'a, T>,
    /// Ends after the lock.
    _prompt: Prompt,
}

/// Takes a lock that others wait for.
pub(crate) fn hold<T>(mutex: &Mutex<T>) -> Held<'_, T> {
    let prompt = Prompt::begin();
    Held { guard: interleaving::lock(mutex), _prompt: prompt }
}

impl<T> Deref for Held<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for Held<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

/// While this lives, the calling thread does not stand still for others.
#[derive(Debug)]
struct Prompt(Option<Arc<Worker>>);

impl Prompt {
    fn begin() -> Self {
        let own = OWN.with_borrow(Clone::clone);
        let idle = own.filter(|own| own.priority() == Priority::Idle);
        if let Some(own) = &idle {
            own.say_if_refused(set_policy(0, false));
        }
        Self(idle)
    }
}

impl Drop for Prompt {
    fn drop(&mut self) {
        if let Some(own) = &self.0 {
            own.follow(0);
        }
    }
}

/// For a thread that background work makes and that mostly waits for the disk: it takes little time
/// from others and need not wait for it.
pub(crate) fn wait_for_the_disk_only() {
    if let Err(error) = set_policy(0, false) {
        tracing::warn!(%error, "a thread that commits stands still where no core is idle");
    }
}

/// Whether a thread that takes what others leave may be told to go faster, which needs `CAP_SYS_NICE` or
/// a limit of niceness (`RLIMIT_NICE`) that allows what the process has.
fn may_come_back() -> bool {
    static MAY: OnceLock<bool> = OnceLock::new();
    let tried = || set_policy(0, true).and_then(|()| set_policy(0, false)).is_ok();
    *MAY.get_or_init(|| std::thread::spawn(tried).join().unwrap_or(false))
}

/// How nice the calling thread is.
fn niceness() -> i32 {
    #[expect(unsafe_code, reason = "the standard library has no call for a thread's priority")]
    // SAFETY: no pointer is passed. On Linux the call is about the calling thread.
    unsafe {
        libc::getpriority(libc::PRIO_PROCESS, 0)
    }
}

fn set_niceness(thread: libc::pid_t, nice: i32) -> io::Result<()> {
    #[expect(unsafe_code, reason = "the standard library has no call for a thread's priority")]
    // SAFETY: no pointer is passed. On Linux the call is about one thread and no other.
    let outcome = unsafe { libc::setpriority(libc::PRIO_PROCESS, thread.cast_unsigned(), nice) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lets a thread run where a core has nothing else to do, or as others.
fn set_policy(thread: libc::pid_t, idle: bool) -> io::Result<()> {
    let policy = if idle { libc::SCHED_IDLE } else { libc::SCHED_OTHER };
    let param = libc::sched_param { sched_priority: 0 };
    #[expect(unsafe_code, reason = "the standard library has no call for a thread's policy")]
    // SAFETY: `param` outlives the call, which only reads it.
    let outcome = unsafe { libc::sched_setscheduler(thread, policy, &raw const param) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    fn is_idle() -> bool {
        #[expect(unsafe_code, reason = "the standard library has no call for a thread's policy")]
        // SAFETY: no pointer is passed.
        let policy = unsafe { libc::sched_getscheduler(0) };
        policy == libc::SCHED_IDLE
    }

    fn skipped() -> bool {
        let skipped = !may_come_back();
        if skipped {
            eprintln!("skipped: needs CAP_SYS_NICE, or a RLIMIT_NICE of at least 20");
        }
        skipped
    }

    #[tokio::test]
    async fn nice_work_gives_way_and_so_do_its_threads_while_others_do_not() {
        let own = niceness();
        for (priority, expected) in [(Priority::Usual, own), (Priority::Low, own.max(NICENESS))] {
            let work = || (niceness(), std::thread::spawn(niceness).join().unwrap());
            assert_eq!(run("work", priority, pending(), work).await, Some((expected, expected)));
        }
        assert_eq!(niceness(), own);
    }

    #[tokio::test]
    async fn idle_work_takes_what_others_leave_but_not_where_it_holds_what_they_need() {
        if skipped() {
            return;
        }
        let work = || {
            let before = is_idle();
            let lock = Mutex::new(());
            let within = {
                let _held = hold(&lock);
                is_idle()
            };
            let commits = std::thread::spawn(|| {
                wait_for_the_disk_only();
                is_idle()
            });
            (before, within, is_idle(), commits.join().unwrap())
        };
        let seen = run("work", Priority::Idle, pending(), work).await;
        assert_eq!(seen, Some((true, false, true, false)));
        assert!(!is_idle());
    }

    #[tokio::test]
    async fn idle_work_goes_as_everything_else_once_it_is_urgent() {
        if skipped() {
            return;
        }
        let own = niceness();
        let (begun, has_begun) = oneshot::channel();
        let work = move || {
            let lock = Mutex::new(());
            let held = hold(&lock);
            begun.send(()).unwrap();
            while niceness() != own {
                std::thread::yield_now();
            }
            drop(held);
            is_idle()
        };
        let urgent = async { has_begun.await.unwrap() };
        assert_eq!(run("work", Priority::Idle, urgent, work).await, Some(false));
    }

    #[tokio::test]
    async fn idle_work_waits_for_no_longer_than_its_patience() {
        if skipped() {
            return;
        }
        let work = || {
            while is_idle() {
                std::thread::yield_now();
            }
            niceness()
        };
        let expected = niceness().max(NICENESS);
        let done = run_patiently("work", Priority::Idle, Duration::ZERO, pending(), work);
        assert_eq!(done.await, Some(expected));
    }

    #[tokio::test]
    async fn work_that_panics_has_no_result() {
        let work = || panic!("as it should");
        assert_eq!(run("work", Priority::Low, pending(), work).await, None::<()>);
    }
}
