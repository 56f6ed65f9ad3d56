//! Where segments and Delta logs are: folders on a local disk or in a bucket.
//!
//! What the catalog needs of a place is little: a name that is given once ([`Folder::publish_new`]),
//! a file that is replaced whole, reading, listing, deleting. On a disk each of them is synced before
//! it returns; in a bucket each is one request, or a multipart upload.

mod address;
mod bucket;
mod probe;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use undine_schema::TimeNs;

pub(crate) use self::address::{Address, Service};
pub use self::bucket::{Bucket, BucketConfig, BucketError};
pub use self::probe::Thoroughness;

use crate::cache::Shelves;
use crate::{disk, durable};

/// A folder of files whose names say what they hold.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    place: Place,
    /// The way from the place's root, with `/` between its parts; empty for the root itself.
    path: String,
}

#[derive(Clone, Debug)]
enum Place {
    /// A local disk; what is not there is looked for on the shelves behind it.
    Disk {
        root: PathBuf,
        behind: Option<Arc<Shelves>>,
    },
    Bucket(Arc<Bucket>),
}

/// A file of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) changed: TimeNs,
}

impl Folder {
    /// A folder on the local disk.
    pub(crate) fn on_disk(root: PathBuf) -> Self {
        Self { place: Place::Disk { root, behind: None }, path: String::new() }
    }

    /// A folder on the local disk whose files may have gone to a bucket.
    pub(crate) fn before(root: PathBuf, behind: Arc<Shelves>) -> Self {
        Self { place: Place::Disk { root, behind: Some(behind) }, path: String::new() }
    }

    /// The root of a bucket.
    pub(crate) fn in_bucket(bucket: Arc<Bucket>) -> Self {
        Self { place: Place::Bucket(bucket), path: String::new() }
    }

    /// A folder in this one.
    pub(crate) fn sub(&self, name: &str) -> Self {
        Self { place: self.place.clone(), path: self.key(name) }
    }

    /// The same folder without what is behind it.
    pub(crate) fn alone(mut self) -> Self {
        if let Place::Disk { behind, .. } = &mut self.place {
            *behind = None;
        }
        self
    }

    /// Where a file of it is, for people and, on a disk, for opening it.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        match &self.place {
            Place::Disk { root, .. } => root.join(self.key(name)),
            Place::Bucket(bucket) => PathBuf::from(format!("{}/{}", bucket.url(), self.key(name))),
        }
    }

    /// Where it is, for people.
    pub(crate) fn display(&self) -> String {
        self.join("").display().to_string()
    }

    /// Whether a request to it crosses a network and is paid for.
    pub(crate) fn is_remote(&self) -> bool {
        matches!(self.place, Place::Bucket(_))
    }

    /// Makes the folder with its name on the disk; a bucket has no folders to make.
    pub(crate) fn make(&self) -> io::Result<()> {
        match &self.place {
            Place::Disk { .. } => durable::create_dirs(&self.join("")),
            Place::Bucket(_) => Ok(()),
        }
    }

    /// Puts the names in it on the disk; in a bucket they are durable at once.
    pub(crate) fn sync(&self) -> io::Result<()> {
        match &self.place {
            Place::Disk { .. } => durable::sync_dir(&self.join("")),
            Place::Bucket(_) => Ok(()),
        }
    }

    /// Makes a file unless it exists; it is durable on return.
    ///
    /// # Errors
    /// `AlreadyExists` where it was there; the file is then untouched.
    pub(crate) fn publish_new(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        match &self.place {
            Place::Disk { .. } => durable::publish_new(&self.join(name), bytes),
            Place::Bucket(bucket) => bucket.create(&self.key(name), Bytes::copy_from_slice(bytes)),
        }
    }

    /// Puts a file in place of whatever has its name; it is durable on return.
    pub(crate) fn replace(&self, name: &str, bytes: Bytes) -> io::Result<()> {
        match &self.place {
            Place::Disk { .. } => durable::replace(&self.join(name), &bytes),
            Place::Bucket(bucket) => bucket.put(&self.key(name), bytes),
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// `NotFound` where there is none.
    pub(crate) fn get(&self, name: &str) -> io::Result<Bytes> {
        match &self.place {
            Place::Disk { behind, .. } => match (fs::read(self.join(name)), behind) {
                (Ok(bytes), _) => Ok(bytes.into()),
                (Err(error), Some(shelves)) if error.kind() == io::ErrorKind::NotFound => {
                    shelves.read(&self.key(name))
                }
                (Err(error), _) => Err(error),
            },
            Place::Bucket(bucket) => bucket.get(&self.key(name)),
        }
    }

    /// Whether a file is there.
    pub(crate) fn has(&self, name: &str) -> io::Result<bool> {
        match &self.place {
            Place::Disk { .. } => self.join(name).try_exists(),
            Place::Bucket(bucket) => bucket.has(&self.key(name)),
        }
    }

    /// Its files; none where the folder is missing.
    pub(crate) fn list(&self) -> io::Result<Vec<Entry>> {
        match &self.place {
            Place::Disk { .. } => list_dir(&self.join("")),
            Place::Bucket(bucket) => bucket.list(&self.path),
        }
    }

    /// Deletes a file; says whether there was one.
    pub(crate) fn delete(&self, name: &str) -> io::Result<bool> {
        match &self.place {
            Place::Disk { behind, .. } => {
                let shelved =
                    behind.as_ref().is_some_and(|shelves| shelves.drop_file(&self.key(name)));
                match disk::remove_file(self.join(name)) {
                    Ok(()) => Ok(true),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(shelved),
                    Err(error) => Err(error),
                }
            }
            Place::Bucket(bucket) => bucket.delete(&self.key(name)),
        }
    }

    /// Renames a file that a power loss cut short. A bucket has none, since a put shows all or nothing.
    pub(crate) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        match &self.place {
            Place::Disk { .. } => {
                disk::rename(self.join(from), self.join(to))?;
                self.sync()
            }
            Place::Bucket(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn key(&self, name: &str) -> String {
        match (self.path.is_empty(), name.is_empty()) {
            (true, _) => name.to_owned(),
            (_, true) => self.path.clone(),
            _ => format!("{}/{name}", self.path),
        }
    }
}

impl From<PathBuf> for Folder {
    fn from(root: PathBuf) -> Self {
        Self::on_disk(root)
    }
}

fn list_dir(dir: &Path) -> io::Result<Vec<Entry>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if metadata.is_file() {
            let changed = metadata.modified()?.duration_since(std::time::UNIX_EPOCH);
            let changed = TimeNs::ZERO.saturating_add(changed.unwrap_or_default());
            files.push(Entry { name, changed });
        }
    }
    Ok(files)
}
