//! Reading the ring buffer.
#![expect(unsafe_code, reason = "waiting for the ring and reading two clocks at once need libc")]

use std::{
    fmt, io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::Duration,
};

use aya::maps::{MapData, RingBuf};

/// Most messages that one call of [`RingReader::poll`] hands out.
pub(super) const BATCH_MAX: usize = 8192;

/// What a poll of the ring came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PollOutcome {
    /// Messages handed out.
    pub messages: usize,
    /// Whether the ring may hold more, so that the next poll should follow at once.
    pub more: bool,
}

/// The only reader of the ring.
pub(super) struct RingReader {
    ring: RingBuf<MapData>,
    epoll: OwnedFd,
    consumed: u64,
}

impl fmt::Debug for RingReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RingReader").field("consumed", &self.consumed).finish_non_exhaustive()
    }
}

impl RingReader {
    pub(super) fn new(ring: RingBuf<MapData>) -> io::Result<Self> {
        // SAFETY: no pointers are passed, and the descriptor is owned by nobody else.
        let epoll = unsafe {
            let raw = libc::epoll_create1(libc::EPOLL_CLOEXEC);
            if raw < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(raw)
        };
        // Edge-triggered: data that is there does not end the wait, only the kernel programs' own
        // wake-up does, so that messages are read in batches.
        let events = (libc::EPOLLIN | libc::EPOLLET).cast_unsigned();
        let mut event = libc::epoll_event { events, u64: 0 };
        // SAFETY: `event` lives through the call.
        let added = unsafe {
            libc::epoll_ctl(
                epoll.as_raw_fd(),
                libc::EPOLL_CTL_ADD,
                ring.as_raw_fd(),
                &raw mut event,
            )
        };
        if added < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { ring, epoll, consumed: 0 })
    }

    pub(super) fn consumed(&self) -> u64 {
        self.consumed
    }

    pub(super) fn poll(&mut self, wait: Duration, sink: &mut dyn FnMut(&[u8])) -> PollOutcome {
        let messages = match self.drain(sink) {
            0 => {
                self.wait(wait);
                self.drain(sink)
            }
            messages => messages,
        };
        PollOutcome { messages, more: messages == BATCH_MAX }
    }

    fn drain(&mut self, sink: &mut dyn FnMut(&[u8])) -> usize {
        let mut messages = 0;
        while messages < BATCH_MAX {
            let Some(message) = self.ring.next() else { break };
            sink(&message);
            messages += 1;
        }
        self.consumed += messages as u64;
        messages
    }

    /// Waits until the kernel programs call, or for `wait`. An interrupted wait is a short one.
    fn wait(&self, wait: Duration) {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        let milliseconds = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: `event` has room for the one event that is asked for.
        unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), &raw mut event, 1, milliseconds) };
    }
}

/// Lets the calling thread, and those that it starts, wait for a CPU instead of taking it from whoever
/// runs there (`SCHED_BATCH`); its share of the CPU stays the same. What it interrupts are mostly the
/// servers that it watches, whose caches it would displace each time.
pub(crate) fn do_not_interrupt() {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the parameters live through the call; 0 is the calling thread.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) } != 0 {
        let error = io::Error::last_os_error();
        tracing::debug!(%error, "the collector's thread interrupts others");
    }
}

/// Nanoseconds from `clock` to the wall clock. Of a few readings the one that took least counts.
pub(super) fn wall_minus_ns(clock: libc::clockid_t) -> i64 {
    let mut best = (i64::MAX, 0);
    for _ in 0..4 {
        let before = clock_ns(clock);
        let wall = clock_ns(libc::CLOCK_REALTIME);
        let after = clock_ns(clock);
        let reading = (after - before, wall - (before + (after - before) / 2));
        best = best.min(reading);
    }
    best.1
}

pub(super) fn clock_ns(clock: libc::clockid_t) -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` lives through the call.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}
