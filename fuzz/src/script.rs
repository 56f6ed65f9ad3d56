//! What happens on a connection, as a fuzzer writes it.
//!
//! ```text
//! settings u8 │ then steps: tag u8 │ length u16 │ bytes, unless they are lost
//! ```
//! Any bytes are a script, and what is cut out of one leaves one: a step that is longer than what
//! is left takes what is left. Numbers are little endian.

use undine_collector::event::Flow;

/// Most bytes that a script lets happen, lost ones aside.
pub const BYTES_MAX: usize = 4 << 20;

const SERVER: u8 = 1;
const HOW: u8 = 2 | 4;
const LOST: u8 = 2;
const CUT: u8 = 4;
const CONTINUED: u8 = 8;
const PAUSED: u8 = 16;
const LATE: u8 = 32;
const MANY: u8 = 64;

/// The end that did something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The end that sends requests.
    Client,
    /// The end that answers.
    Server,
}

/// What became of a step's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Captured {
    /// All of them came.
    All,
    /// The first of them came.
    Some,
    /// The kernel had no room for their message.
    None,
}

/// A part of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step<'a> {
    /// Who sent the bytes.
    pub side: Side,
    /// Those that were captured.
    pub bytes: &'a [u8],
    /// How many were not, after those.
    pub missing: u64,
    /// What became of all of them.
    pub captured: Captured,
    /// Whether it goes on with the operation before it.
    pub continued: bool,
    /// Whether nothing happened for a while before it.
    pub paused: bool,
    /// Whether its message comes after the next one.
    pub late: bool,
}

/// A script: the settings of a connection, and what happens on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script<'a> {
    /// Bits of the first byte.
    settings: u8,
    /// What happens, one after the other.
    pub steps: Vec<Step<'a>>,
}

impl<'a> Script<'a> {
    /// Reads any bytes as a script.
    pub fn read(input: &'a [u8]) -> Self {
        let (settings, mut rest) = input.split_first().map_or((0, input), |(s, rest)| (*s, rest));
        let mut steps: Vec<Step<'a>> = Vec::new();
        while let Some(([tag, low, high], after)) = rest.split_first_chunk::<3>() {
            let length = usize::from(u16::from_le_bytes([*low, *high]));
            let side = if tag & SERVER == 0 { Side::Client } else { Side::Server };
            let captured = match tag & HOW {
                LOST => Captured::None,
                CUT => Captured::Some,
                _ => Captured::All,
            };
            let taken = if captured == Captured::None { 0 } else { length.min(after.len()) };
            let (bytes, after) = after.split_at(taken);
            rest = after;
            let missing = match captured {
                Captured::None => length as u64,
                Captured::Some => bytes.len() as u64 + 1,
                Captured::All => 0,
            };
            let missing = if tag & MANY == 0 { missing } else { missing << 10 };
            steps.push(Step {
                side,
                bytes,
                missing,
                captured,
                continued: tag & CONTINUED != 0
                    && steps.last().is_some_and(|before| before.side == side),
                paused: tag & PAUSED != 0,
                late: tag & LATE != 0,
            });
        }
        Self { settings, steps }
    }

    /// The same connection with other steps.
    pub const fn with<'b>(&self, steps: Vec<Step<'b>>) -> Script<'b> {
        Script { settings: self.settings, steps }
    }

    /// Whether the connection was there before capture began.
    pub const fn is_joined_midway(&self) -> bool {
        self.settings & 1 != 0
    }

    /// The direction of requests, as the observed end sees it.
    pub const fn requests(&self) -> Flow {
        if self.settings & 2 == 0 { Flow::Ingress } else { Flow::Egress }
    }

    /// Whether bodies are redacted.
    pub const fn redacts(&self) -> bool {
        self.settings & 4 != 0
    }

    /// Whether the other end is observed too.
    pub const fn observes_both_ends(&self) -> bool {
        self.settings & 8 != 0
    }

    /// Whether the peer is known to send requests before it has the last response.
    pub const fn peer_pipelines(&self) -> bool {
        self.settings & 16 != 0
    }

    /// Which split of its bytes is tried.
    pub const fn split(&self) -> u8 {
        self.settings >> 5
    }

    /// Bytes that were sent by `side`, missing ones included.
    pub fn bytes_of(&self, side: Side) -> u64 {
        self.steps
            .iter()
            .filter(|step| step.side == side)
            .map(|step| step.bytes.len() as u64 + step.missing)
            .sum()
    }
}

/// Writes a script in which each side's bytes are an operation.
pub fn write(settings: u8, steps: &[(Side, &[u8])]) -> Vec<u8> {
    let mut out = vec![settings];
    for (side, bytes) in steps {
        let mut continued = 0;
        for part in bytes.chunks(usize::from(u16::MAX)) {
            let length = u16::try_from(part.len()).unwrap_or(u16::MAX).to_le_bytes();
            let tag = if *side == Side::Server { SERVER } else { 0 } | continued;
            out.extend_from_slice(&[tag, length[0], length[1]]);
            out.extend_from_slice(part);
            continued = CONTINUED;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        let input = write(0, &[(Side::Client, b"ask"), (Side::Server, b"answer")]);
        let script = Script::read(&input);
        let said: Vec<_> = script.steps.iter().map(|step| (step.side, step.bytes)).collect();
        assert_eq!(said, [(Side::Client, &b"ask"[..]), (Side::Server, b"answer")]);
        assert_eq!(script.bytes_of(Side::Server), 6);
        for cut in 0..input.len() {
            assert!(Script::read(&input[..cut]).steps.len() <= 2);
        }
    }
}
