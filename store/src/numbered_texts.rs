//! Texts as numbers, where few of them are different: to sort, to gather and to write a number for each
//! row is much less than to do so with its text.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BinaryArray, DictionaryArray, PrimitiveArray,
    StringArray,
};
use arrow::datatypes::{DataType, Int32Type};
use arrow::error::ArrowError;

use crate::recent_texts::{Numbers, RecentTexts};

/// Different texts; with more, numbers do not pay.
pub(crate) const TEXTS_MAX: usize = 16 * 1024;
/// How many rows have to have each on average, where texts are written once.
const TEXT_ROWS_MIN: usize = 2;
/// Bytes of all different texts.
pub(crate) const TEXTS_BYTES_MAX: usize = 1024 * 1024;

/// The number of each row's text, in the order in which they first come.
#[derive(Debug, Default)]
pub(crate) struct NumberedTexts<'a> {
    pub(crate) numbers: Vec<u32>,
    pub(crate) texts: Vec<&'a [u8]>,
}

/// The texts that have a number.
#[derive(Debug)]
struct Different<'a> {
    texts: Vec<&'a [u8]>,
    known: HashMap<&'a [u8], u32, ahash::RandomState>,
    /// Texts and bytes that may still come.
    room: (usize, usize),
}

impl<'a> Different<'a> {
    fn within(room: (usize, usize)) -> Self {
        Self { texts: Vec::new(), known: HashMap::default(), room }
    }

    fn push(&mut self, text: &'a [u8]) -> Option<u32> {
        let (texts, bytes) = self.room;
        self.room = (texts.checked_sub(1)?, bytes.checked_sub(text.len() + size_of::<u32>())?);
        let number = u32::try_from(self.texts.len()).ok()?;
        self.texts.push(text);
        Some(number)
    }
}

impl<'a> Numbers<'a, [u8]> for Different<'a> {
    fn is(&self, number: u32, text: &[u8]) -> bool {
        self.texts.get(number as usize).is_some_and(|known| *known == text)
    }

    fn number_of(&mut self, text: &'a [u8]) -> Option<u32> {
        if let Some(&number) = self.known.get(text) {
            return Some(number);
        }
        let number = self.push(text)?;
        self.known.insert(text, number);
        Some(number)
    }
}

impl<'a> NumberedTexts<'a> {
    /// The texts, or ids, of columns that are one after the other; none where too many are different, or
    /// where they are neither or hold nulls.
    pub(crate) fn of(columns: &[&'a dyn Array]) -> Option<Self> {
        Self::within((TEXTS_MAX, TEXTS_BYTES_MAX), columns)
    }

    /// The same where the texts come again, so that it takes less to write them once.
    pub(crate) fn of_repeated(columns: &[&'a dyn Array]) -> Option<Self> {
        let rows: usize = columns.iter().map(|column| column.len()).sum();
        Self::within((TEXTS_MAX.min(rows / TEXT_ROWS_MIN), TEXTS_BYTES_MAX), columns)
    }

    /// The same of one column, however many are different.
    pub(crate) fn of_all(column: &'a dyn Array) -> Option<Self> {
        Self::within((usize::MAX, usize::MAX), &[column])
    }

    fn within(room: (usize, usize), columns: &[&'a dyn Array]) -> Option<Self> {
        let rows = columns.iter().map(|column| column.len()).sum();
        let mut numbers = Vec::with_capacity(rows);
        let (mut different, mut recent) = (Different::within(room), RecentTexts::of(rows));
        for column in columns {
            if column.null_count() > 0 {
                return None;
            }
            let rows = 0..column.len();
            match column.data_type() {
                DataType::Utf8 => {
                    let texts = column.as_string::<i32>();
                    let texts = rows.map(|row| texts.value(row).as_bytes());
                    recent.number(texts, &mut different, |number| numbers.push(number))?;
                }
                DataType::Binary => {
                    let ids = column.as_binary::<i32>();
                    let ids = rows.map(|row| ids.value(row));
                    recent.number(ids, &mut different, |number| numbers.push(number))?;
                }
                DataType::FixedSizeBinary(_) => {
                    let ids = column.as_fixed_size_binary();
                    let ids = rows.map(|row| ids.value(row));
                    recent.number(ids, &mut different, |number| numbers.push(number))?;
                }
                DataType::Dictionary(..) if columns.len() == 1 => {
                    return Self::of_dictionary(room, column.as_dictionary_opt()?);
                }
                _ => return None,
            }
        }
        Some(Self { numbers, texts: different.texts })
    }

    /// Those of a dictionary that the rows have.
    fn of_dictionary(room: (usize, usize), rows: &'a DictionaryArray<Int32Type>) -> Option<Self> {
        const NONE: u32 = u32::MAX;
        let values = rows.values();
        let text = |at: usize| match values.data_type() {
            DataType::Utf8 => Some(values.as_string::<i32>().value(at).as_bytes()),
            DataType::Binary => Some(values.as_binary::<i32>().value(at)),
            _ => None,
        };
        let (mut numbers, mut different) =
            (Vec::with_capacity(rows.len()), Different::within(room));
        let mut known = vec![NONE; values.len()];
        for &key in rows.keys().values() {
            let at = usize::try_from(key).ok()?;
            if *known.get(at)? == NONE {
                known[at] = different.push(text(at)?)?;
            }
            numbers.push(known[at]);
        }
        Some(Self { numbers, texts: different.texts })
    }

    /// As an array, of texts or of bytes.
    fn into_array(self, of_texts: bool) -> Result<ArrayRef, ArrowError> {
        let numbers = self.numbers.into_iter().map(u32::cast_signed);
        let numbers = PrimitiveArray::<Int32Type>::from_iter_values(numbers);
        let values: ArrayRef = if of_texts {
            let texts = self.texts.into_iter().map(str::from_utf8);
            let texts = texts.collect::<Result<Vec<_>, _>>();
            let texts = texts.map_err(|error| ArrowError::ParseError(error.to_string()))?;
            Arc::new(StringArray::from_iter_values(texts))
        } else {
            Arc::new(BinaryArray::from_vec(self.texts))
        };
        Ok(Arc::new(DictionaryArray::try_new(numbers, values)?))
    }
}

/// One column of several, as a dictionary where it is of texts or ids of which few are different.
pub(crate) fn joined(columns: &[&dyn Array]) -> Result<ArrayRef, ArrowError> {
    let of_texts = columns.first().is_some_and(|column| *column.data_type() == DataType::Utf8);
    match NumberedTexts::of_repeated(columns) {
        Some(numbered) => numbered.into_array(of_texts),
        None => arrow::compute::concat(columns),
    }
}

/// The type of a column that may be a [`joined`] one, as it is without numbers.
pub(crate) fn plain_type(data_type: &DataType) -> &DataType {
    match data_type {
        DataType::Dictionary(key, value) if **key == Int32Type::DATA_TYPE => value,
        other => other,
    }
}
