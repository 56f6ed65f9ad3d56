//! The keys of requests that were accepted in the last minutes.

use std::collections::{HashMap, VecDeque};

use undine_schema::{RetryKey, TimeNs};

use crate::log::RETRY_KEYS_FOR;

/// Keys that are remembered; above it the oldest is forgotten early.
const KEYS_MAX: usize = 256 * 1024;

/// Tells a retry from a new request.
#[derive(Debug, Default)]
pub(crate) struct RetryKeys {
    /// The log entry of each key; 0 for one that was durable when the store started.
    entries: HashMap<RetryKey, u64>,
    by_age: VecDeque<(TimeNs, RetryKey)>,
}

impl RetryKeys {
    /// The log entry of the request that `key` was accepted with.
    pub(crate) fn find(&mut self, key: RetryKey, now: TimeNs) -> Option<u64> {
        let old = |at: TimeNs| now.since(at) >= RETRY_KEYS_FOR;
        while self.by_age.front().is_some_and(|&(at, _)| old(at)) || self.by_age.len() > KEYS_MAX {
            if let Some((_, key)) = self.by_age.pop_front() {
                self.entries.remove(&key);
            }
        }
        self.entries.get(&key).copied()
    }

    /// Remembers a key.
    pub(crate) fn insert(&mut self, key: RetryKey, entry: u64, at: TimeNs) {
        if self.entries.insert(key, entry).is_none() {
            self.by_age.push_back((at, key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_known_for_ten_minutes() {
        let mut keys = RetryKeys::default();
        let (key, at) = (RetryKey([7; 32]), TimeNs::new(1_000));
        assert_eq!(keys.find(key, at), None);
        keys.insert(key, 3, at);
        let last =
            at.saturating_add(RETRY_KEYS_FOR).saturating_sub(std::time::Duration::from_nanos(1));
        assert_eq!(keys.find(key, last), Some(3));
        assert_eq!(keys.find(key, at.saturating_add(RETRY_KEYS_FOR)), None);
    }
}
