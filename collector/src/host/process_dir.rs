//! What `/proc/PID` says that a process has used.
//!
//! A process is opened once and everything is read below that, so that what is read is of that
//! process or fails: a pid that is given to another process meanwhile cannot mix two of them.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

use crate::event::ProcessKey;
use crate::process::TICK_NS;

/// Most bytes of a file that are read.
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// Bit of the flags in `stat`: a thread of the kernel itself (`PF_KTHREAD`).
const KERNEL_THREAD: u64 = 0x0020_0000;
/// Bytes of a page where the kernel does not say otherwise.
const PAGE_BYTES: u64 = 4096;
/// Entry of the auxiliary vector that holds the bytes of a page (`AT_PAGESZ`).
const AUX_PAGE_BYTES: u64 = 6;

/// The open directory of a process.
#[derive(Debug)]
pub(crate) struct ProcessDir(File);

impl ProcessDir {
    /// Opens the directory of the process that has `pid` now.
    pub(crate) fn open(pid: u32) -> io::Result<Self> {
        OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY)
            .open(format!("/proc/{pid}"))
            .map(Self)
    }

    /// Where `name` of the process is, as long as this is held.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.0.as_raw_fd()))
    }

    /// Reads a file of the process, at most 64 KiB of it.
    pub(crate) fn read(&self, name: &str) -> io::Result<String> {
        let mut text = Vec::new();
        File::open(self.path(name))?.take(FILE_BYTES_MAX).read_to_end(&mut text)?;
        // A name may be anything.
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

/// Whether an error says that the process has ended.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// What `stat` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) is_kernel_thread: bool,
    pub(crate) minor_faults: u64,
    pub(crate) major_faults: u64,
    pub(crate) user_ns: u64,
    pub(crate) kernel_ns: u64,
    pub(crate) threads: u64,
    pub(crate) start_ticks: u64,
    pub(crate) virtual_bytes: u64,
    pub(crate) resident_pages: u64,
}

impl Stat {
    /// Takes a line of `/proc/PID/stat` apart; proc(5) numbers its fields from 1.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        // The name is in parentheses and may hold anything, parentheses too.
        let (_, rest) = line.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().take(22).collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let ticks = |number: usize| Some(field(number)?.saturating_mul(TICK_NS));
        Some(Self {
            is_kernel_thread: field(9)? & KERNEL_THREAD != 0,
            minor_faults: field(10)?,
            major_faults: field(12)?,
            user_ns: ticks(14)?,
            kernel_ns: ticks(15)?,
            threads: field(20)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }

    /// The process as messages name it, its start as exactly as it is known here.
    pub(crate) fn key(&self, pid: u32) -> ProcessKey {
        ProcessKey { tgid: pid, start_ns: self.start_ticks.saturating_mul(TICK_NS) }
    }
}

/// What `io` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Io {
    pub(crate) read_chars: u64,
    pub(crate) written_chars: u64,
    pub(crate) read_bytes: u64,
    pub(crate) written_bytes: u64,
}

impl Io {
    /// Takes `/proc/PID/io` apart.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let of = |name: &str| {
            text.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                (key == name).then(|| value.trim().parse::<u64>().ok())?
            })
        };
        Some(Self {
            read_chars: of("rchar")?,
            written_chars: of("wchar")?,
            read_bytes: of("read_bytes")?,
            written_bytes: of("write_bytes")?,
        })
    }
}

/// The pid of a process in its own pid namespace, and its effective user, from its `status`.
pub(crate) fn inner_pid_and_user(status: &str) -> Option<(u32, u32)> {
    let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let inner = line("NSpid:")?.split_ascii_whitespace().last()?.parse().ok()?;
    let user = line("Uid:")?.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some((inner, user))
}

/// How long the machine has been up, in the ticks in which starts of processes are counted.
pub(crate) fn uptime_ticks() -> Option<u64> {
    parse_uptime(&std::fs::read_to_string("/proc/uptime").ok()?)
}

fn parse_uptime(text: &str) -> Option<u64> {
    let (seconds, hundredths) = text.split_ascii_whitespace().next()?.split_once('.')?;
    let seconds: u64 = seconds.parse().ok()?;
    seconds.checked_mul(100)?.checked_add(hundredths.parse().ok()?)
}

/// CPU time of this thread so far, which the kernel counts at every switch and tick; zero where it
/// does not tell.
pub(crate) fn thread_cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let ns = text.split_ascii_whitespace().next().and_then(|ns| ns.parse().ok());
    Duration::from_nanos(ns.unwrap_or(0))
}

/// Bytes of a page of memory.
pub(crate) fn page_bytes() -> u64 {
    std::fs::read("/proc/self/auxv")
        .ok()
        .and_then(|aux| parse_page_bytes(&aux))
        .unwrap_or(PAGE_BYTES)
}

fn parse_page_bytes(aux: &[u8]) -> Option<u64> {
    let (pairs, _) = aux.as_chunks::<16>();
    let number = |bytes: &[u8]| bytes.try_into().map(u64::from_ne_bytes).ok();
    pairs
        .iter()
        .find_map(|pair| (number(&pair[..8])? == AUX_PAGE_BYTES).then(|| number(&pair[8..]))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Linux 6.18, of a `cat /proc/self/stat` with its name made worse.
    const STAT: &str = "1841 (c) (at) R 1840 1841 1840 0 -1 4194304 105 3 2 1 15 7 9 8 20 0 4 0 \
        66237 3100672 453 18446744073709551615 94127 94128 14073 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0\n";
    const IO: &str = "rchar: 3980\nwchar: 12\nsyscr: 9\nsyscw: 1\nread_bytes: 4096\n\
        write_bytes: 8192\ncancelled_write_bytes: 0\n";

    #[test]
    fn a_line_of_stat_gives_what_the_process_itself_has_used() {
        let expected = Stat {
            is_kernel_thread: false,
            minor_faults: 105,
            major_faults: 2,
            user_ns: 150_000_000,
            kernel_ns: 70_000_000,
            threads: 4,
            start_ticks: 66_237,
            virtual_bytes: 3_100_672,
            resident_pages: 453,
        };
        assert_eq!(Stat::parse(STAT), Some(expected));
        let kernel = STAT.replace("4194304", "2129984");
        assert!(Stat::parse(&kernel).unwrap().is_kernel_thread);
    }

    #[test]
    fn a_file_that_is_cut_anywhere_is_refused_or_read_as_far_as_it_goes() {
        let stat = |end: usize| Stat::parse(&STAT[..end]);
        let whole = STAT.find("453 ").unwrap() + 3;
        for end in 0..STAT.len() {
            assert_eq!(stat(end).is_some(), end > whole - 3, "{end}");
        }
        for end in 0..IO.len() {
            assert!(Io::parse(&IO[..end]).is_none() || end > IO.find("8192").unwrap(), "{end}");
        }
    }

    #[test]
    fn io_is_read_by_name() {
        let expected =
            Io { read_chars: 3980, written_chars: 12, read_bytes: 4096, written_bytes: 8192 };
        assert_eq!(Io::parse(IO), Some(expected));
        assert_eq!(Io::parse("rchar: x\n"), None);
    }

    #[test]
    fn the_innermost_pid_counts() {
        let status = "Name:\tjava\nUid:\t0\t1000\t0\t0\nNSpid:\t4711\t12\t1\n";
        assert_eq!(inner_pid_and_user(status), Some((1, 1000)));
        assert_eq!(inner_pid_and_user("Name:\tjava\n"), None);
    }

    #[test]
    fn uptime_and_page_are_what_the_kernel_says() {
        assert_eq!(parse_uptime("662.37 1200.10\n"), Some(66_237));
        assert_eq!(parse_uptime("1\n"), None);
        let mut aux = [0_u8; 32];
        aux[0] = 3;
        aux[16] = 6;
        aux[25] = 16;
        assert_eq!(parse_page_bytes(&aux), Some(4096));
        assert_eq!(parse_page_bytes(&aux[..20]), None);
        assert!(page_bytes().is_power_of_two());
    }

    #[test]
    fn this_process_is_read_through_its_open_directory() {
        let dir = ProcessDir::open(std::process::id()).unwrap();
        let stat = Stat::parse(&dir.read("stat").unwrap()).unwrap();
        assert!(stat.threads > 0 && stat.resident_pages > 0 && !stat.is_kernel_thread);
        assert!(stat.start_ticks <= uptime_ticks().unwrap());
        let (inner, _) = inner_pid_and_user(&dir.read("status").unwrap()).unwrap();
        assert!(inner > 0);
        let error = ProcessDir::open(u32::MAX).unwrap_err();
        assert!(is_gone(&error));
    }
}
