//! What of MySQL's protocol is structure: heads of packets, command bytes, ids of statements, what the
//! two sides can do, counts, status flags, numbers of errors, and the verb of a statement. Names, texts,
//! parameters, values and messages are content, and so is all that proves who a user is.
//!
//! Responses are followed packet by packet, since a row may begin as an answer does.

use super::command::code;
use super::handshake::{Capabilities, LOGIN_HEAD_BYTES};
use super::packet::{CONTINUED_LENGTH, HEADER_BYTES, Header};
use super::response::{self, EOF, EOF_BYTES, ERR, LOCAL_INFILE, OK};
use crate::mask::Addresses;
use crate::protocol::dialogue::Side;
use crate::protocol::mask::fields::Fields;
use crate::protocol::mask::{Mask, Step, fill, fill_between_zeros, sql};

/// Most bytes of a packet that are looked at; what follows them is content.
const LOOKED_AT_MAX: usize = 1024;
/// Bytes of an error before its message: its mark, its number, and a state of five letters.
const ERROR_HEAD_BYTES: usize = 9;

/// How far a connection is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// The server has not greeted.
    #[default]
    Start,
    Login(Capabilities),
    Proof {
        compresses: bool,
    },
    Commands,
    /// What follows is TLS.
    Encrypted(Capabilities),
    /// What follows is not understood.
    Over,
}

/// What comes next of a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Expect {
    #[default]
    Result,
    /// So many definitions of columns.
    Columns(u64),
    /// An EOF packet or the first row.
    ColumnsEnd,
    Rows,
    /// So many definitions of parameters and columns, maybe with EOF packets between them.
    Definitions(u32),
    /// The client's file.
    File,
}

/// Masks a connection to a MySQL server.
#[derive(Debug, Default)]
pub(crate) struct MysqlMask {
    phase: Phase,
    expect: Expect,
    /// The last command that is answered.
    command: u8,
    /// Bytes of the packet at hand that are content.
    rest: [u64; 2],
    /// Whether the next packet goes on with the message of the last.
    goes_on: [bool; 2],
}

impl Mask for MysqlMask {
    fn take(&mut self, side: Side, bytes: &mut [u8], _addresses: &mut Addresses) -> Step {
        let rest = std::mem::take(&mut self.rest[side as usize]);
        if rest > 0 {
            return Step::Content(rest);
        }
        match self.phase {
            Phase::Encrypted(_) => return Step::Another,
            Phase::Over => return Step::Lost,
            _ => {}
        }
        let Some(header) = Header::of(bytes) else { return Step::Need(HEADER_BYTES) };
        let length = usize::try_from(header.length).unwrap_or(usize::MAX);
        let end = HEADER_BYTES + length.min(LOOKED_AT_MAX);
        let Some(payload) = bytes.get_mut(HEADER_BYTES..end) else { return Step::Need(end) };
        self.rest[side as usize] = (length + HEADER_BYTES - end) as u64;
        let goes_on = header.length == CONTINUED_LENGTH;
        if std::mem::replace(&mut self.goes_on[side as usize], goes_on) {
            fill(payload);
            return Step::Took(end);
        }
        let mut fields = Fields(payload);
        match side {
            Side::Client => self.client(header, &mut fields),
            Side::Server => self.server(header, &mut fields),
        };
        // What was not understood.
        fields.fill_rest();
        Step::Took(end)
    }

    fn goes_on_in_tls(&mut self) -> bool {
        let Phase::Encrypted(server) = self.phase else { return false };
        self.phase = Phase::Login(server);
        true
    }
}

impl MysqlMask {
    fn client(&mut self, header: Header, payload: &mut Fields<'_>) -> Option<()> {
        match self.phase {
            Phase::Login(server) => {
                let client = Capabilities::of_login(payload.0);
                let is_head_only = header.length as usize <= LOGIN_HEAD_BYTES;
                payload.keep(LOGIN_HEAD_BYTES.min(payload.0.len()))?;
                fill_between_zeros(payload.keep(payload.0.len())?);
                self.phase = match client {
                    Some(client) if client.asks_for_tls() && is_head_only => {
                        Phase::Encrypted(server)
                    }
                    Some(client) => Phase::Proof { compresses: server.common(client).compresses() },
                    None => Phase::Proof { compresses: false },
                };
            }
            _ if self.expect == Expect::File && header.length == 0 => {
                self.expect = Expect::Result;
            }
            _ if self.expect == Expect::File => {}
            Phase::Start | Phase::Commands if header.sequence == 0 => {
                self.phase = Phase::Commands;
                self.command(payload)?;
            }
            // Proofs.
            _ => {}
        }
        Some(())
    }

    fn command(&mut self, payload: &mut Fields<'_>) -> Option<()> {
        let command = payload.byte()?;
        match command {
            code::QUERY => {
                // A count of attributes and a count of their sets, which is one.
                if let [0, 1, ..] = payload.0 {
                    payload.keep(2)?;
                }
                sql::mask_statement(payload.keep(payload.0.len())?);
            }
            code::STMT_PREPARE => sql::mask_statement(payload.keep(payload.0.len())?),
            // Ids, flags and rounds.
            code::STMT_EXECUTE => {
                payload.keep(9)?;
            }
            code::STMT_BULK_EXECUTE | code::STMT_SEND_LONG_DATA => {
                payload.keep(6)?;
            }
            code::STMT_FETCH => {
                payload.keep(8)?;
            }
            code::STMT_CLOSE | code::STMT_RESET => {
                payload.keep(4)?;
            }
            code::SET_OPTION => {
                payload.keep(2)?;
            }
            code::FIELD_LIST | code::CHANGE_USER => {
                fill_between_zeros(payload.keep(payload.0.len())?);
            }
            code::BINLOG_DUMP | code::BINLOG_DUMP_GTID | code::TABLE_DUMP => {
                self.phase = Phase::Over;
            }
            _ => {}
        }
        if !matches!(command, code::QUIT | code::STMT_CLOSE | code::STMT_SEND_LONG_DATA) {
            (self.command, self.expect) = (command, Expect::Result);
        }
        Some(())
    }

    fn server(&mut self, header: Header, payload: &mut Fields<'_>) -> Option<()> {
        let first = payload.0.first().copied();
        if first == Some(ERR) && header.length > 2 {
            let is_over = !matches!(payload.0, [_, 0xff, 0xff, ..]);
            payload.keep(ERROR_HEAD_BYTES)?;
            if is_over {
                self.expect = Expect::Result;
            }
            return Some(());
        }
        match self.phase {
            Phase::Start => {
                self.phase = Phase::Login(Capabilities::of_greeting(payload.0)?);
                mask_greeting(payload)
            }
            Phase::Proof { compresses } if first == Some(OK) => {
                self.phase = if compresses { Phase::Over } else { Phase::Commands };
                mask_ending(header, payload)
            }
            Phase::Commands => self.response(header, payload),
            // More proofs.
            _ => payload.byte().map(drop),
        }
    }

    fn response(&mut self, header: Header, payload: &mut Fields<'_>) -> Option<()> {
        let first = payload.0.first().copied();
        let is_eof = first == Some(EOF) && u64::from(header.length) == EOF_BYTES;
        match self.expect {
            Expect::Result => self.result(header, payload)?,
            Expect::Columns(left) => {
                self.expect = if left > 1 { Expect::Columns(left - 1) } else { Expect::ColumnsEnd };
            }
            Expect::ColumnsEnd if is_eof => {
                mask_ending(header, payload)?;
                self.expect = Expect::Rows;
            }
            Expect::ColumnsEnd | Expect::Rows => self.row(header, payload)?,
            Expect::Definitions(_) if is_eof => mask_ending(header, payload)?,
            Expect::Definitions(left) => {
                self.expect = if left > 1 { Expect::Definitions(left - 1) } else { Expect::Result };
            }
            Expect::File => {}
        }
        Some(())
    }

    fn result(&mut self, header: Header, payload: &mut Fields<'_>) -> Option<()> {
        match (self.command, payload.0.first().copied()?) {
            (code::STATISTICS, _) => {}
            (code::STMT_PREPARE, OK) => {
                let head = payload.keep(9)?;
                let [columns, params] =
                    [5, 7].map(|at| u32::from(u16::from_le_bytes([head[at], head[at + 1]])));
                // Filler and warnings; MySQL may say that no definitions follow.
                payload.keep(payload.0.len().min(3))?;
                let are_defined = payload.byte() != Some(0);
                if are_defined && columns + params > 0 {
                    self.expect = Expect::Definitions(columns + params);
                }
            }
            (code::CHANGE_USER, first) if first != OK => {
                payload.byte()?;
            }
            (code::FIELD_LIST | code::STMT_FETCH, _) => {
                self.expect = Expect::Rows;
                self.row(header, payload)?;
            }
            (_, OK | EOF) => self.end(header, payload)?,
            (code::QUERY | code::STMT_EXECUTE, LOCAL_INFILE) => {
                payload.byte()?;
                self.expect = Expect::File;
            }
            _ => {
                let Some((columns, are_defined)) = response::columns(payload.0) else {
                    // No parser reads on, either.
                    self.phase = Phase::Over;
                    return None;
                };
                payload.keep(payload.0.len())?;
                self.expect =
                    if are_defined { Expect::Columns(columns) } else { Expect::ColumnsEnd };
            }
        }
        Some(())
    }

    fn row(&mut self, header: Header, payload: &mut Fields<'_>) -> Option<()> {
        if payload.0.first() == Some(&EOF) && header.length < CONTINUED_LENGTH {
            return self.end(header, payload);
        }
        self.expect = Expect::Rows;
        Some(())
    }

    fn end(&mut self, header: Header, payload: &mut Fields<'_>) -> Option<()> {
        self.expect = Expect::Result;
        mask_ending(header, payload)
    }
}

/// Keeps of an OK or EOF packet its numbers, but for the id of the row that was inserted.
fn mask_ending(header: Header, payload: &mut Fields<'_>) -> Option<()> {
    let is_eof = u64::from(header.length) == EOF_BYTES;
    payload.byte()?;
    if is_eof {
        payload.keep(2)?;
    } else {
        keep_number(payload)?;
        let [first, id @ ..] = keep_number(payload)? else { return None };
        if *first <= 0xfa {
            *first = 0;
        }
        id.fill(0);
    }
    // The status, and of an OK packet how many warnings there are.
    payload.keep(if is_eof { 2 } else { 4 })?;
    Some(())
}

/// Keeps a number that says how long it is.
fn keep_number<'a>(payload: &mut Fields<'a>) -> Option<&'a mut [u8]> {
    let bytes = match payload.0.first()? {
        0xfc => 3,
        0xfd => 4,
        0xfe => 9,
        _ => 1,
    };
    payload.keep(bytes)
}

fn mask_greeting(payload: &mut Fields<'_>) -> Option<()> {
    payload.byte()?;
    payload.text();
    // The number of the thread, then half of a challenge.
    payload.keep(4)?;
    payload.fill(8)?;
    // Capabilities, character set, status, the length of the challenge, and what is reserved.
    payload.keep(19)?;
    fill_between_zeros(payload.keep(payload.0.len())?);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::mask::talk::check;

    #[test]
    fn of_commands_and_responses_the_structure_is_kept() {
        let greeting = "\x2c\0\0\0\x0a8.0.33\0\x01\0\0\0secrets!\0\u{ff}\u{f7}\x21\x02\0\u{ff}\u{81}\x15\0\0\0\0\0\0\0\0\0\0salt\0";
        let masked = "\x2c\0\0\0\x0a8.0.33\0\x01\0\0\0xxxxxxxx\0\u{ff}\u{f7}\x21\x02\0\u{ff}\u{81}\x15\0\0\0\0\0\0\0\0\0\0xxxx\0";
        let login = format!("\x28\0\0\x01\u{85}\u{a2}\x0a\0{}ann\0pw\0x", "\0".repeat(28));
        let masked_login = format!("\x28\0\0\x01\u{85}\u{a2}\x0a\0{}xxx\0xx\0x", "\0".repeat(28));
        check::<MysqlMask>(&[
            (Side::Server, greeting, masked),
            (Side::Client, &login, &masked_login),
            (Side::Server, "\x07\0\0\x02\0\0\0\x02\0\0\0", "\x07\0\0\x02\0\0\0\x02\0\0\0"),
            (Side::Client, "\x0b\0\0\0\x03select ann", "\x0b\0\0\0\x03select xxx"),
            // A column, its definition, EOF, a row, an empty row, EOF.
            (
                Side::Server,
                "\x01\0\0\x01\x01\x04\0\0\x02\x03def\x05\0\0\x03\u{fe}\0\0\x02\0\
                 \x04\0\0\x04\x03ann\x01\0\0\x05\0\x05\0\0\x06\u{fe}\0\0\x02\0",
                "\x01\0\0\x01\x01\x04\0\0\x02xxxx\x05\0\0\x03\u{fe}\0\0\x02\0\
                 \x04\0\0\x04xxxx\x01\0\0\x05x\x05\0\0\x06\u{fe}\0\0\x02\0",
            ),
            (Side::Client, "\x0a\0\0\0\x03update it", "\x0a\0\0\0\x03update xx"),
            (
                Side::Server,
                "\x0a\0\0\x01\0\x02\x09\x02\0\0\0hey",
                "\x0a\0\0\x01\0\x02\0\x02\0\0\0xxx",
            ),
            (Side::Client, "\x04\0\0\0\x16sel", "\x04\0\0\0\x16xxx"),
            (
                Side::Server,
                "\x0c\0\0\x01\u{ff}\x7a\x04#42S02ann",
                "\x0c\0\0\x01\u{ff}\x7a\x04#42S02xxx",
            ),
        ]);
    }
}
