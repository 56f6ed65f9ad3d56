//! NATS: the text protocol between clients and servers.
//!
//! Every command of either side is a row of its own: `INFO`, `PUB`, `MSG` and so on. Most have no
//! answer. In verbose mode, which `CONNECT` turns on, the server answers commands in their order by
//! `+OK` or `-ERR`; `PING` is always answered by `PONG`. A connection that is joined midway is taken
//! for one without answers until an `+OK` comes. What a server says before the headers of a message
//! that stands for none (`404 No Messages`) is its `status`. Payloads are kept up to the limit and skipped
//! beyond. Where the client goes on in TLS, another protocol is spoken.

mod line;
pub(super) mod mask;

use super::dialogue::{Call, Calls, Dialect, Side, Step, Timed};
use super::gap::Cause;
use super::line_end::LineEnd;
use super::output::Finished;
use super::{PROBE_BYTES_MAX, Probe, ProtocolCode};
use crate::redaction::{Mode, body_into};
use line::{LINE_BYTES_MAX, Line, Options, Payload};

/// Shortest request: `PING` or `PONG` with a line end.
pub const REQUEST_BYTES_MIN: u64 = 6;
/// First byte of a TLS handshake.
const TLS_HANDSHAKE: u8 = 0x16;
/// An error that comes in addition to the `+OK` of the same command.
const NOT_FINAL: &str = "'Invalid Publish Subject'";

/// A command and its answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Command {
    /// Its name in capitals; `-ERR` for an error that answers no command.
    pub name: &'static str,
    /// Its options as a JSON object, or nothing.
    pub body: String,
    /// `OK`, `PONG`, or `ERR` and the server's text.
    pub answer: String,
    /// Bytes of the command on the wire.
    pub size: u64,
    /// Bytes of the answer on the wire.
    pub answer_size: u64,
}

impl Command {
    /// Whether the answer is an error.
    pub fn failed(&self) -> bool {
        self.answer.starts_with("ERR")
    }

    /// Whether there is an answer.
    pub fn is_answered(&self) -> bool {
        !self.answer.is_empty() && self.name != "-ERR"
    }
}

impl Call for Command {
    fn heap_bytes(&self) -> usize {
        self.body.len() + self.answer.len()
    }

    fn finished(timed: Box<Timed<Self>>) -> Finished {
        Finished::Nats(timed)
    }
}

/// A command whose payload is on its way.
#[derive(Debug)]
struct Message {
    command: Command,
    options: Options,
    payload: Payload,
}

impl Message {
    /// Keeps the beginning of the payload, or all of it.
    fn keep(&mut self, bytes: &[u8]) {
        let headers = usize::try_from(self.payload.header_bytes).unwrap_or(usize::MAX);
        let (headers, payload) = bytes.split_at(headers.min(bytes.len()));
        if self.payload.header_bytes > 0 {
            if let Some(status) = line::status(headers) {
                self.options.insert("status".to_owned(), status.into());
            }
            self.options.insert("headers".to_owned(), line::headers(headers).into());
        }
        let mut text = String::new();
        let size = self.payload.bytes - self.payload.header_bytes;
        body_into(Mode::Full, payload, size, &mut text);
        self.options.insert("payload".to_owned(), text.into());
    }

    /// The command with all that was kept.
    fn into_command(self) -> Command {
        let body = serde_json::Value::Object(self.options).to_string();
        Command { body, ..self.command }
    }
}

/// What comes next from a side.
#[derive(Debug, Default)]
enum Expect {
    #[default]
    Line,
    /// A payload, none of which was taken.
    Payload(Box<Message>),
    /// So many bytes of a payload that are not wanted, with its end.
    Rest(Box<Message>, u64),
    /// Whatever follows a payload that was skipped.
    End(Box<Message>),
}

/// Whether the server answers commands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Answers {
    /// Not as far as is known.
    #[default]
    Off,
    On,
}

/// A connection to a NATS server.
#[derive(Debug, Default)]
pub struct Nats {
    expect: [Expect; 2],
    line_ends: [LineEnd; 2],
    answers: Answers,
    connected: bool,
}

impl Dialect for Nats {
    type Call = Command;
    const CODE: ProtocolCode = ProtocolCode::Nats;
    const RESPONSES_NAME_REQUESTS: bool = false;

    fn take(&mut self, side: Side, bytes: &[u8], calls: &mut Calls<Command>) -> Step {
        match std::mem::take(&mut self.expect[side as usize]) {
            Expect::Line => self.line(side, bytes, calls),
            Expect::Payload(message) => self.payload(side, message, bytes, calls),
            Expect::Rest(message, bytes) => {
                self.expect[side as usize] = Expect::End(message);
                Step::Skip(bytes)
            }
            Expect::End(message) => {
                self.begin(side, message.into_command(), calls);
                calls.begin_message();
                self.line(side, bytes, calls)
            }
        }
    }

    fn is_between_messages(&self, side: Side) -> bool {
        matches!(self.expect[side as usize], Expect::Line)
    }

    fn begins_request(&self, bytes: &[u8]) -> bool {
        bytes.contains(&b'\n') && message_starts(Side::Client, bytes) != Probe::No
    }

    fn begins_push(&self, bytes: &[u8]) -> bool {
        bytes.contains(&b'\n') && message_starts(Side::Server, bytes) != Probe::No
    }

    fn forget_messages(&mut self) {
        (self.expect, self.line_ends) = Default::default();
    }
}

impl Nats {
    fn line(&mut self, side: Side, bytes: &[u8], calls: &mut Calls<Command>) -> Step {
        let Some(end) = self.line_ends[side as usize].find(bytes) else {
            return match bytes.first() {
                Some(&TLS_HANDSHAKE) if side == Side::Client && !self.connected => Step::Opaque,
                _ if bytes.len() > LINE_BYTES_MAX => Step::Bad(Cause::ParseError),
                _ => Step::Need(bytes.len() + 1),
            };
        };
        if bytes[0] == TLS_HANDSHAKE && side == Side::Client && !self.connected {
            return Step::Opaque;
        }
        let Some(line) = Line::parse(side, &bytes[..end]) else {
            return Step::Bad(Cause::ParseError);
        };
        let size = end as u64 + 1;
        let command = |name, body| Command { name, body, size, ..Command::default() };
        let text_bytes_max = calls.text_bytes_max;
        match line {
            Line::Empty => {}
            Line::Ok => return self.ok(end + 1, calls),
            Line::Error(text) => error(text, size, calls),
            Line::Pong if side == Side::Server => pong(size, calls),
            Line::Ping => self.begin(side, command("PING", String::new()), calls),
            Line::Pong => self.begin(side, command("PONG", String::new()), calls),
            Line::Info(text) => {
                self.begin(side, command("INFO", line::info(text, text_bytes_max)), calls);
            }
            Line::Connect(text) => {
                let (is_verbose, body) = line::connect(text, text_bytes_max);
                self.answers = if is_verbose { Answers::On } else { Answers::Off };
                self.connected = true;
                self.begin(side, command("CONNECT", body), calls);
            }
            Line::Command(name, options) => {
                let body = serde_json::Value::Object(options).to_string();
                self.begin(side, command(name, body), calls);
            }
            Line::Message(name, options, payload) => {
                let size = size + payload.bytes + 2;
                let command = Command { name, size, ..Command::default() };
                let message = Box::new(Message { command, options, payload });
                self.expect[side as usize] = Expect::Payload(message);
            }
        }
        Step::Took(end + 1)
    }

    fn payload(
        &mut self,
        side: Side,
        mut message: Box<Message>,
        bytes: &[u8],
        calls: &mut Calls<Command>,
    ) -> Step {
        let all = message.payload.bytes;
        let kept = all.min(calls.text_bytes_max as u64);
        let kept_bytes = usize::try_from(kept).unwrap_or(usize::MAX);
        let wanted = if kept == all { kept_bytes + 2 } else { kept_bytes };
        if bytes.len() < wanted {
            self.expect[side as usize] = Expect::Payload(message);
            return Step::Need(wanted);
        }
        message.keep(&bytes[..kept_bytes]);
        let rest = all - kept + 2;
        if kept < all && kept == 0 {
            self.expect[side as usize] = Expect::End(message);
            return Step::Skip(rest);
        }
        if kept < all {
            self.expect[side as usize] = Expect::Rest(message, rest);
        } else if bytes[kept_bytes..wanted] == *b"\r\n" {
            self.begin(side, message.into_command(), calls);
        } else {
            self.expect[side as usize] = Expect::Payload(message);
            return Step::Bad(Cause::ParseError);
        }
        Step::Took(wanted)
    }

    /// A command is complete; it waits if it has an answer.
    fn begin(&mut self, side: Side, command: Command, calls: &mut Calls<Command>) {
        let is_answered = match (side, command.name) {
            (Side::Client, "PING") => true,
            (Side::Client, "PONG") | (Side::Server, _) => false,
            (Side::Client, _) => self.answers == Answers::On,
        };
        calls.begin(0, command);
        if !is_answered {
            calls.finish_newest();
        }
    }

    /// The server is content with a command.
    fn ok(&mut self, size: usize, calls: &mut Calls<Command>) -> Step {
        let Some(call) = calls.oldest().filter(|call| call.name != "PING") else {
            // Only now it is known that there are answers; the commands so far were taken without.
            self.answers = Answers::On;
            return Step::Bad(Cause::Unrequested);
        };
        call.answer_size += size as u64;
        if call.answer.is_empty() {
            call.answer.push_str("OK");
        }
        calls.finish_oldest();
        Step::Took(size)
    }
}

/// The server is not content with the command that waits for longest, or with the connection.
fn error(text: &str, size: u64, calls: &mut Calls<Command>) {
    let answer = format!("ERR {}", line::cut(text, calls.text_bytes_max));
    if let Some(call) = calls.oldest().filter(|call| call.name != "PING") {
        (call.answer, call.answer_size) = (answer, size);
        if text != NOT_FINAL {
            calls.finish_oldest();
        }
        return;
    }
    let command = Command { name: "-ERR", answer, answer_size: size, ..Command::default() };
    calls.begin(0, command);
    calls.finish_newest();
}

/// The server answers a `PING`; an answer to one that was not seen is none of ours.
fn pong(size: u64, calls: &mut Calls<Command>) {
    if let Some(call) = calls.oldest().filter(|call| call.name == "PING") {
        "PONG".clone_into(&mut call.answer);
        call.answer_size = size;
        calls.finish_oldest();
    }
}

/// Whether `bytes` start as clients do, or with a message that one published.
pub fn probe_request(bytes: &[u8]) -> Probe {
    probe(Side::Client, b"CONNECT {\"", bytes)
}

/// Whether `bytes` start as servers do, or with a message that one delivered.
pub fn probe_response(bytes: &[u8]) -> Probe {
    probe(Side::Server, b"INFO {\"", bytes)
}

fn probe(side: Side, magic: &[u8], bytes: &[u8]) -> Probe {
    let common = bytes.len().min(magic.len());
    if bytes[..common].eq_ignore_ascii_case(&magic[..common]) {
        return if common == magic.len() { Probe::Yes } else { Probe::Maybe };
    }
    let verb = &bytes[..bytes.len().min(line::MESSAGE_NAME_BYTES_MAX + 1)];
    let verb = verb.split(|b| *b == b' ').next().unwrap_or_default();
    let is_message = line::MESSAGES.iter().any(|(from, name)| {
        let common = verb.len().min(name.len());
        let is_whole = verb.len() < bytes.len();
        *from == side && *verb == name.as_bytes()[..common] && (!is_whole || common == name.len())
    });
    if is_message { message_starts(side, bytes) } else { Probe::No }
}

/// Whether `bytes` start with a whole message of a side.
fn message_starts(side: Side, bytes: &[u8]) -> Probe {
    let bytes = &bytes[..bytes.len().min(PROBE_BYTES_MAX)];
    let Some(end) = bytes.iter().position(|b| *b == b'\n') else {
        let is_text = bytes.iter().all(|b| matches!(b, b' '..=b'~' | b'\t' | b'\r'));
        return if is_text && bytes.len() < PROBE_BYTES_MAX { Probe::Maybe } else { Probe::No };
    };
    let payload = match Line::parse(side, &bytes[..end]) {
        None | Some(Line::Empty) => return Probe::No,
        Some(Line::Message(_, _, payload)) => payload,
        Some(_) => return Probe::Yes,
    };
    let rest = &bytes[end + 1..];
    let payload_end = usize::try_from(payload.bytes).unwrap_or(usize::MAX);
    match rest.get(payload_end..) {
        None | Some([] | [b'\r']) => Probe::Maybe,
        Some([b'\r', b'\n', ..]) => Probe::Yes,
        Some(_) => Probe::No,
    }
}

#[cfg(test)]
mod tests;
