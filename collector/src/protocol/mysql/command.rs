//! A command of a client with what the server answered, and what the command bytes mean.

use super::super::dialogue::{Call, Timed};
use super::super::output::Finished;
use super::packet::{Fields, Message};
use super::secrets::{REDACTED, speaks_of_secrets, without_secrets};
use super::statements::{Statements, query_text};
use crate::redaction::whole_characters;

/// The command bytes that are treated in a way of their own.
pub(super) mod code {
    pub(crate) const QUIT: u8 = 0x01;
    pub(crate) const INIT_DB: u8 = 0x02;
    pub(crate) const QUERY: u8 = 0x03;
    pub(crate) const FIELD_LIST: u8 = 0x04;
    pub(crate) const CREATE_DB: u8 = 0x05;
    pub(crate) const DROP_DB: u8 = 0x06;
    pub(crate) const REFRESH: u8 = 0x07;
    pub(crate) const SHUTDOWN: u8 = 0x08;
    pub(crate) const STATISTICS: u8 = 0x09;
    pub(crate) const PROCESS_INFO: u8 = 0x0a;
    pub(crate) const PROCESS_KILL: u8 = 0x0c;
    pub(crate) const DEBUG: u8 = 0x0d;
    pub(crate) const PING: u8 = 0x0e;
    pub(crate) const CHANGE_USER: u8 = 0x11;
    pub(crate) const BINLOG_DUMP: u8 = 0x12;
    pub(crate) const TABLE_DUMP: u8 = 0x13;
    pub(crate) const REGISTER_SLAVE: u8 = 0x15;
    pub(crate) const STMT_PREPARE: u8 = 0x16;
    pub(crate) const STMT_EXECUTE: u8 = 0x17;
    pub(crate) const STMT_SEND_LONG_DATA: u8 = 0x18;
    pub(crate) const STMT_CLOSE: u8 = 0x19;
    pub(crate) const STMT_RESET: u8 = 0x1a;
    pub(crate) const SET_OPTION: u8 = 0x1b;
    pub(crate) const STMT_FETCH: u8 = 0x1c;
    pub(crate) const BINLOG_DUMP_GTID: u8 = 0x1e;
    pub(crate) const RESET_CONNECTION: u8 = 0x1f;
    pub(crate) const CLONE: u8 = 0x20;
    pub(crate) const SUBSCRIBE_GROUP_REPLICATION: u8 = 0x21;
    pub(crate) const STMT_BULK_EXECUTE: u8 = 0xfa;
}

/// How a command ended, as in upstream's tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Status {
    /// The connection ended first.
    #[default]
    Unknown = 0,
    /// It gets no response.
    None = 1,
    /// Well.
    Ok = 2,
    /// With an error.
    Err = 3,
}

/// A command and its response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Command {
    /// The command byte.
    pub code: u8,
    /// The SQL text or the command's name for something, cut at the configured size.
    pub text: String,
    /// Bytes of that before it was cut.
    pub text_size: u64,
    /// How it ended.
    pub status: Status,
    /// What came of it, such as `Resultset rows = 3`, or the error's message.
    pub result: String,
    /// Bytes of the command on the wire.
    pub request_size: u64,
    /// Bytes of the response on the wire.
    pub response_size: u64,
    /// Sequence id of the next packet of the response.
    pub(super) next_sequence: u8,
    /// Whether the text had secrets, which an error's message may repeat.
    speaks_of_secrets: bool,
}

impl Call for Command {
    fn heap_bytes(&self) -> usize {
        self.text.len() + self.result.len()
    }

    fn finished(timed: Box<Timed<Self>>) -> Finished {
        Finished::Mysql(timed)
    }
}

impl Command {
    /// The command that a message is, whose first byte is there.
    pub(super) fn of(
        message: &Message,
        statements: &mut Statements,
        text_bytes_max: usize,
    ) -> Self {
        let code = message.kept.first().copied().unwrap_or_default();
        let payload = message.kept.get(1..).unwrap_or_default();
        let mut command = Self {
            code,
            request_size: message.wire_bytes,
            next_sequence: message.next_sequence,
            ..Self::default()
        };
        let statement = Fields(payload).u32();
        let unseen = message.length.saturating_sub(message.kept.len() as u64);
        match code {
            code::QUERY => command.show(query_text(payload), unseen, text_bytes_max),
            code::STMT_PREPARE => {
                command.show(payload, unseen, text_bytes_max);
                statements.prepares(&command.text);
            }
            code::INIT_DB | code::CREATE_DB | code::DROP_DB => {
                command.show(payload, unseen, text_bytes_max);
            }
            // What follows is a response to a challenge, or a pattern.
            code::CHANGE_USER | code::FIELD_LIST => {
                command.show(Fields(payload).zero_terminated(), 0, text_bytes_max);
            }
            code::STMT_EXECUTE => {
                let text = statements.execution(payload, message.length - 1);
                command.show(text.as_bytes(), 0, text_bytes_max);
            }
            code::STMT_BULK_EXECUTE => {
                let sql = statement.map_or("", |id| statements.sql(id));
                let text = format!("query=[{sql}] params=[]");
                command.show(text.as_bytes(), 0, text_bytes_max);
            }
            code::STMT_FETCH => {
                let sql = statement.map_or("", |id| statements.sql(id));
                command.show(sql.as_bytes(), 0, text_bytes_max);
            }
            _ => {}
        }
        command.tell(statements, payload);
        command
    }

    /// Tells the statements what becomes of them.
    fn tell(&self, statements: &mut Statements, payload: &[u8]) {
        let mut fields = Fields(payload);
        match (self.code, fields.u32()) {
            (code::STMT_CLOSE, Some(id)) => statements.close(id),
            (code::STMT_RESET, Some(id)) => statements.reset(id),
            (code::STMT_SEND_LONG_DATA, Some(id)) => {
                if let Some(param) = fields.u16() {
                    statements.sends_ahead(id, param);
                }
            }
            (code::CHANGE_USER | code::RESET_CONNECTION, _) => statements.clear(),
            _ => {}
        }
    }

    /// Keeps a text, of which so many bytes more were not kept.
    fn show(&mut self, text: &[u8], unseen: u64, text_bytes_max: usize) {
        let mut text_kept = text_of(text, text_bytes_max);
        if speaks_of_secrets(&text_kept) {
            self.speaks_of_secrets = true;
            text_kept = without_secrets(&text_kept);
        }
        self.text = text_kept;
        self.text_size = (text.len() as u64).saturating_add(unseen);
    }

    /// It ended with an error.
    pub(super) fn fail(&mut self, message: &[u8], text_bytes_max: usize) {
        self.status = Status::Err;
        self.result = if self.speaks_of_secrets {
            REDACTED.to_owned()
        } else {
            text_of(message, text_bytes_max)
        };
    }

    /// Whether the server answers it.
    pub(super) const fn has_response(&self) -> bool {
        !matches!(self.code, code::QUIT | code::STMT_CLOSE | code::STMT_SEND_LONG_DATA)
    }

    /// Whether another protocol follows it.
    pub(super) const fn ends_commands(&self) -> bool {
        matches!(
            self.code,
            code::BINLOG_DUMP
                | code::TABLE_DUMP
                | code::BINLOG_DUMP_GTID
                | code::CLONE
                | code::SUBSCRIBE_GROUP_REPLICATION
        )
    }
}

/// The beginning of a text, at most so many bytes.
pub(super) fn text_of(bytes: &[u8], bytes_max: usize) -> String {
    let kept = &bytes[..bytes.len().min(bytes_max)];
    String::from_utf8_lossy(whole_characters(kept)).into_owned()
}
