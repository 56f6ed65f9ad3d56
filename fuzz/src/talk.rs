//! A conversation given to one parser, whole and in parts.
//!
//! What must hold:
//! * nothing panics, and an operation's bytes give the same rows, with the same times, however they
//!   are split into messages, up to the first gap or bytes that are none of the protocol's;
//! * what a parser holds is at most [`MEMORY_BYTES_MAX`], and in proportion to what it was given;
//! * there are no more rows, kept, lost for certain or in flight, than there were bytes for requests;
//! * a row's times are those of its connection, and a closed connection waits for nothing;
//! * what [`loss`] says of holes.

use undine_collector::data_stream::{Missing, Operation};
use undine_collector::event::{Flow, ProcessKey, Uncaptured};
use undine_collector::protocol::gap::{Cause, Start};
use undine_collector::protocol::output::Output;
use undine_collector::protocol::{Protocol, ProtocolCode, start};
use undine_collector::{Mode, Redaction};

use crate::script::{BYTES_MAX, Captured, Script, Side, Step};
use crate::{loss, machine};

/// Most bytes that a parser may hold.
pub const MEMORY_BYTES_MAX: usize = 16 << 20;
/// Bytes that a parser may hold for every byte that it was given.
const MEMORY_PER_BYTE_MAX: usize = 256;
/// Bytes that a parser may hold whatever it was given.
const MEMORY_AT_LEAST: usize = 64 * 1024;
/// Most bytes of a body or text that are kept.
pub(crate) const BODY_BYTES_MAX: usize = 256;
/// Most characters of a row as it is debugged, in which a byte takes up to five of them.
const ROW_CHARS_MAX: usize = 1 << 20;
/// What is before a row's times where it is debugged.
const FROM: &str = "requested_at: ";
const TO: &str = "responded_at: ";
/// How long a pause is, in nanoseconds.
pub(crate) const PAUSE_NS: u64 = 200_000_000;

/// Checks a conversation that `input` is the script of.
///
/// # Panics
/// Where something does not hold.
pub fn check(code: ProtocolCode, input: &[u8]) {
    let script = Script::read(input);
    machine::check_script(&script);
    let whole = hear(code, &script, Split::None);
    loss::check(code, &script, &whole, input);
    let split = Split::of(&script, input);
    let parts = hear(code, &script, split);
    if script.is_joined_midway() {
        // What it resumes at has to be the beginning of an operation, and enough of it.
        return;
    }
    // What comes in part may have to wait for more before it is known to be wrong, never the other
    // way round.
    assert!(
        parts.in_step >= whole.in_step,
        "split by {split:?}, {parts:#?} ends before {whole:#?}"
    );
    let [parts, whole] = [&parts, &whole].map(|heard| heard.rows_before(whole.in_step));
    assert!(parts == whole, "split by {split:?}, {parts:#?} are not {whole:#?}");
}

/// Gives a parser a conversation and does nothing else, for its time to be taken.
pub fn only_parse(code: ProtocolCode, script: &Script<'_>) {
    let begins = Start::AtItsBeginning;
    let mut ear = Ear::new(code, script, start(code, script.requests(), begins));
    for step in &script.steps {
        let operation = ear.operation(step);
        ear.parser.bytes(ear.flow(step.side), step.bytes, operation, &mut ear.out);
        for finished in std::mem::take(&mut ear.out.done) {
            ear.out.recycle(finished);
        }
    }
}

/// How operations are split.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Split {
    None,
    /// Into parts of so many bytes.
    Every(usize),
    /// Into parts of few bytes, as this number has it.
    Mixed(u64),
}

impl Split {
    fn of(script: &Script<'_>, input: &[u8]) -> Self {
        match script.split() {
            size @ 1..=3 => Self::Every(usize::from(size)),
            4 => Self::Every(7),
            5 => Self::Every(61),
            _ => Self::Mixed(u64::from(crc32fast::hash(input)) | 1),
        }
    }

    /// Size of the next part.
    fn next(&mut self) -> usize {
        match self {
            Self::None => usize::MAX,
            Self::Every(bytes) => *bytes,
            Self::Mixed(state) => {
                *state = crate::mutation::step(*state);
                1 + usize::try_from(*state >> 33).unwrap_or(0) % (1 << (*state % 7))
            }
        }
    }
}

/// What a conversation came to.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// Each row with the number of the step that completed it.
    pub(crate) rows: Vec<(usize, String)>,
    /// How many steps left it in step, its end one of them.
    pub(crate) in_step: usize,
    /// Fewest and most rows that are said to be missing.
    pub(crate) lost: [u64; 2],
    /// Whether its client sends requests before it has the last response.
    pub(crate) pipelines: bool,
    /// For each step, whether it begins a message, and whether both sides end with one.
    pub(crate) begins_message: Vec<bool>,
    pub(crate) ends_whole: bool,
}

impl Heard {
    fn rows_before(&self, step: usize) -> Vec<&str> {
        let rows = self.rows.iter().filter(|(at, _)| *at < step);
        rows.map(|(_, row)| row.as_str()).collect()
    }
}

/// Lets a parser hear a conversation to its end.
pub(crate) fn hear(code: ProtocolCode, script: &Script<'_>, split: Split) -> Heard {
    hear_of(code, script, split, false)
}

/// As [`hear`], where it may be known already that the client does not wait for its turn.
pub(crate) fn hear_of(
    code: ProtocolCode,
    script: &Script<'_>,
    mut split: Split,
    pipelines: bool,
) -> Heard {
    let begins = if script.is_joined_midway() {
        Start::AfterGap { cause: Cause::Midstream, request_bytes: 0 }
    } else {
        Start::AtItsBeginning
    };
    let mut ear = Ear::new(code, script, start(code, script.requests(), begins));
    ear.out.peer_pipelines |= pipelines;
    let mut heard = Heard::default();
    for (index, step) in script.steps.iter().enumerate() {
        let mut operation = ear.operation(step);
        let mut rest = step.bytes;
        heard.begins_message.push(ear.parser.is_between_messages(ear.flow(step.side)));
        while !rest.is_empty() {
            let (part, after) = rest.split_at(split.next().min(rest.len()));
            ear.bytes(step.side, part, operation);
            operation.continued = true;
            rest = after;
        }
        if step.missing > 0 {
            ear.hole(step, operation);
        }
        ear.end_step(index, &mut heard);
        if ear.given > BYTES_MAX as u64 {
            break;
        }
    }
    let sides = [Side::Client, Side::Server];
    heard.ends_whole = sides.iter().all(|side| ear.parser.is_between_messages(ear.flow(*side)));
    ear.close();
    ear.end_step(script.steps.len(), &mut heard);
    (heard.lost, heard.pipelines) = (ear.lost, ear.out.pipelining_seen);
    heard
}

/// A parser and what it was told.
struct Ear {
    code: ProtocolCode,
    parser: Box<dyn Protocol>,
    out: Output,
    requests: Flow,
    now: u64,
    given: u64,
    /// Bytes that may have been requests, missing ones included.
    of_requests: u64,
    rows_taken: u64,
    /// Fewest and most rows that are said to be missing.
    lost: [u64; 2],
}

impl Ear {
    fn new(code: ProtocolCode, script: &Script<'_>, parser: Box<dyn Protocol>) -> Self {
        let bodies = if script.redacts() { Mode::Redacted } else { Mode::Full };
        let mut out = Output::new(Redaction { headers: Mode::Pii, bodies }, BODY_BYTES_MAX);
        out.peer_pipelines = script.peer_pipelines();
        let requests = script.requests();
        Self {
            code,
            parser,
            out,
            requests,
            now: 1,
            given: 0,
            of_requests: 0,
            rows_taken: 0,
            lost: [0; 2],
        }
    }

    fn operation(&mut self, step: &Step<'_>) -> Operation {
        if !step.continued {
            self.now += if step.paused { PAUSE_NS } else { 1000 };
        }
        let process = ProcessKey { tgid: 7, start_ns: 1 };
        Operation { at: self.now, process, continued: step.continued }
    }

    fn flow(&self, side: Side) -> Flow {
        match side {
            Side::Client => self.requests,
            Side::Server => self.requests.opposite(),
        }
    }

    fn count(&mut self, side: Side, bytes: u64) {
        // Servers of these answer more than once where they were asked to, or unasked.
        let answers_are_rows = self.code.servers_push()
            || matches!(self.code, ProtocolCode::Mongo | ProtocolCode::Http2);
        if side == Side::Client || answers_are_rows {
            self.of_requests += bytes;
        }
    }

    fn bytes(&mut self, side: Side, bytes: &[u8], operation: Operation) {
        self.given += bytes.len() as u64;
        self.count(side, bytes.len() as u64);
        self.parser.bytes(self.flow(side), bytes, operation, &mut self.out);
        self.check();
    }

    fn hole(&mut self, step: &Step<'_>, operation: Operation) {
        let why = if step.captured == Captured::None {
            Missing::Lost
        } else {
            Missing::Uncaptured(Uncaptured::Truncated)
        };
        self.count(step.side, step.missing);
        let flow = self.flow(step.side);
        self.parser.hole(flow, step.missing, why, operation, &mut self.out);
        self.check();
    }

    fn close(&mut self) {
        self.now += 1000;
        self.parser.close(self.now, &mut self.out);
        self.check();
        assert_eq!(self.parser.in_flight(), 0, "a closed connection waits for responses");
    }

    /// Whether nothing is paired any more, for now or for good.
    fn has_left(&self) -> bool {
        self.parser.is_out_of_step() || self.parser.is_opaque()
    }

    /// Adds what a step came to.
    fn end_step(&mut self, index: usize, heard: &mut Heard) {
        self.rows_taken += self.out.done.len() as u64;
        for finished in self.out.done.drain(..) {
            let text = format!("{finished:?}");
            assert!(text.len() <= ROW_CHARS_MAX, "a row of {} characters", text.len());
            let Some([from, to]) = times(&text) else { panic!("a row without its times: {text}") };
            let now = self.now;
            assert!(1 <= from && from <= to && to <= now, "from {from} to {to}, now {now}: {text}");
            heard.rows.push((index, text));
        }
        if heard.in_step == index && !self.has_left() {
            heard.in_step += 1;
        }
    }

    fn check(&mut self) {
        let memory = self.parser.memory_bytes();
        let given = usize::try_from(self.given).unwrap_or(usize::MAX);
        let memory_max =
            MEMORY_BYTES_MAX.min(MEMORY_AT_LEAST.saturating_add(given * MEMORY_PER_BYTE_MAX));
        assert!(memory <= memory_max, "{memory} bytes are held of {given} that were given");
        let rows = self.rows_taken + self.out.done.len() as u64;
        if let Some(lost) = self.parser.take_lost_rows() {
            assert!(lost.rows_min <= lost.rows_max, "{lost:?}");
            self.lost[0] += lost.rows_min;
            self.lost[1] += lost.rows_max;
        }
        let known = rows + self.lost[0] + self.parser.in_flight() as u64;
        let requests_max = self.of_requests / self.code.request_bytes_min();
        assert!(
            known <= requests_max,
            "{rows} rows, {} certainly lost and {} in flight, but only {} bytes of requests",
            self.lost[0],
            self.parser.in_flight(),
            self.of_requests
        );
    }
}

/// When a debugged row says that it began and ended.
pub(crate) fn times(row: &str) -> Option<[u64; 2]> {
    Some([time(row, FROM)?, time(row, TO)?])
}

/// The number that follows `name` for the first time in a debugged row.
fn time(text: &str, name: &str) -> Option<u64> {
    let (_, rest) = text.split_once(name)?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    rest[..digits].parse().ok()
}
