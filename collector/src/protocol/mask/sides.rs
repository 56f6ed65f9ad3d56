//! The two sides of a connection on their way through a mask.

use super::{Mask, Step, WINDOW_BYTES_MAX, fill};
use crate::mask::Addresses;
use crate::protocol::dialogue::Side;

/// Whether more may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It may.
    GoesOn,
    /// Nothing can be told apart any more.
    Lost,
    /// What is not decided yet is another protocol.
    Another,
}

/// Bytes that a mask has not decided about, and how far content reaches.
#[derive(Debug, Default)]
struct Pending {
    bytes: Vec<u8>,
    content: u64,
}

/// Both sides, and the mask that they share.
#[derive(Debug)]
pub(crate) struct Sides {
    mask: Box<dyn Mask>,
    pending: [Pending; 2],
}

impl Sides {
    /// Before the first byte that is seen.
    pub(crate) fn new(mask: Box<dyn Mask>) -> Self {
        Self { mask, pending: Default::default() }
    }

    /// Takes the next bytes of a side. `decided` is given what was decided of that side, in order and as it
    /// may be recorded; it may be less than came, or more, by what waited.
    pub(crate) fn bytes(
        &mut self,
        side: Side,
        bytes: &[u8],
        addresses: &mut Addresses,
        decided: &mut dyn FnMut(&[u8]),
    ) -> Outcome {
        let Self { mask, pending } = self;
        let pending = &mut pending[side as usize];
        pending.bytes.extend_from_slice(bytes);
        pending.go_on(mask.as_mut(), side, addresses, decided)
    }

    /// Takes note that the next bytes of a side were not captured.
    pub(crate) fn hole(&mut self, side: Side, missing: u64, addresses: &mut Addresses) -> Outcome {
        let Self { mask, pending } = self;
        let pending = &mut pending[side as usize];
        if pending.content < missing || !pending.bytes.is_empty() {
            return Outcome::Lost;
        }
        pending.content -= missing;
        pending.go_on(mask.as_mut(), side, addresses, &mut |_| {})
    }

    /// What waits of a side, which is not masked.
    pub(crate) fn take_undecided(&mut self, side: Side) -> Vec<u8> {
        std::mem::take(&mut self.pending[side as usize].bytes)
    }

    /// Its mask, where the conversation goes on inside TLS.
    pub(crate) fn into_tls(mut self) -> Option<Box<dyn Mask>> {
        self.mask.goes_on_in_tls().then_some(self.mask)
    }
}

impl Pending {
    fn go_on(
        &mut self,
        mask: &mut dyn Mask,
        side: Side,
        addresses: &mut Addresses,
        decided: &mut dyn FnMut(&[u8]),
    ) -> Outcome {
        let mut at = 0;
        let outcome = loop {
            let at_hand = &mut self.bytes[at..];
            let length = at_hand.len();
            if self.content > 0 {
                let filled = usize::try_from(self.content).unwrap_or(usize::MAX).min(length);
                fill(&mut at_hand[..filled]);
                decided(&at_hand[..filled]);
                (self.content, at) = (self.content - filled as u64, at + filled);
                if self.content > 0 {
                    break Outcome::GoesOn;
                }
                continue;
            }
            match mask.take(side, at_hand, addresses) {
                Step::Need(wanted) if (length + 1..=WINDOW_BYTES_MAX).contains(&wanted) => {
                    break Outcome::GoesOn;
                }
                Step::Took(taken) if (1..=length).contains(&taken) => {
                    decided(&at_hand[..taken]);
                    at += taken;
                }
                Step::Content(bytes) if bytes > 0 => self.content = bytes,
                Step::Another => break Outcome::Another,
                Step::Need(_) | Step::Took(_) | Step::Content(_) | Step::Lost => {
                    break Outcome::Lost;
                }
            }
        };
        self.bytes.drain(..at);
        outcome
    }
}
