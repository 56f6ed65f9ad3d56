//! Files that are there in full after a power loss, or not at all.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::disk::{self, File};

/// Makes `path` with `bytes` unless it exists; the bytes and the name are on the disk on return.
///
/// # Errors
/// `AlreadyExists` where `path` was there; the file is then untouched.
pub(crate) fn publish_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let tmp = tmp_of(path);
    write_synced(&tmp, bytes)?;
    let linked = disk::hard_link(&tmp, path);
    let removed = disk::remove_file(&tmp);
    linked?;
    removed?;
    sync_dir(parent(path))
}

/// Puts `bytes` at `path` in place of whatever is there; old or new bytes survive a power loss.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let tmp = tmp_of(path);
    write_synced(&tmp, bytes)?;
    disk::rename(&tmp, path)?;
    sync_dir(parent(path))
}

/// Makes a folder and its missing ancestors, each with its name on the disk.
pub(crate) fn create_dirs(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let above = parent(dir);
    create_dirs(above)?;
    match disk::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => sync_dir(above),
    }
}

/// Puts the names in a folder on the disk.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Puts the names of catalogs on the disk, before anything is deleted on their word: what a killed process
/// left may still be with the kernel alone. `logs` are the folders of their commits.
pub(crate) fn settle(logs: impl Iterator<Item = PathBuf>) -> io::Result<()> {
    /// Folders above the commits of a tier: node, tier, table, all tables, the store.
    const LEVELS: usize = 5;
    let mut dirs: BTreeSet<PathBuf> = BTreeSet::new();
    for log in logs {
        dirs.extend(log.ancestors().take(1 + LEVELS).map(Path::to_owned));
    }
    for dir in &dirs {
        match sync_dir(dir) {
            // A tier that has never had a row has no folder yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            synced => synced?,
        }
    }
    Ok(())
}

/// Removes what [`publish_new`] and [`replace`] left in a folder when they were killed.
pub(crate) fn remove_unfinished(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with('.')) && is_unfinished(&name) {
            disk::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Whether a file of this name was being written when its writer ended.
pub(crate) fn is_unfinished(name: impl AsRef<Path>) -> bool {
    name.as_ref().extension().is_some_and(|end| end == "tmp")
}

/// The folder that holds `path`; the working folder for a bare name.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => path,
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = disk::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn tmp_of(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.tmp", ulid::Ulid::generate()));
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_name_is_given_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        publish_new(&path, b"first").unwrap();
        let again = publish_new(&path, b"second").unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }
}
