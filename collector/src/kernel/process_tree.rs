//! Processes as `/proc` shows them: who descends from whom.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt,
};

/// All processes that `/proc` shows.
pub(super) fn all() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// `root` and all processes that descend from it now.
pub(super) fn descendants(root: u32) -> BTreeSet<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for pid in all() {
        if let Some(parent) = parent(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut tree = BTreeSet::from([root]);
    let mut pending = vec![root];
    while let Some(next) = pending.pop() {
        for child in children.get(&next).map_or(&[][..], Vec::as_slice) {
            if tree.insert(*child) {
                pending.push(*child);
            }
        }
    }
    tree
}

/// Whether `pid` is a process, and not only a thread of one.
pub(super) fn is_process(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let tgid = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    tgid.and_then(|text| text.trim().parse().ok()) == Some(pid)
}

/// The name of a process.
pub(super) fn comm(pid: u32) -> Option<String> {
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(comm.trim_end_matches('\n').to_owned())
}

/// Inode of the network namespace of a process.
pub(super) fn netns(pid: u32) -> Option<u32> {
    let metadata = fs::metadata(format!("/proc/{pid}/ns/net")).ok()?;
    u32::try_from(metadata.ino()).ok()
}

/// When a process began, in clock ticks since the machine did.
pub(super) fn start_ticks(pid: u32) -> Option<u64> {
    stat_field(pid, 19)
}

fn parent(pid: u32) -> Option<u32> {
    stat_field(pid, 1)
}

/// A field of `/proc/PID/stat`, counted from the process's state.
fn stat_field<T: std::str::FromStr>(pid: u32, at: usize) -> Option<T> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may hold anything, parentheses too.
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(at)?.parse().ok()
}
