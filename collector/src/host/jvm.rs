//! Finds the file in which a Java virtual machine publishes its counters.
//!
//! It is `/tmp/hsperfdata_USER/PID` as the machine itself sees that path and its pid, so it is looked
//! for below `/proc/PID/root`. Nothing there is trusted: no link is followed, and the file must be
//! an ordinary one that belongs to the process's user.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::hsperf::{self, Counters, Heap, HsperfError};
use super::process_dir::{self, ProcessDir};

/// Most entries of a `/tmp` that are looked through.
const TMP_ENTRIES_MAX: usize = 4096;
/// Most users of one `/tmp` whose machines are looked for.
const USERS_MAX: usize = 64;
/// How such a directory's name begins.
const DIRECTORY: &str = "hsperfdata_";

/// A file system as a process sees it: its mount namespace, and device and inode of its root.
type View = (u64, u64, u64);

/// The directories of machines, as found in this scan.
#[derive(Debug, Default)]
pub(crate) struct JvmFinder {
    directories: BTreeMap<View, Vec<String>>,
}

/// Why a machine's counters cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JvmError {
    /// The file cannot be read.
    #[error("the hsperfdata file of a process cannot be read: {}", .0.kind())]
    Read(#[source] io::Error),
    /// The file is another one.
    #[error(transparent)]
    Content(#[from] HsperfError),
    /// The file is somebody else's.
    #[error("an hsperfdata file is no ordinary file of the process's own user")]
    Owner,
    /// The file is too large.
    #[error("an hsperfdata file is larger than {max} bytes", max = hsperf::FILE_BYTES_MAX)]
    Size,
}

impl JvmFinder {
    /// The heap of the machine that runs in the process, whose pid in its own namespace is
    /// `inner_pid`; `None` where it is no machine or has not published anything.
    pub(crate) fn heap(
        &mut self,
        process: &ProcessDir,
        inner_pid: u32,
    ) -> Result<Option<Heap>, JvmError> {
        let root = process.path("root");
        let Some(directories) = self.directories(process, &root) else { return Ok(None) };
        for directory in directories {
            let path = root.join("tmp").join(directory).join(inner_pid.to_string());
            let Ok(found) = fs::symlink_metadata(&path) else { continue };
            let status = process.read("status").unwrap_or_default();
            let user = process_dir::inner_pid_and_user(&status).map(|(_, user)| user);
            if !found.is_file() || user != Some(found.uid()) {
                return Err(JvmError::Owner);
            }
            return read(&path);
        }
        Ok(None)
    }

    /// The names of the directories in `/tmp` in which machines may publish; looked up once for all
    /// processes that see the same.
    fn directories(&mut self, process: &ProcessDir, root: &Path) -> Option<&[String]> {
        let mounts = fs::metadata(process.path("ns/mnt")).ok()?.ino();
        let found = fs::metadata(root).ok()?;
        let view = (mounts, found.dev(), found.ino());
        let names = self.directories.entry(view).or_insert_with(|| names(&root.join("tmp")));
        Some(names)
    }
}

fn names(tmp: &Path) -> Vec<String> {
    if !fs::symlink_metadata(tmp).is_ok_and(|found| found.is_dir()) {
        return Vec::new();
    }
    let entries = fs::read_dir(tmp).into_iter().flatten().take(TMP_ENTRIES_MAX).flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(DIRECTORY))
        .take(USERS_MAX)
        .collect()
}

fn read(path: &Path) -> Result<Option<Heap>, JvmError> {
    // A machine that ends meanwhile takes its file with it.
    let gone = |error: io::Error| {
        if process_dir::is_gone(&error) { Ok(None) } else { Err(JvmError::Read(error)) }
    };
    let opened =
        OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) => return gone(error),
    };
    let mut bytes = Vec::new();
    if let Err(error) = file.take(hsperf::FILE_BYTES_MAX + 1).read_to_end(&mut bytes) {
        return gone(error);
    }
    if bytes.len() as u64 > hsperf::FILE_BYTES_MAX {
        return Err(JvmError::Size);
    }
    // It is made large at once and filled afterwards.
    if bytes.iter().take(4).all(|byte| *byte == 0) {
        return Ok(None);
    }
    Ok(Counters::parse(&bytes)?.map(|counters| counters.heap()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::hsperf::tests::{GOLDEN, golden};

    #[test]
    fn a_file_is_read_only_where_it_is_what_it_should_be() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("good"), golden(true)).unwrap();
        assert_eq!(read(&path("good")).unwrap(), Some(GOLDEN));
        assert!(read(&path("none")).unwrap().is_none());
        fs::write(path("young"), [0; 4096]).unwrap();
        assert!(read(&path("young")).unwrap().is_none());
        fs::write(path("bad"), "PK").unwrap();
        assert!(matches!(read(&path("bad")), Err(JvmError::Content(HsperfError::Magic))));
        std::os::unix::fs::symlink(path("good"), path("link")).unwrap();
        assert!(matches!(read(&path("link")), Err(JvmError::Read(_))));
        let large = fs::File::create(path("large")).unwrap();
        large.set_len(hsperf::FILE_BYTES_MAX + 1).unwrap();
        assert!(matches!(read(&path("large")), Err(JvmError::Size)));
    }

    #[test]
    fn only_directories_of_machines_are_looked_into() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["hsperfdata_root", "hsperfdata_web", "other"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("hsperfdata_file"), "").unwrap();
        std::os::unix::fs::symlink("other", dir.path().join("hsperfdata_link")).unwrap();
        let mut found = names(dir.path());
        found.sort();
        assert_eq!(found, ["hsperfdata_root", "hsperfdata_web"]);
        let link = dir.path().join("tmp");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        assert!(names(&link).is_empty());
    }
}
