//! The last place that each table gave out, in a mapped page that outlives `kill -9`.
//!
//! A store of eight bytes an append, no system call. The kernel keeps the page when the process
//! dies, so the next life knows how many rows were published and never reached the log. After a
//! power loss the page may be older than the log; the log then counts.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io;
use std::path::Path;

use memmap2::MmapMut;
use undine_schema::Seq;

use crate::durable;

const MAGIC: &[u8; 8] = b"UNDALLO1";
/// Bytes of a table's slot: the length of its name, the name, and its last place.
const SLOT_BYTES: usize = 128;
/// Longest name of a table.
pub(crate) const NAME_BYTES_MAX: usize = SLOT_BYTES - 9;
const SEQ_AT: usize = SLOT_BYTES - 8;

/// The page of the present life.
#[derive(Debug)]
pub(crate) struct Allocated {
    page: MmapMut,
}

impl Allocated {
    /// What the page of the last life says, by table; nothing where there is none or it is torn.
    pub(crate) fn read(path: &Path) -> io::Result<BTreeMap<String, Seq>> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(error) => return Err(error),
        };
        let Some(slots) = bytes.strip_prefix(MAGIC) else {
            return Ok(BTreeMap::new());
        };
        Ok(slots.chunks_exact(SLOT_BYTES).filter_map(read_slot).collect())
    }

    /// Puts a new page in place, with one slot for each name and nothing given out.
    pub(crate) fn create<'a>(
        path: &Path,
        names: impl Iterator<Item = &'a str>,
    ) -> io::Result<Self> {
        let mut bytes = MAGIC.to_vec();
        for name in names {
            let mut slot = [0; SLOT_BYTES];
            slot[0] = u8::try_from(name.len()).map_err(io::Error::other)?;
            slot[1..=name.len()].copy_from_slice(name.as_bytes());
            bytes.extend_from_slice(&slot);
        }
        durable::replace(path, &bytes)?;
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        #[expect(unsafe_code, reason = "a mapping is the only memory that outlives kill -9")]
        // SAFETY: the folder's lock keeps every other store away from the file, nothing here
        // shortens it, and its blocks are written, so that a full disk cannot fail a store.
        let page = unsafe { MmapMut::map_mut(&file)? };
        Ok(Self { page })
    }

    /// A page of `tables` slots that no file keeps.
    #[cfg(test)]
    pub(crate) fn unsaved(tables: usize) -> io::Result<Self> {
        Ok(Self { page: MmapMut::map_anon(MAGIC.len() + tables * SLOT_BYTES)? })
    }

    /// Notes that the table of slot `index` has given out `last`.
    pub(crate) fn set(&mut self, index: usize, last: Seq) {
        let at = MAGIC.len() + index * SLOT_BYTES + SEQ_AT;
        self.page[at..at + 8].copy_from_slice(&last.raw().to_le_bytes());
    }
}

fn read_slot(slot: &[u8]) -> Option<(String, Seq)> {
    let name = slot.get(1..=usize::from(slot[0]))?;
    let raw = slot[SEQ_AT..].try_into().ok()?;
    Some((String::from_utf8(name.to_vec()).ok()?, Seq::from_raw(u64::from_le_bytes(raw))))
}

#[cfg(test)]
mod tests {
    use undine_schema::Incarnation;

    use super::*;

    #[test]
    fn what_was_noted_is_read_back_without_a_sync() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("allocated");
        assert!(Allocated::read(&path).unwrap().is_empty());
        let mut page = Allocated::create(&path, ["a", "stack_traces.beta"].into_iter()).unwrap();
        let last = Seq::new(Incarnation::new(3), 77);
        page.set(1, last);
        let read = Allocated::read(&path).unwrap();
        assert_eq!(read["a"], Seq::ZERO);
        assert_eq!(read["stack_traces.beta"], last);
    }
}
