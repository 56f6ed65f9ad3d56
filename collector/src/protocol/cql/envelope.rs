//! Envelopes: the messages of CQL, whose bodies have their length before them.

/// Bytes of a head.
pub(super) const HEAD_BYTES: usize = 9;
/// Most bytes that are kept of a body.
const KEPT_BYTES_MAX: usize = 16 * 1024;
/// Longest body that the protocol allows.
const BODY_BYTES_MAX: u32 = 256 << 20;
/// What marks the version of a response.
const RESPONSE: u8 = 0x80;
/// All flags: compression, tracing, custom payload, warnings, beta.
const FLAGS: u8 = 0x1f;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Opcode(pub(super) u8);

impl Opcode {
    pub(super) const ERROR: Self = Self(0x00);
    pub(super) const STARTUP: Self = Self(0x01);
    pub(super) const READY: Self = Self(0x02);
    pub(super) const AUTHENTICATE: Self = Self(0x03);
    pub(super) const OPTIONS: Self = Self(0x05);
    pub(super) const SUPPORTED: Self = Self(0x06);
    pub(super) const QUERY: Self = Self(0x07);
    pub(super) const RESULT: Self = Self(0x08);
    pub(super) const PREPARE: Self = Self(0x09);
    pub(super) const EXECUTE: Self = Self(0x0a);
    pub(super) const REGISTER: Self = Self(0x0b);
    pub(super) const EVENT: Self = Self(0x0c);
    pub(super) const BATCH: Self = Self(0x0d);
    pub(super) const AUTH_CHALLENGE: Self = Self(0x0e);
    pub(super) const AUTH_RESPONSE: Self = Self(0x0f);
    pub(super) const AUTH_SUCCESS: Self = Self(0x10);

    const fn is_request(self) -> bool {
        matches!(
            self,
            Self::STARTUP
                | Self::OPTIONS
                | Self::QUERY
                | Self::PREPARE
                | Self::EXECUTE
                | Self::REGISTER
                | Self::BATCH
                | Self::AUTH_RESPONSE
        )
    }

    const fn is_response(self) -> bool {
        matches!(
            self,
            Self::ERROR
                | Self::READY
                | Self::AUTHENTICATE
                | Self::SUPPORTED
                | Self::RESULT
                | Self::EVENT
                | Self::AUTH_CHALLENGE
                | Self::AUTH_SUCCESS
        )
    }
}

/// The head of an envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Without the mark of responses.
    pub(super) version: u8,
    pub(super) is_response: bool,
    flags: u8,
    pub(super) stream: i16,
    pub(super) opcode: Opcode,
    pub(super) body_bytes: u32,
}

/// The bytes are no head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoHead;

impl Head {
    /// Reads a head; none where there are too few bytes, which could become one.
    pub(super) fn read(bytes: &[u8]) -> Result<Option<Self>, NoHead> {
        let Some(version) = bytes.first() else { return Ok(None) };
        let is_response = version & RESPONSE != 0;
        let version = version & !RESPONSE;
        // From 3 on, and the two of DataStax Enterprise.
        let is_known = matches!(version, 3..=6 | 0x41 | 0x42);
        if !is_known || bytes.get(1).is_some_and(|flags| flags & !FLAGS != 0) {
            return Err(NoHead);
        }
        let Some([_, flags, high, low, opcode, length @ ..]) = bytes.first_chunk::<HEAD_BYTES>()
        else {
            return Ok(None);
        };
        let head = Self {
            version,
            is_response,
            flags: *flags,
            stream: i16::from_be_bytes([*high, *low]),
            opcode: Opcode(*opcode),
            body_bytes: u32::from_be_bytes(*length),
        };
        let fits = if is_response {
            head.opcode.is_response() && head.stream >= -1
        } else {
            head.opcode.is_request() && head.stream >= 0
        };
        if fits && head.body_bytes <= BODY_BYTES_MAX { Ok(Some(head)) } else { Err(NoHead) }
    }

    pub(super) const fn is_compressed(&self) -> bool {
        self.flags & 0x01 != 0
    }

    pub(super) const fn is_traced(&self) -> bool {
        self.flags & 0x02 != 0
    }

    pub(super) const fn has_payload(&self) -> bool {
        self.flags & 0x04 != 0
    }

    pub(super) const fn has_warnings(&self) -> bool {
        self.flags & 0x08 != 0
    }

    /// Whether it and all others of its version come in segments, once a connection is set up.
    pub(super) const fn comes_in_segments(&self) -> bool {
        matches!(self.version, 5 | 6)
    }

    pub(super) fn wire_bytes(&self) -> u64 {
        HEAD_BYTES as u64 + u64::from(self.body_bytes)
    }
}

/// What came with some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Nothing whole.
    None,
    /// An envelope, as far as it is of interest.
    Read(Envelope),
    /// The end of the envelope that was read before.
    Over,
}

/// An envelope with the first bytes of its body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Envelope {
    pub(super) head: Head,
    pub(super) body: Vec<u8>,
    /// Whether it ended with the bytes at hand.
    pub(super) is_over: bool,
}

/// Takes envelopes out of a side's bytes, in whatever pieces they come.
#[derive(Debug, Default)]
pub(super) struct Envelopes {
    /// The head, or the beginning of the body after it.
    kept: Vec<u8>,
    head: Option<Head>,
    /// Bytes of the body that are to come.
    left: u64,
    /// Those are of no interest.
    was_read: bool,
}

impl Envelopes {
    pub(super) const fn is_between(&self) -> bool {
        self.head.is_none() && self.kept.is_empty()
    }

    /// The stream of an envelope that has begun and was not read yet.
    pub(super) fn begun(&self) -> Option<i16> {
        self.head.filter(|_| !self.was_read).map(|head| head.stream)
    }

    /// Bytes up to the end of the envelope, if its head is known.
    pub(super) const fn left(&self) -> u64 {
        self.left
    }

    /// Takes bytes up to the next event; how many.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(usize, Event), NoHead> {
        let mut taken = 0;
        let head = if let Some(head) = self.head {
            head
        } else {
            taken = bytes.len().min(HEAD_BYTES - self.kept.len());
            self.kept.extend_from_slice(&bytes[..taken]);
            let Some(head) = Head::read(&self.kept)? else { return Ok((taken, Event::None)) };
            self.kept.clear();
            self.left = u64::from(head.body_bytes);
            *self.head.insert(head)
        };
        let at_hand = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - taken);
        if self.was_read {
            self.left -= at_hand as u64;
            let event = if self.left == 0 { self.end() } else { Event::None };
            return Ok((taken + at_hand, event));
        }
        let kept = at_hand.min(KEPT_BYTES_MAX - self.kept.len());
        self.kept.extend_from_slice(&bytes[taken..taken + kept]);
        self.left -= kept as u64;
        if self.left > 0 && self.kept.len() < KEPT_BYTES_MAX {
            return Ok((taken + kept, Event::None));
        }
        Ok((taken + kept, self.read(head)))
    }

    /// Does without the next `bytes` of the body, which are at most those that are left; what was
    /// read with that.
    pub(super) fn give_up(&mut self, bytes: u64) -> Event {
        let Some(head) = self.head else { return Event::None };
        self.left -= bytes.min(self.left);
        match (self.was_read, self.left) {
            (false, _) => self.read(head),
            (true, 0) => self.end(),
            (true, _) => Event::None,
        }
    }

    fn read(&mut self, head: Head) -> Event {
        let body = std::mem::take(&mut self.kept);
        self.was_read = true;
        let is_over = self.left == 0;
        if is_over {
            self.end();
        }
        Event::Read(Envelope { head, body, is_over })
    }

    fn end(&mut self) -> Event {
        (self.head, self.was_read) = (None, false);
        Event::Over
    }
}
