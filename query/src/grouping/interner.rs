//! Numbers for values, in the order in which they first come.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, FixedSizeBinaryBuilder, Int64Array, StringBuilder,
};
use arrow::datatypes::{DataType, Int32Type, Int64Type};
use datafusion::common::{Result, exec_datafusion_err, exec_err, internal_err};

/// Number of a value that has none yet.
const NONE: u32 = u32::MAX;
/// Slots of a new table.
const SLOTS_MIN: usize = 64;
/// Integers that are looked at together.
const RUN: usize = 64;
/// Halves of which the last pair is kept.
const HALVES_MAX: usize = 16 * 1024;

/// Numbers the values of one key.
#[derive(Debug, Default)]
pub(super) struct Interner {
    integers: Integers,
    texts: Texts,
    null: Option<u32>,
    kinds: Vec<Kind>,
    /// The dictionary that was seen last, and the number of each of its values.
    dictionary: Option<(ArrayRef, Vec<u32>)>,
}

/// Where the value of a number is.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Null,
    Integer(i64),
    Text(u32),
}

impl Interner {
    /// Whether keys of type `given` can be numbered and given back as `wanted`.
    pub(super) fn supports(given: &DataType, wanted: &DataType) -> bool {
        match given {
            DataType::Dictionary(key, value) => {
                **key == DataType::Int32 && **value == DataType::Utf8 && *wanted == DataType::Utf8
            }
            DataType::Utf8 | DataType::Int64 | DataType::Boolean => given == wanted,
            DataType::FixedSizeBinary(width) => *width > 0 && given == wanted,
            _ => false,
        }
    }

    /// How many values have numbers.
    pub(super) fn len(&self) -> usize {
        self.kinds.len()
    }

    /// Puts the number of each value into `numbers`.
    pub(super) fn number(&mut self, values: &ArrayRef, numbers: &mut Vec<u32>) -> Result<()> {
        numbers.clear();
        numbers.reserve(values.len());
        let has_nulls = values.null_count() > 0;
        let is_null = |row: usize| has_nulls && values.is_null(row);
        match values.data_type() {
            DataType::Int64 => {
                let integers = values.as_primitive::<Int64Type>().values();
                if has_nulls {
                    for (row, &integer) in integers.iter().enumerate() {
                        let is_null = values.is_null(row);
                        numbers.push(if is_null { self.null()? } else { self.integer(integer)? });
                    }
                } else {
                    self.number_integers(integers, numbers)?;
                }
            }
            DataType::Boolean => {
                let booleans = values.as_boolean();
                for row in 0..values.len() {
                    let number = if is_null(row) {
                        self.null()?
                    } else {
                        self.integer(i64::from(booleans.value(row)))?
                    };
                    numbers.push(number);
                }
            }
            DataType::Utf8 => {
                let texts = values.as_string::<i32>();
                for row in 0..values.len() {
                    let number = if is_null(row) {
                        self.null()?
                    } else {
                        self.text(texts.value(row).as_bytes())?
                    };
                    numbers.push(number);
                }
            }
            DataType::FixedSizeBinary(_) => {
                let bytes = values.as_fixed_size_binary();
                for row in 0..values.len() {
                    let number =
                        if is_null(row) { self.null()? } else { self.text(bytes.value(row))? };
                    numbers.push(number);
                }
            }
            DataType::Dictionary(..) => self.number_dictionary(values, numbers)?,
            other => return internal_err!("{other} is no key"),
        }
        Ok(())
    }

    /// Integers of which neighbours are mostly the same, as times in windows are.
    fn number_integers(&mut self, integers: &[i64], numbers: &mut Vec<u32>) -> Result<()> {
        for run in integers.chunks(RUN) {
            let first = run[0];
            let number = self.integer(first)?;
            // Without a way out in between, it is a comparison of many at a time.
            if run.iter().fold(0, |differ, integer| differ | (integer ^ first)) == 0 {
                numbers.extend(std::iter::repeat_n(number, run.len()));
                continue;
            }
            let mut last = (first, number);
            for &integer in run {
                if integer != last.0 {
                    last = (integer, self.integer(integer)?);
                }
                numbers.push(last.1);
            }
        }
        Ok(())
    }

    fn number_dictionary(&mut self, values: &ArrayRef, numbers: &mut Vec<u32>) -> Result<()> {
        let dictionary = values.as_dictionary::<Int32Type>();
        let texts = dictionary.values();
        let known = self.dictionary.take().filter(|(known, _)| is_same(known, texts));
        let (texts, mut known) =
            known.unwrap_or_else(|| (Arc::clone(texts), vec![NONE; texts.len()]));
        let strings = texts.as_string::<i32>();
        let keys = dictionary.keys();
        let place = |key: i32| usize::try_from(key).unwrap_or(usize::MAX);
        let number = |&key: &i32| known.get(place(key)).copied().unwrap_or(NONE);
        numbers.extend(keys.values().iter().map(number));
        let has_nulls = keys.null_count() > 0;
        if has_nulls || numbers.contains(&NONE) {
            for (row, number) in numbers.iter_mut().enumerate() {
                let at = place(keys.value(row));
                let is_null = has_nulls && keys.is_null(row);
                if is_null || at >= strings.len() || strings.is_null(at) {
                    *number = self.null()?;
                } else if *number == NONE {
                    if known[at] == NONE {
                        known[at] = self.text(strings.value(at).as_bytes())?;
                    }
                    *number = known[at];
                }
            }
        }
        self.dictionary = Some((texts, known));
        Ok(())
    }

    fn null(&mut self) -> Result<u32> {
        if self.null.is_none() {
            self.null = Some(self.add(Kind::Null)?);
        }
        Ok(self.null.unwrap_or(0))
    }

    #[inline]
    fn integer(&mut self, integer: i64) -> Result<u32> {
        match self.integers.find(integer) {
            Ok(number) => Ok(number),
            Err(slot) => {
                let number = self.add(Kind::Integer(integer))?;
                self.integers.insert(slot, integer, number);
                Ok(number)
            }
        }
    }

    #[inline]
    fn text(&mut self, text: &[u8]) -> Result<u32> {
        let hash = self.texts.hash(text);
        match self.texts.find(hash, text) {
            Ok(number) => Ok(number),
            Err(slot) => {
                let number = self.add(Kind::Text(self.texts.next()?))?;
                self.texts.insert(slot, hash, text, number);
                Ok(number)
            }
        }
    }

    fn add(&mut self, kind: Kind) -> Result<u32> {
        let number = u32::try_from(self.kinds.len()).ok().filter(|&number| number != NONE);
        let number = number.ok_or_else(|| exec_datafusion_err!("there are too many groups"))?;
        self.kinds.push(kind);
        Ok(number)
    }

    /// The values of `numbers`.
    pub(super) fn values(&self, numbers: &[u32], wanted: &DataType) -> Result<ArrayRef> {
        let kinds = numbers.iter().map(|&number| self.kinds[number as usize]);
        let integer = |kind| if let Kind::Integer(integer) = kind { Some(integer) } else { None };
        let bytes = |kind| if let Kind::Text(at) = kind { Some(self.texts.get(at)) } else { None };
        Ok(match wanted {
            DataType::Int64 => Arc::new(kinds.map(integer).collect::<Int64Array>()),
            DataType::Boolean => {
                Arc::new(kinds.map(|kind| integer(kind).map(|i| i != 0)).collect::<BooleanArray>())
            }
            DataType::Utf8 => {
                let mut texts = StringBuilder::with_capacity(numbers.len(), numbers.len() * 16);
                for kind in kinds {
                    let text = bytes(kind).map(str::from_utf8).transpose();
                    texts.append_option(
                        text.map_err(|_broken| exec_datafusion_err!("a key is no text"))?,
                    );
                }
                Arc::new(texts.finish())
            }
            DataType::FixedSizeBinary(width) => {
                let mut all = FixedSizeBinaryBuilder::with_capacity(numbers.len(), *width);
                for kind in kinds {
                    match bytes(kind) {
                        Some(bytes) => all.append_value(bytes)?,
                        None => all.append_null(),
                    }
                }
                Arc::new(all.finish())
            }
            other => return exec_err!("{other} is no key"),
        })
    }

    /// Memory that it takes.
    pub(super) fn size(&self) -> usize {
        let dictionary = self.dictionary.as_ref().map_or(0, |(_, known)| known.len() * 4);
        self.kinds.capacity() * size_of::<Kind>()
            + self.integers.slots.len() * size_of::<(i64, u32)>()
            + self.texts.slots.len() * size_of::<(u64, u32, u32)>()
            + self.texts.bytes.capacity()
            + self.texts.ends.capacity() * size_of::<usize>()
            + dictionary
    }
}

/// Whether two dictionaries are one and the same array.
fn is_same(a: &ArrayRef, b: &ArrayRef) -> bool {
    Arc::ptr_eq(a, b) || {
        let (a, b) = (a.as_string::<i32>(), b.as_string::<i32>());
        a.len() == b.len()
            && a.value_offsets().as_ptr() == b.value_offsets().as_ptr()
            && a.value_data().as_ptr() == b.value_data().as_ptr()
    }
}

/// Numbers of integers; open addressing, at most half full.
#[derive(Debug, Default)]
struct Integers {
    slots: Vec<(i64, u32)>,
    count: usize,
}

impl Integers {
    /// The number, or the slot where it belongs.
    #[inline]
    fn find(&mut self, integer: i64) -> Result<u32, usize> {
        if self.count * 2 >= self.slots.len() {
            self.grow();
        }
        let mask = self.slots.len() - 1;
        let mut slot = start(integer.cast_unsigned(), mask);
        loop {
            let (other, number) = self.slots[slot];
            if number == NONE {
                return Err(slot);
            }
            if other == integer {
                return Ok(number);
            }
            slot = (slot + 1) & mask;
        }
    }

    fn insert(&mut self, slot: usize, integer: i64, number: u32) {
        self.slots[slot] = (integer, number);
        self.count += 1;
    }

    #[cold]
    fn grow(&mut self) {
        let slots = (self.slots.len() * 2).max(SLOTS_MIN);
        let old = std::mem::replace(&mut self.slots, vec![(0, NONE); slots]);
        for (integer, number) in old.into_iter().filter(|&(_, number)| number != NONE) {
            let mut slot = start(integer.cast_unsigned(), slots - 1);
            while self.slots[slot].1 != NONE {
                slot = (slot + 1) & (slots - 1);
            }
            self.slots[slot] = (integer, number);
        }
    }
}

/// Numbers of texts; open addressing, at most half full.
#[derive(Debug)]
struct Texts {
    /// Hash, place in `ends`, number.
    slots: Vec<(u64, u32, u32)>,
    bytes: Vec<u8>,
    ends: Vec<usize>,
    seed: u64,
}

impl Default for Texts {
    fn default() -> Self {
        // Which texts collide is not for those who choose the texts.
        let seed = RandomState::new().build_hasher().finish();
        Self { slots: Vec::new(), bytes: Vec::new(), ends: Vec::new(), seed }
    }
}

impl Texts {
    #[inline]
    fn hash(&self, text: &[u8]) -> u64 {
        let (chunks, rest) = text.as_chunks::<8>();
        let mut hash = self.seed ^ text.len() as u64;
        for chunk in chunks {
            hash = folded(hash ^ u64::from_le_bytes(*chunk));
        }
        if !rest.is_empty() {
            let last = match text.last_chunk::<8>() {
                Some(last) => u64::from_le_bytes(*last),
                None => rest.iter().fold(0, |all, &byte| all << 8 | u64::from(byte)),
            };
            hash = folded(hash ^ last);
        }
        hash
    }

    /// The number, or the slot where it belongs.
    #[inline]
    fn find(&mut self, hash: u64, text: &[u8]) -> Result<u32, usize> {
        if self.ends.len() * 2 >= self.slots.len() {
            self.grow();
        }
        let mask = self.slots.len() - 1;
        let mut slot = start(hash, mask);
        loop {
            let (other, at, number) = self.slots[slot];
            if number == NONE {
                return Err(slot);
            }
            if other == hash && is_equal(self.get(at), text) {
                return Ok(number);
            }
            slot = (slot + 1) & mask;
        }
    }

    /// The place of the next text.
    fn next(&self) -> Result<u32> {
        u32::try_from(self.ends.len())
            .map_err(|_more| exec_datafusion_err!("there are too many keys"))
    }

    fn insert(&mut self, slot: usize, hash: u64, text: &[u8], number: u32) {
        let at = u32::try_from(self.ends.len()).unwrap_or(NONE);
        self.bytes.extend_from_slice(text);
        self.ends.push(self.bytes.len());
        self.slots[slot] = (hash, at, number);
    }

    fn get(&self, at: u32) -> &[u8] {
        let at = at as usize;
        let from = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.bytes[from..self.ends[at]]
    }

    #[cold]
    fn grow(&mut self) {
        let slots = (self.slots.len() * 2).max(SLOTS_MIN);
        let old = std::mem::replace(&mut self.slots, vec![(0, 0, NONE); slots]);
        for entry in old.into_iter().filter(|&(.., number)| number != NONE) {
            let mut slot = start(entry.0, slots - 1);
            while self.slots[slot].2 != NONE {
                slot = (slot + 1) & (slots - 1);
            }
            self.slots[slot] = entry;
        }
    }
}

/// Empty texts may point nowhere, and to compare what is there takes some processors long (see
/// `recent_texts` of the store).
#[inline]
fn is_equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && (a.is_empty() || a == b)
}

/// Numbers of pairs of numbers.
#[derive(Debug, Default)]
pub(super) struct Pairs {
    /// Both halves by number.
    all: Vec<(u32, u32)>,
    /// Both halves and the number; open addressing, at most half full.
    slots: Vec<(u64, u32)>,
    last: LastPairs,
}

/// Of each first half the pair that came last: of two keys one is mostly a time, which stays the
/// same for long, and then a look here finds the number.
#[derive(Debug, Default)]
struct LastPairs {
    /// The other half and the number, by the half that changes.
    by_half: Vec<(u32, u32)>,
    /// Whether that is the second half.
    by_second: bool,
    misses: usize,
}

impl Pairs {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Replaces each first half by the number of the pair.
    pub(super) fn pair(&mut self, first: &mut [u32], second: &[u32]) -> Result<()> {
        self.last.misses = 0;
        for (first, &second) in first.iter_mut().zip(second) {
            *first = if let Some(number) = self.last.find(*first, second) {
                number
            } else {
                let number = self.number(*first, second)?;
                self.last.keep(*first, second, number);
                number
            };
        }
        if self.last.misses * 2 > second.len() {
            self.last.by_second = !self.last.by_second;
            self.last.by_half.clear();
        }
        Ok(())
    }

    #[inline]
    fn number(&mut self, first: u32, second: u32) -> Result<u32> {
        if self.all.len() * 2 >= self.slots.len() {
            self.grow();
        }
        let pair = u64::from(first) << 32 | u64::from(second);
        let mask = self.slots.len() - 1;
        let mut slot = start(pair, mask);
        loop {
            let (other, number) = self.slots[slot];
            if number == NONE {
                break;
            }
            if other == pair {
                return Ok(number);
            }
            slot = (slot + 1) & mask;
        }
        let number = u32::try_from(self.all.len()).ok().filter(|&number| number != NONE);
        let number = number.ok_or_else(|| exec_datafusion_err!("there are too many groups"))?;
        self.all.push((first, second));
        self.slots[slot] = (pair, number);
        Ok(number)
    }

    #[cold]
    fn grow(&mut self) {
        let slots = (self.slots.len() * 2).max(SLOTS_MIN);
        self.slots = vec![(0, NONE); slots];
        for (&(first, second), number) in self.all.iter().zip(0..) {
            let pair = u64::from(first) << 32 | u64::from(second);
            let mut slot = start(pair, slots - 1);
            while self.slots[slot].1 != NONE {
                slot = (slot + 1) & (slots - 1);
            }
            self.slots[slot] = (pair, number);
        }
    }

    /// The halves of the pairs with these numbers.
    pub(super) fn halves(&self, numbers: &[u32]) -> (Vec<u32>, Vec<u32>) {
        numbers.iter().map(|&number| self.all[number as usize]).unzip()
    }

    /// Memory that it takes.
    pub(super) fn size(&self) -> usize {
        (self.all.capacity() + self.last.by_half.capacity()) * size_of::<(u32, u32)>()
            + self.slots.len() * size_of::<(u64, u32)>()
    }
}

impl LastPairs {
    #[inline]
    fn find(&self, first: u32, second: u32) -> Option<u32> {
        let (half, other) = if self.by_second { (second, first) } else { (first, second) };
        let &(last, number) = self.by_half.get(half as usize)?;
        (last == other).then_some(number)
    }

    #[inline]
    fn keep(&mut self, first: u32, second: u32, number: u32) {
        self.misses += 1;
        let (half, other) = if self.by_second { (second, first) } else { (first, second) };
        let half = half as usize;
        if half >= self.by_half.len() {
            if half >= HALVES_MAX {
                return;
            }
            self.by_half.resize(half + 1, (NONE, NONE));
        }
        self.by_half[half] = (other, number);
    }
}

/// The slot to look at first.
#[inline]
fn start(key: u64, mask: usize) -> usize {
    usize::try_from(folded(key)).unwrap_or(0) & mask
}

/// A product's halves, folded: each bit of the key reaches each bit of the result.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
fn folded(key: u64) -> u64 {
    let product = u128::from(key ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93_u128;
    (product >> 64) as u64 ^ product as u64
}
