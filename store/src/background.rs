//! Work that may wait: on a thread of its own, which the scheduler lets rows and questions go before.

use tokio::sync::oneshot;

/// How far work stays behind what somebody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Priority {
    /// Not at all.
    Usual,
    /// A quarter of a core is left to it where all are busy.
    Low,
    /// A tenth of a core.
    Lowest,
}

impl Priority {
    /// As `nice(1)` has it. A thread's weight falls to four fifths with each step: 1,024 at 0, 335 at 5
    /// and 110 at 10 (`sched(7)`).
    const fn nice(self) -> i32 {
        match self {
            Self::Usual => 0,
            Self::Low => 5,
            Self::Lowest => 10,
        }
    }
}

/// Does `work` on a thread called `name`; nothing where it panics or no thread can be made.
pub(crate) async fn run<T: Send + 'static>(
    name: &str,
    priority: Priority,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (done, result) = oneshot::channel();
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        if priority != Priority::Usual {
            give_way(priority.nice());
        }
        // Who asked may have gone; the work is done all the same.
        drop(done.send(work()));
    });
    if let Err(error) = thread {
        tracing::error!(%error, name, "background work has no thread");
        return None;
    }
    result.await.ok()
}

/// Lets other threads go before this one and before those that it makes.
fn give_way(nice: i32) {
    #[expect(unsafe_code, reason = "the standard library has no call for a thread's priority")]
    // SAFETY: no pointer is passed. On Linux the call is about the calling thread and no other.
    let outcome = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
    if outcome != 0 {
        let error = std::io::Error::last_os_error();
        tracing::warn!(%error, nice, "background work does not give way");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The niceness of the calling thread.
    fn niceness() -> i64 {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        // Behind the name, which is in parentheses, niceness is the 17th field (`proc_pid_stat(5)`).
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        fields.split(' ').nth(16).unwrap().parse().unwrap()
    }

    #[tokio::test]
    async fn work_gives_way_and_so_do_its_threads_while_others_do_not() {
        let own = niceness();
        for priority in [Priority::Usual, Priority::Low, Priority::Lowest] {
            let work = || (niceness(), std::thread::spawn(niceness).join().unwrap());
            let expected = if priority == Priority::Usual { own } else { priority.nice().into() };
            assert_eq!(run("work", priority, work).await, Some((expected, expected)));
        }
        assert_eq!(niceness(), own);
    }

    #[tokio::test]
    async fn work_that_panics_has_no_result() {
        assert_eq!(run("work", Priority::Low, || panic!("as it should")).await, None::<()>);
    }
}
