//! A capture on disk: kernel messages, and what else the pipeline was told, in order.
//!
//! ```text
//! magic 8 │ format u32 │ abi u32 │ wall − mono i64 │ node length u32 │ node │ crc u32
//! then entries: length u32 │ crc u32 │ kind u8 │ payload
//! ```
//! With [`Content::Full`] it holds what was captured as it was, before any redaction: passwords, bodies,
//! command lines. With [`Content::Masked`] it holds how things were said, but not what: the same requests,
//! sizes and times come of it. Either way only the user as whom Undine runs may read the file.
//!
//! All numbers are little endian; a checksum covers everything before it, or kind and payload. A
//! file that was cut or damaged is read up to there, and the error names the offset.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use undine_ebpf::ABI_VERSION;

use crate::event::ProcessKey;
use crate::loss::KernelTotals;
use crate::mask::Masking;
use crate::process::Facts;

const MAGIC: [u8; 8] = *b"UNDINE\x1aR";
/// Version of the file's layout.
pub const FORMAT_VERSION: u32 = 2;
/// Most bytes of a recording; what comes later is counted, not written.
pub const RECORDING_BYTES_MAX: u64 = 4 << 30;
/// Most bytes of an entry.
const ENTRY_BYTES_MAX: usize = 64 * 1024;
/// Most bytes of a node's name.
const NODE_BYTES_MAX: usize = 1024;

/// Rights to a recording.
const PRIVATE: u32 = 0o600;

pub(crate) const KIND_MESSAGE: u8 = 1;
const KIND_PROCESS: u8 = 2;
const KIND_KERNEL: u8 = 3;

/// Why a recording cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The file cannot be created.
    #[error("cannot create the recording {path}")]
    Create {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file cannot be opened.
    #[error("cannot open the recording {path}")]
    Open {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is something else.
    #[error("{path} is no recording of Undine's")]
    NotARecording {
        /// Where.
        path: PathBuf,
    },
    /// Another version wrote the file.
    #[error(
        "the recording has {what} version {found}, this binary reads version {expected}; record it \
         again"
    )]
    Version {
        /// Which version.
        what: &'static str,
        /// The one in the file.
        found: u32,
        /// The one that can be read.
        expected: u32,
    },
    /// The file ends in the middle of an entry.
    #[error("the recording is cut at offset {offset}; what is before it was read")]
    Cut {
        /// Where the entry starts.
        offset: u64,
    },
    /// The bytes are not those that were written.
    #[error("the recording is damaged at offset {offset}: {what}; what is before it was read")]
    Damaged {
        /// Where the entry starts.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// The disk failed.
    #[error("cannot read the recording at offset {offset}")]
    Read {
        /// Where.
        offset: u64,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The disk failed, or is full.
    #[error("cannot write the recording")]
    Write(#[source] std::io::Error),
}

/// What of the contents is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// All that the kernel sends.
    Full,
    /// Only the structure of what was said, so that the recording can be given away: every byte that may be
    /// content is overwritten, addresses become others of the ranges for documentation, names of processes
    /// and cgroups numbers; arguments and calls of traced functions are left out. A replay gives the same
    /// requests with the same commands, statuses, sizes and times.
    ///
    /// What cannot be told apart is left out, so that requests may be missing in a replay: protocols that
    /// are not known, what follows where bytes were not captured, messages of more than 128 KiB of which
    /// all is needed, CQL's compressed segments. A compressed message of MongoDB is one of no known
    /// command. Parameters of a statement, fields and headers that are not known lose their names too.
    Masked,
}

/// Where to record, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The file.
    pub path: PathBuf,
    /// What of the contents goes into it.
    pub content: Content,
}

impl Config {
    /// All that the kernel sends, in the file at `path`.
    pub fn full(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), content: Content::Full }
    }
}

/// What a recording says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordingHeader {
    /// Nanoseconds to add to the monotonic clock to get wall-clock time.
    pub wall_minus_mono_ns: i64,
    /// The node's name.
    pub node: String,
}

/// An entry of a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// A kernel message.
    Message(&'a [u8]),
    /// What was found out about a process.
    Process(ProcessKey, Facts),
    /// The kernel's counters at that moment.
    Kernel(KernelTotals),
}

#[derive(Serialize, Deserialize)]
struct ProcessEntry {
    tgid: u32,
    start_ns: u64,
    facts: Facts,
}

/// Writes a recording.
#[derive(Debug)]
pub struct Recorder {
    file: BufWriter<File>,
    bytes: u64,
    skipped: u64,
    masking: Option<Box<Masking>>,
}

/// What a recording without contents says the node is called.
const MASKED_NODE: &str = "node";

impl Recorder {
    /// Creates the file, or empties it, for its owner alone.
    ///
    /// # Errors
    /// Where the disk does not let it.
    pub fn create(config: &Config, header: &RecordingHeader) -> Result<Self, RecordingError> {
        let path = config.path.as_path();
        let masking = (config.content == Content::Masked).then(Box::default);
        let file = create_private(path)
            .map_err(|source| RecordingError::Create { path: path.to_owned(), source })?;
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&ABI_VERSION.to_le_bytes());
        bytes.extend_from_slice(&header.wall_minus_mono_ns.to_le_bytes());
        let node = if masking.is_some() { MASKED_NODE } else { &header.node };
        let node = &node.as_bytes()[..node.len().min(NODE_BYTES_MAX)];
        bytes.extend_from_slice(&length(node).to_le_bytes());
        bytes.extend_from_slice(node);
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        let mut file = BufWriter::with_capacity(1 << 20, file);
        file.write_all(&bytes).map_err(RecordingError::Write)?;
        Ok(Self { file, bytes: bytes.len() as u64, skipped: 0, masking })
    }

    /// Adds a kernel message.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn message(&mut self, message: &[u8]) -> Result<(), RecordingError> {
        let Some(masking) = &mut self.masking else { return self.entry(KIND_MESSAGE, message) };
        masking.message(message);
        self.write_decided()
    }

    /// Adds what was found out about a process; before the first message of it.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn process(&mut self, key: ProcessKey, facts: &Facts) -> Result<(), RecordingError> {
        let facts =
            self.masking.as_mut().map_or_else(|| facts.clone(), |masking| masking.facts(facts));
        let entry = ProcessEntry { tgid: key.tgid, start_ns: key.start_ns, facts };
        let json = serde_json::to_vec(&entry)
            .map_err(|error| RecordingError::Write(std::io::Error::other(error)))?;
        self.other(KIND_PROCESS, json)
    }

    /// Adds the kernel's counters.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn kernel(&mut self, totals: &KernelTotals) -> Result<(), RecordingError> {
        let mut bytes = Vec::with_capacity(120);
        for value in [
            totals.attempts,
            totals.dropped,
            totals.dropped_bytes,
            totals.dropped_operations,
            totals.operations,
            totals.operation_bytes,
            totals.dropped_datagrams,
            totals.dropped_datagram_bytes,
            totals.untold_tcp_events,
            totals.shed_operations[0],
            totals.shed_operations[1],
            totals.shed_operations[2],
            totals.shed_bytes,
            totals.unadmitted_operations,
            totals.unadmitted_bytes,
        ] {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        self.other(KIND_KERNEL, bytes)
    }

    /// Hands everything to the disk; of what is not decided yet to be no content, the bytes are left out.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn flush(&mut self) -> Result<(), RecordingError> {
        if let Some(masking) = &mut self.masking {
            masking.settle();
        }
        self.write_decided()?;
        self.file.flush().map_err(RecordingError::Write)
    }

    /// Entries that were not written because the recording is as large as it may be.
    pub const fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Bytes that were left out because it was not known whether they are content; not those that never
    /// were captured.
    pub fn left_out_bytes(&self) -> u64 {
        self.masking.as_ref().map_or(0, |masking| masking.left_out_bytes())
    }

    /// An entry without contents, in its turn.
    fn other(&mut self, kind: u8, payload: Vec<u8>) -> Result<(), RecordingError> {
        let Some(masking) = &mut self.masking else { return self.entry(kind, &payload) };
        masking.other(kind, payload);
        self.write_decided()
    }

    /// Writes what masking has decided about.
    fn write_decided(&mut self) -> Result<(), RecordingError> {
        while let Some((kind, payload)) =
            self.masking.as_mut().and_then(|masking| masking.take_next())
        {
            self.entry(kind, &payload)?;
        }
        Ok(())
    }

    fn entry(&mut self, kind: u8, payload: &[u8]) -> Result<(), RecordingError> {
        let bytes = payload.len() as u64 + 9;
        if self.bytes + bytes > RECORDING_BYTES_MAX || payload.len() >= ENTRY_BYTES_MAX {
            self.skipped += 1;
            return Ok(());
        }
        self.bytes += bytes;
        let mut crc = crc32fast::Hasher::new();
        crc.update(&[kind]);
        crc.update(payload);
        let mut front = [0; 9];
        front[..4].copy_from_slice(&length(payload).to_le_bytes());
        front[4..8].copy_from_slice(&crc.finalize().to_le_bytes());
        front[8] = kind;
        self.file.write_all(&front).map_err(RecordingError::Write)?;
        self.file.write_all(payload).map_err(RecordingError::Write)
    }
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

/// Reads a recording.
#[derive(Debug)]
pub struct Replayer {
    file: BufReader<File>,
    header: RecordingHeader,
    offset: u64,
    payload: Vec<u8>,
}

impl Replayer {
    /// Opens the recording at `path`.
    ///
    /// # Errors
    /// Where it is none, or one of another version.
    pub fn open(path: &Path) -> Result<Self, RecordingError> {
        let file = File::open(path)
            .map_err(|source| RecordingError::Open { path: path.to_owned(), source })?;
        let mut file = BufReader::with_capacity(1 << 20, file);
        let mut fixed = [0; 28];
        if read_whole(&mut file, &mut fixed, 0)? != fixed.len() || fixed[..8] != MAGIC {
            return Err(RecordingError::NotARecording { path: path.to_owned() });
        }
        let word = |at: usize| {
            u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]])
        };
        for (what, found, expected) in
            [("format", word(8), FORMAT_VERSION), ("message", word(12), ABI_VERSION)]
        {
            if found != expected {
                return Err(RecordingError::Version { what, found, expected });
            }
        }
        let mut wall = [0; 8];
        wall.copy_from_slice(&fixed[16..24]);
        let node_bytes = word(24) as usize;
        if node_bytes > NODE_BYTES_MAX {
            return Err(RecordingError::Damaged { offset: 24, what: "the name is too long" });
        }
        let mut rest = vec![0; node_bytes + 4];
        if read_whole(&mut file, &mut rest, 28)? != rest.len() {
            return Err(RecordingError::Cut { offset: 28 });
        }
        let (node, crc) = rest.split_at(node_bytes);
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&fixed);
        hasher.update(node);
        if hasher.finalize().to_le_bytes() != crc {
            return Err(RecordingError::Damaged { offset: 0, what: "the checksum is wrong" });
        }
        let header = RecordingHeader {
            wall_minus_mono_ns: i64::from_le_bytes(wall),
            node: String::from_utf8_lossy(node).into_owned(),
        };
        let offset = (fixed.len() + rest.len()) as u64;
        Ok(Self { file, header, offset, payload: Vec::new() })
    }

    /// What the recording says of itself.
    pub const fn header(&self) -> &RecordingHeader {
        &self.header
    }

    /// The next entry; `None` at the end.
    ///
    /// # Errors
    /// Where the file is cut or damaged; it names the offset.
    pub fn next_entry(&mut self) -> Result<Option<Entry<'_>>, RecordingError> {
        let offset = self.offset;
        let mut front = [0; 9];
        match read_whole(&mut self.file, &mut front, offset)? {
            0 => return Ok(None),
            9 => {}
            _ => return Err(RecordingError::Cut { offset }),
        }
        let bytes = u32::from_le_bytes([front[0], front[1], front[2], front[3]]) as usize;
        if bytes >= ENTRY_BYTES_MAX {
            return Err(RecordingError::Damaged { offset, what: "an entry is too long" });
        }
        self.payload.resize(bytes, 0);
        if read_whole(&mut self.file, &mut self.payload, offset)? != bytes {
            return Err(RecordingError::Cut { offset });
        }
        let mut crc = crc32fast::Hasher::new();
        crc.update(&front[8..]);
        crc.update(&self.payload);
        if crc.finalize().to_le_bytes() != front[4..8] {
            return Err(RecordingError::Damaged { offset, what: "a checksum is wrong" });
        }
        self.offset += 9 + bytes as u64;
        parse(front[8], &self.payload)
            .map(Some)
            .ok_or(RecordingError::Damaged { offset, what: "an entry makes no sense" })
    }
}

/// Creates or empties a file that only its owner may read, also where it was there for others.
fn create_private(path: &Path) -> std::io::Result<File> {
    let mut options = File::options();
    let file = options.write(true).create(true).truncate(true).mode(PRIVATE).open(path)?;
    // A device, such as /dev/null, stays as it is.
    if file.metadata()?.is_file() {
        file.set_permissions(std::fs::Permissions::from_mode(PRIVATE))?;
    }
    Ok(file)
}

fn parse(kind: u8, payload: &[u8]) -> Option<Entry<'_>> {
    match kind {
        KIND_MESSAGE => Some(Entry::Message(payload)),
        KIND_PROCESS => {
            let entry: ProcessEntry = serde_json::from_slice(payload).ok()?;
            let key = ProcessKey { tgid: entry.tgid, start_ns: entry.start_ns };
            Some(Entry::Process(key, entry.facts))
        }
        KIND_KERNEL => {
            let (words, []) = payload.as_chunks::<8>() else { return None };
            let mut words = words.iter().map(|word| u64::from_le_bytes(*word));
            Some(Entry::Kernel(KernelTotals {
                attempts: words.next()?,
                dropped: words.next()?,
                dropped_bytes: words.next()?,
                dropped_operations: words.next()?,
                operations: words.next()?,
                operation_bytes: words.next()?,
                dropped_datagrams: words.next()?,
                dropped_datagram_bytes: words.next()?,
                // Older recordings have none of these.
                untold_tcp_events: words.next().unwrap_or_default(),
                shed_operations: [(); 3].map(|()| words.next().unwrap_or_default()),
                shed_bytes: words.next().unwrap_or_default(),
                unadmitted_operations: words.next().unwrap_or_default(),
                unadmitted_bytes: words.next().unwrap_or_default(),
            }))
        }
        _ => None,
    }
}

/// Fills `buffer` as far as the file goes; how far that is.
fn read_whole(
    file: &mut BufReader<File>,
    buffer: &mut [u8],
    offset: u64,
) -> Result<usize, RecordingError> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read(&mut buffer[read..]) {
            Ok(0) => break,
            Ok(bytes) => read += bytes,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(source) => return Err(RecordingError::Read { offset, source }),
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path) {
        let header = RecordingHeader { wall_minus_mono_ns: -5, node: "knot".to_owned() };
        let mut recorder = Recorder::create(&Config::full(path), &header).unwrap();
        let facts = Facts { exe: "/bin/a".to_owned(), ..Facts::default() };
        recorder.process(ProcessKey { tgid: 1, start_ns: 2 }, &facts).unwrap();
        recorder.message(b"first").unwrap();
        recorder.message(b"").unwrap();
        recorder.kernel(&KernelTotals { dropped: 7, ..KernelTotals::default() }).unwrap();
        recorder.flush().unwrap();
    }

    fn read(path: &Path) -> (Vec<String>, Option<RecordingError>) {
        let mut replayer = match Replayer::open(path) {
            Ok(replayer) => replayer,
            Err(error) => return (Vec::new(), Some(error)),
        };
        let mut entries = Vec::new();
        loop {
            match replayer.next_entry() {
                Ok(Some(entry)) => entries.push(format!("{entry:?}")),
                Ok(None) => return (entries, None),
                Err(error) => return (entries, Some(error)),
            }
        }
    }

    #[test]
    fn what_is_recorded_is_what_is_replayed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.undine");
        write(&path);
        let (entries, error) = read(&path);
        assert!(error.is_none());
        assert_eq!(entries.len(), 4);
        assert!(entries[0].contains("/bin/a"));
        assert_eq!(entries[1], "Message([102, 105, 114, 115, 116])");
        let header = Replayer::open(&path).unwrap().header().clone();
        assert_eq!((header.wall_minus_mono_ns, header.node.as_str()), (-5, "knot"));
    }

    #[test]
    fn only_its_owner_may_read_a_recording() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.undine");
        let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        write(&path);
        assert_eq!(mode(), 0o600);
        // One that was there, too.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        write(&path);
        assert_eq!(mode(), 0o600);
        let other = RecordingHeader { wall_minus_mono_ns: 0, node: String::new() };
        assert!(Recorder::create(&Config::full("/dev/null"), &other).is_ok());
        let null = std::fs::metadata("/dev/null").unwrap();
        assert_eq!(null.permissions().mode() & 0o777, 0o666);
    }

    #[test]
    fn a_recording_cut_anywhere_is_read_up_to_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.undine");
        write(&path);
        let whole = std::fs::read(&path).unwrap();
        let mut complete = 0;
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let (entries, error) = read(&path);
            complete += usize::from(error.is_none());
            if let Some(error) = error {
                assert!(
                    matches!(
                        error,
                        RecordingError::Cut { .. } | RecordingError::NotARecording { .. }
                    ),
                    "{cut}: {error}"
                );
            }
            assert!(entries.len() < 4);
        }
        assert_eq!(complete, 4, "only cuts between entries look complete");
    }

    #[test]
    fn a_damaged_byte_is_found_and_its_offset_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.undine");
        write(&path);
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x40;
            std::fs::write(&path, &damaged).unwrap();
            let (_, error) = read(&path);
            assert!(error.is_some(), "byte {at}");
        }
        let mut damaged = whole;
        let last = damaged.len() - 1;
        damaged[last] ^= 1;
        std::fs::write(&path, &damaged).unwrap();
        let (entries, error) = read(&path);
        assert_eq!(entries.len(), 3);
        assert!(error.unwrap().to_string().contains("offset"));
    }
}
