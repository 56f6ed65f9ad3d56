//! A conversation with holes in it.
//!
//! What must hold of a conversation that a parser reads to its end, and in which no operation that
//! begins inside a message begins with what looks like one, or like an answer to what was asked:
//! * whatever is lost of it (an operation, its beginning or end, several, the first or the last),
//!   each row is one of those without the loss: its request and response are the same ones;
//! * how many rows are missing is within the bounds that are told.

use undine_collector::data_stream::Operation;
use undine_collector::event::Flow;
use undine_collector::protocol::gap::{Cause, Start};
use undine_collector::protocol::output::{Output, QUALITY_BODY_INCOMPLETE};
use undine_collector::protocol::{Protocol, ProtocolCode, start};
use undine_collector::{Mode, Redaction};

use crate::mutation::Mutator;
use crate::script::{Captured, Script, Side, Step};
use crate::talk::{Heard, Split, hear_of, times};

/// Most steps of a conversation in which holes are tried.
const STEPS_MAX: usize = 64;
/// Most bytes of it.
const BYTES_MAX: usize = 16 * 1024;
/// How many conversations with holes are made of one.
const TRIES: usize = 24;
/// Most holes of one.
const HOLES_MAX: usize = 4;
/// What a debugged row says where bytes of its bodies are missing.
const INCOMPLETE: &str = "is_incomplete: true";
/// What it says where it has no response.
const UNANSWERED: &str = "response_size: 0,";
/// What is before a debugged row's quality.
const QUALITY: &str = "quality: ";

/// Whether holes are tried in the conversation that `input` is the script of.
pub fn tries(code: ProtocolCode, input: &[u8]) -> bool {
    let script = Script::read(input);
    is_plain(code, &script, &hear_of(code, &script, Split::None, false))
}

/// Checks a conversation that came to `whole` with holes in it, the same ones for the same `input`.
///
/// # Panics
/// Where something does not hold.
pub(crate) fn check(code: ProtocolCode, script: &Script<'_>, whole: &Heard, input: &[u8]) {
    if !is_plain(code, script, whole) {
        return;
    }
    let mut mutator = Mutator::new(u64::from(crc32fast::hash(input)));
    let pipelines = whole.pipelines || has_turns_behind_each_other(whole);
    for _ in 0..TRIES {
        let (steps, what) = with_holes(&script.steps, &mut mutator);
        let rest = hear_of(code, &script.with(steps), Split::None, pipelines);
        compare(code, whole, &rest, &what);
    }
}

/// Whether the conversation is whole and can be told from what it carries.
fn is_plain(code: ProtocolCode, script: &Script<'_>, whole: &Heard) -> bool {
    let bytes: usize = script.steps.iter().map(|step| step.bytes.len()).sum();
    let is_whole = whole.in_step > script.steps.len()
        && whole.ends_whole
        && whole.lost == [0; 2]
        && script.steps.iter().all(|step| step.missing == 0 && !step.bytes.is_empty());
    is_whole
        && !script.is_joined_midway()
        && !reuses_a_number(whole)
        && (1..=STEPS_MAX).contains(&script.steps.len())
        && bytes <= BYTES_MAX
        && script.steps.iter().zip(&whole.begins_message).enumerate().all(
            |(at, (step, begins_message))| {
                let looks_so = || {
                    looks_like_a_beginning(code, step)
                        || looks_like_an_answer(code, step, &script.steps[..at])
                };
                step.continued || *begins_message || !looks_so()
            },
        )
}

/// Whether a connection that is joined midway would be read from here on.
fn looks_like_a_beginning(code: ProtocolCode, step: &Step<'_>) -> bool {
    [Flow::Ingress, Flow::Egress].iter().any(|flow| {
        let mut parser = joined_midway(code);
        let before = parser.is_out_of_step();
        parser.bytes(*flow, step.bytes, Operation::default(), &mut output());
        before && !parser.is_out_of_step()
    })
}

/// Whether this would be taken for an answer to what the other side said before, if nothing else of its own
/// side were there.
fn looks_like_an_answer(code: ProtocolCode, step: &Step<'_>, before: &[Step<'_>]) -> bool {
    let mut parser = joined_midway(code);
    let mut out = output();
    for other in before.iter().filter(|other| other.side != step.side) {
        parser.bytes(flow_of(other), other.bytes, Operation::default(), &mut out);
    }
    let waiting = parser.in_flight();
    parser.bytes(flow_of(step), step.bytes, Operation::default(), &mut out);
    parser.in_flight() < waiting
}

fn flow_of(step: &Step<'_>) -> Flow {
    match step.side {
        Side::Client => Flow::Ingress,
        Side::Server => Flow::Egress,
    }
}

fn joined_midway(code: ProtocolCode) -> Box<dyn Protocol> {
    start(code, Flow::Ingress, Start::AfterGap { cause: Cause::RingFull, request_bytes: 0 })
}

fn output() -> Output {
    Output::new(Redaction { headers: Mode::Full, bodies: Mode::Full }, 0)
}

/// Whether a request was sent before the response to one before it was over.
fn has_turns_behind_each_other(whole: &Heard) -> bool {
    let mut rows: Vec<_> = whole.rows.iter().filter_map(|(_, row)| times(row)).collect();
    rows.sort_unstable();
    rows.windows(2).any(|rows| rows[1][0] < rows[0][1])
}

/// Whether a request has the number of one that is still under way, which no client may do.
fn reuses_a_number(whole: &Heard) -> bool {
    let number = |row: &str| row.rsplit_once("key: ")?.1.split(',').next()?.parse::<u64>().ok();
    let numbered = whole.rows.iter().filter_map(|(_, row)| Some((number(row)?, times(row)?)));
    let mut numbered: Vec<_> = numbered.collect();
    numbered.sort_unstable();
    numbered.windows(2).any(|rows| rows[0].0 == rows[1].0 && rows[1].1[0] < rows[0].1[1])
}

/// The same steps with a few holes, and what they are.
fn with_holes<'a>(steps: &[Step<'a>], mutator: &mut Mutator) -> (Vec<Step<'a>>, String) {
    let mut steps = steps.to_vec();
    let mut what = String::new();
    for _ in 0..=mutator.below(HOLES_MAX) {
        let at = mutator.below(steps.len());
        let step = steps[at];
        if step.missing > 0 {
            continue;
        }
        let cut = mutator.below(step.bytes.len());
        let lost = Step { captured: Captured::None, bytes: &[], ..step };
        match mutator.below(3) {
            0 => {
                what.push_str(&format!(" step {at} is lost;"));
                steps[at] = Step { missing: step.bytes.len() as u64, ..lost };
            }
            1 => {
                what.push_str(&format!(" step {at} is cut after {cut} bytes;"));
                let (bytes, rest) = step.bytes.split_at(cut);
                steps[at] =
                    Step { captured: Captured::Some, bytes, missing: rest.len() as u64, ..step };
            }
            _ if cut > 0 => {
                what.push_str(&format!(" step {at} is lost up to its byte {cut};"));
                let bytes = &step.bytes[cut..];
                steps[at] = Step { missing: cut as u64, ..lost };
                steps.insert(at + 1, Step { continued: true, bytes, ..step });
            }
            _ => {}
        }
    }
    (steps, what)
}

fn compare(code: ProtocolCode, whole: &Heard, rest: &Heard, what: &str) {
    let mut true_rows: Vec<_> = whole.rows.iter().map(|(_, row)| row).collect();
    let mut rows: Vec<_> = rest.rows.iter().map(|(_, row)| row).collect();
    // Of those that began at once, each may be all that the ones before it may be, so that none of
    // them takes the only one that another may be.
    rows.sort_by_key(|row| freedom(row));
    for row in rows {
        let at = true_rows.iter().position(|other| is_same(code, row, other));
        let Some(at) = at else { panic!("{row} is none of {:#?}, where{what}", whole.rows) };
        true_rows.swap_remove(at);
    }
    let missing = true_rows.len() as u64;
    let [min, max] = rest.lost;
    assert!(
        (min..=max).contains(&missing),
        "{missing} rows are missing, {min} to {max} are said to be, where{what} {:#?} are left of {:#?}",
        rest.rows,
        whole.rows
    );
}

/// Whether a row is another one, as far as it can be known where something is missing.
fn is_same(code: ProtocolCode, row: &str, other: &str) -> bool {
    let (Some([from, to]), Some([other_from, other_to])) = (times(row), times(other)) else {
        return false;
    };
    if is_cut(row) {
        // Where its end is missing, it ends with what follows that, or there if that is not waited
        // for.
        return from == other_from && (to >= other_to || row.contains(UNANSWERED));
    }
    // These refer to what was said before: statements by their names, and headers by their places.
    let refers = matches!(
        code,
        ProtocolCode::Mysql | ProtocolCode::Pgsql | ProtocolCode::Cql | ProtocolCode::Http2
    );
    [from, to] == [other_from, other_to] && (refers || shown(row) == shown(other))
}

/// Whether bytes of a row's bodies are missing.
fn is_cut(row: &str) -> bool {
    row.contains(INCOMPLETE) || quality(row) & QUALITY_BODY_INCOMPLETE > 0
}

/// Greater for a row that [`is_same`] as more others: any, those that end before it, or one.
fn freedom(row: &str) -> (bool, bool, u64) {
    let is_cut = is_cut(row);
    (is_cut, is_cut && row.contains(UNANSWERED), times(row).map_or(0, |[_, to]| to))
}

/// A row without its quality.
fn shown(row: &str) -> [&str; 2] {
    let (before, after) = row.split_once(QUALITY).unwrap_or((row, ""));
    [before, after.trim_start_matches(|c: char| c.is_ascii_digit())]
}

fn quality(row: &str) -> u8 {
    let after = row.split_once(QUALITY).map_or("", |(_, after)| after);
    let digits = after.bytes().take_while(u8::is_ascii_digit).count();
    after[..digits].parse().unwrap_or(0)
}
