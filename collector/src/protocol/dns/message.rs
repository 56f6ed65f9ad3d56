//! A DNS message: its header, its questions and its answers. It never fails in the middle: what
//! cannot be read ends it, and says so.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::name::{self, Name};

/// Bytes of a header.
pub(super) const HEADER_BYTES: usize = 12;
/// Most questions that are read; servers take one.
pub(super) const QUESTIONS_MAX: usize = 16;
/// Most records that are read of a message, over all of its sections.
pub(super) const RECORDS_MAX: usize = 512;
/// The number of `OPT`, a record that is about the message.
pub(super) const OPT: u16 = 41;

/// The first bytes of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// What a response has in common with its query.
    pub txid: u16,
    /// As in the message: `QR`, `Opcode`, `AA`, `TC`, `RD`, `RA`, `Z`, `AD`, `CD`, `RCODE`.
    pub flags: u16,
    /// How many questions, answers, authorities and additional records it says there are.
    pub counts: [u16; 4],
}

impl Header {
    /// Reads the header that `bytes` start with.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (words, _) = bytes.get(..HEADER_BYTES)?.as_chunks::<2>();
        let mut words = words.iter().map(|word| u16::from_be_bytes(*word));
        let mut next = || words.next().unwrap_or_default();
        let (txid, flags) = (next(), next());
        Some(Self { txid, flags, counts: [next(), next(), next(), next()] })
    }

    /// Whether this is a response.
    pub const fn is_response(&self) -> bool {
        self.flags & 0x8000 != 0
    }

    /// What is asked for: 0 a query, 4 a notification, 5 an update.
    pub const fn opcode(&self) -> u16 {
        self.flags >> 11 & 0xf
    }

    /// Whether the message was cut to fit into a datagram.
    pub const fn is_cut(&self) -> bool {
        self.flags & 0x0200 != 0
    }

    /// The bit `shift` places from the right.
    pub const fn bit(&self, shift: u32) -> u16 {
        self.flags >> shift & 1
    }

    /// Whether a message of `len` bytes can begin with this.
    pub(super) fn is_plausible(&self, len: usize) -> bool {
        let [questions, answers, authorities, additional] = self.counts.map(usize::from);
        let records = answers + authorities + additional;
        let least = HEADER_BYTES + questions * 5 + records * 11;
        self.opcode() <= 6 && questions <= QUESTIONS_MAX && (self.is_cut() || least <= len)
    }
}

/// What is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// The name, as sent and without the dot at its end.
    pub name: Name,
    /// The number of its type.
    pub kind: u16,
    /// The number of its class, nearly always 1.
    pub class: u16,
}

impl Question {
    /// Whether it asks the same; capitals do not matter.
    pub fn is_same(&self, other: &Self) -> bool {
        (self.kind, self.class) == (other.kind, other.class)
            && self.name.eq_ignore_ascii_case(&other.name)
    }
}

/// What an answer gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// An address.
    Addr(std::net::IpAddr),
    /// The name that this one stands for.
    Cname(Name),
    /// Another name: of a server, or of a host.
    Target(Name),
    /// Anything else, which is not kept: texts, keys and signatures are what users publish.
    Other,
}

/// A record that answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whose record it is.
    pub name: Name,
    /// The number of its type.
    pub kind: u16,
    /// What it gives.
    pub data: Data,
}

/// A message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Its header.
    pub header: Header,
    /// What is asked.
    pub questions: Vec<Question>,
    /// What is answered.
    pub answers: Vec<Answer>,
    /// The response code with its upper bits, which are in a record of their own.
    pub rcode: u16,
    /// Whether all of it was read.
    pub is_whole: bool,
}

impl Message {
    /// Reads the message that begins with `bytes` and has `len` of them; `None` where it is none.
    pub fn read(bytes: &[u8], len: usize) -> Option<Self> {
        let header = Header::read(bytes)?;
        if !header.is_plausible(len) {
            return None;
        }
        let mut reader = Reader { bytes, at: HEADER_BYTES };
        let mut message = Self { header, rcode: header.flags & 0xf, ..Self::default() };
        for _ in 0..header.counts[0] {
            // Without its question a message says nothing.
            message.questions.push(reader.question()?);
        }
        message.is_whole = message.read_records(&mut reader).is_some();
        Some(message)
    }

    fn read_records(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        let [_, answers, authorities, additional] = self.header.counts.map(usize::from);
        let all = answers + authorities + additional;
        for index in 0..all {
            if index == RECORDS_MAX {
                return None;
            }
            let record = reader.record()?;
            if record.kind == OPT {
                self.rcode |= u16::from(record.ttl.to_be_bytes()[0]) << 4;
            } else if index < answers {
                let Record { name, kind, class, data, .. } = record;
                let data = reader.data(kind, class, data).unwrap_or(Data::Other);
                self.answers.push(Answer { name, kind, data });
            }
        }
        Some(())
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// A record whose data lies at `data.0` and has `data.1` bytes.
struct Record {
    name: Name,
    kind: u16,
    class: u16,
    ttl: u32,
    data: (usize, usize),
}

impl Reader<'_> {
    fn u16(&mut self) -> Option<u16> {
        let (word, _) = self.bytes.get(self.at..)?.split_first_chunk::<2>()?;
        self.at += 2;
        Some(u16::from_be_bytes(*word))
    }

    fn name(&mut self) -> Option<Name> {
        let (name, end) = name::read(self.bytes, self.at)?;
        self.at = end;
        Some(name)
    }

    fn question(&mut self) -> Option<Question> {
        Some(Question { name: self.name()?, kind: self.u16()?, class: self.u16()? })
    }

    fn record(&mut self) -> Option<Record> {
        let (name, kind, class) = (self.name()?, self.u16()?, self.u16()?);
        let ttl = u32::from(self.u16()?) << 16 | u32::from(self.u16()?);
        let length = usize::from(self.u16()?);
        let data = (self.at, length);
        self.at += length;
        (self.at <= self.bytes.len()).then_some(Record { name, kind, class, ttl, data })
    }

    /// What is in the `length` bytes of data at `at`.
    fn data(&self, kind: u16, class: u16, (at, length): (usize, usize)) -> Option<Data> {
        let data = self.bytes.get(at..at + length)?;
        let name = |skip: usize| name::read(self.bytes, at + skip).map(|(name, _)| name);
        Some(match (class, kind) {
            (1, 1) => Data::Addr(Ipv4Addr::from(*data.as_array::<4>()?).into()),
            (1, 28) => Data::Addr(Ipv6Addr::from(*data.as_array::<16>()?).into()),
            (_, 5) => Data::Cname(name(0)?),
            // NS, PTR, DNAME.
            (_, 2 | 12 | 39) => Data::Target(name(0)?),
            // MX after its preference, SRV after priority, weight and port.
            (_, 15) => Data::Target(name(2)?),
            (_, 33) => Data::Target(name(6)?),
            _ => Data::Other,
        })
    }
}
