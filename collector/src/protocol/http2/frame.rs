//! The heads of frames, and how a run of them tells that bytes are HTTP/2.

use std::ops::Range;

use super::super::Probe;
use super::super::dialogue::Side;
use super::hpack;

/// What a client sends first.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a frame's head.
pub(super) const HEAD_BYTES: usize = 9;
/// Most bytes of a frame's payload before anything is said about it.
pub(super) const PAYLOAD_BYTES: u32 = 16 * 1024;
/// Most bytes of a frame's payload that can be said.
pub(super) const PAYLOAD_BYTES_MAX: u32 = (1 << 24) - 1;
/// Frames that are proof enough where a connection's beginning was not seen.
const RUN_FRAMES: usize = 3;
/// Frames that are proof enough where it is known that the connection speaks HTTP/2.
const RESUME_FRAMES: usize = 2;

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Data,
    Headers,
    Priority,
    Reset,
    Settings,
    PushPromise,
    Ping,
    GoAway,
    WindowUpdate,
    Continuation,
    /// Something newer, to be ignored.
    Other,
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) length: u32,
    pub(super) kind: Kind,
    flags: u8,
    pub(super) stream: u32,
}

impl Head {
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let (length, rest) = bytes.split_first_chunk::<3>()?;
        let (&[kind, flags], stream) = rest.split_first_chunk()?;
        let stream = u32::from_be_bytes(stream.try_into().ok()?) & 0x7fff_ffff;
        let kind = match kind {
            0 => Kind::Data,
            1 => Kind::Headers,
            2 => Kind::Priority,
            3 => Kind::Reset,
            4 => Kind::Settings,
            5 => Kind::PushPromise,
            6 => Kind::Ping,
            7 => Kind::GoAway,
            8 => Kind::WindowUpdate,
            9 => Kind::Continuation,
            _ => Kind::Other,
        };
        let length = length.iter().fold(0, |length, byte| length << 8 | u32::from(*byte));
        Some(Self { length, kind, flags, stream })
    }

    /// Whether its sender sends nothing more on its stream.
    pub(super) const fn ends_stream(&self) -> bool {
        matches!(self.kind, Kind::Data | Kind::Headers) && self.flags & 1 != 0
    }

    pub(super) const fn acknowledges(&self) -> bool {
        matches!(self.kind, Kind::Settings | Kind::Ping) && self.flags & 1 != 0
    }

    /// Whether it holds headers that go on in the next frame.
    pub(super) const fn goes_on(&self) -> bool {
        matches!(self.kind, Kind::Headers | Kind::PushPromise | Kind::Continuation)
            && self.flags & 4 == 0
    }

    pub(super) const fn is_padded(&self) -> bool {
        matches!(self.kind, Kind::Data | Kind::Headers | Kind::PushPromise) && self.flags & 8 != 0
    }

    pub(super) const fn has_priority(&self) -> bool {
        matches!(self.kind, Kind::Headers) && self.flags & 0x20 != 0
    }

    /// Whether its length and its stream are what its kind may have.
    pub(super) fn is_valid(&self, payload_bytes_max: u32) -> bool {
        let on_stream = self.stream != 0;
        let fits = match self.kind {
            Kind::Data => on_stream && self.length >= u32::from(self.is_padded()),
            Kind::Headers | Kind::PushPromise => on_stream && self.length >= self.prefix_bytes(),
            Kind::Priority => on_stream && self.length == 5,
            Kind::Reset => on_stream && self.length == 4,
            Kind::Settings if self.acknowledges() => !on_stream && self.length == 0,
            Kind::Settings => !on_stream && self.length.is_multiple_of(6),
            Kind::Ping => !on_stream && self.length == 8,
            Kind::GoAway => !on_stream && self.length >= 8,
            Kind::WindowUpdate => self.length == 4,
            Kind::Continuation => on_stream,
            Kind::Other => true,
        };
        fits && self.length <= payload_bytes_max
    }

    /// Bytes before the headers that it holds.
    fn prefix_bytes(&self) -> u32 {
        let promised = if self.kind == Kind::PushPromise { 4 } else { 0 };
        u32::from(self.is_padded()) + if self.has_priority() { 5 } else { promised }
    }

    /// Whether it sets no flag but those that its kind has.
    const fn has_known_flags(&self) -> bool {
        let known = match self.kind {
            Kind::Data => 0x09,
            Kind::Headers => 0x2d,
            Kind::Settings | Kind::Ping => 0x01,
            Kind::PushPromise => 0x0c,
            Kind::Continuation => 0x04,
            _ => 0,
        };
        self.flags & !known == 0
    }

    /// Takes padding and what else is before and behind the headers in `payload` off them; the
    /// promised stream, and the headers.
    pub(super) fn headers<'a>(&self, payload: &'a [u8]) -> Option<(u32, &'a [u8])> {
        let mut rest = payload;
        if self.is_padded() {
            let (&padding, tail) = rest.split_first()?;
            rest = &tail[..tail.len().checked_sub(usize::from(padding))?];
        }
        let mut promised = 0;
        if self.kind == Kind::PushPromise {
            let (bytes, tail) = rest.split_first_chunk()?;
            (promised, rest) = (u32::from_be_bytes(*bytes) & 0x7fff_ffff, tail);
        } else if self.has_priority() {
            rest = rest.get(5..)?;
        }
        Some((promised, rest))
    }

    /// Where the headers are in `payload`.
    pub(super) fn block(&self, payload: &[u8]) -> Option<Range<usize>> {
        let (_promised, block) = self.headers(payload)?;
        let padding = if self.is_padded() { usize::from(*payload.first()?) } else { 0 };
        let end = payload.len() - padding;
        Some(end - block.len()..end)
    }
}

/// What a run of frames says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    /// So many heads are there as a whole, and each begins where the frame before it ends.
    frames: usize,
    /// The last frame ends with the bytes.
    ends_with_bytes: bool,
    /// Who sends them.
    sender: Option<Side>,
}

impl Run {
    /// Reads what can only be frames, of no size and no kind that must be agreed on, until there
    /// are `enough`; `None` where something else comes.
    fn of(bytes: &[u8], enough: impl Fn(&Self) -> bool) -> Option<Self> {
        let mut run = Self { frames: 0, ends_with_bytes: false, sender: None };
        let mut rest = bytes;
        let mut goes_on = None;
        while rest.len() >= HEAD_BYTES && !enough(&run) {
            let (head_bytes, tail) = rest.split_at(HEAD_BYTES);
            let head = Head::parse(head_bytes)?;
            let is_reserved = head_bytes[5] & 0x80 != 0;
            let is_due = match goes_on {
                Some(stream) => head.kind == Kind::Continuation && head.stream == stream,
                None => head.kind != Kind::Continuation,
            };
            let is_known = head.kind != Kind::Other && head.has_known_flags();
            if is_reserved || !is_due || !is_known || !head.is_valid(PAYLOAD_BYTES) {
                return None;
            }
            let length = usize::try_from(head.length).unwrap_or(usize::MAX);
            let payload = &tail[..length.min(tail.len())];
            if head.kind == Kind::Headers && !head.is_padded() {
                let block = payload.get(if head.has_priority() { 5.. } else { 0.. });
                run.sender = run.sender.or_else(|| hpack::sender(block?));
            }
            goes_on = head.goes_on().then_some(head.stream);
            run.frames += 1;
            run.ends_with_bytes = tail.len() == length;
            rest = tail.get(length..).unwrap_or_default();
        }
        Some(run)
    }
}

/// Whether `bytes` are the first of a client, or a run of its frames.
pub fn probe_request(bytes: &[u8]) -> Probe {
    let common = bytes.len().min(PREFACE.len());
    if bytes[..common] == PREFACE[..common] {
        return if common == PREFACE.len() { Probe::Yes } else { Probe::Maybe };
    }
    probe_run(bytes, Side::Client)
}

/// Whether `bytes` are a run of a server's frames. Its first ones alone prove nothing: a client's
/// look the same where its preface was not seen.
pub fn probe_response(bytes: &[u8]) -> Probe {
    probe_run(bytes, Side::Server)
}

fn probe_run(bytes: &[u8], side: Side) -> Probe {
    let tells = |run: &Run| run.frames >= RUN_FRAMES && run.sender.is_some();
    match Run::of(bytes, tells) {
        Some(Run { frames, sender: Some(sender), .. }) if frames >= RUN_FRAMES => {
            if sender == side { Probe::Yes } else { Probe::No }
        }
        Some(_) if may_begin(bytes) => Probe::Maybe,
        _ => Probe::No,
    }
}

/// Whether fewer bytes than a head may still be one.
fn may_begin(bytes: &[u8]) -> bool {
    let [a, b, c, kind, ..] = *bytes else {
        return bytes.first().is_none_or(|first| *first == 0);
    };
    let head = [a, b, c, kind, 0, 0, 0, 0, 0];
    bytes.len() >= HEAD_BYTES
        || Head::parse(&head).is_some_and(|mut head| {
            head.stream =
                u32::from(!matches!(head.kind, Kind::Settings | Kind::Ping | Kind::GoAway));
            head.kind != Kind::Other && head.is_valid(PAYLOAD_BYTES)
        })
}

/// Whether frames begin with `bytes`, which are an operation's first.
pub(super) fn resumes(bytes: &[u8]) -> bool {
    Run::of(bytes, |run| run.frames >= RESUME_FRAMES)
        .is_some_and(|run| run.frames >= RESUME_FRAMES || (run.frames == 1 && run.ends_with_bytes))
}

#[cfg(test)]
mod tests;
