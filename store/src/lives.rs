//! Which life of the store this is, and how many rows each earlier one gave places to.
//!
//! `store.json` is made durable before the first append of a life, so a place never repeats. The
//! counters of ended lives let a follower that comes back after a restart count what it missed.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use undine_schema::{Incarnation, Seq};

use crate::config::BuildError;
use crate::durable;

/// The newest layout of the folder that this version reads, and the one that it writes.
const FORMAT: u32 = 1;
/// The last life: a place must fit a signed 64-bit number, since a Delta log holds it.
const INCARNATION_MAX: u16 = i16::MAX.cast_unsigned();
/// Ended lives that are remembered.
const ENDED_LIVES_MAX: usize = 1024;

/// The content of `store.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lives {
    format: u32,
    node: String,
    pub(crate) incarnation: u16,
    /// The highest counter by table of each ended life.
    pub(crate) ended: BTreeMap<u16, BTreeMap<String, u64>>,
}

impl Lives {
    /// Reads `store.json`, or begins with a folder that has none.
    pub(crate) fn read(dir: &Path, node: &str) -> Result<Self, BuildError> {
        let path = dir.join("store.json");
        let text = match std::fs::read(&path) {
            Ok(text) if !text.is_empty() => text,
            // An empty file counts as absent. Begun is then what comes after all that logs and
            // tiers have seen.
            Ok(_) => return Ok(Self::none(node)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::none(node)),
            Err(source) => return Err(BuildError::Io { action: "read", path, source }),
        };
        let corrupt = |what: String| BuildError::Corrupt { path: path.clone(), what };
        let value: serde_json::Value =
            serde_json::from_slice(&text).map_err(|error| corrupt(error.to_string()))?;
        let found = value["format"].as_u64().and_then(|format| u32::try_from(format).ok());
        match found {
            Some(found) if found > FORMAT => {
                return Err(BuildError::NewerFormat { dir: dir.to_owned(), found, known: FORMAT });
            }
            Some(_) => {}
            None => return Err(corrupt("it names no format".to_owned())),
        }
        let lives: Self = serde_json::from_value(value).map_err(|e| corrupt(e.to_string()))?;
        if lives.node != node {
            return Err(BuildError::OtherNode {
                dir: dir.to_owned(),
                found: lives.node,
                expected: node.to_owned(),
            });
        }
        Ok(lives)
    }

    fn none(node: &str) -> Self {
        Self { format: FORMAT, node: node.to_owned(), incarnation: 0, ended: BTreeMap::new() }
    }

    /// Begins the life after every one that is known of, durably.
    pub(crate) fn begin(
        &mut self,
        dir: &Path,
        newest_seen: u16,
    ) -> Result<Incarnation, BuildError> {
        let last = self.incarnation.max(newest_seen);
        if last >= INCARNATION_MAX {
            return Err(BuildError::LivesUsedUp { dir: dir.to_owned(), lives: last });
        }
        self.incarnation = last + 1;
        while self.ended.len() > ENDED_LIVES_MAX {
            self.ended.pop_first();
        }
        let path = dir.join("store.json");
        serde_json::to_vec_pretty(self)
            .map_err(io::Error::other)
            .and_then(|text| durable::replace(&path, &text))
            .map_err(|source| BuildError::Io { action: "write", path, source })?;
        Ok(Incarnation::new(self.incarnation))
    }

    /// Notes that a life gave out `last` in `table`.
    pub(crate) fn note(&mut self, table: &str, last: Seq) {
        let counters = self.ended.entry(last.incarnation().get()).or_default();
        let counter = counters.entry(table.to_owned()).or_default();
        *counter = last.counter().max(*counter);
    }

    /// The last place that an ended life gave out in `table`.
    pub(crate) fn newest(&self, table: &str) -> Seq {
        let mut lives = self.ended.iter().rev();
        let newest = lives.find_map(|(&life, counters)| Some((life, *counters.get(table)?)));
        newest.map_or(Seq::ZERO, |(life, counter)| Seq::new(Incarnation::new(life), counter))
    }

    /// Rows of `table` that stand between two places, both left out.
    pub(crate) fn rows_between(&self, table: &str, after: Seq, before: Seq) -> u64 {
        let (from, to) = (after.incarnation().get(), before.incarnation().get());
        if from == to {
            return before.counter().saturating_sub(after.counter() + 1);
        }
        let ends = self.ended.range(from..to);
        let given: u64 = ends.filter_map(|(_, counters)| counters.get(table)).sum();
        given.saturating_sub(after.counter()) + before.counter().saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seq(incarnation: u16, counter: u64) -> Seq {
        Seq::new(Incarnation::new(incarnation), counter)
    }

    #[test]
    fn every_begin_is_a_new_life_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let mut lives = Lives::read(dir.path(), "n").unwrap();
        assert_eq!(lives.begin(dir.path(), 0).unwrap().get(), 1);
        let mut lives = Lives::read(dir.path(), "n").unwrap();
        assert_eq!(lives.begin(dir.path(), 0).unwrap().get(), 2);
        assert_eq!(lives.begin(dir.path(), 7).unwrap().get(), 8, "above what a log has seen");
        let error = lives.begin(dir.path(), INCARNATION_MAX).unwrap_err();
        assert!(matches!(error, BuildError::LivesUsedUp { .. }), "{error}");
    }

    #[test]
    fn rows_between_two_places_are_counted_over_lives() {
        let dir = tempfile::tempdir().unwrap();
        let mut lives = Lives::read(dir.path(), "n").unwrap();
        lives.note("t", seq(1, 10));
        lives.note("t", seq(2, 5));
        lives.note("other", seq(2, 99));
        assert_eq!(lives.rows_between("t", seq(1, 3), seq(1, 7)), 3);
        assert_eq!(lives.rows_between("t", seq(1, 8), seq(3, 1)), 2 + 5);
        assert_eq!(lives.rows_between("t", Seq::ZERO, seq(3, 4)), 10 + 5 + 3);
        assert_eq!(lives.rows_between("t", seq(1, 10), seq(2, 1)), 0);
    }
}
