//! The unified cgroup hierarchy: where it is mounted and who is in a cgroup.

use std::{
    fs, io,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use super::own_cgroup::CgroupError;

/// Most directories that are read for one cgroup.
const CGROUPS_MAX: usize = 16 * 1024;

/// Where the unified hierarchy is mounted, beside version 1 hierarchies or alone.
pub(super) fn unified_mount() -> io::Result<Option<PathBuf>> {
    Ok(mount_in(&fs::read_to_string("/proc/self/mountinfo")?))
}

/// The mount point of the first `cgroup2` file system in a `mountinfo`.
fn mount_in(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        if kind.split(' ').next()? != "cgroup2" {
            return None;
        }
        Some(PathBuf::from(unescape(mount.split(' ').nth(4)?)))
    })
}

/// Spaces, tabs and backslashes are written as three octal digits.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, escaped)) = rest.split_once('\\') {
        out.push_str(plain);
        let code = escaped.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let Some(code) = code {
            out.push(char::from(code));
            rest = &escaped[3..];
        } else {
            out.push('\\');
            rest = escaped;
        }
    }
    out + rest
}

/// The directory of a cgroup of the unified hierarchy: `path` itself, or `path` below the mount.
pub(super) fn directory(path: &Path) -> io::Result<PathBuf> {
    let Some(mount) = unified_mount()? else {
        return Err(io::Error::new(io::ErrorKind::NotFound, CgroupError::NotMounted));
    };
    if path.starts_with(&mount) {
        return Ok(path.to_path_buf());
    }
    let below = path.as_os_str().as_bytes();
    let below = below.strip_prefix(b"/").unwrap_or(below);
    Ok(mount.join(Path::new(std::ffi::OsStr::from_bytes(below))))
}

/// The id by which the kernel knows the cgroup in `directory`.
pub(super) fn id(directory: &Path) -> io::Result<u64> {
    let metadata = fs::metadata(directory)?;
    if !directory.join("cgroup.procs").exists() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a cgroup"));
    }
    Ok(metadata.ino())
}

/// The processes in the cgroup in `directory` and below. One that ends meanwhile may be missing.
pub(super) fn processes(directory: &Path) -> Vec<u32> {
    let mut pending = vec![directory.to_path_buf()];
    let mut found = Vec::new();
    let mut seen = 0;
    while let Some(next) = pending.pop() {
        seen += 1;
        if seen > CGROUPS_MAX {
            break;
        }
        let members = fs::read_to_string(next.join("cgroup.procs")).unwrap_or_default();
        found.extend(members.lines().filter_map(|line| line.parse::<u32>().ok()));
        let Ok(entries) = fs::read_dir(&next) else { continue };
        pending.extend(
            entries
                .flatten()
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path()),
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unified_mount_is_found_beside_version_1() {
        let text = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
                    41 31 0:38 / /sys/fs/cgroup/my\\040unified rw - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_in(text), Some(PathBuf::from("/sys/fs/cgroup/my unified")));
        assert_eq!(mount_in("32 31 0:29 / /cpu rw - cgroup cgroup rw\n"), None);
    }
}
