//! Long inputs made of short ones, so that work that grows faster than its input shows.

use std::time::Duration;

use undine_collector::protocol::ProtocolCode;

use crate::script::{Script, Side, Step};
use crate::talk;

/// What took how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// How the input was made.
    pub how: &'static str,
    /// Its bytes.
    pub bytes: u64,
    /// Processor time of its parsing.
    pub took: Duration,
}

impl Pace {
    /// Seconds for a million bytes.
    pub fn seconds_per_mb(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "it is read by people")]
        let bytes = self.bytes.max(1) as f64;
        self.took.as_secs_f64() * 1e6 / bytes
    }
}

/// Bytes of a long input, and of one that is not.
const BYTES: [usize; 2] = [512 * 1024, 64 * 1024];
/// What is slow, in seconds for a million bytes.
const SECONDS_PER_MB_MAX: f64 = 1.0;
/// What grows faster than its input: the time for a byte has grown so many times.
const GROWTH_MAX: f64 = 3.0;
/// What is taken for the time before where it was less, since processor time is counted in ticks.
const SECONDS_PER_MB_MIN: f64 = 0.05;

/// Says how an input is slow when it is stretched, if it is.
#[expect(clippy::print_stdout, reason = "it is for who started the fuzzer")]
pub fn report(code: ProtocolCode, input: &[u8]) {
    let script = Script::read(input);
    let [long, short] = BYTES.map(|bytes| stretch(code, &script, bytes));
    for (long, short) in long.iter().zip(&short) {
        let (pace, before) = (long.seconds_per_mb(), short.seconds_per_mb());
        let grows = pace > before.max(SECONDS_PER_MB_MIN) * GROWTH_MAX;
        if pace > SECONDS_PER_MB_MAX || grows {
            let (name, how, bytes) = (crc32fast::hash(input), long.how, long.bytes);
            println!("{name:08x} {pace:.2} s/MB in {bytes} bytes, {before:.2} before: {how}");
        }
    }
}

/// Parses `script` stretched to about `bytes_max` bytes in each of several ways.
pub fn stretch(code: ProtocolCode, script: &Script<'_>, bytes_max: usize) -> Vec<Pace> {
    let once: usize = script.steps.iter().map(|step| step.bytes.len()).sum();
    if once == 0 {
        return Vec::new();
    }
    let times = bytes_max / once;
    let mut paces = Vec::new();
    let mut take = |how, steps: Vec<Step<'_>>| {
        let stretched = script.with(steps);
        let bytes = stretched.bytes_of(Side::Client) + stretched.bytes_of(Side::Server);
        let start = worked();
        talk::only_parse(code, &stretched);
        paces.push(Pace { how, bytes, took: worked().saturating_sub(start) });
    };
    take("all of it again and again", script.steps.repeat(times));
    for (at, step) in script.steps.iter().enumerate().filter(|(_, step)| !step.bytes.is_empty()) {
        let times = bytes_max / step.bytes.len();
        take("one step again and again", around(script, at, &vec![*step; times]));
        let long = step.bytes.repeat(times);
        let whole = [Step { bytes: &long, ..*step }];
        take("one step in one operation", around(script, at, &whole));
        let byte = |at| Step { bytes: &long[at..=at], continued: at > 0, ..*step };
        let bytes: Vec<_> = (0..long.len() / 16).map(byte).collect();
        take("one step a byte at a time", around(script, at, &bytes));
        let tail = &step.bytes[step.bytes.len() / 2..];
        let long = [step.bytes, &tail.repeat(bytes_max / tail.len())].concat();
        let whole = [Step { bytes: &long, ..*step }];
        take("its second half again and again", around(script, at, &whole));
    }
    paces
}

/// A script's steps with more of them before the one at `at`.
fn around<'a>(script: &Script<'a>, at: usize, more: &[Step<'a>]) -> Vec<Step<'a>> {
    [&script.steps[..at], more, &script.steps[at..]].concat()
}

/// How long this thread has had a processor; others may be busy too.
fn worked() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let ns = text.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0);
    Duration::from_nanos(ns)
}
