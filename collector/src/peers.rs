//! Clients that send requests without waiting for responses.
//!
//! After a gap, pairing may only go on for clients that wait. That one connection of a client
//! pipelines says the same of its others, whose own first requests may be what was lost.

use std::collections::HashSet;
use std::net::IpAddr;

use crate::event::ProcessKey;

/// Most peers that are remembered. When there are more, every client is taken for one.
pub const PIPELINING_MAX: usize = 4096;

/// The process that was traced and its peer's address.
pub type PeerKey = (ProcessKey, Option<IpAddr>);

/// Peers of whom it is known.
#[derive(Debug, Default)]
pub struct PipeliningPeers {
    known: HashSet<PeerKey>,
}

impl PipeliningPeers {
    /// Remembers that a peer pipelines.
    pub fn insert(&mut self, peer: PeerKey) {
        if self.known.len() < PIPELINING_MAX {
            self.known.insert(peer);
        }
    }

    /// Whether the peer must be taken for one that pipelines.
    pub fn contains(&self, peer: &PeerKey) -> bool {
        self.known.len() >= PIPELINING_MAX || self.known.contains(peer)
    }
}
