//! Frames: a size, a type, a tag, and what of their bodies is of interest.

/// Bytes of a head: size, type, tag.
pub(super) const HEAD_BYTES: usize = 8;
/// Bytes of the size, which it does not count.
const SIZE_BYTES: u64 = 4;
/// Longest frame after its size.
const SIZE_MAX: u32 = 256 << 20;
/// The bit of a tag that says that the message goes on in another frame.
const FRAGMENT: u32 = 1 << 23;

/// Types of messages; that of a reply is the same number below zero.
pub(super) mod kind {
    pub(in super::super) const REQUEST: i8 = 1;
    pub(in super::super) const DISPATCH: i8 = 2;
    pub(in super::super) const DRAIN: i8 = 64;
    pub(in super::super) const PING: i8 = 65;
    pub(in super::super) const DISCARDED: i8 = 66;
    pub(in super::super) const LEASE: i8 = 67;
    pub(in super::super) const INIT: i8 = 68;
    /// The reply to a message that was not understood.
    pub(in super::super) const ERROR: i8 = -128;
    /// Two numbers that early versions got wrong, and that are still in use.
    pub(in super::super) const OLD_ERROR: i8 = 127;
    pub(in super::super) const OLD_DISCARDED: i8 = -62;
}

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// It asks for a reply.
    Asks,
    /// It replies.
    Replies,
    /// It tells something.
    Tells,
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: i8,
    pub(super) tag: u32,
    /// Whether more fragments of the message come.
    pub(super) goes_on: bool,
    /// Bytes of the frame, with its size.
    pub(super) bytes: u64,
}

impl Head {
    /// Reads a head; none where it cannot be one.
    pub(super) fn read(bytes: [u8; HEAD_BYTES]) -> Option<Self> {
        let [a, b, c, d, kind, high, middle, low] = bytes;
        let size = u32::from_be_bytes([a, b, c, d]);
        let tag = u32::from_be_bytes([0, high, middle, low]);
        let head = Self {
            kind: i8::from_be_bytes([kind]),
            tag: tag & !FRAGMENT,
            goes_on: tag & FRAGMENT != 0,
            bytes: u64::from(size) + SIZE_BYTES,
        };
        let fits = (HEAD_BYTES as u64 - SIZE_BYTES..=SIZE_MAX.into()).contains(&size.into());
        (fits && head.is_valid()).then_some(head)
    }

    /// What it is for.
    pub(super) const fn part(&self) -> Part {
        match self.kind {
            kind::OLD_DISCARDED | kind::DISCARDED | kind::LEASE => Part::Tells,
            // A client says so before it knows whether the server speaks Mux, which says it back.
            kind::OLD_ERROR | kind::ERROR => Part::Replies,
            kind if kind > 0 && self.tag > 0 => Part::Asks,
            kind if kind > 0 => Part::Tells,
            _ => Part::Replies,
        }
    }

    /// Bytes of the body.
    pub(super) const fn body_bytes(&self) -> u64 {
        self.bytes - HEAD_BYTES as u64
    }

    fn is_valid(&self) -> bool {
        let body = self.body_bytes();
        let splits = matches!(self.kind.unsigned_abs(), 1 | 2);
        let fits = match self.kind {
            kind::REQUEST | kind::DISPATCH | kind::ERROR | kind::OLD_ERROR => true,
            kind::DRAIN | kind::PING => body == 0,
            kind::DISCARDED | kind::OLD_DISCARDED => body >= 3,
            kind::LEASE => body == 9,
            kind::INIT => body >= 2,
            kind => match -kind {
                kind::REQUEST | kind::DISPATCH | kind::INIT => body >= 1,
                kind::DRAIN | kind::PING | kind::DISCARDED => body == 0,
                _ => false,
            },
        };
        fits && (splits || !self.goes_on)
    }
}

/// What is before the payload of a `Tdispatch`: contexts, the destination, and rules for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dispatch<'a> {
    /// The logical destination.
    pub(super) dest: &'a [u8],
    pub(super) contexts: usize,
}

impl Dispatch<'_> {
    /// Whether it says where it is to go, or at least in which context.
    pub(super) fn is_plausible(&self) -> bool {
        if self.dest.is_empty() { self.contexts > 0 } else { self.dest.starts_with(b"/") }
    }
}

/// Reads the body of a `Tdispatch` up to its destination; none where it is cut before, or where its
/// contexts have no names.
pub(super) fn dispatch(body: &[u8]) -> Option<Dispatch<'_>> {
    let mut rest = body;
    let contexts = usize::from(short(&mut rest)?);
    for _ in 0..contexts {
        let name = vector(&mut rest)?;
        if !name.iter().all(u8::is_ascii_graphic) {
            return None;
        }
        let _value = vector(&mut rest)?;
    }
    Some(Dispatch { dest: vector(&mut rest)?, contexts })
}

/// Whether the body of a `Tinit` has a version and headers that end where it does.
pub(super) fn is_init(body: &[u8]) -> bool {
    let mut rest = body;
    let mut read = || -> Option<()> {
        let version = short(&mut rest)?;
        while !rest.is_empty() {
            for _ in ["key", "value"] {
                let (bytes, tail) = rest.split_first_chunk()?;
                let bytes = usize::try_from(u32::from_be_bytes(*bytes)).ok()?;
                rest = tail.get(bytes..)?;
            }
        }
        (version == 1).then_some(())
    };
    read().is_some()
}

fn short(bytes: &mut &[u8]) -> Option<u16> {
    let (number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u16::from_be_bytes(*number))
}

fn vector<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = short(bytes)?;
    let (vector, rest) = bytes.split_at_checked(length.into())?;
    *bytes = rest;
    Some(vector)
}
