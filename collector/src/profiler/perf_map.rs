//! Names of code that a runtime compiled while it ran, from the file that it writes for profilers.
//!
//! Node (`--perf-basic-prof`), Python 3.12 (`-X perf`), Java (with an agent) and others write
//! `/tmp/perf-PID.map`, with a line `START SIZE NAME` in hexadecimal for each piece of code. Path
//! and pid are those that the process sees itself.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::sync::Arc;

/// Most bytes of such a file that are read; what a runtime wrote later has no names.
pub(crate) const FILE_BYTES_MAX: u64 = 16 << 20;
/// Most pieces of code that are kept of one process.
const PIECES_MAX: usize = 128 * 1024;

/// Pieces of code by address.
#[derive(Debug, Default)]
pub(crate) struct PerfMap {
    pieces: Vec<(u64, u64, Arc<str>)>,
    /// Bytes of the file when it was read.
    file_bytes: u64,
}

impl PerfMap {
    /// Reads what the process `pid` wrote, unless it is as long as `known` was; `None` where
    /// there is nothing or nothing new.
    pub(crate) fn read(pid: u32, known: Option<&Self>) -> Option<Self> {
        let file = open(pid)?;
        let file_bytes = file.metadata().ok()?.len();
        if known.is_some_and(|known| known.file_bytes == file_bytes) {
            return None;
        }
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        Some(Self { pieces: parse(&String::from_utf8_lossy(&bytes)), file_bytes })
    }

    /// The piece of code that `address` is in.
    pub(crate) fn name(&self, address: u64) -> Option<&Arc<str>> {
        let after = self.pieces.partition_point(|(start, ..)| *start <= address);
        let (start, size, name) = self.pieces.get(after.checked_sub(1)?)?;
        (address - start < *size).then_some(name)
    }
}

/// Opens the file, if it is a plain one that belongs to whom the process belongs to.
fn open(pid: u32) -> Option<File> {
    let own = format!("/proc/{pid}");
    let status = std::fs::read_to_string(format!("{own}/status")).ok()?;
    let inner = inner_pid(&status).unwrap_or(pid);
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC);
    let file = options.open(format!("{own}/root/tmp/perf-{inner}.map")).ok()?;
    let found = file.metadata().ok()?;
    let owner = std::fs::metadata(&own).ok()?.uid();
    (found.is_file() && found.uid() == owner).then_some(file)
}

/// The pid that a process has in its own namespace.
fn inner_pid(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_ascii_whitespace().last()?.parse().ok()
}

fn parse(text: &str) -> Vec<(u64, u64, Arc<str>)> {
    let mut pieces: Vec<_> = text.lines().filter_map(parse_line).collect();
    // What was compiled later into the same place is what is there now.
    pieces.reverse();
    pieces.sort_by_key(|(start, ..)| *start);
    pieces.dedup_by_key(|(start, ..)| *start);
    pieces.truncate(PIECES_MAX);
    pieces
}

fn parse_line(line: &str) -> Option<(u64, u64, Arc<str>)> {
    let mut fields = line.splitn(3, ' ');
    let mut number = || {
        let text = fields.next()?;
        u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
    };
    let (start, size) = (number()?, number()?);
    let name = fields.next()?.trim();
    (!name.is_empty()).then(|| (start, size, Arc::from(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_code_at_an_address_has_it() {
        let pieces = parse("10 8 old\n20 0x10 other piece\nnonsense\n10 4 new\n30 4 \n");
        let map = PerfMap { pieces, file_bytes: 0 };
        assert_eq!(map.name(0x13).map(AsRef::as_ref), Some("new"));
        assert_eq!(map.name(0x14), None);
        assert_eq!(map.name(0x2f).map(AsRef::as_ref), Some("other piece"));
        assert_eq!(map.name(0xf), None);
    }

    #[test]
    fn the_pid_is_the_innermost() {
        assert_eq!(inner_pid("Name:\tx\nNSpid:\t4711\t12\t3\n"), Some(3));
        assert_eq!(inner_pid("Name:\tx\n"), None);
    }

    #[test]
    fn what_is_kept_of_a_file_is_bounded() {
        let lines: Vec<_> = (0..PIECES_MAX + 5).map(|at| format!("{at:x} 1 a")).collect();
        assert_eq!(parse(&lines.join("\n")).len(), PIECES_MAX);
    }
}
