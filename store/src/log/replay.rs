//! Reads the log back when the store starts.
//!
//! A torn last frame was never acknowledged: it is cut off. A bad frame before good ones means a
//! damaged disk: the segment is kept aside as `.quarantined`, its good frames stay in use, and the
//! rows that are missing show as a gap in the places. Nothing is skipped in silence, and one bad
//! frame does not take those after it along.

use std::fs::{self, OpenOptions};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use undine_schema::{Seq, TimeNs};

use super::ClosedSegment;
use super::frame::{Header, MAGIC, decode};
use crate::config::BuildError;
use crate::durable;

/// How long a retry key is remembered.
pub(crate) const RETRY_KEYS_FOR: Duration = Duration::from_secs(600);

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
    /// Where the damaged segment is kept.
    pub(crate) kept_at: PathBuf,
    /// Bytes that belong to no good frame.
    pub(crate) bytes: u64,
}

/// Hands every good frame of the log in `dir` to `on_frame`, oldest first.
pub(crate) fn replay(
    dir: &Path,
    on_frame: &mut dyn FnMut(&Header, &[u8]) -> Result<(), String>,
) -> Result<Replayed, BuildError> {
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

fn numbers(dir: &Path) -> io::Result<Vec<u64>> {
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
struct Scan {
    good: Vec<Range<usize>>,
    bad: Vec<Range<usize>>,
}

fn scan(bytes: &[u8]) -> Scan {
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

fn truncate(path: &Path, length: usize, good: usize) -> io::Result<()> {
    if length == good {
        return Ok(());
    }
    tracing::warn!(
        segment = %path.display(),
        bytes = length - good,
        "cut a torn frame off the end of the log"
    );
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(good as u64)?;
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
    Ok(Damage { kept_at, bytes: lost })
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BuildError {
    let path = path.to_owned();
    move |source| BuildError::Io { action, path, source }
}
