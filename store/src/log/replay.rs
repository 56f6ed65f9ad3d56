//! Reads the log back when the store starts.
//!
//! A torn last frame was never acknowledged: it is cut off. A bad frame before good ones means a
//! damaged disk: the segment is kept aside as `.quarantined`, its good frames stay in use, and the
//! rows that are missing show as a gap in the places. Nothing is skipped in silence, and one bad
//! frame does not take those after it along.

use std::fs::{self, OpenOptions};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use undine_schema::{Seq, TimeNs};

use super::ClosedSegment;
use super::frame::{Header, MAGIC, decode};
use crate::config::BuildError;
use crate::durable;

/// How long a retry key is remembered.
pub(crate) const RETRY_KEYS_FOR: Duration = Duration::from_mins(10);

/// What was found besides frames.
#[derive(Debug, Default)]
pub(crate) struct Replayed {
    pub(crate) segments: Vec<ClosedSegment>,
    /// The first number that no segment has.
    pub(crate) next_number: u64,
    pub(crate) damages: Vec<Damage>,
}

/// A segment with bad frames before good ones.
#[derive(Debug)]
pub(crate) struct Damage {
    /// Bytes that belong to no good frame.
    pub(crate) bytes: u64,
}

/// Takes in a frame's header and body, or says what is wrong with them.
type OnFrame<'a> = dyn FnMut(&Header, &[u8]) -> Result<(), String> + 'a;

/// Hands every good frame of the log in `dir` to `on_frame`, oldest first.
pub(crate) fn replay(dir: &Path, on_frame: &mut OnFrame<'_>) -> Result<Replayed, BuildError> {
    let numbers = numbers(dir).map_err(io_error("list", dir))?;
    let mut replayed = Replayed { next_number: 1, ..Replayed::default() };
    for &number in &numbers {
        let path = dir.join(name_of(number));
        let bytes = fs::read(&path).map_err(io_error("read", &path))?;
        let scan = scan(&bytes);
        let mut segment = ClosedSegment {
            path: path.clone(),
            bytes: bytes.len() as u64,
            last: Vec::new(),
            keep_until: TimeNs::ZERO,
        };
        for frame in &scan.good {
            let Some((header, body, _)) = decode(&bytes[frame.clone()]) else { continue };
            segment.note(&header);
            on_frame(&header, body)
                .map_err(|what| BuildError::Corrupt { path: path.clone(), what })?;
        }
        let good_end = scan.good.last().map_or(0, |frame| frame.end);
        let torn = scan.bad.iter().all(|bad| bad.start >= good_end);
        if torn && number == numbers[numbers.len() - 1] {
            truncate(&path, bytes.len(), good_end).map_err(io_error("truncate", &path))?;
            segment.bytes = good_end as u64;
        } else if !scan.bad.is_empty() {
            let damage = quarantine(&path, &bytes, &scan).map_err(io_error("quarantine", &path))?;
            segment.bytes -= damage.bytes;
            replayed.damages.push(damage);
        }
        replayed.segments.push(segment);
        replayed.next_number = number + 1;
    }
    Ok(replayed)
}

impl ClosedSegment {
    /// Notes what a frame in it covers.
    pub(super) fn note(&mut self, header: &Header) {
        for part in &header.parts {
            note_last(&mut self.last, &part.table, part.seqs().last);
        }
        if header.retry_key.is_some() {
            let until = TimeNs::new(header.at).saturating_add(RETRY_KEYS_FOR);
            self.keep_until = self.keep_until.max(until);
        }
    }
}

/// Raises the last place of a table.
pub(super) fn note_last(places: &mut Vec<(String, Seq)>, table: &str, last: Seq) {
    match places.iter_mut().find(|(name, _)| name == table) {
        Some((_, place)) => *place = last.max(*place),
        None => places.push((table.to_owned(), last)),
    }
}

/// The file name of segment `number`.
pub(super) fn name_of(number: u64) -> String {
    format!("{number:016}.log")
}

pub(super) fn numbers(dir: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for file in fs::read_dir(dir)? {
        let name = file?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".log"));
        numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Where the frames of a segment are, and what lies between them.
pub(super) struct Scan {
    pub(super) good: Vec<Range<usize>>,
    pub(super) bad: Vec<Range<usize>>,
}

pub(super) fn scan(bytes: &[u8]) -> Scan {
    let mut scan = Scan { good: Vec::new(), bad: Vec::new() };
    let mut at = 0;
    while at < bytes.len() {
        if let Some((_, _, length)) = decode(&bytes[at..]) {
            scan.good.push(at..at + length);
            at += length;
            continue;
        }
        let next = (at + 1..bytes.len())
            .find(|&next| bytes[next..].starts_with(&MAGIC) && decode(&bytes[next..]).is_some())
            .unwrap_or(bytes.len());
        scan.bad.push(at..next);
        at = next;
    }
    scan
}

/// Cuts a torn frame off and syncs the rest, which the last life may not have done.
fn truncate(path: &Path, length: usize, good: usize) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    if length > good {
        tracing::warn!(
            segment = %path.display(),
            bytes = length - good,
            "cut a torn frame off the end of the log"
        );
        file.set_len(good as u64)?;
    }
    file.sync_all()
}

/// Keeps the damaged segment under another name and its good frames under its own.
fn quarantine(path: &Path, bytes: &[u8], scan: &Scan) -> io::Result<Damage> {
    let mut kept_at = path.with_extension("log.quarantined");
    let mut copy = 1;
    while let Err(error) = fs::hard_link(path, &kept_at) {
        if error.kind() != io::ErrorKind::AlreadyExists {
            return Err(error);
        }
        copy += 1;
        kept_at = path.with_extension(format!("log.quarantined{copy}"));
    }
    let good: Vec<u8> = scan.good.iter().flat_map(|frame| &bytes[frame.clone()]).copied().collect();
    durable::replace(path, &good)?;
    let lost = (bytes.len() - good.len()) as u64;
    tracing::error!(
        segment = %path.display(),
        kept_at = %kept_at.display(),
        bytes = lost,
        "a segment of the log is damaged; check the disk"
    );
    Ok(Damage { bytes: lost })
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BuildError {
    let path = path.to_owned();
    move |source| BuildError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use undine_schema::tables::{ProbeStatus, ProbeStatuses};
    use undine_schema::{Durability, Incarnation, SeqRange};

    use super::super::frame::{Content, Entry, EntryPart, encode};
    use super::*;

    fn frame(counter: u64) -> Vec<u8> {
        let mut rows = ProbeStatuses::new(2);
        (0..2).for_each(|_| rows.push(&ProbeStatus { error: "none", ..ProbeStatus::default() }));
        let table = &undine_schema::tables::PROBE_STATUS;
        let seqs = SeqRange::new(Seq::new(Incarnation::new(1), counter), 2);
        let content = Content::Rows(rows.finish());
        let parts = vec![EntryPart { table, seqs, content }];
        let (at, durability) = (TimeNs::ZERO, Durability::Commit);
        encode(&Entry { at, durability, retry_key: None, parts, bytes: 0 }).unwrap()
    }

    /// The first places of the frames that a replay of `bytes` gives, and the damages.
    fn replayed(dir: &Path, bytes: &[u8]) -> (Vec<u64>, usize) {
        fs::write(dir.join(name_of(1)), bytes).unwrap();
        let mut firsts = Vec::new();
        let replayed = replay(dir, &mut |header, _| {
            firsts.push(header.parts[0].seqs().first.counter());
            Ok(())
        });
        (firsts, replayed.unwrap().damages.len())
    }

    #[test]
    fn a_log_cut_at_any_byte_of_its_last_frame_gives_back_the_frames_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let whole = [frame(1), frame(3), frame(5)].concat();
        let last = frame(5).len();
        for cut in whole.len() - last..whole.len() {
            let replayed = replayed(dir.path(), &whole[..cut]);
            assert_eq!(replayed, (vec![1, 3], 0), "cut at {cut}");
            let kept = fs::metadata(dir.path().join(name_of(1))).unwrap().len();
            assert_eq!(kept, (whole.len() - last) as u64, "the torn bytes are gone");
        }
        assert_eq!(replayed(dir.path(), &whole), (vec![1, 3, 5], 0));
    }

    #[test]
    fn a_flipped_bit_in_a_middle_frame_costs_that_frame_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (first, middle) = (frame(1).len(), frame(3).len());
        let whole = [frame(1), frame(3), frame(5)].concat();
        let flipped = (first..first + middle).step_by(31);
        for at in flipped.clone() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            assert_eq!(replayed(dir.path(), &bytes), (vec![1, 5], 1), "flipped byte {at}");
            let kept = fs::read(dir.path().join(name_of(1))).unwrap();
            assert_eq!(kept, [frame(1), frame(5)].concat(), "only good frames stay in use");
        }
        let aside = fs::read_dir(dir.path()).unwrap().count() - 1;
        assert_eq!(aside, flipped.count(), "every damaged segment is kept");
    }
}
