//! Where messages of one direction begin and end.

use super::head::{HEAD_BYTES_MAX, HeaderFacts};
use crate::data_stream::Operation;

/// Most bytes of a line that gives a chunk's size.
const CHUNK_LINE_BYTES_MAX: usize = 4096;

/// Where in a message the next byte lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In a head, or before one.
    Head,
    /// In a body, so many bytes before its end.
    Fixed { left: u64 },
    /// In the line that gives a chunk's size.
    ChunkSize,
    /// In a chunk, so many bytes before its end.
    Chunk { left: u64 },
    /// In the line end after a chunk.
    ChunkEnd,
    /// In the trailers after the last chunk; so many of their bytes were read, and on the present
    /// line so many.
    Trailers { read: usize, line: usize },
    /// In a body that ends with the connection.
    UntilClose,
    /// After a CONNECT that is not answered yet.
    Wait,
    /// Nothing is known of the bytes.
    Skip,
    /// The bytes are another protocol.
    Opaque,
}

/// How far the end of a head was searched, over pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blank {
    /// Inside a line.
    No,
    /// A line just ended.
    LineEnd,
    /// And a carriage return followed.
    Return,
}

/// One direction.
#[derive(Clone, Debug)]
pub(super) struct Framing {
    state: State,
    /// The start of a head, or of a line, whose end is to come.
    pub(super) partial: Vec<u8>,
    blank: Blank,
    began_at: u64,
}

/// What the next bytes are.
#[derive(Debug)]
pub(super) enum Taken<'a> {
    /// Part of a body; `done` where the message ends with it.
    Body { bytes: &'a [u8], took: usize, done: bool },
    /// Bytes between parts of a body.
    Framing { took: usize, done: bool },
    /// The head of a message.
    Head,
    /// Nothing that is of interest.
    Nothing,
    /// No HTTP.
    Bad,
}

/// The bytes of a head: in the piece at hand, or gathered from several.
#[derive(Debug)]
pub(super) enum Whole {
    /// It starts with the piece at hand, and may go on after it.
    Borrowed,
    /// It was gathered and is complete.
    Gathered(Vec<u8>),
}

impl Whole {
    pub(super) fn bytes<'a>(&'a self, piece: &'a [u8]) -> &'a [u8] {
        match self {
            Self::Borrowed => piece,
            Self::Gathered(bytes) => bytes,
        }
    }

    pub(super) fn into_gathered(self) -> Vec<u8> {
        match self {
            Self::Borrowed => Vec::new(),
            Self::Gathered(bytes) => bytes,
        }
    }

    pub(super) const fn is_borrowed(&self) -> bool {
        matches!(self, Self::Borrowed)
    }
}

impl Framing {
    const fn at(state: State) -> Self {
        Self { state, partial: Vec::new(), blank: Blank::No, began_at: 0 }
    }

    /// Before a message.
    pub(super) const HEAD: Self = Self::at(State::Head);
    /// Out of step.
    pub(super) const SKIP: Self = Self::at(State::Skip);
    /// After the last message.
    pub(super) const OPAQUE: Self = Self::at(State::Opaque);

    pub(super) const fn is_opaque(&self) -> bool {
        matches!(self.state, State::Opaque)
    }

    /// Whether the next byte starts a message.
    pub(super) const fn is_between_messages(&self) -> bool {
        matches!(self.state, State::Head | State::Wait) && self.partial.is_empty()
    }

    pub(super) const fn began_at(&self) -> u64 {
        self.began_at
    }

    /// Takes note of when a message began.
    pub(super) fn begin(&mut self, operation: Operation) {
        if self.partial.is_empty() {
            self.began_at = operation.at;
        }
    }

    /// Jumps over `missing` bytes as far as they are surely inside a body; returns how many were.
    pub(super) fn skip(&mut self, missing: u64) -> u64 {
        match &mut self.state {
            State::Fixed { left } => {
                let inside = missing.min(*left);
                *left -= inside;
                if *left == 0 {
                    *self = Self::HEAD;
                }
                inside
            }
            State::Chunk { left } => {
                let inside = missing.min(*left);
                *left -= inside;
                if *left == 0 {
                    self.state = State::ChunkEnd;
                }
                inside
            }
            State::UntilClose => missing,
            _ => 0,
        }
    }

    /// Takes the next bytes of a body, or says what they are instead. At least one byte is taken.
    pub(super) fn body<'a>(&mut self, rest: &'a [u8]) -> Taken<'a> {
        match self.state {
            State::Head => Taken::Head,
            State::Fixed { left } => {
                let bytes = front(rest, left);
                let left = left - bytes.len() as u64;
                self.state = if left == 0 { State::Head } else { State::Fixed { left } };
                Taken::Body { bytes, took: bytes.len(), done: left == 0 }
            }
            State::Chunk { left } => {
                let bytes = front(rest, left);
                let left = left - bytes.len() as u64;
                self.state = if left == 0 { State::ChunkEnd } else { State::Chunk { left } };
                Taken::Body { bytes, took: bytes.len(), done: false }
            }
            State::ChunkSize => self.chunk_size(rest),
            State::ChunkEnd => self.chunk_end(rest),
            State::Trailers { read, line } => self.trailers(rest, read, line),
            State::UntilClose => Taken::Body { bytes: rest, took: rest.len(), done: false },
            State::Wait => {
                if self.partial.len() + rest.len() > HEAD_BYTES_MAX {
                    return Taken::Bad;
                }
                self.partial.extend_from_slice(rest);
                Taken::Nothing
            }
            State::Skip | State::Opaque => Taken::Nothing,
        }
    }

    fn chunk_size<'a>(&mut self, rest: &'a [u8]) -> Taken<'a> {
        let end = rest.iter().position(|b| *b == b'\n');
        let took = end.map_or(rest.len(), |end| end + 1);
        if self.partial.len() + took > CHUNK_LINE_BYTES_MAX {
            return Taken::Bad;
        }
        if end.is_none() {
            self.partial.extend_from_slice(rest);
            return Taken::Framing { took, done: false };
        }
        let size = if self.partial.is_empty() {
            chunk_size(&rest[..took])
        } else {
            self.partial.extend_from_slice(&rest[..took]);
            let size = chunk_size(&self.partial);
            self.partial.clear();
            size
        };
        self.state = match size {
            None => return Taken::Bad,
            Some(0) => State::Trailers { read: 0, line: 0 },
            Some(left) => State::Chunk { left },
        };
        Taken::Framing { took, done: false }
    }

    fn chunk_end<'a>(&mut self, rest: &'a [u8]) -> Taken<'a> {
        match rest[0] {
            b'\r' if self.partial.is_empty() => self.partial.push(b'\r'),
            b'\n' => {
                self.partial.clear();
                self.state = State::ChunkSize;
            }
            _ => return Taken::Bad,
        }
        Taken::Framing { took: 1, done: false }
    }

    /// Trailers are read over, not kept: up to the first empty line.
    fn trailers<'a>(&mut self, rest: &'a [u8], read: usize, line: usize) -> Taken<'a> {
        let mut line = line;
        for (index, &byte) in rest.iter().enumerate() {
            match byte {
                b'\n' if line == 0 => {
                    self.state = State::Head;
                    return Taken::Framing { took: index + 1, done: true };
                }
                b'\n' => line = 0,
                b'\r' => {}
                _ => line += 1,
            }
        }
        let read = read + rest.len();
        if read > HEAD_BYTES_MAX {
            return Taken::Bad;
        }
        self.state = State::Trailers { read, line };
        Taken::Framing { took: rest.len(), done: false }
    }

    /// Looks for a head in `rest`: how many bytes belong to it, and the head where it can be
    /// parsed. `None` where it is too long.
    pub(super) fn gather(&mut self, rest: &[u8]) -> Option<(usize, Option<Whole>)> {
        if self.partial.is_empty() {
            let breaks = rest.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
            if breaks > 0 {
                return Some((breaks, None));
            }
            return Some((rest.len(), Some(Whole::Borrowed)));
        }
        let end = self.blank_line(rest);
        let took = end.unwrap_or(rest.len());
        if self.partial.len() + took > HEAD_BYTES_MAX {
            return None;
        }
        self.partial.extend_from_slice(&rest[..took]);
        if end.is_none() {
            return Some((took, None));
        }
        self.blank = Blank::No;
        Some((took, Some(Whole::Gathered(std::mem::take(&mut self.partial)))))
    }

    /// Keeps `rest` as the start of a head that goes on; 0 where it is too long.
    pub(super) fn keep(&mut self, rest: &[u8]) -> usize {
        if rest.len() > HEAD_BYTES_MAX {
            return 0;
        }
        self.blank = Blank::No;
        // A complete head was not in it, so this finds none, and remembers how it ends.
        let _ = self.blank_line(rest);
        self.partial.extend_from_slice(rest);
        rest.len()
    }

    /// Bytes up to and with the first empty line.
    fn blank_line(&mut self, rest: &[u8]) -> Option<usize> {
        for (index, &byte) in rest.iter().enumerate() {
            self.blank = match (self.blank, byte) {
                (Blank::LineEnd | Blank::Return, b'\n') => return Some(index + 1),
                (_, b'\n') => Blank::LineEnd,
                (Blank::LineEnd, b'\r') => Blank::Return,
                _ => Blank::No,
            };
        }
        None
    }

    /// Goes on after a request's head.
    pub(super) fn next_request(&mut self, facts: &HeaderFacts, connect: bool) {
        *self = Self::at(match (connect, facts.chunked, facts.content_length) {
            (true, ..) => State::Wait,
            (_, true, _) => State::ChunkSize,
            (_, _, Some(left)) if left > 0 => State::Fixed { left },
            _ => State::Head,
        });
    }

    /// Goes on after a response's head.
    pub(super) fn next_response(&mut self, facts: &HeaderFacts, head_only: bool) {
        *self =
            Self::at(match (head_only, facts.chunked, facts.other_coding, facts.content_length) {
                (true, ..) | (_, false, false, Some(0)) => State::Head,
                (_, true, ..) => State::ChunkSize,
                (_, _, false, Some(left)) => State::Fixed { left },
                _ => State::UntilClose,
            });
    }

    /// Ends the wait for the answer to a CONNECT and gives back what came meanwhile.
    pub(super) fn end_wait(&mut self) -> Vec<u8> {
        if self.state != State::Wait {
            return Vec::new();
        }
        self.state = State::Head;
        std::mem::take(&mut self.partial)
    }
}

fn front(rest: &[u8], left: u64) -> &[u8] {
    &rest[..usize::try_from(left).unwrap_or(usize::MAX).min(rest.len())]
}

/// The size in a chunk's first line, whose extensions are ignored.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let after = line[digits..].trim_ascii_start().first();
    if digits == 0 || digits > 16 || after.is_some_and(|b| *b != b';') {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(&line[..digits]).ok()?, 16).ok()
}
