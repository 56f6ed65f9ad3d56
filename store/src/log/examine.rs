//! Looks at the log's segments without changing them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use undine_schema::SeqRange;

use super::frame::decode;
use super::replay::{Hole, name_of, numbers, scan};

/// What a segment holds.
#[derive(Debug)]
pub(crate) struct Examined {
    pub(crate) path: PathBuf,
    pub(crate) frames: u64,
    /// Bytes that were synced and are not what was written.
    pub(crate) bad_bytes: u64,
    /// Bytes of no frame that were never synced.
    pub(crate) torn_bytes: u64,
    /// The places that its frames speak of, by table.
    pub(crate) places: Vec<(String, SeqRange)>,
}

/// Every segment in `dir`, oldest first; one that is deleted meanwhile is left out.
pub(crate) fn examine(dir: &Path) -> io::Result<Vec<Examined>> {
    let mut all = Vec::new();
    let numbers = numbers(dir)?;
    let newest = numbers.last().copied().unwrap_or_default();
    for number in numbers {
        let path = dir.join(name_of(number));
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let synced = if number == newest { 0 } else { bytes.len() };
        let scan = scan(&bytes, synced);
        let headers = scan.good().filter_map(|frame| decode(&bytes[frame.clone()]));
        let parts = headers.flat_map(|(header, ..)| header.parts);
        all.push(Examined {
            frames: scan.good().count() as u64,
            bad_bytes: scan.bytes_of(Hole::Damaged) as u64,
            torn_bytes: scan.bytes_of(Hole::Torn) as u64,
            places: parts.map(|part| (part.table.clone(), part.seqs())).collect(),
            path,
        });
    }
    Ok(all)
}
