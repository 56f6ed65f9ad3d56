//! Reads the log back when the store starts.
//!
//! What was not synced when the power went may be torn: a last frame without its end, or, since a
//! disk writes in any order, bad bytes with good frames after them. Each frame says how much of its
//! segment was synced before it, so that bad bytes below that are known for damage. Torn bytes are
//! cut out. A damaged segment is kept aside as `.quarantined` and its good frames stay in use, or
//! the start is refused ([`OnDamage`]). The rows that are missing show as a gap in the places:
//! nothing is skipped in silence, and one bad frame does not take those after it along.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use undine_schema::{Seq, TimeNs};

use super::ClosedSegment;
use super::frame::{Header, MAGIC, decode};
use crate::config::{BuildError, OnDamage};
use crate::disk::{self, OpenOptions};
use crate::durable;

/// How long a retry key is remembered.
pub(crate) const RETRY_KEYS_FOR: Duration = Duration::from_mins(10);

/// What was found besides frames.
#[derive(Debug, Default)]
pub(crate) struct Replayed {
    pub(crate) segments: Vec<ClosedSegment>,
    /// The first number that no segment has.
    pub(crate) next_number: u64,
}

/// What the log holds at some point, oldest first.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Item<'a> {
    /// A frame's header and body.
    Frame(&'a Header, &'a [u8]),
    /// Bytes that are no frame.
    Hole(Hole),
}

/// Why bytes of the log are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hole {
    /// They were never synced, so nobody was told that they are safe.
    Torn,
    /// They were synced, and are not what was written.
    Damaged,
}

/// Takes in an item, or says what is wrong with it.
type OnItem<'a> = dyn FnMut(Item<'_>) -> Result<(), String> + 'a;

/// Hands everything in the log in `dir` to `on_item`, oldest first.
pub(crate) fn replay(
    dir: &Path,
    on_damage: OnDamage,
    on_item: &mut OnItem<'_>,
) -> Result<Replayed, BuildError> {
    let numbers = numbers(dir).map_err(io_error("list", dir))?;
    let mut replayed = Replayed { next_number: 1, ..Replayed::default() };
    for &number in &numbers {
        let path = dir.join(name_of(number));
        let bytes = fs::read(&path).map_err(io_error("read", &path))?;
        // A segment was synced before the next one began.
        let synced = if number == numbers[numbers.len() - 1] { 0 } else { bytes.len() };
        let scan = scan(&bytes, synced);
        let damaged = scan.bytes_of(Hole::Damaged);
        if damaged > 0 && on_damage == OnDamage::Refuse {
            let what = format!("{damaged} bytes of it are no longer what was written");
            return Err(BuildError::Damaged { path, what });
        }
        let mut segment = ClosedSegment {
            path: path.clone(),
            bytes: scan.good().map(|frame| frame.len() as u64).sum(),
            last: Vec::new(),
            keep_until: TimeNs::ZERO,
        };
        for piece in &scan.pieces {
            let item = match piece {
                Piece::Hole(hole, _) => on_item(Item::Hole(*hole)),
                Piece::Frame(frame) => {
                    let Some((header, body, _)) = decode(&bytes[frame.clone()]) else { continue };
                    segment.note(&header);
                    on_item(Item::Frame(&header, body))
                }
            };
            item.map_err(|what| BuildError::Corrupt { path: path.clone(), what })?;
        }
        if damaged > 0 {
            quarantine(&path, damaged).map_err(io_error("quarantine", &path))?;
        }
        repair(&path, &bytes, &scan).map_err(io_error("repair", &path))?;
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

/// A segment, piece by piece.
pub(super) struct Scan {
    pieces: Vec<Piece>,
}

pub(super) enum Piece {
    Frame(Range<usize>),
    Hole(Hole, Range<usize>),
}

impl Scan {
    pub(super) fn good(&self) -> impl Iterator<Item = &Range<usize>> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Frame(frame) => Some(frame),
            Piece::Hole(..) => None,
        })
    }

    pub(super) fn bytes_of(&self, kind: Hole) -> usize {
        let bytes = self.pieces.iter().map(|piece| match piece {
            Piece::Hole(hole, bytes) if *hole == kind => bytes.len(),
            _ => 0,
        });
        bytes.sum()
    }
}

/// Takes a segment apart of which at least the first `synced` bytes were synced.
pub(super) fn scan(bytes: &[u8], mut synced: usize) -> Scan {
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        if let Some((header, _, length)) = decode(&bytes[at..]) {
            let before = header.synced.map_or(at, |s| usize::try_from(s).unwrap_or(at).min(at));
            synced = synced.max(before);
            pieces.push(Piece::Frame(at..at + length));
            at += length;
            continue;
        }
        let next = (at + 1..bytes.len())
            .find(|&next| bytes[next..].starts_with(&MAGIC) && decode(&bytes[next..]).is_some())
            .unwrap_or(bytes.len());
        pieces.push(Piece::Hole(Hole::Torn, at..next));
        at = next;
    }
    for piece in &mut pieces {
        if let Piece::Hole(hole, bytes) = piece
            && bytes.start < synced
        {
            *hole = Hole::Damaged;
        }
    }
    Scan { pieces }
}

/// Leaves only good frames in a segment, and those on the disk, which the last life may not have
/// seen to.
fn repair(path: &Path, bytes: &[u8], scan: &Scan) -> io::Result<()> {
    let good_end = scan.good().last().map_or(0, |frame| frame.end);
    let good_bytes: usize = scan.good().map(ExactSizeIterator::len).sum();
    let torn = scan.bytes_of(Hole::Torn);
    if torn > 0 {
        tracing::warn!(segment = %path.display(), bytes = torn, "cut torn frames out of the log");
    }
    // Where bytes are damaged, this file is the one that is kept aside too.
    if good_bytes < good_end || scan.bytes_of(Hole::Damaged) > 0 {
        let good: Vec<u8> = scan.good().flat_map(|frame| &bytes[frame.clone()]).copied().collect();
        return durable::replace(path, &good);
    }
    let file = OpenOptions::new().write(true).open(path)?;
    if good_end < bytes.len() {
        file.set_len(good_end as u64)?;
    }
    file.sync_all()
}

/// Keeps a damaged segment under another name too.
fn quarantine(path: &Path, damaged: usize) -> io::Result<()> {
    let mut kept_at = path.with_extension("log.quarantined");
    let mut copy = 1;
    while let Err(error) = disk::hard_link(path, &kept_at) {
        if error.kind() != io::ErrorKind::AlreadyExists {
            return Err(error);
        }
        copy += 1;
        kept_at = path.with_extension(format!("log.quarantined{copy}"));
    }
    durable::sync_dir(durable::parent(path))?;
    tracing::error!(
        segment = %path.display(),
        kept_at = %kept_at.display(),
        bytes = damaged,
        "a segment of the log is damaged; check the disk"
    );
    Ok(())
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
        frame_after(counter, 0)
    }

    fn frame_after(counter: u64, synced: u64) -> Vec<u8> {
        let mut rows = ProbeStatuses::new(2);
        (0..2).for_each(|_| rows.push(&ProbeStatus { error: "none", ..ProbeStatus::default() }));
        let table = &undine_schema::tables::PROBE_STATUS;
        let seqs = SeqRange::new(Seq::new(Incarnation::new(1), counter), 2);
        let content = Content::Rows(rows.finish());
        let parts = vec![EntryPart { table, seqs, content }];
        let (at, durability) = (TimeNs::ZERO, Durability::Commit);
        encode(&Entry { at, durability, retry_key: None, parts, bytes: 0 }, synced).unwrap()
    }

    /// The first places of the frames that a replay of `bytes` gives, and the holes.
    fn replayed(dir: &Path, bytes: &[u8]) -> (Vec<u64>, Vec<Hole>) {
        fs::write(dir.join(name_of(1)), bytes).unwrap();
        let (mut firsts, mut holes) = (Vec::new(), Vec::new());
        replay(dir, OnDamage::SetAside, &mut |item| {
            match item {
                Item::Frame(header, _) => firsts.push(header.parts[0].seqs().first.counter()),
                Item::Hole(hole) => holes.push(hole),
            }
            Ok(())
        })
        .unwrap();
        (firsts, holes)
    }

    #[test]
    fn a_log_cut_at_any_byte_of_its_last_frame_gives_back_the_frames_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let whole = [frame(1), frame(3), frame(5)].concat();
        let last = frame(5).len();
        for cut in whole.len() - last..whole.len() {
            let (firsts, holes) = replayed(dir.path(), &whole[..cut]);
            assert_eq!(firsts, [1, 3], "cut at {cut}");
            assert!(holes.iter().all(|hole| *hole == Hole::Torn), "cut at {cut}");
            let kept = fs::metadata(dir.path().join(name_of(1))).unwrap().len();
            assert_eq!(kept, (whole.len() - last) as u64, "the torn bytes are gone");
        }
        assert_eq!(replayed(dir.path(), &whole), (vec![1, 3, 5], vec![]));
    }

    #[test]
    fn a_flipped_bit_in_a_middle_frame_costs_that_frame_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (first, middle) = (frame(1).len(), frame(3).len());
        let last = frame_after(5, (first + middle) as u64);
        let whole = [frame(1), frame(3), last.clone()].concat();
        let flipped = (first..first + middle).step_by(31);
        for at in flipped.clone() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            let expected = (vec![1, 5], vec![Hole::Damaged]);
            assert_eq!(replayed(dir.path(), &bytes), expected, "flipped byte {at}");
            let kept = fs::read(dir.path().join(name_of(1))).unwrap();
            assert_eq!(kept, [frame(1), last.clone()].concat(), "only good frames stay in use");
        }
        let aside = fs::read_dir(dir.path()).unwrap().count() - 1;
        assert_eq!(aside, flipped.count(), "every damaged segment is kept");
    }

    #[test]
    fn bytes_that_were_never_synced_are_torn_also_before_good_ones() {
        let dir = tempfile::tempdir().unwrap();
        let (first, middle) = (frame(1).len(), frame(3).len());
        let mut bytes = [frame(1), frame(3), frame_after(5, first as u64)].concat();
        bytes[first..first + middle].fill(0);
        let (firsts, holes) = replayed(dir.path(), &bytes);
        assert_eq!((firsts, holes), (vec![1, 5], vec![Hole::Torn]));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is kept aside");
        let kept = fs::read(dir.path().join(name_of(1))).unwrap();
        assert_eq!(kept, [frame(1), frame_after(5, first as u64)].concat());
    }

    #[test]
    fn the_end_of_a_segment_before_the_last_was_synced_and_is_kept_aside_when_it_is_bad() {
        let dir = tempfile::tempdir().unwrap();
        let whole = [frame(1), frame(3)].concat();
        fs::write(dir.path().join(name_of(2)), frame(5)).unwrap();
        let cut = &whole[..whole.len() - 1];
        let (firsts, holes) = replayed(dir.path(), cut);
        assert_eq!((firsts, holes), (vec![1, 5], vec![Hole::Damaged]));
        let aside = fs::read(dir.path().join("0000000000000001.log.quarantined")).unwrap();
        assert_eq!(aside, cut, "as it was found");
        fs::write(dir.path().join(name_of(1)), cut).unwrap();
        let refused = replay(dir.path(), OnDamage::Refuse, &mut |_| Ok(())).unwrap_err();
        assert!(matches!(refused, BuildError::Damaged { .. }), "{refused}");
        assert_eq!(fs::read(dir.path().join(name_of(1))).unwrap(), cut, "nothing is changed");
    }
}
