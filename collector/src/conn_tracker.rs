//! All connections that are open, and which of them has to go when there are too many.
//!
//! A [`Connection`] puts its messages in order, finds out its protocol and feeds the protocol's
//! parser. What is undecided is kept until its first bytes decide; what is opaque is only counted,
//! but looked at again whenever an operation starts with a request, also where the one before was
//! no more than the head of its packet, as servers read that first.

mod connection;
mod ends;
mod packet_head;
mod parser;
mod undecided;

use crate::id_map::IdMap;

pub use connection::{Connection, Keeper, dropped_bytes};
pub use ends::Ends;
pub use parser::{Decided, Inside};

/// All connections that are open.
#[derive(Debug)]
pub struct ConnTracker {
    connections: IdMap<u64, Box<Connection>>,
    connections_max: usize,
}

impl ConnTracker {
    /// No connections yet, and never more than `connections_max`.
    pub fn new(connections_max: usize) -> Self {
        Self { connections: IdMap::default(), connections_max }
    }

    /// The connection `id`.
    pub fn get(&self, id: u64) -> Option<&Connection> {
        self.connections.get(&id).map(AsRef::as_ref)
    }

    /// The connection `id`.
    pub fn get_mut(&mut self, id: u64) -> Option<&mut Connection> {
        self.connections.get_mut(&id).map(AsMut::as_mut)
    }

    /// The connection `id`, entered where it is new. Ask [`Self::must_evict`] before.
    pub fn enter(&mut self, id: u64) -> &mut Connection {
        self.connections.entry(id).or_insert_with(|| Box::new(Connection::new(id)))
    }

    /// The connection that has to go before `id` can be entered: of a few, the one that was unused
    /// for longest.
    pub fn must_evict(&self, id: u64) -> Option<u64> {
        if self.connections.len() < self.connections_max || self.connections.contains_key(&id) {
            return None;
        }
        self.connections.values().take(16).min_by_key(|conn| conn.used_at).map(|conn| conn.id)
    }

    /// Takes the connection `id` out.
    pub fn remove(&mut self, id: u64) -> Option<Box<Connection>> {
        self.connections.remove(&id)
    }

    /// All connections.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Connection> {
        self.connections.values_mut().map(AsMut::as_mut)
    }

    /// The numbers of all connections.
    pub fn ids(&self) -> Vec<u64> {
        self.connections.keys().copied().collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.connections.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }
}
