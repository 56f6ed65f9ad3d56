//! Responses of a server: OK, errors, resultsets, what a preparation brings.
//!
//! ```text
//! column count ─► definitions ─► [EOF] ─► rows ─► EOF or OK, maybe with another result after it
//! ```
//!
//! Whether the EOF packet after definitions is there depends on what both sides agreed on when they
//! met. Where that was not seen the packets tell: a row never has five bytes of which the first is
//! 0xfe. Only after a preparation that ends with definitions the next packet of the server tells.

use super::command::{Command, Status, code, text_of};
use super::packet::{CONTINUED_LENGTH, Fields, Message};
use super::statements::Statements;

pub(super) const OK: u8 = 0x00;
pub(super) const LOCAL_INFILE: u8 = 0xfb;
pub(super) const EOF: u8 = 0xfe;
/// First byte of an error.
pub(super) const ERR: u8 = 0xff;
/// Bytes of an EOF packet; an OK packet that stands for one has more.
pub(super) const EOF_BYTES: u64 = 5;
/// Fewest bytes of an OK packet.
const OK_BYTES_MIN: u64 = 7;
/// Bytes that are needed of everything but rows, definitions and errors.
const HEAD_BYTES: usize = 32;
/// Bytes of an error's packet before its message.
const ERROR_HEAD_BYTES: usize = 9;
/// Error number of a report of progress, which ends nothing.
const PROGRESS: u16 = 0xffff;
/// Status flag: another result follows.
const MORE_RESULTS_EXIST: u16 = 0x0008;
/// Status flag: the rows are fetched later.
const CURSOR_EXISTS: u16 = 0x0040;
/// Longest text that tells of results.
const RESULT_BYTES_MAX: usize = 1024;

/// These bytes are no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoResponse;

/// Whether a response is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    GoesOn,
    Complete,
}

/// Whether an EOF packet follows definitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum DefinitionsEnd {
    #[default]
    Unknown,
    WithEof,
    Bare,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Expect {
    #[default]
    Result,
    /// So many definitions of a resultset's columns.
    Columns(u64),
    /// An EOF packet or the first row.
    ColumnsEnd,
    /// Rows, after so many.
    Rows(u64),
    /// So many definitions of a prepared statement's parameters, then of its columns.
    Definitions(u16, u16),
    /// The client's file; the result comes after it.
    File,
}

/// Reads the responses of a connection.
#[derive(Debug, Default)]
pub(super) struct Responses {
    expect: Expect,
    definitions_end: DefinitionsEnd,
    /// Sequence id of an EOF packet that may still belong to the last preparation.
    belated_eof: Option<u8>,
}

impl Responses {
    /// Takes note of what both sides agreed on.
    pub(super) const fn agreed(&mut self, ends_columns: bool) {
        self.definitions_end =
            if ends_columns { DefinitionsEnd::WithEof } else { DefinitionsEnd::Bare };
    }

    /// Forgets the response that is on its way.
    pub(super) const fn forget(&mut self) {
        (self.expect, self.belated_eof) = (Expect::Result, None);
    }

    /// Whether the client's next packets are a file.
    pub(super) fn expects_file(&self) -> bool {
        self.expect == Expect::File
    }

    /// The client sent all of its file.
    pub(super) const fn file_ended(&mut self) {
        self.expect = Expect::Result;
    }

    /// How many bytes of a message are needed, by its first and the command that it answers.
    pub(super) fn wanted(&self, first: u8, code: Option<u8>, text_bytes_max: usize) -> usize {
        match (first, self.expect) {
            (ERR, _) => ERROR_HEAD_BYTES + text_bytes_max,
            (_, Expect::Result) if code == Some(code::STATISTICS) => text_bytes_max,
            (EOF, _) | (_, Expect::Result) => HEAD_BYTES,
            _ => 1,
        }
    }

    /// Whether the message is an EOF packet that belongs to the last preparation, now that no other
    /// response is on its way.
    pub(super) fn is_belated(&mut self, message: &Message) -> bool {
        let Some(sequence) = self.belated_eof.take() else { return false };
        let is_belated = is_eof(message) && message.sequence == sequence;
        self.agreed(is_belated);
        is_belated
    }

    /// Takes a message that belongs to the response of `call`.
    pub(super) fn take(
        &mut self,
        message: &Message,
        call: &mut Command,
        statements: &mut Statements,
        text_bytes_max: usize,
    ) -> Result<Progress, NoResponse> {
        let first = message.kept.first().copied();
        if first == Some(ERR) && message.length > 2 {
            return Ok(self.error(message, call, text_bytes_max));
        }
        match self.expect {
            Expect::Result => self.result(message, call, statements, text_bytes_max),
            Expect::Columns(left) => {
                self.expect = if left > 1 { Expect::Columns(left - 1) } else { Expect::ColumnsEnd };
                Ok(Progress::GoesOn)
            }
            Expect::ColumnsEnd => {
                self.expect = Expect::Rows(0);
                self.agreed(is_eof(message));
                match ending(message) {
                    Some(ending) if is_eof(message) && ending.status & CURSOR_EXISTS == 0 => {
                        Ok(Progress::GoesOn)
                    }
                    _ => self.row(message, call),
                }
            }
            Expect::Rows(_) => self.row(message, call),
            Expect::Definitions(params, columns) => {
                self.definition(message, params, columns).ok_or(NoResponse)
            }
            Expect::File => Err(NoResponse),
        }
    }

    fn error(&mut self, message: &Message, call: &mut Command, text_bytes_max: usize) -> Progress {
        let mut fields = Fields(&message.kept[1..]);
        if fields.u16() == Some(PROGRESS) {
            return Progress::GoesOn;
        }
        if fields.0.first() == Some(&b'#') {
            // And a state of five letters.
            fields.bytes(6);
        }
        call.fail(fields.0, text_bytes_max);
        self.expect = Expect::Result;
        Progress::Complete
    }

    /// The first message of a response, or of a further result in it.
    fn result(
        &mut self,
        message: &Message,
        call: &mut Command,
        statements: &mut Statements,
        text_bytes_max: usize,
    ) -> Result<Progress, NoResponse> {
        let first = message.kept.first().copied();
        match (call.code, first) {
            (code::STATISTICS, _) => {
                call.status = Status::Ok;
                call.result = text_of(&message.kept, text_bytes_max);
                Ok(Progress::Complete)
            }
            (code::STMT_PREPARE, Some(OK)) => self.prepared(message, call, statements),
            // The server asks for another proof.
            (code::CHANGE_USER, Some(first)) if first != OK => Ok(Progress::GoesOn),
            (code::FIELD_LIST | code::STMT_FETCH, Some(_)) => {
                self.expect = Expect::Rows(0);
                self.row(message, call)
            }
            (_, Some(OK)) if message.length >= OK_BYTES_MIN => self.end(message, call, None),
            (_, Some(EOF)) if message.length == EOF_BYTES => self.end(message, call, None),
            (code::QUERY | code::STMT_EXECUTE, Some(LOCAL_INFILE)) => {
                self.expect = Expect::File;
                Ok(Progress::GoesOn)
            }
            (
                code::QUERY | code::PROCESS_INFO | code::STMT_EXECUTE | code::STMT_BULK_EXECUTE,
                Some(_),
            ) => {
                let (columns, is_defined) = column_count(message).ok_or(NoResponse)?;
                self.expect =
                    if is_defined { Expect::Columns(columns) } else { Expect::ColumnsEnd };
                Ok(Progress::GoesOn)
            }
            _ => Err(NoResponse),
        }
    }

    fn row(&mut self, message: &Message, call: &mut Command) -> Result<Progress, NoResponse> {
        let Expect::Rows(rows) = self.expect else { return Err(NoResponse) };
        // A row starts with this byte only where it is as long as a packet can be.
        if message.kept.first() == Some(&EOF) && message.length < u64::from(CONTINUED_LENGTH) {
            return self.end(message, call, Some(rows));
        }
        self.expect = Expect::Rows(rows + 1);
        Ok(Progress::GoesOn)
    }

    /// A result ends, a resultset of so many rows or none.
    fn end(
        &mut self,
        message: &Message,
        call: &mut Command,
        rows: Option<u64>,
    ) -> Result<Progress, NoResponse> {
        let Ending { affected, status } = ending(message).ok_or(NoResponse)?;
        let is_fetched_later = status & CURSOR_EXISTS != 0 && call.code != code::STMT_FETCH;
        match rows {
            _ if call.code == code::FIELD_LIST => {}
            Some(0) if is_fetched_later => {}
            Some(rows) => add_result(call, &format!("Resultset rows = {rows}")),
            None if affected > 0 => add_result(call, &format!("Affected rows = {affected}")),
            None => {}
        }
        call.status = Status::Ok;
        self.expect = Expect::Result;
        if status & MORE_RESULTS_EXIST == 0 { Ok(Progress::Complete) } else { Ok(Progress::GoesOn) }
    }

    fn prepared(
        &mut self,
        message: &Message,
        call: &mut Command,
        statements: &mut Statements,
    ) -> Result<Progress, NoResponse> {
        let mut fields = Fields(&message.kept[1..]);
        let head = (fields.u32(), fields.u16(), fields.u16());
        let (Some(id), Some(columns), Some(params)) = head else { return Err(NoResponse) };
        statements.prepared(id, &call.text, params);
        call.status = Status::Ok;
        // Filler and warnings; MySQL may say that no definitions follow.
        fields.bytes(3);
        let are_defined = fields.byte() != Some(0);
        if are_defined && (params > 0 || columns > 0) {
            self.expect = Expect::Definitions(params, columns);
            return Ok(Progress::GoesOn);
        }
        Ok(Progress::Complete)
    }

    /// A definition of a prepared statement, or what ends them.
    fn definition(&mut self, message: &Message, params: u16, columns: u16) -> Option<Progress> {
        let (params, columns) = if is_eof(message) {
            self.definitions_end = DefinitionsEnd::WithEof;
            (params == 0).then_some((params, columns))?
        } else if params > 0 {
            (params - 1, columns)
        } else {
            (0, columns.checked_sub(1)?)
        };
        self.expect = Expect::Definitions(params, columns);
        if params > 0 || columns > 0 {
            return Some(Progress::GoesOn);
        }
        match self.definitions_end {
            DefinitionsEnd::WithEof if !is_eof(message) => return Some(Progress::GoesOn),
            DefinitionsEnd::Unknown => self.belated_eof = Some(message.next_sequence),
            DefinitionsEnd::WithEof | DefinitionsEnd::Bare => {}
        }
        self.expect = Expect::Result;
        Some(Progress::Complete)
    }
}

fn is_eof(message: &Message) -> bool {
    message.kept.first() == Some(&EOF) && message.length == EOF_BYTES
}

/// What an OK or EOF packet says.
struct Ending {
    affected: u64,
    status: u16,
}

fn ending(message: &Message) -> Option<Ending> {
    let mut fields = Fields(message.kept.get(1..)?);
    if is_eof(message) {
        // Warnings.
        fields.u16()?;
        return Some(Ending { affected: 0, status: fields.u16()? });
    }
    let affected = fields.length_encoded()?;
    // The id of the row that was inserted last.
    fields.length_encoded()?;
    Some(Ending { affected, status: fields.u16()? })
}

/// The number of columns of a resultset, and whether their definitions follow: MariaDB says so
/// after the number where the client remembers them, MySQL's documentation puts it before.
fn column_count(message: &Message) -> Option<(u64, bool)> {
    columns(&message.kept)
}

/// The same of a packet's bytes.
pub(super) fn columns(kept: &[u8]) -> Option<(u64, bool)> {
    let mut fields = Fields(kept);
    if let Some(columns @ 1..) = fields.length_encoded()
        && let [] | [0 | 1] = fields.0
    {
        return Some((columns, fields.0 != [0]));
    }
    let mut fields = Fields(kept.get(1..)?);
    let columns = fields.length_encoded().filter(|columns| *columns > 0)?;
    (kept[0] <= 1 && fields.0.is_empty()).then_some((columns, kept[0] == 1))
}

fn add_result(call: &mut Command, result: &str) {
    if call.result.len() + result.len() + 2 > RESULT_BYTES_MAX {
        return;
    }
    if !call.result.is_empty() {
        call.result.push_str(", ");
    }
    call.result.push_str(result);
}
