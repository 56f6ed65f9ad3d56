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
pub(crate) fn processes(directory: &Path) -> Vec<u32> {
    let mut found = Vec::new();
    for next in Tree::below(directory).take(CGROUPS_MAX) {
        let members = fs::read_to_string(next.join("cgroup.procs")).unwrap_or_default();
        found.extend(members.lines().filter_map(|line| line.parse::<u32>().ok()));
    }
    found
}

/// A cgroup's directory and all below it, read as they are asked for.
pub(crate) struct Tree(Vec<PathBuf>);

impl Tree {
    /// `directory` and all below it.
    pub(crate) fn below(directory: &Path) -> Self {
        Self(vec![directory.to_path_buf()])
    }
}

impl Iterator for Tree {
    type Item = PathBuf;

    fn next(&mut self) -> Option<PathBuf> {
        let next = self.0.pop()?;
        let entries = fs::read_dir(&next).into_iter().flatten().flatten();
        let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        self.0.extend(directories.map(|entry| entry.path()));
        Some(next)
    }
}

/// Where a hierarchy is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// The directory.
    pub(crate) point: PathBuf,
    /// Which cgroup of the hierarchy that directory is, `/` but in some containers.
    pub(crate) root: PathBuf,
}

impl Mount {
    /// The directory of the cgroup at `path`, as `/proc/PID/cgroup` says it.
    pub(crate) fn directory(&self, path: &str) -> PathBuf {
        let below = Path::new(path).strip_prefix(&self.root).unwrap_or(Path::new(path));
        self.point.join(below.strip_prefix("/").unwrap_or(below))
    }

    /// The path of the cgroup in `directory`, as `/proc/PID/cgroup` says it.
    pub(crate) fn path(&self, directory: &Path) -> Option<String> {
        let below = directory.strip_prefix(&self.point).ok()?;
        let path = self.root.join(below);
        // Joining nothing leaves a slash at the end.
        let text = path.to_string_lossy();
        let text = text.trim_end_matches('/');
        Some(if text.is_empty() { "/".to_owned() } else { text.to_owned() })
    }
}

/// The hierarchies that are mounted: the unified one, and those of version 1 by controller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hierarchies {
    /// Version 2.
    pub(crate) unified: Option<Mount>,
    /// Version 1: each controller with its hierarchy, which several may share.
    pub(crate) controllers: Vec<(String, Mount)>,
}

impl Hierarchies {
    /// Those of this machine.
    pub(crate) fn read() -> io::Result<Self> {
        Ok(Self::parse(&fs::read_to_string("/proc/self/mountinfo")?))
    }

    /// Those in a `mountinfo`; of a hierarchy that is mounted twice the first counts.
    pub(crate) fn parse(mountinfo: &str) -> Self {
        let mut all = Self::default();
        for line in mountinfo.lines() {
            let Some((mount, kind)) = line.split_once(" - ") else { continue };
            let mut fields = mount.split(' ').skip(3);
            let (Some(root), Some(point)) = (fields.next(), fields.next()) else { continue };
            let mount = Mount {
                point: PathBuf::from(unescape(point)),
                root: PathBuf::from(unescape(root)),
            };
            let mut kind = kind.split(' ');
            match kind.next() {
                Some("cgroup2") if all.unified.is_none() => all.unified = Some(mount),
                Some("cgroup") => {
                    let options = kind.nth(1).unwrap_or_default();
                    for name in options.split(',').filter(|name| CONTROLLERS.contains(name)) {
                        if all.controllers.iter().all(|(known, _)| known != name) {
                            all.controllers.push((name.to_owned(), mount.clone()));
                        }
                    }
                }
                _ => {}
            }
        }
        all
    }
}

/// Controllers of version 1 that tell something of interest.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuacct", "memory", "blkio", "pids"];

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

    #[test]
    fn hierarchies_of_both_versions_are_found_with_their_controllers() {
        let text = "30 25 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n\
                    31 25 0:27 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
                    34 25 0:30 /box /sys/fs/cgroup/cpu,cpuacct rw shared:7 - cgroup cgroup rw,cpu,cpuacct\n\
                    35 25 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                    36 25 0:31 / /elsewhere rw - cgroup cgroup rw,memory\n\
                    not a mount\n";
        let all = Hierarchies::parse(text);
        let unified = all.unified.unwrap();
        assert_eq!(unified.directory("/a/b"), Path::new("/sys/fs/cgroup/unified/a/b"));
        assert_eq!(unified.path(Path::new("/sys/fs/cgroup/unified")).unwrap(), "/");
        let names: Vec<_> = all.controllers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["cpu", "cpuacct", "memory"]);
        let cpu = &all.controllers[0].1;
        assert_eq!(cpu.directory("/box/x"), Path::new("/sys/fs/cgroup/cpu,cpuacct/x"));
        assert_eq!(cpu.path(Path::new("/sys/fs/cgroup/cpu,cpuacct/x")).unwrap(), "/box/x");
        assert_eq!(all.controllers[2].1.point, Path::new("/sys/fs/cgroup/memory"));
    }
}
