//! One direction of a connection: from bytes to what they say of streams.

use std::borrow::Cow;

use super::super::dialogue::Side;
use super::frame::{self, HEAD_BYTES, Head, Kind, PAYLOAD_BYTES, PAYLOAD_BYTES_MAX, PREFACE};
use super::hpack::{Bad, Decoder, Fields};

/// Most bytes of a block of headers as it is sent.
const BLOCK_BYTES_MAX: usize = 64 * 1024;
/// Most bytes of a frame with settings.
const SETTINGS_BYTES_MAX: u32 = 4096;

/// What bytes say.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item<'a> {
    /// Headers of a stream, which are in the direction's fields.
    Headers {
        stream: u32,
        /// Whether the stream's direction ends with them.
        ends: bool,
    },
    /// The headers of a request, in the direction's fields, that the server will answer unasked on
    /// the stream `promised`.
    Promise { promised: u32 },
    /// Bytes of a body, maybe none.
    Data { stream: u32, bytes: &'a [u8], ends: bool },
    /// A stream is given up.
    Reset { stream: u32 },
    /// What the sender wants of the other end.
    Settings(Settings),
    /// The sender heeds settings.
    Acknowledged,
    /// The sender takes no streams after this one.
    GoAway { last: u32 },
}

/// Those of an end's settings that change how the other end writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) table_bytes: Option<u32>,
    pub(super) push: Option<u32>,
    pub(super) payload_bytes: Option<u32>,
}

/// What the next byte belongs to.
#[derive(Debug, PartialEq, Eq)]
enum State {
    /// The client's first bytes.
    Preface,
    /// The head of a frame.
    Head,
    /// The payload of a frame that is read as a whole.
    Payload(Head),
    /// The payload of a frame with data, with so many bytes left, so many of them padding if that
    /// is known.
    Data { head: Head, left: u32, padding: Option<u32> },
    /// Bytes of no interest.
    Skip { left: u32 },
    /// It is not known.
    Out,
}

/// Headers that go on in the next frame.
#[derive(Debug)]
struct Block {
    head: Head,
    promised: u32,
    bytes: Vec<u8>,
}

/// One direction.
#[derive(Debug)]
pub(super) struct Direction {
    state: State,
    /// The start of a head or payload whose end is to come.
    partial: Vec<u8>,
    block: Option<Block>,
    began_at: u64,
    payload_bytes_max: u32,
    pub(super) decoder: Decoder,
    /// The headers that were read last.
    pub(super) fields: Fields,
}

impl Direction {
    /// Before the first byte of `side`.
    pub(super) fn at_beginning(side: Side) -> Self {
        let state = if side == Side::Client { State::Preface } else { State::Head };
        Self::at(state, PAYLOAD_BYTES, Decoder::at_beginning())
    }

    /// After bytes that were not seen.
    pub(super) fn after_gap() -> Self {
        Self::at(State::Out, PAYLOAD_BYTES_MAX, Decoder::after_gap())
    }

    fn at(state: State, payload_bytes_max: u32, decoder: Decoder) -> Self {
        Self {
            state,
            partial: Vec::new(),
            block: None,
            began_at: 0,
            payload_bytes_max,
            decoder,
            fields: Fields::default(),
        }
    }

    /// Whether nothing is read, because of a gap.
    pub(super) const fn is_out(&self) -> bool {
        matches!(self.state, State::Out)
    }

    /// Whether the next byte begins a frame, and no headers go on in it.
    pub(super) fn is_between_frames(&self) -> bool {
        self.state == State::Head && self.partial.is_empty() && self.block.is_none()
    }

    /// When the first byte of what was read last was seen.
    pub(super) const fn began_at(&self) -> u64 {
        self.began_at
    }

    /// Bytes that were taken and have not become an item.
    pub(super) fn pending_bytes(&self) -> usize {
        let head = if matches!(self.state, State::Payload(_)) { HEAD_BYTES } else { 0 };
        let block = self.block.as_ref().map_or(0, |block| HEAD_BYTES + block.bytes.len());
        self.partial.len() + head + block
    }

    /// Bytes that it holds.
    pub(super) fn memory_bytes(&self) -> usize {
        let block = self.block.as_ref().map_or(0, |block| block.bytes.capacity());
        let read = self.decoder.memory_bytes() + self.fields.memory_bytes();
        self.partial.capacity() + block + read
    }

    /// The other end says how large frames may be.
    pub(super) fn allow_payload(&mut self, bytes: u32) {
        self.payload_bytes_max = self.payload_bytes_max.max(bytes.min(PAYLOAD_BYTES_MAX));
    }

    /// Begins to read again where an operation starts with what only frames can be.
    pub(super) fn resume(&mut self, side: Side, bytes: &[u8]) -> bool {
        if side == Side::Client && bytes.starts_with(PREFACE) {
            self.state = State::Preface;
            self.decoder.restart();
        } else if frame::resumes(bytes) {
            self.state = State::Head;
        } else {
            return false;
        }
        true
    }

    /// Takes the next item off `rest`; `None` where there is no more in it.
    pub(super) fn next<'a>(
        &mut self,
        rest: &mut &'a [u8],
        at: u64,
    ) -> Result<Option<Item<'a>>, Bad> {
        loop {
            match self.state {
                State::Preface => {
                    let Some(bytes) = self.gather(rest, PREFACE.len()) else { return Ok(None) };
                    if bytes != PREFACE {
                        return Err(Bad);
                    }
                    self.state = State::Head;
                }
                State::Head => {
                    if rest.is_empty() {
                        return Ok(None);
                    }
                    if self.partial.is_empty() && self.block.is_none() {
                        self.began_at = at;
                    }
                    let Some(bytes) = self.gather(rest, HEAD_BYTES) else { return Ok(None) };
                    let head = Head::parse(&bytes).ok_or(Bad)?;
                    self.begin(head)?;
                }
                State::Payload(head) => {
                    let wanted = whole_bytes(head);
                    let Some(payload) = self.gather(rest, wanted as usize) else {
                        return Ok(None);
                    };
                    self.state = skip(head.length - wanted);
                    if let Some(item) = self.whole(head, &payload)? {
                        return Ok(Some(item));
                    }
                }
                State::Data { head, left, padding } => {
                    if left > 0 && rest.is_empty() {
                        return Ok(None);
                    }
                    return self.data(rest, head, left, padding).map(Some);
                }
                State::Skip { left } => {
                    let took = front(rest, left);
                    if took.is_empty() {
                        return Ok(None);
                    }
                    self.state = skip(left - length(took));
                }
                State::Out => return Ok(None),
            }
        }
    }

    /// Jumps over `missing` bytes as far as they are of no interest or surely in a body: how many
    /// were, and of which stream's body how many with whether it ends there.
    pub(super) fn hole(&mut self, missing: u64) -> (u64, Option<(u32, u64, bool)>) {
        match &mut self.state {
            State::Data { head, left, padding } => {
                let inside = u32::try_from(missing).map_or(*left, |missing| missing.min(*left));
                let body = inside.min(left.saturating_sub(padding.unwrap_or(0)));
                *left -= inside;
                let ended = *left == 0;
                let data = (head.stream, u64::from(body), ended && head.ends_stream());
                padding.get_or_insert(0);
                if ended {
                    self.state = State::Head;
                }
                (u64::from(inside), Some(data))
            }
            State::Skip { left } => {
                let inside = u32::try_from(missing).map_or(*left, |missing| missing.min(*left));
                self.state = skip(*left - inside);
                (u64::from(inside), None)
            }
            _ => (0, None),
        }
    }

    /// Goes on after the head of a frame.
    fn begin(&mut self, head: Head) -> Result<(), Bad> {
        let is_due = match &self.block {
            Some(block) => head.kind == Kind::Continuation && head.stream == block.head.stream,
            None => head.kind != Kind::Continuation,
        };
        if !is_due || !head.is_valid(self.payload_bytes_max) {
            return Err(Bad);
        }
        let block_bytes = self.block.as_ref().map_or(0, |block| block.bytes.len());
        self.state = match head.kind {
            Kind::Data => {
                let padding = if head.is_padded() { None } else { Some(0) };
                State::Data { head, left: head.length, padding }
            }
            Kind::Headers | Kind::PushPromise | Kind::Continuation => {
                if block_bytes + head.length as usize > BLOCK_BYTES_MAX {
                    return Err(Bad);
                }
                State::Payload(head)
            }
            Kind::Settings if head.length > SETTINGS_BYTES_MAX => return Err(Bad),
            Kind::Settings | Kind::Reset | Kind::GoAway => State::Payload(head),
            Kind::Priority | Kind::Ping | Kind::WindowUpdate | Kind::Other => skip(head.length),
        };
        Ok(())
    }

    fn data<'a>(
        &mut self,
        rest: &mut &'a [u8],
        head: Head,
        mut left: u32,
        padding: Option<u32>,
    ) -> Result<Item<'a>, Bad> {
        let padding = if let Some(padding) = padding {
            padding
        } else {
            let (&padding, tail) = rest.split_first().ok_or(Bad)?;
            (*rest, left) = (tail, left - 1);
            if u32::from(padding) > left {
                return Err(Bad);
            }
            u32::from(padding)
        };
        let bytes = front(rest, left.saturating_sub(padding));
        left -= length(bytes);
        if left <= padding {
            left -= length(front(rest, left));
        }
        let ends = left == 0 && head.ends_stream();
        self.state = if left == 0 {
            State::Head
        } else {
            State::Data { head, left, padding: Some(padding) }
        };
        Ok(Item::Data { stream: head.stream, bytes, ends })
    }

    /// What a frame says that was read as a whole.
    fn whole<'a>(&mut self, head: Head, payload: &[u8]) -> Result<Option<Item<'a>>, Bad> {
        let item = match head.kind {
            Kind::Settings if head.acknowledges() => Item::Acknowledged,
            Kind::Settings => Item::Settings(settings(payload)),
            Kind::Reset => Item::Reset { stream: head.stream },
            Kind::GoAway => {
                let last = payload.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
                Item::GoAway { last: last & 0x7fff_ffff }
            }
            Kind::Continuation => {
                let Some(mut block) = self.block.take() else { return Err(Bad) };
                block.bytes.extend_from_slice(payload);
                if head.goes_on() {
                    self.block = Some(block);
                    return Ok(None);
                }
                self.headers(block.head, block.promised, &block.bytes)?
            }
            _ => {
                let (promised, bytes) = head.headers(payload).ok_or(Bad)?;
                if head.goes_on() {
                    self.block = Some(Block { head, promised, bytes: bytes.to_vec() });
                    return Ok(None);
                }
                self.headers(head, promised, bytes)?
            }
        };
        Ok(Some(item))
    }

    fn headers<'a>(&mut self, head: Head, promised: u32, block: &[u8]) -> Result<Item<'a>, Bad> {
        self.decoder.decode(block, &mut self.fields)?;
        Ok(match head.kind {
            Kind::PushPromise => Item::Promise { promised },
            _ => Item::Headers { stream: head.stream, ends: head.ends_stream() },
        })
    }

    /// Takes `wanted` bytes off `rest`, with those that were taken before; `None` where there are
    /// not so many yet.
    fn gather<'a>(&mut self, rest: &mut &'a [u8], wanted: usize) -> Option<Cow<'a, [u8]>> {
        if self.partial.is_empty()
            && let Some((whole, tail)) = rest.split_at_checked(wanted)
        {
            *rest = tail;
            return Some(Cow::Borrowed(whole));
        }
        let (more, tail) = rest.split_at((wanted - self.partial.len()).min(rest.len()));
        *rest = tail;
        self.partial.extend_from_slice(more);
        (self.partial.len() == wanted).then(|| Cow::Owned(std::mem::take(&mut self.partial)))
    }
}

/// Bytes of a frame's payload that are read as a whole; the others are of no interest.
fn whole_bytes(head: Head) -> u32 {
    if head.kind == Kind::GoAway { head.length.min(8) } else { head.length }
}

const fn skip(left: u32) -> State {
    if left == 0 { State::Head } else { State::Skip { left } }
}

/// Takes at most `most` bytes off `rest`.
fn front<'a>(rest: &mut &'a [u8], most: u32) -> &'a [u8] {
    let (front, tail) = rest.split_at(usize::try_from(most).unwrap_or(usize::MAX).min(rest.len()));
    *rest = tail;
    front
}

/// The length of what [`front`] took.
fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

fn settings(payload: &[u8]) -> Settings {
    let mut settings = Settings::default();
    for setting in payload.chunks_exact(6) {
        let (identifier, value) = setting.split_at(2);
        let value = value.try_into().ok().map(u32::from_be_bytes);
        match identifier {
            [0, 1] => settings.table_bytes = value,
            [0, 2] => settings.push = value,
            [0, 5] => settings.payload_bytes = value,
            _ => {}
        }
    }
    settings
}
