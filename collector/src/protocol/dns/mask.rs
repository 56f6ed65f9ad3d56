//! What of DNS is structure: headers, how long the labels of names are and where names go on, types,
//! classes, times and sizes. Labels are content, and what records hold, but for addresses, which become
//! others.

use super::message::{HEADER_BYTES, Header, OPT, RECORDS_MAX};
use crate::mask::Addresses;
use crate::protocol::dialogue::Side;
use crate::protocol::mask::{Mask, Step, fill};

/// Masks a connection to a DNS server.
#[derive(Debug, Default)]
pub(crate) struct DnsMask;

impl Mask for DnsMask {
    fn take(&mut self, _side: Side, bytes: &mut [u8], addresses: &mut Addresses) -> Step {
        let Some((length, rest)) = bytes.split_first_chunk_mut::<2>() else { return Step::Need(2) };
        let length = usize::from(u16::from_be_bytes(*length));
        let Some(message) = rest.get_mut(..length) else { return Step::Need(2 + length) };
        match mask_message(message, length, addresses) {
            Masked::Message => Step::Took(2 + length),
            Masked::NoMessage => Step::Lost,
        }
    }
}

/// What bytes were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Masked {
    /// A message, of which the structure is left.
    Message,
    /// None, so that nothing of them is left.
    NoMessage,
}

/// Masks a message of `length` bytes, of which the end may be missing.
pub(crate) fn mask_message(message: &mut [u8], length: usize, addresses: &mut Addresses) -> Masked {
    let Some(header) = Header::read(message).filter(|header| header.is_plausible(length)) else {
        fill(message);
        return Masked::NoMessage;
    };
    let mut walk = Walk { bytes: &mut *message, at: HEADER_BYTES };
    walk.message(&header, addresses);
    // What was not understood.
    let at = walk.at.min(message.len());
    fill(&mut message[at..]);
    Masked::Message
}

struct Walk<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Walk<'_> {
    fn message(&mut self, header: &Header, addresses: &mut Addresses) -> Option<()> {
        let [questions, records @ ..] = header.counts.map(usize::from);
        for _ in 0..questions {
            self.name()?;
            self.keep(4)?;
        }
        for _ in 0..records.iter().sum::<usize>().min(RECORDS_MAX) {
            self.record(addresses)?;
        }
        Some(())
    }

    fn keep(&mut self, bytes: usize) -> Option<&mut [u8]> {
        let at = self.at;
        self.bytes.get(at..at + bytes)?;
        self.at += bytes;
        self.bytes.get_mut(at..at + bytes)
    }

    fn short(&mut self) -> Option<u16> {
        self.keep(2)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
    }

    /// A name: its labels are overwritten; where it goes on was masked before.
    fn name(&mut self) -> Option<()> {
        loop {
            match *self.keep(1)?.first()? {
                0 => return Some(()),
                length @ 1..=63 => fill(self.keep(length.into())?),
                0xc0.. => return self.keep(1).map(|_| ()),
                64..0xc0 => {
                    self.at -= 1;
                    return None;
                }
            }
        }
    }

    fn record(&mut self, addresses: &mut Addresses) -> Option<()> {
        self.name()?;
        let (kind, class) = (self.short()?, self.short()?);
        self.keep(4)?;
        let length = usize::from(self.short()?);
        let end = self.at + length;
        match (class, kind) {
            (1, 1) if length == 4 => addresses.replace_v4(self.keep(4)?.first_chunk_mut()?),
            (1, 28) if length == 16 => addresses.replace_v6(self.keep(16)?.first_chunk_mut()?),
            (_, OPT) => {}
            (_, 5 | 2 | 12 | 39) => self.name()?,
            (_, 15) => {
                self.keep(2)?;
                self.name()?;
            }
            (_, 33) => {
                self.keep(6)?;
                self.name()?;
            }
            _ => {}
        }
        fill(self.bytes.get_mut(self.at.min(end)..end)?);
        self.at = end;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::dns::Message;

    #[test]
    fn names_and_addresses_of_an_answer_become_others() {
        let mut message = b"\x12\x34\x81\x80\0\x01\0\x02\0\0\0\x01\x04shop\x04test\0\0\x01\0\x01\
            \xc0\x0c\0\x05\0\x01\0\0\0\x09\0\x06\x03www\xc0\x11\
            \xc0\x27\0\x01\0\x01\0\0\0\x09\0\x04\x0a\x01\x02\x03\
            \0\0\x29\x04\xd0\x01\0\0\0\0\x02ab"
            .to_vec();
        let before = Message::read(&message, message.len()).unwrap();
        let length = message.len();
        mask_message(&mut message, length, &mut Addresses::default());
        let after = Message::read(&message, message.len()).unwrap();
        assert_eq!(
            (after.header, after.rcode, after.is_whole),
            (before.header, before.rcode, true)
        );
        assert_eq!(after.questions[0].name, "xxxx.xxxx");
        let answers: Vec<_> = after
            .answers
            .iter()
            .map(|answer| format!("{} {:?}", answer.name, answer.data))
            .collect();
        assert_eq!(answers, ["xxxx.xxxx Cname(\"xxx.xxxx\")", "xxx.xxxx Addr(192.0.2.1)"]);
        assert!(message.ends_with(b"\0\x02xx"));
    }

    #[test]
    fn of_a_message_that_is_cut_anywhere_nothing_is_left_that_is_content() {
        let whole = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x06secret\x06secret\0\0\x01\0\x01secret";
        for cut in 0..=whole.len() {
            let mut message = whole[..cut].to_vec();
            mask_message(&mut message, whole.len(), &mut Addresses::default());
            assert!(!message.windows(3).any(|part| part == b"sec"), "cut at {cut}");
        }
    }
}
