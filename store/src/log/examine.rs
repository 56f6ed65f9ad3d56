//! Looks at the log's segments without changing them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use undine_schema::SeqRange;

use super::frame::decode;
use super::replay::{name_of, numbers, scan};

/// What a segment holds.
#[derive(Debug)]
pub(crate) struct Examined {
    pub(crate) path: PathBuf,
    pub(crate) frames: u64,
    /// Bytes between good frames that belong to none.
    pub(crate) bad_bytes: u64,
    /// Bytes after the last good frame.
    pub(crate) torn_bytes: u64,
    /// The places that its frames speak of, by table.
    pub(crate) places: Vec<(String, SeqRange)>,
}

/// Every segment in `dir`, oldest first; one that is deleted meanwhile is left out.
pub(crate) fn examine(dir: &Path) -> io::Result<Vec<Examined>> {
    let mut all = Vec::new();
    for number in numbers(dir)? {
        let path = dir.join(name_of(number));
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let scan = scan(&bytes);
        let end = scan.good.last().map_or(0, |frame| frame.end);
        let of = |torn: bool| -> u64 {
            let ranges = scan.bad.iter().filter(|range| (range.start >= end) == torn);
            ranges.map(|range| range.len() as u64).sum()
        };
        let headers = scan.good.iter().filter_map(|frame| decode(&bytes[frame.clone()]));
        let parts = headers.flat_map(|(header, ..)| header.parts);
        all.push(Examined {
            frames: scan.good.len() as u64,
            bad_bytes: of(false),
            torn_bytes: of(true),
            places: parts.map(|part| (part.table.clone(), part.seqs())).collect(),
            path,
        });
    }
    Ok(all)
}
