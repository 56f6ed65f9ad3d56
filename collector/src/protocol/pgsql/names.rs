//! What the names of prepared statements and portals stand for.

use std::collections::HashMap;
use std::sync::Arc;

/// Most statements or portals of a connection that are remembered.
pub(super) const NAMES_MAX: usize = 512;
/// Most bytes of their texts.
pub(super) const NAMES_BYTES_MAX: usize = 1 << 20;
/// Bytes of a name by which the server tells names apart.
const NAME_BYTES_MAX: usize = 63;

/// A statement, and the parameters that are bound to it, if any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Statement {
    /// What was prepared.
    pub(super) sql: Arc<str>,
    /// Its parameters, parted by commas.
    pub(super) params: Arc<str>,
}

impl Statement {
    /// A statement to which nothing is bound yet.
    pub(super) fn of(sql: String) -> Self {
        Self { sql: sql.into(), params: Arc::default() }
    }

    /// As the request of an execution reads.
    pub(super) fn bound(&self) -> String {
        format!("query=[{}] params=[{}]", self.sql, self.params)
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.sql.len() + self.params.len()
    }
}

/// Statements by name; the least recently used one goes when there are too many.
#[derive(Debug, Default)]
pub(super) struct Names {
    known: HashMap<Box<[u8]>, (Statement, u64)>,
    bytes: usize,
    uses: u64,
}

impl Names {
    /// What a name stands for.
    pub(super) fn get(&mut self, name: &[u8]) -> Option<Statement> {
        self.uses += 1;
        let (statement, used) = self.known.get_mut(distinct(name))?;
        *used = self.uses;
        Some(statement.clone())
    }

    /// Gives a name a meaning; the one that it had before.
    pub(super) fn set(&mut self, name: &[u8], statement: Statement) -> Option<Statement> {
        let before = self.remove(name);
        let name = distinct(name);
        let bytes = name.len() + statement.heap_bytes();
        while self.known.len() >= NAMES_MAX
            || (self.bytes + bytes > NAMES_BYTES_MAX && !self.known.is_empty())
        {
            self.evict();
        }
        self.uses += 1;
        self.bytes += bytes;
        self.known.insert(name.into(), (statement, self.uses));
        before
    }

    /// Forgets a name; what it stood for.
    pub(super) fn remove(&mut self, name: &[u8]) -> Option<Statement> {
        let (name, (statement, _)) = self.known.remove_entry(distinct(name))?;
        self.bytes -= name.len() + statement.heap_bytes();
        Some(statement)
    }

    /// Bytes that they hold.
    pub(super) const fn heap_bytes(&self) -> usize {
        self.bytes
    }

    fn evict(&mut self) {
        let oldest = self.known.iter().min_by_key(|(_, (_, used))| *used);
        if let Some(name) = oldest.map(|(name, _)| name.clone()) {
            self.remove(&name);
        }
    }
}

/// The part of a name that the server looks at.
pub(super) fn distinct(name: &[u8]) -> &[u8] {
    &name[..name.len().min(NAME_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(sql: &str) -> Statement {
        Statement::of(sql.to_owned())
    }

    #[test]
    fn the_least_recently_used_name_is_forgotten() {
        let mut names = Names::default();
        for n in 0..NAMES_MAX {
            names.set(format!("s{n}").as_bytes(), statement("SELECT 1"));
        }
        assert!(names.get(b"s0").is_some());
        names.set(b"one more", statement("SELECT 2"));
        assert!(names.get(b"s0").is_some());
        assert!(names.get(b"s1").is_none());
        assert!(names.get(b"s2").is_some());
    }

    #[test]
    fn long_statements_leave_room_for_fewer() {
        let mut names = Names::default();
        for n in 0..100 {
            names.set(format!("s{n}").as_bytes(), statement(&"x".repeat(100_000)));
            assert!(names.heap_bytes() <= NAMES_BYTES_MAX);
        }
        assert_eq!(names.known.len(), 10);
        names.set(b"", statement(&"x".repeat(2 * NAMES_BYTES_MAX)));
        assert_eq!(names.known.len(), 1);
        names.remove(b"");
        assert_eq!((names.known.len(), names.heap_bytes()), (0, 0));
    }

    #[test]
    fn a_new_meaning_gives_the_old_one_back() {
        let mut names = Names::default();
        assert_eq!(names.set(b"s", statement("a")), None);
        assert_eq!(names.set(b"s", statement("b")), Some(statement("a")));
        assert_eq!(names.get(b"s"), Some(statement("b")));
    }
}
