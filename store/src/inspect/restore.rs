//! A store from a copy of its folder, or such a copy of a running store.
//!
//! A table's log is never rolled back instead: the rows after the older version have left the
//! write-ahead log, so they would be gone without a trace, while a copy is whole.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::catalog::POINTER;
use super::fleet::some_of;
use super::tables::Unread;
use super::{
    Depth, Finding, Fleet, Folder, InspectError, ObjectPath, TierState, Verification, io_error,
};
use crate::durable;

/// What was restored.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// What the check of the copy found; no errors are among it.
    pub verification: Verification,
    /// Files that were copied.
    pub files: u64,
    /// Their size.
    pub bytes: u64,
}

/// Names that are not copied: the lock belongs to a process, and the bucket has what is in the cache.
const LOCK: &str = "LOCK";
const CACHE: &str = "cache";

impl Folder {
    /// Checks the folder, copies it to `to`, which is empty or not there, and checks the copy. Until
    /// that is done `to` is not there. A store may run on this folder meanwhile; the copy then holds
    /// one moment of it, as after a crash: what it had acknowledged and synced. What the folder has in
    /// a bucket alone stays there, and the copy belongs to that bucket too.
    ///
    /// # Errors
    /// Where the folder or the copy is damaged, `to` is in use, or something cannot be copied.
    pub async fn restore(&self, to: &Path) -> Result<Restored, InspectError> {
        sound(self.verify(Depth::Footers).await?, &self.dir.display().to_string())?;
        by_draft(to, async |draft| self.copy_and_check(draft).await).await
    }

    async fn copy_and_check(&self, draft: &Path) -> Result<Restored, InspectError> {
        let mut copied = Copied::default();
        durable::create_dirs(draft).map_err(io_error("make", draft))?;
        // In this order a running store cannot take away what the copy needs: the log's rows before
        // the catalogs that say which of them are sealed, and catalogs before their files, which
        // stay for a day after they were replaced.
        for part in ["store.json", "allocated", "log"] {
            copied.all(&self.dir.join(part), &draft.join(part))?;
        }
        let tables = draft.join("tables");
        durable::create_dirs(&tables).map_err(io_error("make", &tables))?;
        let inspection = self.inspect().await?;
        for tier in &inspection.tiers {
            let place = path_on_disk(&tier.prefix);
            let (from, to) = (self.dir.join("tables").join(&place), tables.join(&place));
            let log = "_delta_log";
            copied.log_of(&from.join(log), &to.join(log), tier.version)?;
            for segment in &tier.segments {
                copied.all(&from.join(&segment.name), &to.join(&segment.name))?;
            }
        }
        for entry in fs::read_dir(&self.dir).map_err(io_error("list", &self.dir))? {
            let name = entry.map_err(io_error("list", &self.dir))?.file_name();
            let known = ["store.json", "allocated", "log", "tables", CACHE, LOCK];
            if !known.iter().any(|known| name == *known) {
                copied.all(&self.dir.join(&name), &draft.join(&name))?;
            }
        }
        copied.check(draft).await
    }
}

impl Fleet {
    /// Checks what a node has in the bucket, copies it to `to`, which is empty or not there, as the
    /// tables of a data folder, and checks the copy. A store of the same name goes on from there
    /// without the bucket.
    ///
    /// # Errors
    /// Where the bucket has more nodes and none was named, the node's tiers or the copy are damaged,
    /// `to` is in use, or something cannot be copied.
    pub async fn restore(&self, to: &Path) -> Result<Restored, InspectError> {
        let verified = sound(self.verify(Depth::Footers).await?, self.url())?;
        let tiers = &verified.inspection.tiers;
        let nodes: BTreeSet<_> = tiers.iter().map(|tier| &tier.node).collect();
        if nodes.len() > 1 {
            let (url, known) = (self.url().to_owned(), some_of(nodes));
            return Err(InspectError::WhichNode { url, known });
        }
        by_draft(to, async |draft| self.copy(tiers, draft).await?.check(draft).await).await
    }

    async fn copy(&self, tiers: &[TierState], draft: &Path) -> Result<Copied, InspectError> {
        let (mut copied, tables) = (Copied::default(), draft.join("tables"));
        for tier in tiers {
            let log = self.tables.log_of(tier).await;
            let log = log.map_err(|failed| self.failed(failed))?;
            let files = tier.segments.iter().map(|file| tier.prefix.clone().join(&*file.name));
            for path in log.into_iter().chain(files) {
                let bytes = self.tables.get(&path).await.map_err(|unread| self.unread(unread))?;
                copied.write(&tables.join(path_on_disk(&path)), &bytes)?;
            }
            check_pointer(
                &tables.join(path_on_disk(&tier.prefix)).join("_delta_log"),
                tier.version,
            )?;
        }
        Ok(copied)
    }

    fn unread(&self, unread: Unread) -> InspectError {
        match unread {
            Unread::Failed(failed) => self.failed(failed),
            Unread::Damaged(finding) => damaged(self.url(), 1, &finding),
        }
    }
}

/// Fills a folder beside `to` and, when it is whole, gives it that name.
async fn by_draft(
    to: &Path,
    fill: impl AsyncFnOnce(&Path) -> Result<Restored, InspectError>,
) -> Result<Restored, InspectError> {
    if fs::read_dir(to).is_ok_and(|mut entries| entries.next().is_some()) || to.is_file() {
        return Err(InspectError::NotEmpty { dir: to.to_owned() });
    }
    let above = durable::parent(to);
    durable::create_dirs(above).map_err(io_error("make", above))?;
    let mut name = to.file_name().unwrap_or_default().to_owned();
    name.push(format!(".restoring-{}", ulid::Ulid::generate()));
    let draft = to.with_file_name(name);
    match fill(&draft).await {
        Ok(restored) => {
            if to.is_dir() {
                fs::remove_dir(to).map_err(io_error("replace", to))?;
            }
            fs::rename(&draft, to).map_err(io_error("make", to))?;
            durable::sync_dir(above).map_err(io_error("sync", above))?;
            Ok(restored)
        }
        Err(error) => {
            if let Err(left) = fs::remove_dir_all(&draft) {
                tracing::warn!(dir = %draft.display(), %left, "an unfinished copy is left");
            }
            Err(error)
        }
    }
}

/// Takes errors that a check found for an error.
fn sound(verified: Verification, of: &str) -> Result<Verification, InspectError> {
    let Some(first) = verified.errors().next() else { return Ok(verified) };
    Err(damaged(of, verified.errors().count(), first))
}

fn damaged(of: &str, errors: usize, first: &Finding) -> InspectError {
    let first = format!("{}: {}", first.place, first.what);
    InspectError::Damaged { of: of.to_owned(), errors, first }
}

#[derive(Debug, Default)]
struct Copied {
    files: u64,
    bytes: u64,
}

impl Copied {
    /// Checks the copy in `draft` and puts its names on the disk.
    async fn check(self, draft: &Path) -> Result<Restored, InspectError> {
        sync_dirs(draft).map_err(io_error("sync", draft))?;
        let verified = Folder::open(draft)?.verify(Depth::Pages).await?;
        let verification = sound(verified, &draft.display().to_string())?;
        Ok(Restored { verification, files: self.files, bytes: self.bytes })
    }

    /// Writes a file that was read elsewhere.
    fn write(&mut self, to: &Path, bytes: &[u8]) -> Result<(), InspectError> {
        let write = || -> io::Result<()> {
            fs::create_dir_all(durable::parent(to))?;
            fs::write(to, bytes)?;
            File::open(to)?.sync_all()
        };
        write().map_err(io_error("write", to))?;
        self.files += 1;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Copies a file, or a folder with everything in it; what is not there is left out.
    fn all(&mut self, from: &Path, to: &Path) -> Result<(), InspectError> {
        let about = match fs::symlink_metadata(from) {
            Ok(about) => about,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(io_error("read", from)(error)),
        };
        if about.is_dir() {
            fs::create_dir_all(to).map_err(io_error("make", to))?;
            for entry in fs::read_dir(from).map_err(io_error("list", from))? {
                let name = entry.map_err(io_error("list", from))?.file_name();
                self.all(&from.join(&name), &to.join(&name))?;
            }
            return Ok(());
        }
        if !about.is_file() {
            return Ok(());
        }
        let copy = || -> io::Result<u64> {
            let bytes = fs::copy(from, to)?;
            File::open(to)?.sync_all()?;
            Ok(bytes)
        };
        match copy() {
            Ok(bytes) => {
                self.files += 1;
                self.bytes += bytes;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && !from.exists() => Ok(()),
            Err(error) => Err(io_error("copy", from)(error)),
        }
    }

    /// Copies a Delta log up to `version`.
    fn log_of(&mut self, from: &Path, to: &Path, version: u64) -> Result<(), InspectError> {
        fs::create_dir_all(to).map_err(io_error("make", to))?;
        for entry in fs::read_dir(from).map_err(io_error("list", from))? {
            let name = entry.map_err(io_error("list", from))?.file_name();
            let text = name.to_string_lossy();
            let of = text.get(..20).and_then(|digits| digits.parse::<u64>().ok());
            let draft = text.contains(".unfinished.") || text.strip_suffix(".tmp").is_some();
            let later = of.is_some_and(|of| of > version);
            if !draft && !later {
                self.all(&from.join(&name), &to.join(&name))?;
            }
        }
        check_pointer(to, version)
    }
}

/// The same way on a disk.
fn path_on_disk(path: &ObjectPath) -> PathBuf {
    path.parts().map(|part| part.as_ref().to_owned()).collect()
}

/// Whether a copied log names a checkpoint that was copied: a running store may have made a newer one.
fn check_pointer(log: &Path, version: u64) -> Result<(), InspectError> {
    let pointer = log.join(POINTER);
    let text = match fs::read(&pointer) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error("read", &pointer)(error)),
    };
    let newest = serde_json::from_slice::<serde_json::Value>(&text).ok();
    let newest = newest.and_then(|pointer| pointer["version"].as_u64());
    if newest.is_none_or(|newest| newest > version) {
        let error = io::Error::other("the store wrote a checkpoint meanwhile; run this again");
        return Err(io_error("copy", &pointer)(error));
    }
    Ok(())
}

fn sync_dirs(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_dirs(&entry.path())?;
        }
    }
    durable::sync_dir(dir)
}
