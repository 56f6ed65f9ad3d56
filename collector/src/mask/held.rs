//! Messages that wait until it is known which of their bytes may be recorded, in order.

use std::collections::VecDeque;

use super::HELD_BYTES_MAX;
use crate::event;

/// A message, or another entry of a recording.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    /// Its kind in the recording.
    pub(crate) kind: u8,
    /// All of it.
    pub(crate) bytes: Vec<u8>,
    /// When it was sent.
    pub(crate) at: u64,
    /// The last so many bytes, all of a payload, are not decided.
    pub(crate) undecided: usize,
}

impl Entry {
    /// A message of which everything is decided.
    pub(crate) fn decided(bytes: Vec<u8>) -> Self {
        Self { kind: crate::recording::KIND_MESSAGE, bytes, ..Self::default() }
    }
}

/// Entries in order.
#[derive(Debug, Default)]
pub(crate) struct Held {
    entries: VecDeque<Entry>,
    /// The number of the first.
    first: u64,
    bytes: usize,
    left_out_bytes: u64,
}

impl Held {
    /// Adds an entry; its number.
    pub(crate) fn push(&mut self, entry: Entry) -> u64 {
        self.bytes += entry.bytes.len();
        self.entries.push_back(entry);
        while self.bytes > HELD_BYTES_MAX
            && let Some(waits) = self.entries.iter().position(|entry| entry.undecided > 0)
        {
            self.give_up(self.first + waits as u64);
        }
        self.first + self.entries.len() as u64 - 1
    }

    /// The next bytes of an entry's payload may be recorded as these. Nothing happens where it was given up.
    pub(crate) fn decide(&mut self, number: u64, masked: &[u8]) {
        let Some(entry) = self.entry(number) else { return };
        let at = entry.bytes.len() - entry.undecided;
        let decided = masked.len().min(entry.undecided);
        entry.bytes[at..at + decided].copy_from_slice(&masked[..decided]);
        entry.undecided -= decided;
    }

    /// Leaves out what is not decided of an entry.
    pub(crate) fn give_up(&mut self, number: u64) {
        let Some(entry) = self.entry(number) else { return };
        let left_out = std::mem::take(&mut entry.undecided);
        event::leave_out_last(&mut entry.bytes, left_out);
        self.bytes -= left_out;
        self.left_out_bytes += left_out as u64;
    }

    /// Leaves out what is not decided of the first entry, for which all others wait, if it was sent before
    /// `at`.
    pub(crate) fn give_up_before(&mut self, at: u64) {
        while let Some(entry) =
            self.entries.front().filter(|entry| entry.undecided > 0 && entry.at < at)
        {
            debug_assert!(entry.undecided > 0, "the others are taken by `next`");
            self.give_up(self.first);
        }
    }

    /// Leaves out whatever is not decided.
    pub(crate) fn give_up_all(&mut self) {
        for number in self.first..self.first + self.entries.len() as u64 {
            self.give_up(number);
        }
    }

    /// Takes the first entry off, if all of it is decided.
    pub(crate) fn take_next(&mut self) -> Option<(u8, Vec<u8>)> {
        let Entry { kind, bytes, .. } = self.entries.pop_front_if(|entry| entry.undecided == 0)?;
        self.first += 1;
        self.bytes -= bytes.len();
        Some((kind, bytes))
    }

    /// Bytes that were left out.
    pub(crate) const fn left_out_bytes(&self) -> u64 {
        self.left_out_bytes
    }

    fn entry(&mut self, number: u64) -> Option<&mut Entry> {
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.entries.get_mut(at)
    }
}
