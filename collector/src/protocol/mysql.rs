//! MySQL and MariaDB: the client/server protocol.
//!
//! ```text
//! greeting ─► login ─► proofs … ─► OK ─┬─► command ─► response ─► command ─► …
//!                  └─► TLS: opaque     └─► compressed: opaque
//! ```
//!
//! Responses come in the order of commands, and their packets count on from those of their command.
//! Of a message only the beginning is looked at, of a row the first byte; the rest is skipped. What
//! is sent to prove who the client is, is never kept, nor are passwords in SQL. Packets that are
//! compressed, and streams of the binary log, are opaque.

mod command;
mod handshake;
pub(super) mod mask;
mod packet;
mod params;
mod probe;
mod response;
mod secrets;
mod statements;

use super::ProtocolCode;
use super::dialogue::{Calls, Dialect, Side, Step};
use super::gap::Cause;
pub use command::{Command, Status};
use handshake::Capabilities;
use packet::{OutOfSequence, Packets, Progress};
pub(super) use probe::{probe_request, probe_response};
use response::{ERR, Responses};
use statements::Statements;

/// Shortest request: the head of a packet, and a command byte.
pub const REQUEST_BYTES_MIN: u64 = 5;
/// Bytes of a greeting that are looked at.
const GREETING_BYTES_MAX: usize = 256;
/// Bytes of a command that are looked at beside its text: what goes before it, and binary values,
/// which may be longer than their text.
const COMMAND_BYTES: usize = 256;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// Nothing was seen.
    #[default]
    Start,
    /// The server greeted.
    Login(Capabilities),
    /// The client proves who it is.
    Proof { compresses: bool },
    /// Commands and their responses.
    Commands,
}

/// A connection to a MySQL or MariaDB server.
#[derive(Debug, Default)]
pub struct Mysql {
    phase: Phase,
    client: Packets,
    server: Packets,
    responses: Responses,
    statements: Statements,
}

impl Dialect for Mysql {
    type Call = Command;
    const CODE: ProtocolCode = ProtocolCode::Mysql;
    const RESPONSES_NAME_REQUESTS: bool = false;
    const CLIENTS_TAKE_TURNS: bool = true;

    fn take(&mut self, side: Side, bytes: &[u8], calls: &mut Calls<Command>) -> Step {
        let progress = match side {
            Side::Client => self.read_client(bytes, calls),
            Side::Server => self.read_server(bytes, calls),
        };
        let done = match progress {
            Err(OutOfSequence) => return Step::Bad(Cause::ParseError),
            Ok(Progress::Need(bytes)) => return Step::Need(bytes),
            Ok(Progress::Skip(bytes)) => return Step::Skip(bytes),
            Ok(Progress::Took(bytes)) => return Step::Took(bytes),
            Ok(Progress::Done(bytes)) => bytes,
        };
        let outcome = match side {
            Side::Client => self.client_done(calls),
            Side::Server => self.server_done(calls),
        };
        match (outcome, done) {
            (Outcome::Bad(cause), _) => Step::Bad(cause),
            (Outcome::Opaque, _) => Step::Opaque,
            (Outcome::GoOn, 0) => {
                calls.begin_message();
                self.take(side, bytes, calls)
            }
            (Outcome::GoOn, done) => Step::Took(done),
        }
    }

    fn goes_on_in_tls(&self) -> bool {
        // The client asked for TLS instead of logging in, and does that inside.
        matches!(self.phase, Phase::Login(_))
    }

    fn is_between_messages(&self, side: Side) -> bool {
        match side {
            Side::Client => self.client.is_between_messages(),
            Side::Server => self.server.is_between_messages(),
        }
    }

    fn begins_request(&self, bytes: &[u8]) -> bool {
        probe::begins_command(bytes)
    }

    fn forget_messages(&mut self) {
        self.client = Packets::default();
        self.server = Packets::default();
        self.responses.forget();
        self.phase = Phase::Commands;
    }

    fn heap_bytes(&self) -> usize {
        self.statements.bytes()
    }
}

/// What a complete message came to.
enum Outcome {
    GoOn,
    Bad(Cause),
    Opaque,
}

impl Mysql {
    fn read_client(
        &mut self,
        bytes: &[u8],
        calls: &Calls<Command>,
    ) -> Result<Progress, OutOfSequence> {
        let is_file = self.responses.expects_file();
        let phase = self.phase;
        self.client.read(bytes, |_, _| match phase {
            Phase::Login(_) => handshake::LOGIN_HEAD_BYTES,
            Phase::Start | Phase::Commands if !is_file => COMMAND_BYTES + calls.text_bytes_max,
            Phase::Start | Phase::Commands | Phase::Proof { .. } => 0,
        })
    }

    fn read_server(
        &mut self,
        bytes: &[u8],
        calls: &mut Calls<Command>,
    ) -> Result<Progress, OutOfSequence> {
        let Self { phase, responses, server, .. } = self;
        server.read(bytes, |first, _| match phase {
            Phase::Start => GREETING_BYTES_MAX,
            Phase::Login(_) | Phase::Proof { .. } => 1,
            Phase::Commands => {
                let code = calls.oldest().map(|call| call.code);
                responses.wanted(first, code, calls.text_bytes_max)
            }
        })
    }

    fn client_done(&mut self, calls: &mut Calls<Command>) -> Outcome {
        let message = self.client.message();
        match self.phase {
            // What follows a greeting counts on from it, and only commands begin anew.
            Phase::Login(_) | Phase::Proof { .. } if message.sequence == 0 => {
                return Outcome::Bad(Cause::ParseError);
            }
            Phase::Login(server) => {
                let Some(client) = Capabilities::of_login(&message.kept) else {
                    self.phase = Phase::Proof { compresses: false };
                    return Outcome::GoOn;
                };
                // The login inside TLS says so again.
                if client.asks_for_tls() && message.length <= handshake::LOGIN_HEAD_BYTES as u64 {
                    return Outcome::Opaque;
                }
                let common = server.common(client);
                self.responses.agreed(common.ends_columns());
                self.phase = Phase::Proof { compresses: common.compresses() };
                return Outcome::GoOn;
            }
            Phase::Proof { .. } => return Outcome::GoOn,
            // A server speaks first.
            Phase::Start => {
                calls.joined_midway();
                self.phase = Phase::Commands;
            }
            Phase::Commands => {}
        }
        let goes_on = self.responses.expects_file()
            || (message.sequence != 0
                && calls.oldest().is_some_and(|call| call.code == command::code::CHANGE_USER));
        match calls.oldest() {
            Some(call) if goes_on => {
                call.next_sequence = message.next_sequence;
                call.request_size += message.wire_bytes;
                if message.length == 0 {
                    self.responses.file_ended();
                }
                Outcome::GoOn
            }
            _ if message.sequence != 0 || message.length == 0 => Outcome::Bad(Cause::ParseError),
            _ => self.command(calls),
        }
    }

    fn command(&mut self, calls: &mut Calls<Command>) -> Outcome {
        let message = self.client.message();
        let mut command = Command::of(message, &mut self.statements, calls.text_bytes_max);
        let (has_response, ends_commands) = (command.has_response(), command.ends_commands());
        if !has_response || ends_commands {
            command.status = Status::None;
        }
        calls.begin(0, command);
        if !has_response {
            calls.finish_unanswered();
        }
        if ends_commands { Outcome::Opaque } else { Outcome::GoOn }
    }

    fn server_done(&mut self, calls: &mut Calls<Command>) -> Outcome {
        let message = self.server.message();
        let first = message.kept.first().copied();
        match self.phase {
            Phase::Start => match Capabilities::of_greeting(&message.kept) {
                Some(capabilities) => self.phase = Phase::Login(capabilities),
                None if first == Some(ERR) => {}
                None => return Outcome::Bad(Cause::ParseError),
            },
            Phase::Proof { compresses: true } if first == Some(0) => return Outcome::Opaque,
            Phase::Proof { .. } if first == Some(0) => self.phase = Phase::Commands,
            // More proofs, or a refusal.
            Phase::Login(_) | Phase::Proof { .. } => {}
            Phase::Commands => return self.response(calls),
        }
        Outcome::GoOn
    }

    fn response(&mut self, calls: &mut Calls<Command>) -> Outcome {
        let Self { server, responses, statements, .. } = self;
        let message = server.message();
        if responses.is_belated(message) {
            return Outcome::GoOn;
        }
        let text_bytes_max = calls.text_bytes_max;
        let is_error = message.kept.first() == Some(&ERR);
        let Some(call) = calls.oldest() else {
            // A server that closes the connection may say why.
            return if is_error { Outcome::GoOn } else { Outcome::Bad(Cause::Unrequested) };
        };
        if message.sequence != call.next_sequence && !is_error {
            return Outcome::Bad(Cause::Unrequested);
        }
        call.next_sequence = message.next_sequence;
        call.response_size += message.wire_bytes;
        match responses.take(message, call, statements, text_bytes_max) {
            Err(response::NoResponse) => return Outcome::Bad(Cause::ParseError),
            Ok(response::Progress::GoesOn) => {}
            Ok(response::Progress::Complete) => {
                calls.finish_oldest();
            }
        }
        Outcome::GoOn
    }
}

#[cfg(test)]
mod tests;
