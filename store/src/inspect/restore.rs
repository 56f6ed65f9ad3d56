//! A store from a copy of its folder, or such a copy of a running store.
//!
//! A table's log is never rolled back instead: the rows after the older version have left the
//! write-ahead log, so they would be gone without a trace, while a copy is whole.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::{Depth, Folder, InspectError, Verification, io_error};
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

/// Names that are not copied: the lock belongs to a process, not to the data.
const LOCK: &str = "LOCK";

impl Folder {
    /// Checks the folder, copies it to `to`, which is empty or not there, and checks the copy. Until
    /// that is done `to` is not there. A store may run on this folder meanwhile; the copy then holds
    /// one moment of it, as after a crash: what it had acknowledged and synced.
    ///
    /// # Errors
    /// Where the folder or the copy is damaged, `to` is in use, or something cannot be copied.
    pub async fn restore(&self, to: &Path) -> Result<Restored, InspectError> {
        sound(self, Depth::Footers).await?;
        if fs::read_dir(to).is_ok_and(|mut entries| entries.next().is_some()) || to.is_file() {
            return Err(InspectError::NotEmpty { dir: to.to_owned() });
        }
        let above = durable::parent(to);
        durable::create_dirs(above).map_err(io_error("make", above))?;
        let mut name = to.file_name().unwrap_or_default().to_owned();
        name.push(format!(".restoring-{}", ulid::Ulid::generate()));
        let draft = to.with_file_name(name);
        match self.copy_and_check(&draft).await {
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
            let place: PathBuf = tier.prefix.parts().map(|part| part.as_ref().to_owned()).collect();
            let (from, to) = (self.dir.join("tables").join(&place), tables.join(&place));
            let log = "_delta_log";
            copied.log_of(&from.join(log), &to.join(log), tier.version)?;
            for segment in &tier.segments {
                copied.all(&from.join(&segment.name), &to.join(&segment.name))?;
            }
        }
        for entry in fs::read_dir(&self.dir).map_err(io_error("list", &self.dir))? {
            let name = entry.map_err(io_error("list", &self.dir))?.file_name();
            let known = ["store.json", "allocated", "log", "tables", LOCK];
            if !known.iter().any(|known| name == *known) {
                copied.all(&self.dir.join(&name), &draft.join(&name))?;
            }
        }
        sync_dirs(draft).map_err(io_error("sync", draft))?;
        let verification = sound(&Self::open(draft)?, Depth::Pages).await?;
        Ok(Restored { verification, files: copied.files, bytes: copied.bytes })
    }
}

/// Checks a folder; errors in it are an error.
async fn sound(folder: &Folder, depth: Depth) -> Result<Verification, InspectError> {
    let verified = folder.verify(depth).await?;
    let first = verified.errors().next();
    if let Some(first) = first {
        return Err(InspectError::Damaged {
            dir: folder.dir.clone(),
            errors: verified.errors().count(),
            first: format!("{}: {}", first.place, first.what),
        });
    }
    Ok(verified)
}

#[derive(Debug, Default)]
struct Copied {
    files: u64,
    bytes: u64,
}

impl Copied {
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
        // A running store may have pointed to a newer checkpoint than what was copied.
        let pointer = to.join("_last_checkpoint");
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
