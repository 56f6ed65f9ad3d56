//! Connections, and what each speaks.
//!
//! A [`Connection`] puts its messages in order, finds out its protocol and feeds the protocol's
//! parser. What is undecided is kept until its first bytes decide; what is opaque is only counted,
//! but looked at again whenever an operation starts with a request, also where the one before was
//! no more than the head of its packet, as servers read that first.

mod packet_head;

use std::net::IpAddr;

use undine_ebpf::{ConnInfo, ConnTotals, PLAINTEXT};

use crate::conn_stats::AccountKey;
use crate::data_stream::{DataStreams, Delivery, Missing, Operation, Piece};
use crate::endpoints::{Role, Tuple};
use crate::event::{Beginning, Flow, ProcessKey};
use crate::id_map::IdMap;
use crate::protocol::gap::{Cause, LostRows, Start};
use crate::protocol::output::{Exchanges, Output};
use crate::protocol::{
    self, PROBE_BYTES_MAX, Protocol, ProtocolCode, Verdict, begins_tls, infer, request_starts,
};
use packet_head::PacketHead;

/// Most operations that are kept while the protocol is undecided.
const UNDECIDED_OPERATIONS_MAX: usize = 64;

/// More bytes than tell the hello of a TLS client from others.
const HELLO_BYTES: usize = 16;

/// What is known of a connection's ends once it was announced.
#[derive(Clone, Debug)]
pub struct Ends {
    /// Addresses and ports.
    pub tuple: Tuple,
    /// Inode of the network namespace.
    pub netns: u64,
    /// Socket family.
    pub family: u16,
    /// Which end this is, as far as the kernel knows.
    pub role: Role,
    /// The peer's address as text.
    pub remote: String,
    /// This end's address as text.
    pub local: String,
}

impl Ends {
    /// The ends in a kernel message.
    pub fn of(info: &ConnInfo) -> Self {
        let tuple = Tuple::of(info);
        Self {
            tuple,
            netns: info.netns,
            family: info.family,
            role: Role::of(info),
            remote: text(tuple.remote),
            local: text(tuple.local),
        }
    }

    /// Whether the peer is known; that of a datagram may not be.
    pub const fn knows_peer(&self) -> bool {
        self.tuple.remote_port != 0
    }
}

/// An address as rows show it, `-` where it is not known.
fn text(address: IpAddr) -> String {
    if address.is_unspecified() { "-".to_owned() } else { address.to_string() }
}

/// Which of a connection's two observed ends keeps the rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keeper {
    /// Not decided yet.
    #[default]
    Undecided,
    /// This one.
    This,
    /// The other one.
    Other,
}

/// The parser of a conversation that goes on inside TLS.
#[derive(Debug)]
pub struct Inside(Box<dyn Protocol>);

/// A connection's protocol and its parser.
#[derive(Debug)]
enum Parser {
    Undecided(Undecided),
    Spoken(Box<dyn Protocol>),
    Opaque,
    /// It was spoken; what follows is another protocol, or cannot be read.
    Over {
        code: ProtocolCode,
        requests: Flow,
    },
}

/// The first bytes of a connection whose protocol is not known yet.
#[derive(Debug, Default)]
struct Undecided {
    bytes: [Vec<u8>; 2],
    operations: Vec<(Flow, usize, Operation)>,
    gap: Option<Cause>,
    lost_bytes: [u64; 2],
}

/// How decided a connection's protocol is, as its other end wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decided {
    /// It may still be anything.
    NotYet,
    /// Requests are read on it.
    Spoken,
    /// No rows come from it.
    Opaque,
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    /// Its number in messages.
    pub id: u64,
    /// Its ends, once it was announced.
    pub ends: Option<Ends>,
    /// Who used it last.
    pub process: ProcessKey,
    /// Its other end, where that is observed too.
    pub peer: Option<u64>,
    /// The process at its other end, where that is observed too.
    pub peer_process: Option<ProcessKey>,
    /// Which end keeps the rows.
    pub keeper: Keeper,
    /// Exchanges that wait until it is known which end keeps them.
    pub waiting: Exchanges,
    /// Bytes of each direction, lost ones included.
    pub bytes: [u64; 2],
    /// When its first message was sent.
    pub entered_at: u64,
    /// When its last message was sent.
    pub used_at: u64,
    /// Set once it was said to be gone, with its final totals.
    pub closing: Option<ConnTotals>,
    /// Lost bytes that holes account for, and how many of them the ledger was told.
    pub lost_bytes: u64,
    /// See `lost_bytes`.
    pub attributed_bytes: u64,
    /// Whether its gap is queued to be declared.
    pub gap_queued: bool,
    /// The connection that carries it, where it is a plaintext and that is known.
    pub carrier: Option<u64>,
    /// What is spoken in the plaintext that it carries, and which end this is of that.
    pub carries: Option<(ProtocolCode, Role)>,
    /// Its row in `conn_stats`, and the bytes that it has there already.
    pub account: Option<(AccountKey, [u64; 2])>,
    /// Whether it was known before its first byte, as messages say.
    beginning: Beginning,
    streams: DataStreams,
    parser: Parser,
    opaque_for_good: bool,
    packet_head: Option<PacketHead>,
    handshake_at: Option<u64>,
    /// What was spoken before TLS, where that goes on inside.
    before_tls: Option<Inside>,
    secured: bool,
}

impl Connection {
    fn new(id: u64) -> Self {
        Self {
            id,
            ends: None,
            process: ProcessKey::default(),
            peer: None,
            peer_process: None,
            keeper: Keeper::Undecided,
            waiting: Vec::new(),
            bytes: [0; 2],
            entered_at: 0,
            used_at: 0,
            closing: None,
            lost_bytes: 0,
            attributed_bytes: 0,
            gap_queued: false,
            carrier: None,
            carries: None,
            account: None,
            beginning: Beginning::Untold,
            streams: DataStreams::default(),
            parser: Parser::Undecided(Undecided::default()),
            opaque_for_good: false,
            packet_head: None,
            handshake_at: None,
            before_tls: None,
            secured: false,
        }
    }

    /// Whether it is what a program said to a TLS library, and not what went over a socket.
    pub const fn is_plaintext(&self) -> bool {
        self.id & PLAINTEXT != 0
    }

    /// Whether TLS is spoken on it.
    pub const fn is_tls(&self) -> bool {
        self.secured || self.handshake_at.is_some()
    }

    /// Whether it is not known yet what the TLS on it is about.
    pub const fn may_carry_plaintext(&self) -> bool {
        self.is_tls() && self.carries.is_none()
    }

    /// What is spoken on it, inside TLS where that is looked into, and which end this is.
    pub fn speaks(&self) -> (ProtocolCode, Role) {
        match (self.carries, self.protocol()) {
            (Some(inside), _) => inside,
            (None, code) => (code, self.role()),
        }
    }

    /// Takes note that it carries a plaintext, which from here on says what it speaks. Gives
    /// the parser, where that goes on inside, and whether the plaintext is known from its
    /// beginning: it carried nothing unseen before its handshake, which was seen, and the library's
    /// calls are since before that.
    pub fn secure(&mut self, probed_since: u64, out: &mut Output) -> (Option<Inside>, bool) {
        self.secured = true;
        self.packet_head = None;
        let from_its_beginning = !self.beginning_was_missed()
            && probed_since != 0
            && self.handshake_at.is_some_and(|at| at > probed_since);
        let inside = self.end_before_tls(out).or_else(|| self.before_tls.take());
        (inside, from_its_beginning)
    }

    /// Ends what is read of it besides a handshake, which ends by itself.
    fn end_before_tls(&mut self, out: &mut Output) -> Option<Inside> {
        let over = match &self.parser {
            Parser::Spoken(protocol) if protocol.code() != ProtocolCode::Tls => {
                Parser::Over { code: protocol.code(), requests: protocol.requests() }
            }
            // What was read so far is not a handshake's beginning.
            Parser::Undecided(_) if self.bytes != [0; 2] => Parser::Opaque,
            _ => return None,
        };
        self.streams.restart_at(self.bytes);
        let Parser::Spoken(mut protocol) = std::mem::replace(&mut self.parser, over) else {
            return None;
        };
        if protocol.goes_on_in_tls() {
            return Some(Inside(protocol));
        }
        if !protocol.is_opaque() {
            protocol.close(self.used_at, out);
        }
        None
    }

    /// Goes on with what the connection that carries it spoke before TLS.
    pub fn go_on(&mut self, inside: Inside) {
        if matches!(self.parser, Parser::Undecided(_)) {
            self.parser = Parser::Spoken(inside.0);
        }
    }

    /// Takes note of its ends.
    pub fn announce(&mut self, info: &ConnInfo) {
        self.ends = Some(Ends::of(info));
    }

    /// Which end this is.
    pub fn role(&self) -> Role {
        match (&self.parser, &self.ends) {
            (Parser::Spoken(protocol), _) => Role::of_requests(protocol.requests()),
            (Parser::Over { requests, .. }, _) => Role::of_requests(*requests),
            (_, Some(ends)) => ends.role,
            (_, None) => Role::Unknown,
        }
    }

    /// Its protocol.
    pub fn protocol(&self) -> ProtocolCode {
        match &self.parser {
            Parser::Spoken(protocol) => protocol.code(),
            Parser::Over { code, .. } => *code,
            Parser::Undecided(_) | Parser::Opaque => ProtocolCode::Unknown,
        }
    }

    /// Whether both of its ends keep their rows; none where its protocol is not known.
    pub fn both_ends_keep(&self) -> Option<bool> {
        let code = self.protocol();
        (code != ProtocolCode::Unknown).then(|| code.both_ends_keep())
    }

    /// How decided its protocol is.
    pub const fn decided(&self) -> Decided {
        match self.parser {
            Parser::Undecided(_) => Decided::NotYet,
            Parser::Spoken(_) | Parser::Over { .. } => Decided::Spoken,
            Parser::Opaque => Decided::Opaque,
        }
    }

    /// Requests that wait for their response.
    pub fn in_flight(&self) -> usize {
        match &self.parser {
            Parser::Spoken(protocol) => protocol.in_flight(),
            _ => 0,
        }
    }

    /// Whether pairing is interrupted by a gap.
    pub fn is_out_of_step(&self) -> bool {
        match &self.parser {
            Parser::Spoken(protocol) => protocol.is_out_of_step(),
            _ => false,
        }
    }

    /// When the first message that waits for missing bytes was sent.
    pub fn gap_since(&self) -> Option<u64> {
        self.streams.gap_since()
    }

    /// Whether everything up to its final totals has come.
    pub fn is_complete(&self) -> bool {
        self.closing.as_ref().is_some_and(|totals| {
            self.parser.reads_nothing() || self.streams.is_complete(sizes(totals))
        })
    }

    /// Payload bytes that wait for missing ones.
    pub const fn held_bytes(&self) -> usize {
        self.streams.held_bytes()
    }

    /// Takes a data message.
    pub fn data(&mut self, piece: Piece<'_>, out: &mut Output) {
        let end = &mut self.bytes[piece.flow.index()];
        *end = (*end).max(piece.pos.saturating_add(piece.len));
        self.used_at = piece.operation.at;
        if self.handshake_at.is_none() && !self.is_plaintext() && is_handshake(piece.payload) {
            self.handshake_at = Some(piece.operation.at);
        }
        if self.parser.reads_nothing() {
            let head = self.packet_head.take().filter(|head| head.is_before(&piece));
            if self.reconsider(&piece, None) {
                self.push(piece, out);
            } else if let Some(head) = head
                && self.reconsider(&head.piece(), Some(piece.payload))
            {
                self.push(head.piece(), out);
                self.push(piece, out);
            } else {
                self.packet_head = PacketHead::of(&piece);
            }
            return;
        }
        self.push(piece, out);
        if self.opaque_for_good && self.end_reading() {
            // These bytes may be what ended it.
            if self.reconsider(&piece, None) {
                self.push(piece, out);
            } else {
                self.packet_head = PacketHead::of(&piece);
            }
        }
    }

    fn push(&mut self, piece: Piece<'_>, out: &mut Output) {
        let was_missed = self.beginning_was_missed();
        let Self { streams, parser, lost_bytes, opaque_for_good, .. } = self;
        streams.push(piece, &mut |delivery| {
            parser.take(delivery, was_missed, lost_bytes, opaque_for_good, out);
        });
    }

    /// Declares gaps as far as `watermark` proves them, or all of them.
    pub fn declare_gaps(&mut self, watermark: Option<u64>, out: &mut Output) {
        let was_missed = self.beginning_was_missed();
        let Self { streams, parser, lost_bytes, opaque_for_good, .. } = self;
        let mut deliver = |delivery: Delivery<'_>| {
            parser.take(delivery, was_missed, lost_bytes, opaque_for_good, out);
        };
        match watermark {
            Some(watermark) => streams.advance(watermark, &mut deliver),
            None => streams.settle(&mut deliver),
        }
    }

    /// Declares what has not come of the first bytes, whose number `totals` gives, lost, unless
    /// the kernel did not drop as much: then a message is on its way.
    pub fn reconcile_open(&mut self, totals: &ConnTotals, at: u64, out: &mut Output) {
        let missing = self.streams.missing(sizes(totals));
        let dropped = dropped_bytes(totals);
        if missing > 0 && dropped >= self.lost_bytes.saturating_add(missing) {
            self.reconcile(totals, at, out);
        }
    }

    /// Declares everything up to `totals` that has not come lost.
    pub fn reconcile(&mut self, totals: &ConnTotals, at: u64, out: &mut Output) {
        for (seen, total) in self.bytes.iter_mut().zip(sizes(totals)) {
            *seen = (*seen).max(total);
        }
        if self.parser.reads_nothing() {
            return;
        }
        let was_missed = self.beginning_was_missed();
        let Self { streams, parser, lost_bytes, opaque_for_good, .. } = self;
        streams.finish(sizes(totals), at, &mut |delivery| {
            parser.take(delivery, was_missed, lost_bytes, opaque_for_good, out);
        });
    }

    /// Ends it.
    pub fn close(&mut self, at: u64, out: &mut Output) {
        if let Parser::Spoken(protocol) = &mut self.parser {
            protocol.close(at, out);
        }
    }

    /// Bytes that came after they had been declared missing, since the last call.
    pub fn take_late_bytes(&mut self) -> u64 {
        self.streams.take_late_bytes()
    }

    /// Whether rows are known to be missing since the last [`Self::take_lost_rows`].
    pub fn has_lost_rows(&self) -> bool {
        match &self.parser {
            Parser::Spoken(protocol) => protocol.has_lost_rows(),
            _ => false,
        }
    }

    /// Takes the rows that are known to be missing since the last call.
    pub fn take_lost_rows(&mut self) -> Option<LostRows> {
        match &mut self.parser {
            Parser::Spoken(protocol) => protocol.take_lost_rows(),
            Parser::Opaque | Parser::Over { .. } => None,
            Parser::Undecided(undecided) => {
                let role = self.ends.as_ref().map_or(Role::Unknown, |ends| ends.role);
                undecided.take_lost_rows(role)
            }
        }
    }

    /// Whether bytes went by before the first that was seen. Older recordings do not say; there it is
    /// so where neither end was seen to begin it.
    fn beginning_was_missed(&self) -> bool {
        match self.beginning {
            Beginning::Seen => false,
            Beginning::Missed => true,
            Beginning::Untold => self.ends.as_ref().is_some_and(|ends| ends.role == Role::Unknown),
        }
    }

    /// Takes note of what a message says of its beginning.
    pub const fn begins(&mut self, beginning: Beginning) {
        if !matches!(beginning, Beginning::Untold) {
            self.beginning = beginning;
        }
    }

    /// Reads on no more, once the parser has nothing to say; whether that is just now.
    fn end_reading(&mut self) -> bool {
        let Parser::Spoken(protocol) = &self.parser else { return false };
        if protocol.has_lost_rows() || protocol.in_flight() > 0 {
            return false;
        }
        let over = Parser::Over { code: protocol.code(), requests: protocol.requests() };
        if let Parser::Spoken(mut protocol) = std::mem::replace(&mut self.parser, over)
            && protocol.goes_on_in_tls()
        {
            self.before_tls = Some(Inside(protocol));
        }
        self.streams.restart_at(self.bytes);
        true
    }

    /// Looks at an opaque connection again, with what was read right after `piece` if any; whether
    /// it is one no longer.
    fn reconsider(&mut self, piece: &Piece<'_>, next: Option<&[u8]>) -> bool {
        if piece.operation.continued {
            return false;
        }
        let Some(code) = self.recognise(piece.payload, next) else { return false };
        if self.both_ends_keep() == Some(true) && !code.both_ends_keep() {
            // Which end keeps what follows has to be agreed on.
            self.keeper = Keeper::Undecided;
        }
        let start = match code {
            ProtocolCode::Tls => Start::AtItsBeginning,
            _ => Start::AfterGap { cause: Cause::Midstream, request_bytes: 0 },
        };
        self.opaque_for_good = false;
        self.parser = Parser::Spoken(protocol::start(code, piece.flow, start));
        let mut positions = self.bytes;
        positions[piece.flow.index()] = piece.pos;
        self.streams.restart_at(positions);
        true
    }

    /// What starts with `bytes` and `next`, of which nothing is read so far.
    fn recognise(&self, bytes: &[u8], next: Option<&[u8]>) -> Option<ProtocolCode> {
        let is_over = match self.parser {
            Parser::Over { code: ProtocolCode::Tls, .. } => return None,
            // Many protocols can be told to go on in TLS.
            Parser::Over { .. } => true,
            // What else it may look like is ciphertext.
            _ => self.secured,
        };
        match next {
            None if is_over => begins_tls(bytes).then_some(ProtocolCode::Tls),
            None => request_starts(bytes),
            Some(next) if is_over || packet_head::is_of_tls(bytes) => {
                let next = &next[..next.len().min(HELLO_BYTES)];
                begins_tls(&[bytes, next].concat()).then_some(ProtocolCode::Tls)
            }
            Some(next) => request_starts(&[bytes, next].concat()),
        }
    }
}

/// Whether `bytes` begin with a TLS record that is part of a handshake (RFC 8446, 5.1).
fn is_handshake(bytes: &[u8]) -> bool {
    matches!(bytes, [22, 3, 0..=4, ..])
}

/// The sizes of both directions.
fn sizes(totals: &ConnTotals) -> [u64; 2] {
    [totals.directions[0].bytes, totals.directions[1].bytes]
}

/// Bytes of both directions that the kernel dropped.
pub fn dropped_bytes(totals: &ConnTotals) -> u64 {
    totals.directions.iter().fold(0, |sum, direction| sum.saturating_add(direction.dropped_bytes))
}

impl Parser {
    /// Whether bytes are only counted.
    const fn reads_nothing(&self) -> bool {
        matches!(self, Self::Opaque | Self::Over { .. })
    }

    fn take(
        &mut self,
        delivery: Delivery<'_>,
        was_missed: bool,
        lost_bytes: &mut u64,
        opaque_for_good: &mut bool,
        out: &mut Output,
    ) {
        if let Delivery::Hole(_, bytes, Missing::Lost, _) = delivery {
            *lost_bytes = lost_bytes.saturating_add(bytes);
        }
        match self {
            Self::Spoken(protocol) => {
                feed(protocol.as_mut(), delivery, out);
                if protocol.is_opaque() {
                    *opaque_for_good = true;
                }
            }
            Self::Opaque | Self::Over { .. } => {}
            Self::Undecided(undecided) => match undecided.take(delivery) {
                Verdict::NeedMore => {}
                Verdict::Opaque => *self = Self::Opaque,
                Verdict::Speaks { code, requests } => {
                    let undecided = std::mem::take(undecided);
                    let parser = undecided.into_protocol(code, requests, was_missed, delivery, out);
                    *self = Self::Spoken(parser);
                }
            },
        }
    }
}

fn feed(protocol: &mut dyn Protocol, delivery: Delivery<'_>, out: &mut Output) {
    match delivery {
        Delivery::Bytes(flow, bytes, operation) => protocol.bytes(flow, bytes, operation, out),
        Delivery::Hole(flow, bytes, why, operation) => {
            protocol.hole(flow, bytes, why, operation, out);
        }
    }
}

impl Undecided {
    fn take(&mut self, delivery: Delivery<'_>) -> Verdict {
        let (flow, bytes, operation) = match delivery {
            Delivery::Bytes(flow, bytes, operation) => (flow, bytes, operation),
            Delivery::Hole(flow, bytes, why, _) => {
                self.note_gap(flow, bytes, Cause::of(why));
                return Verdict::NeedMore;
            }
        };
        if self.operations.is_empty()
            && let verdict @ Verdict::Speaks { .. } = infer_one(flow, bytes)
        {
            return verdict;
        }
        self.operations.push((flow, bytes.len(), operation));
        self.bytes[flow.index()].extend_from_slice(bytes);
        let verdict = match infer(&self.bytes[0], &self.bytes[1]) {
            Verdict::NeedMore if self.is_full() => Verdict::Opaque,
            verdict => verdict,
        };
        if verdict == Verdict::Opaque
            && let Some(cause) = self.gap
        {
            // After a gap these may be the middle of anything, so only a yes counts.
            self.note_gap(flow, 0, cause);
            return Verdict::NeedMore;
        }
        verdict
    }

    fn is_full(&self) -> bool {
        self.operations.len() >= UNDECIDED_OPERATIONS_MAX
            || self.bytes.iter().any(|bytes| bytes.len() >= PROBE_BYTES_MAX)
    }

    /// Forgets the bytes at hand, which cannot be told apart from the middle of a message.
    fn note_gap(&mut self, flow: Flow, bytes: u64, cause: Cause) {
        self.gap.get_or_insert(cause);
        self.operations.clear();
        for (lost, kept) in self.lost_bytes.iter_mut().zip(&mut self.bytes) {
            *lost = lost.saturating_add(kept.len() as u64);
            kept.clear();
        }
        let lost = &mut self.lost_bytes[flow.index()];
        *lost = lost.saturating_add(bytes);
    }

    /// Makes it a parser and feeds it what was kept and `last`, unless that was kept too.
    fn into_protocol(
        self,
        code: ProtocolCode,
        requests: Flow,
        was_missed: bool,
        last: Delivery<'_>,
        out: &mut Output,
    ) -> Box<dyn Protocol> {
        let [asked, pushed] =
            [requests, requests.opposite()].map(|flow| self.lost_bytes[flow.index()]);
        let request_bytes = if code.servers_push() { asked.saturating_add(pushed) } else { asked };
        let start = match self.gap {
            Some(cause) => Start::AfterGap { cause, request_bytes },
            None if was_missed => Start::AfterGap { cause: Cause::Midstream, request_bytes: 0 },
            None => Start::AtItsBeginning,
        };
        let mut parser = protocol::start(code, requests, start);
        if self.operations.is_empty() {
            feed(parser.as_mut(), last, out);
        }
        let mut at = [0; 2];
        for (flow, length, operation) in self.operations {
            let from = at[flow.index()];
            at[flow.index()] += length;
            parser.bytes(flow, &self.bytes[flow.index()][from..from + length], operation, out);
        }
        parser
    }

    fn take_lost_rows(&mut self, role: Role) -> Option<LostRows> {
        let bytes = match role.requests() {
            Some(flow) => self.lost_bytes[flow.index()],
            None => self.lost_bytes[0].max(self.lost_bytes[1]),
        };
        let request_bytes_min = ProtocolCode::Unknown.request_bytes_min();
        let rows_max = bytes / request_bytes_min;
        if rows_max == 0 {
            return None;
        }
        for lost in &mut self.lost_bytes {
            *lost = (*lost).min(bytes % request_bytes_min);
        }
        let cause = self.gap.unwrap_or(Cause::RingFull);
        let request_bytes = rows_max * request_bytes_min;
        Some(LostRows { cause, rows_min: 0, rows_max, request_bytes })
    }
}

fn infer_one(flow: Flow, bytes: &[u8]) -> Verdict {
    match flow {
        Flow::Ingress => infer(bytes, &[]),
        Flow::Egress => infer(&[], bytes),
    }
}

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
