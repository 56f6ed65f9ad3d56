//! Any bytes as a recording.
//!
//! The first byte of an input says whether the rest is a file, or its entries: kind u8, length u16,
//! payload. Those are given the checksums that a fuzzer cannot guess. What was read before the first
//! damage is replayed.

use std::io::Write;

use undine_collector::recording::{Entry, FORMAT_VERSION, RecordingError, Replayer};
use undine_ebpf::ABI_VERSION;

use crate::{event, machine};

/// Checks a recording.
///
/// # Panics
/// Where something does not hold.
pub fn check(input: &[u8]) {
    let (kind, rest) = input.split_first().map_or((0, input), |(kind, rest)| (*kind, rest));
    if kind & 1 == 0 {
        replay(rest);
    } else {
        let (entries, file) = framed(rest);
        let read = replay(&file);
        assert!(read <= entries, "{read} entries were read, {entries} were written");
    }
}

/// A file of the entries in `input`, and how many they are.
fn framed(input: &[u8]) -> (usize, Vec<u8>) {
    let mut file = b"UNDINE\x1aR".to_vec();
    file.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    file.extend_from_slice(&ABI_VERSION.to_le_bytes());
    file.extend_from_slice(&5_i64.to_le_bytes());
    file.extend_from_slice(&4_u32.to_le_bytes());
    file.extend_from_slice(b"knot");
    file.extend_from_slice(&crc32fast::hash(&file).to_le_bytes());
    let (mut entries, mut rest) = (0, input);
    while let Some(([kind, low, high], after)) = rest.split_first_chunk::<3>() {
        let length =
            u16::from_le_bytes([*low, *high]).min(u16::try_from(after.len()).unwrap_or(u16::MAX));
        let (payload, after) = after.split_at(usize::from(length));
        rest = after;
        entries += 1;
        let mut crc = crc32fast::Hasher::new();
        crc.update(&[*kind]);
        crc.update(payload);
        file.extend_from_slice(&u32::from(length).to_le_bytes());
        file.extend_from_slice(&crc.finalize().to_le_bytes());
        file.push(*kind);
        file.extend_from_slice(payload);
    }
    (entries, file)
}

/// Replays a file up to its first damage; how many entries that were.
fn replay(file: &[u8]) -> usize {
    let mut on_disk = tempfile::NamedTempFile::new().expect("a file can be made");
    on_disk.write_all(file).expect("and written");
    let mut replayer = match Replayer::open(on_disk.path()) {
        Ok(replayer) => replayer,
        Err(error) => {
            assert!(!matches!(error, RecordingError::Read { .. }), "{error}");
            return 0;
        }
    };
    let mut pipeline = machine::pipeline(false);
    pipeline.set_wall_minus_mono_ns(replayer.header().wall_minus_mono_ns);
    let mut entries = 0;
    loop {
        match replayer.next_entry() {
            Ok(Some(Entry::Message(message))) => {
                let _refused: Result<_, _> = pipeline.message(message);
            }
            Ok(Some(Entry::Process(key, facts))) => pipeline.recorded_facts(key, facts),
            Ok(Some(Entry::Kernel(totals))) => pipeline.kernel(totals),
            Ok(None) => break,
            Err(RecordingError::Cut { offset } | RecordingError::Damaged { offset, .. }) => {
                assert!(offset <= file.len() as u64, "the damage is past the end, at {offset}");
                break;
            }
            Err(error) => panic!("a file in memory cannot be read: {error}"),
        }
        entries += 1;
    }
    event::settle(&mut pipeline, file.len());
    entries
}
