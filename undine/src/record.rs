//! Files by which the demo's processes tell each other what they saw.

use std::fs;
use std::io;
use std::path::Path;

/// Replaces a file so that a reader sees the old text or the new one, never a part.
pub(crate) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let next = path.with_extension("next");
    fs::write(&next, text)?;
    fs::rename(next, path)
}
