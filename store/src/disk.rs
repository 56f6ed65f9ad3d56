//! The calls that change the disk, in one place so that tests can tell what a power loss leaves.
//!
//! They are those of `std::fs`. In unit tests they are recorded too, and `power_loss` replays each
//! beginning of a recording as every state that a disk may then be in. What must survive is written
//! through here; reading is not.

#[cfg(test)]
pub(crate) mod recorded;

#[cfg(not(test))]
pub(crate) use std::fs::{File, OpenOptions, create_dir, hard_link, remove_file, rename};
use std::io;
use std::path::Path;

#[cfg(test)]
pub(crate) use self::recorded::{File, OpenOptions, create_dir, hard_link, remove_file, rename};

/// A new or emptied file.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).open(path)
}
