//! Redis: the serialization protocol RESP, versions 2 and 3, with inline commands.
//!
//! Responses come in the order of commands. What comes without one is not paired: messages of
//! channels that the client subscribed to, pushes of RESP3, what MONITOR shows. A subscription is
//! answered once for each channel, so its response is the last of those. Where replies were turned
//! off (`CLIENT REPLY`) a command is complete without. After `PSYNC` another protocol is spoken.

pub(super) mod mask;
mod value;

use super::dialogue::{Call, Calls, Dialect, Side, Step, Timed};
use super::gap::Cause;
use super::output::Finished;
use super::{Probe, ProtocolCode};
use value::{Progress, ValueReader};

/// Shortest request: an inline command of one letter is an error, but has a reply.
pub const REQUEST_BYTES_MIN: u64 = 2;
/// What stands for arguments that are secrets.
const REDACTED: &str = "<redacted>";

/// A command and its reply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Command {
    /// Its name in capitals.
    pub name: String,
    /// Its arguments as a JSON array, cut at the configured size.
    pub args: String,
    /// The reply: text, numbers and arrays as in JSON, `<NULL>`, errors with a `-` before them.
    pub reply: String,
    /// Bytes of the command on the wire.
    pub args_size: u64,
    /// Bytes of the reply on the wire.
    pub reply_size: u64,
    /// Replies that belong to it, more than one for a subscription.
    replies: u32,
}

impl Command {
    /// Whether the reply is an error.
    pub fn failed(&self) -> bool {
        self.reply.starts_with('-')
    }
}

impl Call for Command {
    fn heap_bytes(&self) -> usize {
        self.name.len() + self.args.len() + self.reply.len()
    }

    fn finished(timed: Box<Timed<Self>>) -> Finished {
        Finished::Redis(timed)
    }
}

/// Whether commands are answered at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Replies {
    #[default]
    On,
    Off,
    /// Not for the next command.
    SkipNext,
}

/// A connection to a Redis server.
#[derive(Debug, Default)]
pub struct Redis {
    command: ValueReader,
    reply: ValueReader,
    replies: Replies,
    /// Channels, patterns and shards that are subscribed to.
    subscriptions: [u32; 3],
    monitors: bool,
}

impl Dialect for Redis {
    type Call = Command;
    const CODE: ProtocolCode = ProtocolCode::Redis;
    const RESPONSES_NAME_REQUESTS: bool = false;

    fn take(&mut self, side: Side, bytes: &[u8], calls: &mut Calls<Command>) -> Step {
        let reader = if side == Side::Client { &mut self.command } else { &mut self.reply };
        let Ok(progress) = reader.read(bytes, side == Side::Client, calls.text_bytes_max) else {
            return Step::Bad(Cause::ParseError);
        };
        let done = match progress {
            Progress::Need(bytes) => return Step::Need(bytes),
            Progress::Skip(bytes) => return Step::Skip(bytes),
            Progress::Took(bytes) => return Step::Took(bytes),
            Progress::Done(bytes) => bytes,
        };
        let outcome = match side {
            Side::Client => self.command_done(calls),
            Side::Server => self.reply_done(calls),
        };
        match (outcome, done) {
            (Outcome::Bad(cause), _) => Step::Bad(cause),
            (Outcome::Opaque, _) => Step::Opaque,
            (Outcome::GoOn, 0) if bytes.is_empty() => Step::Need(1),
            (Outcome::GoOn, 0) => {
                calls.begin_message();
                self.take(side, bytes, calls)
            }
            (Outcome::GoOn, done) => Step::Took(done),
        }
    }

    fn is_between_messages(&self, side: Side) -> bool {
        match side {
            Side::Client => self.command.is_between_values(),
            Side::Server => self.reply.is_between_values(),
        }
    }

    fn begins_request(&self, bytes: &[u8]) -> bool {
        probe_request(bytes) == Probe::Yes
    }

    fn forget_messages(&mut self) {
        self.command = ValueReader::default();
        self.reply = ValueReader::default();
        // The command that was to have no reply may be among what is not there.
        if self.replies == Replies::SkipNext {
            self.replies = Replies::On;
        }
    }
}

/// What a complete message came to.
enum Outcome {
    GoOn,
    Bad(Cause),
    Opaque,
}

impl Redis {
    fn command_done(&mut self, calls: &mut Calls<Command>) -> Outcome {
        let value = self.command.take();
        let mut args = value.items.into_iter();
        let Some(name) = args.next().map(|name| name.to_ascii_uppercase()) else {
            // An empty line or array is no command and has no reply.
            return Outcome::GoOn;
        };
        let args: Vec<String> = args.collect();
        let first = args.first().map_or("", String::as_str);
        let replies = if !name.ends_with("SUBSCRIBE") {
            1
        } else if name.ends_with("UNSUBSCRIBE") && args.is_empty() {
            self.subscriptions[kind(&name)].max(1)
        } else {
            count(args.len())
        };
        let is_silent = self.is_silent(&name, first, args.get(1).map_or("", String::as_str));
        let command = Command {
            args: arguments(&name, &args),
            name,
            args_size: value.wire_bytes,
            replies,
            ..Command::default()
        };
        calls.begin(0, command);
        if is_silent {
            calls.finish_unanswered();
        }
        Outcome::GoOn
    }

    /// Whether the command gets no reply, by this or an earlier `CLIENT REPLY`.
    fn is_silent(&mut self, name: &str, first: &str, second: &str) -> bool {
        let says = name == "CLIENT" && first.eq_ignore_ascii_case("reply");
        let (next, silent) = match self.replies {
            _ if says && second.eq_ignore_ascii_case("on") => (Replies::On, false),
            _ if says && second.eq_ignore_ascii_case("off") => (Replies::Off, true),
            Replies::Off => (Replies::Off, true),
            _ if says && second.eq_ignore_ascii_case("skip") => (Replies::SkipNext, true),
            Replies::SkipNext => (Replies::On, true),
            Replies::On => (Replies::On, false),
        };
        self.replies = next;
        silent
    }

    fn reply_done(&mut self, calls: &mut Calls<Command>) -> Outcome {
        let value = self.reply.take();
        let word = value.items.first().map_or("", String::as_str);
        if self.monitors && is_monitored(&value) {
            return Outcome::GoOn;
        }
        let subscribes = value.is_aggregate
            && ["subscribe", "unsubscribe"].iter().any(|end| word.ends_with(end))
            && calls.oldest().is_some_and(|call| call.name.ends_with("SUBSCRIBE"));
        if subscribes {
            let subscriptions = &mut self.subscriptions[kind(word)];
            if word.ends_with("unsubscribe") {
                *subscriptions = subscriptions.saturating_sub(1);
            } else {
                *subscriptions = subscriptions.saturating_add(1);
            }
        } else if value.is_push || self.is_message(&value, word) {
            return Outcome::GoOn;
        }
        let Some(call) = calls.oldest() else { return Outcome::Bad(Cause::Unrequested) };
        call.reply_size += value.wire_bytes;
        call.reply = value.text;
        call.replies = call.replies.saturating_sub(1);
        let failed = call.failed();
        let opens = match call.name.as_str() {
            "MONITOR" if !failed => {
                self.monitors = true;
                false
            }
            "RESET" if !failed => {
                (self.monitors, self.subscriptions) = (false, [0; 3]);
                false
            }
            "PSYNC" | "SYNC" => !failed,
            _ => false,
        };
        if call.replies == 0 || failed {
            calls.finish_oldest();
        }
        if opens { Outcome::Opaque } else { Outcome::GoOn }
    }

    /// Whether a value is a message of a channel, which no command asked for.
    fn is_message(&self, value: &value::Value, word: &str) -> bool {
        let subscribed = self.subscriptions.iter().any(|channels| *channels > 0);
        subscribed && value.is_aggregate && matches!(word, "message" | "pmessage" | "smessage")
    }
}

/// Whether a value is a line of `MONITOR`: a time, and who sent what.
fn is_monitored(value: &value::Value) -> bool {
    let (time, rest) = value.text.split_once(' ').unwrap_or_default();
    let is_time = time.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    !value.is_aggregate && is_time && time.contains('.') && rest.starts_with('[')
}

/// Index of the subscriptions that a command or reply is about: channels, patterns or shards.
fn kind(word: &str) -> usize {
    match word.as_bytes().first().map(u8::to_ascii_lowercase) {
        Some(b'p') => 1,
        // Not "subscribe" itself.
        Some(b's') if word.len() > "subscribe".len() => 2,
        _ => 0,
    }
}

fn count(args: usize) -> u32 {
    u32::try_from(args).unwrap_or(u32::MAX).max(1)
}

/// The arguments as a JSON array, without those that are secrets.
fn arguments(name: &str, args: &[String]) -> String {
    let has_word = |word: &str| args.iter().any(|arg| arg.eq_ignore_ascii_case(word));
    let secret = match name {
        "AUTH" | "ACL" => true,
        "HELLO" => has_word("auth"),
        "CONFIG" => has_word("requirepass") || has_word("masterauth"),
        "MIGRATE" => has_word("auth") || has_word("auth2"),
        _ => false,
    };
    if secret { format!("[\"{REDACTED}\"]") } else { value::json_array(args) }
}

/// Whether `bytes` start with a command, as clients send it: an array of strings whose first is a
/// word.
pub fn probe_request(bytes: &[u8]) -> Probe {
    let Some(rest) = bytes.strip_prefix(b"*") else {
        return if bytes.is_empty() { Probe::Maybe } else { Probe::No };
    };
    let Some((count, rest)) = line_number(rest) else { return cut(rest) };
    if !(1..=1_048_576).contains(&count) {
        return Probe::No;
    }
    let Some(rest) = rest.strip_prefix(b"$") else {
        return if rest.is_empty() { Probe::Maybe } else { Probe::No };
    };
    let Some((length, rest)) = line_number(rest) else { return cut(rest) };
    if !(1..=64).contains(&length) {
        return Probe::No;
    }
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let name = &rest[..rest.len().min(length)];
    let is_word =
        name.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'|'));
    match rest.get(length..length + 2) {
        _ if !is_word => Probe::No,
        Some(b"\r\n") => Probe::Yes,
        Some(_) => Probe::No,
        None => Probe::Maybe,
    }
}

/// A number and the line end after it.
fn line_number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let digits = bytes.iter().take_while(|b| b.is_ascii_digit()).count();
    let rest = bytes.get(digits..)?.strip_prefix(b"\r\n")?;
    let number = std::str::from_utf8(&bytes[..digits]).ok()?.parse().ok()?;
    Some((number, rest))
}

/// What to say of a number that is not complete.
fn cut(bytes: &[u8]) -> Probe {
    let digits = bytes.iter().take_while(|b| b.is_ascii_digit()).count();
    let rest = &bytes[digits..];
    if digits <= 20 && (rest.is_empty() || rest == b"\r") && !(digits == 0 && rest == b"\r") {
        Probe::Maybe
    } else {
        Probe::No
    }
}

#[cfg(test)]
mod tests;
