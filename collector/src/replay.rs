//! A recording as a source of messages, as fast as it can be read or as fast as it was recorded.

use std::time::{Duration, Instant};

use crate::recording::{Entry, RecordingError, Replayer};

/// How fast a recording is replayed, and when it seems to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As fast as it can be read; rows have the times of the recording.
    Fast,
    /// As fast as it was recorded; rows have the times of the replay.
    RealTime,
}

/// A recording that is being replayed.
#[derive(Debug)]
pub struct Replay {
    replayer: Replayer,
    pace: Pace,
    started: Option<(Instant, u64)>,
    /// An entry whose time has not come.
    early: Option<Vec<u8>>,
}

/// What a look at a replay came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// An entry was handed out.
    Entry,
    /// The next entry's time has not come; it does in this time.
    Wait(Duration),
    /// There are no more.
    End,
}

impl Replay {
    /// A replay that has not begun.
    pub const fn new(replayer: Replayer, pace: Pace) -> Self {
        Self { replayer, pace, started: None, early: None }
    }

    /// Nanoseconds to add to recorded times to get wall-clock time; `now_ns` is the wall clock.
    pub fn wall_minus_mono_ns(&self, now_ns: i64) -> i64 {
        match (self.pace, self.started) {
            (Pace::RealTime, Some((began, first))) => {
                let elapsed = i64::try_from(began.elapsed().as_nanos()).unwrap_or(i64::MAX);
                now_ns.saturating_sub(elapsed).saturating_sub(i64::try_from(first).unwrap_or(0))
            }
            _ => self.replayer.header().wall_minus_mono_ns,
        }
    }

    /// The recording's monotonic clock, as it goes on between two messages; `None` where time plays
    /// no role or has not begun.
    pub fn mono_now(&self) -> Option<u64> {
        let (began, first) = self.started.filter(|_| self.pace == Pace::RealTime)?;
        Some(first.saturating_add(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX)))
    }

    /// Hands out the next entry, if its time has come.
    ///
    /// # Errors
    /// Where the recording is cut or damaged.
    pub fn step(&mut self, sink: &mut dyn FnMut(Entry<'_>)) -> Result<Progress, RecordingError> {
        if let Some(message) = self.early.take() {
            if let Some(wait) = self.wait_for(&message) {
                self.early = Some(message);
                return Ok(Progress::Wait(wait));
            }
            sink(Entry::Message(&message));
            return Ok(Progress::Entry);
        }
        let (pace, started) = (self.pace, &mut self.started);
        match self.replayer.next_entry()? {
            None => Ok(Progress::End),
            Some(Entry::Message(message)) if pace == Pace::RealTime => {
                let time = time_of(message);
                let (began, first) = *started.get_or_insert_with(|| (Instant::now(), time));
                let due = Duration::from_nanos(time.saturating_sub(first));
                let wait = due.saturating_sub(began.elapsed());
                if wait.is_zero() {
                    sink(Entry::Message(message));
                    return Ok(Progress::Entry);
                }
                self.early = Some(message.to_vec());
                Ok(Progress::Wait(wait))
            }
            Some(entry) => {
                sink(entry);
                Ok(Progress::Entry)
            }
        }
    }

    fn wait_for(&self, message: &[u8]) -> Option<Duration> {
        let (began, first) = self.started?;
        let due = Duration::from_nanos(time_of(message).saturating_sub(first));
        let wait = due.saturating_sub(began.elapsed());
        (!wait.is_zero()).then_some(wait)
    }
}

/// The time in a message's header, 0 where it has none.
fn time_of(message: &[u8]) -> u64 {
    crate::event::Event::decode(message).map_or(0, |event| event.header.time_mono_ns)
}
