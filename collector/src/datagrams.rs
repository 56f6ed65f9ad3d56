//! DNS over UDP: which response answers which query, at each end by itself.
//!
//! ```text
//! query ────► waiting (4096, 5 s) ─┬─► Lookup, at both ends of a conversation
//! response ─► early (5 ms) ────────┘
//! ```
//! A response fits a query of the same socket with the same number and question; and of the same
//! peer, where both are known: what a socket without a connection receives does not name its peer.
//! Of several the oldest counts. A query that was sent again is another query: the first that
//! waits gets the response, the others get none.
//!
//! A query without a response is a row too, once it has waited for [`RESPONSE_NS_MAX`] or there is
//! no more room. A response without a query is none: it came too late, twice, or its query was not
//! seen. It is decided a little later, since another thread may have sent the query and be slower
//! to say so.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use undine_ebpf::ConnInfo;

use crate::conn_tracker::Ends;
use crate::data_stream::{Missing, REORDER_NS_MAX};
use crate::endpoints::Role;
use crate::event::{Flow, ProcessKey, Uncaptured};
use crate::protocol::dialogue::Timed;
use crate::protocol::dns::{Lookup, Message, Question, quality_of};
use crate::protocol::gap::Cause;
use crate::protocol::output::QUALITY_ENDED_BY_CLOSE;

/// Most queries that wait for their response; the oldest makes room for another.
pub const WAITING_MAX: usize = 4096;
/// How long a query waits, in nanoseconds.
pub const RESPONSE_NS_MAX: u64 = 5_000_000_000;
/// Most responses that wait for their query.
pub const EARLY_MAX: usize = 64;
/// Most sockets whose process is remembered; when there are more, all are forgotten.
pub const SOCKETS_MAX: usize = 16 * 1024;

/// A datagram on a watched port.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// `CLOCK_MONOTONIC` after it moved, in nanoseconds.
    pub at: u64,
    /// Who sent or received it.
    pub process: ProcessKey,
    /// Which way it went.
    pub flow: Flow,
    /// Its socket and, where known, its peer.
    pub info: &'a ConnInfo,
    /// All of its bytes, or the first of them.
    pub payload: &'a [u8],
    /// How many it has.
    pub len: usize,
    /// Why the others were not captured.
    pub uncaptured: Option<Uncaptured>,
}

/// A query with its response, or with none, as one of its ends saw it.
#[derive(Debug)]
pub struct Ended {
    /// The query, its response and their times.
    pub timed: Timed<Lookup>,
    /// Who asked whom.
    pub ends: Ends,
    /// The process at the other end, where that is observed in the same network namespace.
    pub peer_process: Option<ProcessKey>,
}

/// What a response has in common with its query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    netns: u64,
    socket: u64,
    txid: u16,
    role: Role,
}

#[derive(Debug)]
struct Query {
    key: Key,
    at: u64,
    process: ProcessKey,
    question: Option<Question>,
    quality: u8,
    lookup: Lookup,
    ends: Ends,
}

#[derive(Debug)]
struct Response {
    key: Key,
    at: u64,
    message: Message,
    ends: Ends,
}

/// Queries that wait for their response.
#[derive(Debug, Default)]
pub struct Datagrams {
    /// By the number of their arrival.
    waiting: BTreeMap<u64, Query>,
    by_key: HashMap<Key, VecDeque<u64>>,
    early: VecDeque<Response>,
    /// Who used a socket last and when, by its namespace, address and port.
    sockets: HashMap<(u64, IpAddr, u16), (ProcessKey, u64)>,
    arrivals: u64,
    ended: Vec<Ended>,
    unrequested: u64,
}

impl Datagrams {
    /// Takes a datagram.
    ///
    /// # Errors
    /// Where it cannot be read, so that a row may be missing, or half of one.
    pub fn take(&mut self, datagram: &Datagram<'_>) -> Result<(), Cause> {
        let message = Message::read(datagram.payload, datagram.len).ok_or_else(|| {
            let cause = |why| Cause::of(Missing::Uncaptured(why));
            datagram.uncaptured.map_or(Cause::ParseError, cause)
        })?;
        let asks = !message.header.is_response();
        let requests = if asks { datagram.flow } else { datagram.flow.opposite() };
        let role = Role::of_requests(requests);
        let info = datagram.info;
        let key = Key { netns: info.netns, socket: info.inode, txid: message.header.txid, role };
        let ends = Ends { role, ..Ends::of(info) };
        self.note_socket(&ends, datagram);
        if asks {
            self.ask(Query {
                key,
                at: datagram.at,
                process: datagram.process,
                quality: quality_of(&message),
                lookup: Lookup::new(&message),
                question: message.questions.into_iter().next(),
                ends,
            });
        } else {
            self.respond(Response { key, at: datagram.at, message, ends });
        }
        Ok(())
    }

    /// Gives up what has waited for too long at `now`.
    pub fn expire(&mut self, now: u64) {
        while let Some(oldest) = self.waiting.first_entry()
            && oldest.get().at.saturating_add(RESPONSE_NS_MAX) <= now
        {
            self.give_up_oldest();
        }
        while let Some(oldest) = self.early.front()
            && oldest.at.saturating_add(REORDER_NS_MAX) <= now
        {
            self.early.pop_front();
            self.unrequested += 1;
        }
    }

    /// Decides what does not wait for the network, because no message is on its way.
    pub fn settle(&mut self) {
        self.unrequested += self.early.len() as u64;
        self.early.clear();
    }

    /// Takes what has ended since the last call.
    pub fn take_ended(&mut self) -> Vec<Ended> {
        std::mem::take(&mut self.ended)
    }

    /// Takes the number of responses without a query since the last call.
    pub fn take_unrequested(&mut self) -> u64 {
        std::mem::take(&mut self.unrequested)
    }

    /// Queries that wait for their response.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn note_socket(&mut self, ends: &Ends, datagram: &Datagram<'_>) {
        let socket = (ends.netns, ends.tuple.local, ends.tuple.local_port);
        if self.sockets.len() >= SOCKETS_MAX && !self.sockets.contains_key(&socket) {
            self.sockets.clear();
        }
        self.sockets.insert(socket, (datagram.process, datagram.at));
    }

    /// The process that used the peer's socket at about `at`; that may be bound to any address.
    fn peer_process(&self, ends: &Ends, at: u64) -> Option<ProcessKey> {
        let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        let of = |addr| self.sockets.get(&(ends.netns, addr, ends.tuple.remote_port));
        let (process, used_at) = [ends.tuple.remote, any[0], any[1]].into_iter().find_map(of)?;
        (ends.knows_peer() && used_at.saturating_add(RESPONSE_NS_MAX) >= at).then_some(*process)
    }

    fn ask(&mut self, query: Query) {
        if let Some(at) = self.early.iter().position(|response| fits(&query, response))
            && let Some(response) = self.early.remove(at)
        {
            self.end(query, Some(response));
            return;
        }
        if self.waiting.len() >= WAITING_MAX {
            self.give_up_oldest();
        }
        self.arrivals += 1;
        self.by_key.entry(query.key).or_default().push_back(self.arrivals);
        self.waiting.insert(self.arrivals, query);
    }

    fn respond(&mut self, response: Response) {
        let same = self.by_key.get(&response.key).into_iter().flatten();
        let fitting =
            |arrival: &&u64| self.waiting.get(arrival).is_some_and(|query| fits(query, &response));
        if let Some(arrival) = same.copied().find(|arrival| fitting(&arrival))
            && let Some(query) = self.remove(arrival)
        {
            self.end(query, Some(response));
            return;
        }
        if self.early.len() >= EARLY_MAX {
            self.early.pop_front();
            self.unrequested += 1;
        }
        self.early.push_back(response);
    }

    fn give_up_oldest(&mut self) {
        if let Some((&arrival, _)) = self.waiting.first_key_value()
            && let Some(query) = self.remove(arrival)
        {
            self.end(query, None);
        }
    }

    fn remove(&mut self, arrival: u64) -> Option<Query> {
        let query = self.waiting.remove(&arrival)?;
        if let Some(same) = self.by_key.get_mut(&query.key) {
            same.retain(|other| *other != arrival);
            if same.is_empty() {
                self.by_key.remove(&query.key);
            }
        }
        Some(query)
    }

    fn end(&mut self, query: Query, response: Option<Response>) {
        let Query { at, process, mut quality, mut lookup, mut ends, .. } = query;
        let responded_at = match response {
            None => {
                quality |= QUALITY_ENDED_BY_CLOSE;
                at
            }
            Some(response) => {
                quality |= quality_of(&response.message);
                lookup.answer(&response.message);
                if !ends.knows_peer() {
                    ends = response.ends;
                }
                response.at.max(at)
            }
        };
        let timed = Timed::new(at, responded_at, process, quality, lookup);
        let peer_process = self.peer_process(&ends, responded_at);
        self.ended.push(Ended { timed, ends, peer_process });
    }
}

/// Whether `response` can answer `query`.
fn fits(query: &Query, response: &Response) -> bool {
    let same_peer = !query.ends.knows_peer()
        || !response.ends.knows_peer()
        || query.ends.tuple.remote == response.ends.tuple.remote
            && query.ends.tuple.remote_port == response.ends.tuple.remote_port;
    let same_question = match (&query.question, response.message.questions.first()) {
        (Some(asked), Some(answered)) => asked.is_same(answered),
        // A server that understood nothing repeats nothing.
        (_, None) => true,
        (None, Some(_)) => false,
    };
    query.key == response.key && same_peer && same_question
}

#[cfg(test)]
mod tests;
