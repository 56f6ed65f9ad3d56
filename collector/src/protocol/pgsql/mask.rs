//! What of PostgreSQL's protocol is structure: tags, lengths, counts, the verb of a statement, what a
//! server says was done, and the severity and code of an error. Names, statements, parameters, values
//! and messages are content, and so is all that proves who a user is.

use super::message::{HEAD_BYTES, Head};
use super::probe::{STARTUP_HEAD_BYTES, Startup};
use crate::mask::Addresses;
use crate::protocol::dialogue::Side;
use crate::protocol::mask::fields::Fields;
use crate::protocol::mask::{Mask, Step, fill, fill_between_zeros, sql};

/// Longest message that is taken apart; of longer ones all but the head is content.
const BODY_BYTES_MAX: u64 = 32 * 1024;
/// Longest severity or code of an error.
const WORD_BYTES_MAX: usize = 8;
/// Bytes of a column's description after its name.
const COLUMN_BYTES: usize = 18;

/// What comes first on a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Opening {
    #[default]
    Awaited,
    EncryptionAsked,
    Encrypted,
    Over,
}

/// Masks a connection to a PostgreSQL server.
#[derive(Debug, Default)]
pub(crate) struct PgsqlMask {
    opening: Opening,
    /// Bytes of the message at hand that are content.
    rest: [u64; 2],
}

impl Mask for PgsqlMask {
    fn take(&mut self, side: Side, bytes: &mut [u8], _addresses: &mut Addresses) -> Step {
        let rest = std::mem::take(&mut self.rest[side as usize]);
        if rest > 0 {
            return Step::Content(rest);
        }
        match (side, bytes.first().copied()) {
            _ if self.opening == Opening::Encrypted => Step::Another,
            (_, None) => Step::Need(1),
            (Side::Client, Some(0)) => self.startup(bytes),
            (Side::Server, Some(answer))
                if self.opening == Opening::EncryptionAsked && answer != b'E' =>
            {
                self.opening = match answer {
                    b'S' | b'G' => Opening::Encrypted,
                    b'N' => Opening::Awaited,
                    _ => return Step::Lost,
                };
                Step::Took(1)
            }
            _ => self.message(side, bytes),
        }
    }
}

impl PgsqlMask {
    fn startup(&mut self, bytes: &mut [u8]) -> Step {
        if bytes.len() < STARTUP_HEAD_BYTES {
            return Step::Need(STARTUP_HEAD_BYTES);
        }
        let mut fields = Fields(bytes);
        let (length, code) = (fields.long().unwrap_or(0), fields.long().unwrap_or(0));
        self.opening = match Startup::of(length, code) {
            None => return Step::Lost,
            Some(Startup::Encryption) => Opening::EncryptionAsked,
            Some(Startup::Session | Startup::Cancel) => Opening::Over,
        };
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if fields.0.len() + STARTUP_HEAD_BYTES < length {
            return Step::Need(length);
        }
        // Names of parameters and their values end with zeros.
        fill_between_zeros(&mut fields.0[..length - STARTUP_HEAD_BYTES]);
        Step::Took(length)
    }

    fn message(&mut self, side: Side, bytes: &mut [u8]) -> Step {
        let Ok(head) = Head::read(side, bytes) else {
            return if bytes.len() < HEAD_BYTES { Step::Need(HEAD_BYTES) } else { Step::Lost };
        };
        self.opening = Opening::Over;
        if head.body_bytes > BODY_BYTES_MAX {
            self.rest[side as usize] = head.body_bytes;
            return Step::Took(HEAD_BYTES);
        }
        let end = HEAD_BYTES + usize::try_from(head.body_bytes).unwrap_or(usize::MAX);
        let Some(body) = bytes.get_mut(HEAD_BYTES..end) else { return Step::Need(end) };
        let mut fields = Fields(body);
        match side {
            Side::Client => mask_asked(head.tag, &mut fields),
            Side::Server => mask_answer(head.tag, &mut fields),
        };
        // What was not understood.
        fields.fill_rest();
        Step::Took(end)
    }
}

/// Masks what a client sends, as far as it is understood.
fn mask_asked(tag: u8, body: &mut Fields<'_>) -> Option<()> {
    match tag {
        b'Q' => sql::mask_statement(body.text()),
        b'P' => {
            fill(body.text());
            sql::mask_statement(body.text());
            let types = usize::from(body.short()?);
            body.keep(4 * types)?;
        }
        b'B' => {
            fill(body.text());
            fill(body.text());
            let formats = usize::from(body.short()?);
            body.keep(2 * formats)?;
            mask_values(body)?;
            let formats = usize::from(body.short()?);
            body.keep(2 * formats)?;
        }
        b'D' | b'C' => {
            body.byte()?;
            fill(body.text());
        }
        b'E' => {
            fill(body.text());
            body.long()?;
        }
        _ => {}
    }
    Some(())
}

/// Masks what a server sends, as far as it is understood.
fn mask_answer(tag: u8, body: &mut Fields<'_>) -> Option<()> {
    match tag {
        b'R' => {
            body.long()?;
        }
        b'Z' => {
            body.byte()?;
        }
        b'S' => {
            fill(body.text());
            fill(body.text());
        }
        b'T' => {
            for _ in 0..body.short()? {
                fill(body.text());
                body.keep(COLUMN_BYTES)?;
            }
        }
        b'D' => mask_values(body)?,
        b't' => {
            let types = usize::from(body.short()?);
            body.keep(4 * types)?;
        }
        b'G' | b'H' | b'W' => {
            body.byte()?;
            let formats = usize::from(body.short()?);
            body.keep(2 * formats)?;
        }
        b'C' => {
            let done = body.text();
            let is_kept =
                |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b' ';
            if !done.iter().all(is_kept) {
                fill(done);
            }
        }
        b'E' | b'N' => {
            while let Some(field) = body.byte().filter(|field| *field != 0) {
                let value = body.text();
                let is_word =
                    value.len() <= WORD_BYTES_MAX && value.iter().all(u8::is_ascii_alphanumeric);
                if !matches!(field, b'S' | b'V' | b'C') || !is_word {
                    fill(value);
                }
            }
        }
        _ => {}
    }
    Some(())
}

/// Masks values, each with its length before it; none for what is null.
fn mask_values(body: &mut Fields<'_>) -> Option<()> {
    for _ in 0..body.short()? {
        let length = body.long()?;
        if length != u32::MAX {
            body.fill(usize::try_from(length).ok()?)?;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::mask::talk::check;

    #[test]
    fn of_statements_and_results_the_structure_is_kept() {
        check::<PgsqlMask>(&[
            (
                Side::Client,
                "\0\0\0\x12\0\x03\0\0user\0ann\0\0",
                "\0\0\0\x12\0\x03\0\0xxxx\0xxx\0\0",
            ),
            (Side::Server, "R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I", "R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I"),
            (Side::Client, "Q\0\0\0\x0fSELECT ann\0", "Q\0\0\0\x0fSELECT xxx\0"),
            (Side::Server, "D\0\0\0\x0d\0\x01\0\0\0\x03ann", "D\0\0\0\x0d\0\x01\0\0\0\x03xxx"),
            (Side::Server, "C\0\0\0\x0dSELECT 1\0", "C\0\0\0\x0dSELECT 1\0"),
            (
                Side::Server,
                "E\0\0\0\x18SERROR\0C42P01\0Mann\0\0",
                "E\0\0\0\x18SERROR\0C42P01\0Mxxx\0\0",
            ),
        ]);
    }
}
