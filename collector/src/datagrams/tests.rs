use proptest::prelude::*;

use super::*;
use crate::protocol::dns::tests::wire::{Build, query};

const SERVER: [u8; 4] = [10, 0, 0, 53];
const CLIENT: [u8; 4] = [10, 0, 0, 1];
const MS: u64 = 1_000_000;

/// What goes over one socket.
struct Socket {
    info: ConnInfo,
    datagrams: Datagrams,
    now: u64,
}

impl Socket {
    fn client() -> Self {
        let mut info = ConnInfo { netns: 1, inode: 9, family: 2, role: 1, ..ConnInfo::default() };
        (info.local_port, info.remote_port) = (40_000, 53);
        info.local_addr[..4].copy_from_slice(&CLIENT);
        info.remote_addr[..4].copy_from_slice(&SERVER);
        Self { info, datagrams: Datagrams::default(), now: 0 }
    }

    fn server() -> Self {
        let mut info = ConnInfo { netns: 1, inode: 5, family: 2, role: 2, ..ConnInfo::default() };
        info.local_port = 53;
        Self { info, datagrams: Datagrams::default(), now: 0 }
    }

    /// Something goes to or comes from port `port` of the peer; 0 where that is not known.
    fn moves(&mut self, flow: Flow, port: u16, payload: &[u8]) -> Result<(), Cause> {
        self.now += MS;
        self.info.remote_port = port;
        self.info.remote_addr[..4].copy_from_slice(if port == 0 { &[0; 4] } else { &SERVER });
        self.datagrams.take(&Datagram {
            at: self.now,
            process: ProcessKey { tgid: 3, start_ns: 4 },
            flow,
            info: &self.info,
            payload,
            len: payload.len(),
            uncaptured: None,
        })
    }

    fn sends(&mut self, port: u16, payload: &[u8]) {
        self.moves(Flow::Egress, port, payload).unwrap();
    }

    fn receives(&mut self, port: u16, payload: &[u8]) {
        self.moves(Flow::Ingress, port, payload).unwrap();
    }

    fn ended(&mut self) -> Vec<String> {
        let show = |ended: Ended| {
            let Ended { timed, ends, .. } = ended;
            let Lookup { name, kind, rcode, .. } = &timed.call;
            let (role, quality, peer) = (ends.role as u8, timed.quality, ends.tuple.remote_port);
            let ms = timed.latency_ns() / MS;
            format!("{role} {name} {kind} {rcode} {ms}ms q{quality} peer {peer}")
        };
        self.datagrams.take_ended().into_iter().map(show).collect()
    }
}

fn response(txid: u16, name: &str, kind: u16) -> Vec<u8> {
    Build::response(txid, name, kind).done()
}

#[test]
fn a_client_pairs_both_queries_of_a_resolver_in_any_order() {
    let mut socket = Socket::client();
    socket.sends(53, &query(1, "a.b", 1));
    socket.sends(53, &query(2, "a.b", 28));
    socket.receives(53, &response(2, "a.b", 28));
    socket.receives(53, &response(1, "A.B", 1));
    assert_eq!(socket.ended(), ["1 a.b AAAA 0 1ms q0 peer 53", "1 a.b A 0 3ms q0 peer 53"]);
}

#[test]
fn a_server_learns_its_clients_when_it_answers_them() {
    let mut socket = Socket::server();
    socket.receives(0, &query(1, "a.b", 1));
    // Another client uses the same number for another question.
    socket.receives(0, &query(1, "c.d", 1));
    socket.sends(7002, &response(1, "c.d", 1));
    socket.sends(7001, &response(1, "a.b", 1));
    assert_eq!(socket.ended(), ["2 c.d A 0 1ms q0 peer 7002", "2 a.b A 0 3ms q0 peer 7001"]);
}

#[test]
fn a_peer_that_is_known_must_be_the_same() {
    let mut socket = Socket::server();
    socket.receives(7001, &query(1, "a.b", 1));
    socket.receives(7002, &query(1, "a.b", 1));
    socket.sends(7002, &response(1, "a.b", 1));
    socket.sends(7001, &response(1, "a.b", 1));
    assert_eq!(socket.ended(), ["2 a.b A 0 1ms q0 peer 7002", "2 a.b A 0 3ms q0 peer 7001"]);
}

#[test]
fn a_query_without_a_response_is_a_row_after_five_seconds() {
    let mut socket = Socket::client();
    socket.sends(53, &query(1, "a.b", 1));
    socket.datagrams.expire(RESPONSE_NS_MAX);
    assert_eq!(socket.ended(), Vec::<String>::new());
    socket.datagrams.expire(MS + RESPONSE_NS_MAX);
    assert_eq!(socket.ended(), ["1 a.b A -1 0ms q4 peer 53"]);
    // A response that comes so late is none.
    socket.receives(53, &response(1, "a.b", 1));
    socket.datagrams.expire(socket.now + REORDER_NS_MAX);
    assert_eq!((socket.ended().len(), socket.datagrams.take_unrequested()), (0, 1));
}

#[test]
fn a_query_that_is_sent_again_is_another_and_the_first_gets_the_response() {
    let mut socket = Socket::client();
    socket.sends(53, &query(1, "a.b", 1));
    socket.sends(53, &query(1, "a.b", 1));
    socket.receives(53, &response(1, "a.b", 1));
    socket.datagrams.expire(u64::MAX);
    assert_eq!(socket.ended(), ["1 a.b A 0 2ms q0 peer 53", "1 a.b A -1 0ms q4 peer 53"]);
}

#[test]
fn a_response_may_overtake_its_query_on_the_way_here() {
    let mut socket = Socket::client();
    socket.receives(53, &response(1, "a.b", 1));
    socket.sends(53, &query(1, "a.b", 1));
    socket.datagrams.expire(u64::MAX);
    assert_eq!(socket.ended(), ["1 a.b A 0 0ms q0 peer 53"]);
    assert_eq!(socket.datagrams.take_unrequested(), 0);
}

#[test]
fn there_is_room_for_so_many_queries_and_the_oldest_makes_room() {
    let mut socket = Socket::client();
    for number in 0..=u16::try_from(WAITING_MAX).unwrap() {
        socket.sends(53, &query(number, "a.b", 1));
    }
    assert_eq!(socket.datagrams.len(), WAITING_MAX);
    assert_eq!(socket.ended(), ["1 a.b A -1 0ms q4 peer 53"]);
    for number in 0..=u16::try_from(EARLY_MAX).unwrap() {
        socket.receives(53, &response(number, "other", 1));
    }
    assert_eq!(socket.datagrams.take_unrequested(), 1);
    socket.datagrams.settle();
    assert_eq!(socket.datagrams.take_unrequested(), EARLY_MAX as u64);
}

#[test]
fn what_is_no_message_says_why_a_row_may_be_missing() {
    let mut socket = Socket::client();
    assert_eq!(socket.moves(Flow::Egress, 53, b"not a message at all"), Err(Cause::ParseError));
    let info = socket.info;
    let unknown = Datagram {
        at: 1,
        process: ProcessKey::default(),
        flow: Flow::Egress,
        info: &info,
        payload: &[],
        len: 40,
        uncaptured: Some(Uncaptured::Bypassed),
    };
    assert_eq!(socket.datagrams.take(&unknown), Err(Cause::Bypassed));
}

proptest! {
    #[test]
    fn every_query_ends_once_whatever_comes(
        steps in proptest::collection::vec((any::<bool>(), 0_u16..4, 0_u16..3, 0_u16..3), 0..80),
    ) {
        let mut socket = Socket::client();
        let mut queries = 0;
        for (asks, txid, name, port) in steps {
            let name = ["a.b", "c.d", "e.f"][usize::from(name)];
            if asks {
                queries += 1;
                socket.sends(53, &query(txid, name, 1));
            } else {
                socket.receives(port * 53, &response(txid, name, 1));
            }
            socket.datagrams.expire(socket.now);
        }
        socket.datagrams.expire(u64::MAX);
        prop_assert_eq!(socket.ended().len(), queries);
        prop_assert!(socket.datagrams.is_empty() && socket.datagrams.by_key.is_empty());
    }
}
