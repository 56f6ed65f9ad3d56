//! A connection: its messages in order, what it speaks, and what is known of it.

use undine_ebpf::{ConnInfo, ConnTotals, PLAINTEXT};

use super::ends::Ends;
use super::packet_head::{self, PacketHead};
use super::parser::{Decided, Inside, Parser};
use super::undecided::Undecided;
use crate::conn_stats::AccountKey;
use crate::data_stream::{DataStreams, Delivery, Piece};
use crate::endpoints::Role;
use crate::event::{Beginning, ProcessKey};
use crate::protocol::gap::{Cause, LostRows, Start};
use crate::protocol::output::{Exchanges, Output};
use crate::protocol::{self, ProtocolCode, begins_tls, request_starts};

/// More bytes than tell the hello of a TLS client from others.
const HELLO_BYTES: usize = 16;

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

/// A connection.
#[expect(clippy::struct_excessive_bools, reason = "facts of their own, in any combination")]
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
    /// Whether it is a plaintext of which that did not become known in time: it has no ends, and its
    /// rows say so.
    pub is_unbound: bool,
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
    pub(super) fn new(id: u64) -> Self {
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
            is_unbound: false,
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
