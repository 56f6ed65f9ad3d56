//! The counters that a Java virtual machine publishes in a file of its own, `hsperfdata`.
//!
//! The file is what `HotSpot` maps into memory and `jstat` reads: a prologue of 32 bytes, then
//! entries with a name and a value each, in the machine's byte order (`perfMemory.hpp` and
//! `perfData.hpp` of `OpenJDK`, version 2.0). It is written by a program that is watched, so nothing
//! in it is believed: every offset is checked, and what does not fit is an error.

use std::collections::BTreeMap;

/// Most bytes of such a file; the machine's default is 32 KiB.
pub(crate) const FILE_BYTES_MAX: u64 = 1 << 20;
/// Most entries that are read; a machine has some hundreds.
const ENTRIES_MAX: u32 = 16 * 1024;

/// What the file begins with, whatever the byte order.
const MAGIC: [u8; 4] = [0xca, 0xfe, 0xc0, 0xc0];
const PROLOGUE_BYTES: usize = 32;
const ENTRY_BYTES: usize = 20;
/// Type of a 64-bit number.
const TYPE_LONG: u8 = b'J';
/// Type of a byte, of which texts are vectors.
const TYPE_BYTE: u8 = b'B';

/// Why bytes are no counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HsperfError {
    /// Something else.
    #[error("the file does not begin as hsperfdata does")]
    Magic,
    /// A version that is not known.
    #[error("the file has a version of hsperfdata other than 2")]
    Version,
    /// An offset or a length leads out of the file, or says too much.
    #[error("an entry of the hsperfdata file does not fit into it")]
    Entry,
}

/// The counters of a machine by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters<'a> {
    longs: BTreeMap<&'a str, i64>,
    texts: BTreeMap<&'a str, &'a str>,
}

/// Heap and collections of a machine, as the table has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Heap {
    pub(crate) young_gc_ns: u64,
    pub(crate) full_gc_ns: u64,
    pub(crate) used_bytes: u64,
    pub(crate) total_bytes: u64,
    pub(crate) max_bytes: u64,
}

/// Numbers of a file in its byte order.
#[derive(Clone, Copy)]
struct Reader<'a> {
    bytes: &'a [u8],
    is_little: bool,
}

impl<'a> Reader<'a> {
    fn array<const N: usize>(self, at: usize) -> Result<[u8; N], HsperfError> {
        let end = at.checked_add(N).ok_or(HsperfError::Entry)?;
        let bytes = self.bytes.get(at..end).ok_or(HsperfError::Entry)?;
        bytes.try_into().or(Err(HsperfError::Entry))
    }

    fn number(self, at: usize) -> Result<u32, HsperfError> {
        let bytes = self.array(at)?;
        Ok(if self.is_little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
    }

    fn offset(self, at: usize) -> Result<usize, HsperfError> {
        usize::try_from(self.number(at)?).or(Err(HsperfError::Entry))
    }

    fn long(self, at: usize) -> Result<i64, HsperfError> {
        let bytes = self.array(at)?;
        Ok(if self.is_little { i64::from_le_bytes(bytes) } else { i64::from_be_bytes(bytes) })
    }

    /// The bytes from `at` to a NUL, but none from `end` on.
    fn text(self, at: usize, end: usize) -> Result<&'a [u8], HsperfError> {
        let bytes = self.bytes.get(at..end).ok_or(HsperfError::Entry)?;
        Ok(bytes.split(|byte| *byte == 0).next().unwrap_or_default())
    }
}

impl<'a> Counters<'a> {
    /// Takes a file apart; `None` where the machine has not made it up yet.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Option<Self>, HsperfError> {
        let prologue = bytes.get(..PROLOGUE_BYTES).ok_or(HsperfError::Magic)?;
        if prologue[..4] != MAGIC {
            return Err(HsperfError::Magic);
        }
        if prologue[5] != 2 {
            return Err(HsperfError::Version);
        }
        if prologue[7] == 0 {
            return Ok(None);
        }
        let reader = Reader { bytes, is_little: prologue[4] == 1 };
        let entries = reader.number(28)?;
        if entries > ENTRIES_MAX {
            return Err(HsperfError::Entry);
        }
        let mut counters = Self::default();
        let mut at = reader.offset(24)?;
        for _ in 0..entries {
            let length = reader.offset(at)?;
            let end = at.checked_add(length).ok_or(HsperfError::Entry)?;
            if length < ENTRY_BYTES || end > bytes.len() {
                return Err(HsperfError::Entry);
            }
            counters.entry(reader, at, end)?;
            at = end;
        }
        Ok(Some(counters))
    }

    /// Takes the entry from `at` to `end`.
    fn entry(&mut self, reader: Reader<'a>, at: usize, end: usize) -> Result<(), HsperfError> {
        let below = |offset: usize| {
            let place = at.checked_add(offset).ok_or(HsperfError::Entry)?;
            if place < end { Ok(place) } else { Err(HsperfError::Entry) }
        };
        let name = reader.text(below(reader.offset(at + 4)?)?, end)?;
        let Ok(name) = std::str::from_utf8(name) else { return Err(HsperfError::Entry) };
        let elements = reader.offset(at + 8)?;
        let [kind] = reader.array(at + 12)?;
        let value = below(reader.offset(at + 16)?)?;
        match (kind, elements) {
            (TYPE_LONG, 0) if value.checked_add(8).is_some_and(|after| after <= end) => {
                self.longs.insert(name, reader.long(value)?);
            }
            (TYPE_LONG, 0) => return Err(HsperfError::Entry),
            (TYPE_BYTE, 1..) => {
                let after = value.checked_add(elements).filter(|after| *after <= end);
                let text = reader.text(value, after.ok_or(HsperfError::Entry)?)?;
                if let Ok(text) = std::str::from_utf8(text) {
                    self.texts.insert(name, text);
                }
            }
            // Types that no machine uses so far.
            _ => {}
        }
        Ok(())
    }

    fn count(&self, name: &str) -> u64 {
        self.longs.get(name).and_then(|value| u64::try_from(*value).ok()).unwrap_or(0)
    }

    fn sum(&self, names: &[&str]) -> u64 {
        names.iter().fold(0, |sum, name| sum.saturating_add(self.count(name)))
    }

    /// A time that is counted in the machine's own ticks, in nanoseconds.
    fn time_ns(&self, name: &str) -> u64 {
        let ticks_per_s = match self.count("sun.os.hrt.frequency") {
            0 => 1_000_000_000,
            frequency => u128::from(frequency),
        };
        let ns = u128::from(self.count(name)) * 1_000_000_000 / ticks_per_s;
        u64::try_from(ns).unwrap_or(u64::MAX)
    }

    /// Heap and collections. The generations of G1 share their room, so it is not added up.
    pub(crate) fn heap(&self) -> Heap {
        let max = ["sun.gc.generation.0.maxCapacity", "sun.gc.generation.1.maxCapacity"];
        let collector = self.texts.get("sun.gc.collector.0.name").copied().unwrap_or_default();
        let max_bytes =
            if collector.starts_with("G1 ") { self.count(max[1]) } else { self.sum(&max) };
        Heap {
            young_gc_ns: self.time_ns("sun.gc.collector.0.time"),
            full_gc_ns: self.time_ns("sun.gc.collector.1.time"),
            used_bytes: self.sum(&[
                "sun.gc.generation.0.space.0.used",
                "sun.gc.generation.0.space.1.used",
                "sun.gc.generation.0.space.2.used",
                "sun.gc.generation.1.space.0.used",
            ]),
            total_bytes: self.sum(&[
                "sun.gc.generation.0.space.0.capacity",
                "sun.gc.generation.0.space.1.capacity",
                "sun.gc.generation.0.space.2.capacity",
                "sun.gc.generation.1.space.0.capacity",
            ]),
            max_bytes,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    enum Value<'a> {
        Long(i64),
        Text(&'a str),
    }
    use Value::{Long, Text};

    /// A file as a machine makes it.
    fn file(entries: &[(&str, Value<'_>)], is_little: bool) -> Vec<u8> {
        let number = |number: usize| {
            let number = u32::try_from(number).unwrap();
            if is_little { number.to_le_bytes() } else { number.to_be_bytes() }
        };
        let mut bytes = MAGIC.to_vec();
        bytes.extend([u8::from(is_little), 2, 0, 1]);
        bytes.extend([0; 16]);
        bytes.extend(number(PROLOGUE_BYTES));
        bytes.extend(number(entries.len()));
        for (name, value) in entries {
            let value_at = (ENTRY_BYTES + name.len() + 1).next_multiple_of(8);
            let (kind, elements, value) = match value {
                Long(long) => {
                    let bytes = if is_little { long.to_le_bytes() } else { long.to_be_bytes() };
                    (TYPE_LONG, 0, bytes.to_vec())
                }
                Text(text) => (TYPE_BYTE, text.len() + 9, [text.as_bytes(), &[0; 9]].concat()),
            };
            let length = (value_at + value.len()).next_multiple_of(8);
            let start = bytes.len();
            bytes.extend(number(length));
            bytes.extend(number(ENTRY_BYTES));
            bytes.extend(number(elements));
            bytes.extend([kind, 1, 1, 3]);
            bytes.extend(number(value_at));
            bytes.extend(name.as_bytes());
            bytes.resize(start + value_at, 0);
            bytes.extend(value);
            bytes.resize(start + length, 0);
        }
        bytes
    }

    /// What `OpenJDK` 17 publishes with its serial collector, and with a slower clock.
    pub(crate) fn golden(is_little: bool) -> Vec<u8> {
        let entries = [
            ("sun.rt._sync_Inflations", Long(5)),
            ("sun.os.hrt.frequency", Long(10_000_000)),
            ("sun.gc.collector.0.name", Text("Serial young collection pauses")),
            ("sun.gc.collector.0.time", Long(2_023_092)),
            ("sun.gc.collector.1.time", Long(1_594_371)),
            ("sun.gc.generation.0.maxCapacity", Long(22_347_776)),
            ("sun.gc.generation.0.space.0.capacity", Long(17_891_328)),
            ("sun.gc.generation.0.space.0.used", Long(356_656)),
            ("sun.gc.generation.0.space.1.capacity", Long(2_228_224)),
            ("sun.gc.generation.0.space.1.used", Long(1)),
            ("sun.gc.generation.0.space.2.capacity", Long(2_228_224)),
            ("sun.gc.generation.0.space.2.used", Long(0)),
            ("sun.gc.generation.1.maxCapacity", Long(44_761_088)),
            ("sun.gc.generation.1.space.0.capacity", Long(44_761_088)),
            ("sun.gc.generation.1.space.0.used", Long(23_146_080)),
        ];
        file(&entries, is_little)
    }

    pub(crate) const GOLDEN: Heap = Heap {
        young_gc_ns: 202_309_200,
        full_gc_ns: 159_437_100,
        used_bytes: 356_656 + 1 + 23_146_080,
        total_bytes: 17_891_328 + 2 * 2_228_224 + 44_761_088,
        max_bytes: 22_347_776 + 44_761_088,
    };

    #[test]
    fn counters_are_read_in_either_byte_order() {
        for is_little in [true, false] {
            let bytes = golden(is_little);
            let counters = Counters::parse(&bytes).unwrap().unwrap();
            assert_eq!(counters.heap(), GOLDEN);
        }
    }

    #[test]
    fn the_shared_room_of_g1_is_counted_once_and_negative_numbers_are_none() {
        let bytes = file(
            &[
                ("sun.gc.collector.0.name", Text("G1 young collection pauses")),
                ("sun.gc.collector.0.time", Long(7)),
                ("sun.gc.generation.0.maxCapacity", Long(67_108_888)),
                ("sun.gc.generation.1.maxCapacity", Long(67_108_872)),
                ("sun.gc.generation.0.space.0.used", Long(-1)),
            ],
            true,
        );
        let heap = Counters::parse(&bytes).unwrap().unwrap().heap();
        // Without a frequency ticks are nanoseconds.
        assert_eq!(heap, Heap { young_gc_ns: 7, max_bytes: 67_108_872, ..Heap::default() });
    }

    #[test]
    fn a_file_that_is_not_ready_is_none_and_another_file_is_an_error() {
        let mut bytes = golden(true);
        bytes[7] = 0;
        assert_eq!(Counters::parse(&bytes), Ok(None));
        bytes[5] = 1;
        assert_eq!(Counters::parse(&bytes), Err(HsperfError::Version));
        assert_eq!(Counters::parse(b"#!/bin/sh"), Err(HsperfError::Magic));
        assert_eq!(Counters::parse(&[0; 64]), Err(HsperfError::Magic));
    }

    #[test]
    fn a_file_that_is_cut_anywhere_is_an_error() {
        let bytes = golden(true);
        for end in 0..bytes.len() {
            assert!(Counters::parse(&bytes[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn offsets_that_lead_out_of_an_entry_are_an_error() {
        let first = PROLOGUE_BYTES;
        for (at, value) in [
            (first, 0_u32),
            (first, 19),
            (first, u32::MAX),
            (first + 4, 4096),
            (first + 4, u32::MAX),
            (first + 16, u32::MAX),
            (first + 16, 60),
            (24, u32::MAX),
            (28, u32::MAX),
            (28, 4000),
        ] {
            let mut bytes = golden(true);
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            assert_eq!(Counters::parse(&bytes), Err(HsperfError::Entry), "{value} at {at}");
        }
    }

    proptest! {
        #[test]
        fn bytes_that_are_changed_anywhere_never_cause_a_panic(
            changes in prop::collection::vec((0_usize..2048, any::<u8>()), 1..16),
            is_little: bool,
        ) {
            let mut bytes = golden(is_little);
            for (at, byte) in changes {
                let length = bytes.len();
                bytes[at % length] = byte;
            }
            if let Ok(Some(counters)) = Counters::parse(&bytes) {
                let heap = counters.heap();
                prop_assert!(heap.used_bytes.checked_add(0).is_some());
            }
        }
    }
}
