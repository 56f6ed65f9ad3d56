//! What of AMQP is structure: heads and ends of frames, classes and methods, the numbers and flags of
//! their arguments, and how long messages are. Texts, tables, properties and messages are content.

use super::frame::{CONTENT_HEAD_BYTES, END, GREETING, HEAD_BYTES, Head, Kind};
use super::method::Method;
use crate::mask::Addresses;
use crate::protocol::dialogue::Side;
use crate::protocol::mask::fields::Fields;
use crate::protocol::mask::{Mask, Step, WINDOW_BYTES_MAX};

/// What comes next from a side.
#[derive(Clone, Copy, Debug, Default)]
enum Expect {
    #[default]
    Frame,
    /// So many bytes of content, then the end of a frame.
    Rest(u64),
    End,
}

/// Masks a connection to an AMQP server.
#[derive(Debug, Default)]
pub(crate) struct AmqpMask {
    expect: [Expect; 2],
}

impl Mask for AmqpMask {
    fn take(&mut self, side: Side, bytes: &mut [u8], _addresses: &mut Addresses) -> Step {
        match self.expect[side as usize] {
            Expect::Frame => self.frame(side, bytes),
            Expect::Rest(rest) => {
                self.expect[side as usize] = Expect::End;
                Step::Content(rest)
            }
            Expect::End => match bytes.first() {
                None => Step::Need(1),
                Some(&END) => {
                    self.expect[side as usize] = Expect::Frame;
                    Step::Took(1)
                }
                Some(_) => Step::Lost,
            },
        }
    }
}

impl AmqpMask {
    fn frame(&mut self, side: Side, bytes: &mut [u8]) -> Step {
        let Some(head) = bytes.first_chunk() else { return Step::Need(HEAD_BYTES) };
        if head[..] == GREETING[..HEAD_BYTES] {
            let whole = GREETING.len();
            return if bytes.len() < whole { Step::Need(whole) } else { Step::Took(whole) };
        }
        let Some(head) = Head::read(*head) else { return Step::Lost };
        let length = usize::try_from(head.bytes).unwrap_or(usize::MAX);
        let kept = match head.kind {
            Kind::Method if length + HEAD_BYTES > WINDOW_BYTES_MAX => return Step::Lost,
            Kind::Method => length,
            Kind::Header => CONTENT_HEAD_BYTES as usize,
            Kind::Body | Kind::Heartbeat => 0,
        };
        let end = HEAD_BYTES + kept;
        let Some(payload) = bytes.get_mut(HEAD_BYTES..end) else { return Step::Need(end) };
        if head.kind == Kind::Method && Method::mask(&mut Fields(payload)).is_none() {
            return Step::Lost;
        }
        let rest = (length - kept) as u64;
        self.expect[side as usize] = if rest > 0 { Expect::Rest(rest) } else { Expect::End };
        Step::Took(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::mask::talk::check;

    #[test]
    fn of_methods_and_messages_the_structure_is_kept() {
        check::<AmqpMask>(&[
            (Side::Client, "AMQP\0\0\x09\x01", "AMQP\0\0\x09\x01"),
            // Queue.Declare, with a table of three bytes.
            (
                Side::Client,
                "\x01\0\x01\0\0\0\x12\0\x32\0\x0a\0\0\x03ann\x02\0\0\0\x03abc\u{ce}",
                "\x01\0\x01\0\0\0\x12\0\x32\0\x0a\0\0\x03xxx\x02\0\0\0\x03xxx\u{ce}",
            ),
            // Basic.Publish, the head of its message with properties, and the message.
            (
                Side::Client,
                "\x01\0\x01\0\0\0\x0c\0\x3c\0\x28\0\0\x01e\x02rk\0\u{ce}\
                 \x02\0\x01\0\0\0\x10\0\x3c\0\0\0\0\0\0\0\0\0\x02\u{80}\0\x01t\u{ce}\
                 \x03\0\x01\0\0\0\x02hi\u{ce}",
                "\x01\0\x01\0\0\0\x0c\0\x3c\0\x28\0\0\x01x\x02xx\0\u{ce}\
                 \x02\0\x01\0\0\0\x10\0\x3c\0\0\0\0\0\0\0\0\0\x02xxxx\u{ce}\
                 \x03\0\x01\0\0\0\x02xx\u{ce}",
            ),
        ]);
    }
}
