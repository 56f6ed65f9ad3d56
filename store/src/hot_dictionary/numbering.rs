//! Numbers texts and makes what chunks keep of that; whoever merges is the only one who does.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use undine_schema::column::Role;
use undine_schema::{ColumnDef, PxlType, TableDef};

use super::{ByService, ColumnKeys, Dictionaries, Dictionary, Keys, Numbers};
use crate::recent_texts::{self, RecentTexts};

/// The column by which rows are mostly asked for.
const SERVICE: &str = "service";
/// Texts of one generation of a dictionary.
pub(super) const VALUES_MAX: usize = 16 * 1024;
/// Bytes of the texts of one generation.
const VALUES_BYTES_MAX: usize = 1024 * 1024;
/// Numbers of a chunk that are listed, so that a reader can pass it by.
const DISTINCT_MAX: usize = 64;
/// How often a text of a column on trial has to come on average.
pub(super) const REPEATS_MIN: usize = 16;

/// Numbers the texts of a table. Whoever holds it is the only one who does.
#[derive(Debug)]
pub(crate) struct Numbering {
    columns: Vec<Column>,
    /// Integers that stand side by side for each service: times, dimensions and measures.
    integers: Vec<usize>,
}

#[derive(Debug)]
struct Column {
    /// Its place in the table's schema.
    at: usize,
    /// Whether rows are mostly asked for by it.
    is_service: bool,
    /// Whether it is no dimension, so that its texts have to come again and again to be worth it.
    is_on_trial: bool,
    generation: u64,
    /// Rows that this generation was given to number.
    rows: usize,
    numbers: HashMap<Box<str>, u32, ahash::RandomState>,
    texts: Vec<Box<str>>,
    bytes: usize,
    /// The column is not for numbering: a single chunk filled a whole dictionary, or its texts hardly
    /// come again.
    given_up: bool,
    shown: ArrayRef,
}

impl Numbering {
    pub(crate) fn new(table: &TableDef) -> Self {
        let column = |(at, column): (usize, &ColumnDef)| {
            Column::new(at, column.name == SERVICE, column.role != Role::Dimension)
        };
        let is_integer = |column: &ColumnDef| {
            let integer = matches!(column.pxl_type, PxlType::Int64 | PxlType::Time64Ns);
            integer && column.role != Role::Detail
        };
        let integers = table.columns.iter().enumerate().filter(|(_, column)| is_integer(column));
        Self {
            columns: table.repeated_texts().map(column).collect(),
            integers: integers.map(|(at, _)| at).collect(),
        }
    }

    /// Numbers the texts of a chunk, the new ones after those that are known.
    pub(crate) fn keys_of(&mut self, rows: &RecordBatch) -> Keys {
        let keys = self.columns.iter_mut().filter_map(|column| column.keys_of(rows));
        let columns: Vec<_> = keys.collect();
        let by_service = self.by_service(rows, &columns);
        Keys { columns, by_service }
    }

    fn by_service(&self, rows: &RecordBatch, keys: &[ColumnKeys]) -> Option<ByService> {
        let service = self.columns.iter().find(|column| column.is_service)?;
        let of_service = keys.iter().find(|keys| keys.column == service.at)?;
        let Numbers::Each(numbers) = &of_service.numbers else { return None };
        let distinct = of_service.distinct.as_deref()?;
        let mut by_service = ByService::of(numbers, distinct, service.texts.len())?;
        for &column in &self.integers {
            by_service.add_integers(column, rows);
        }
        for keys in keys {
            if let Numbers::Each(numbers) = &keys.numbers {
                by_service.add_numbers(keys.column, numbers);
            }
        }
        Some(by_service)
    }

    /// The dictionaries as they are now.
    pub(crate) fn dictionaries(&mut self) -> Dictionaries {
        Dictionaries { columns: self.columns.iter_mut().map(Column::dictionary).collect() }
    }

    /// Memory of the dictionaries.
    pub(crate) fn bytes(&self) -> u64 {
        // Each text is kept twice, to be found by and to be shown.
        let bytes = |c: &Column| 2 * c.bytes + c.texts.len() * (size_of::<Box<str>>() * 2 + 8);
        self.columns.iter().map(bytes).sum::<usize>() as u64
    }
}

impl Column {
    fn new(at: usize, is_service: bool, is_on_trial: bool) -> Self {
        Self {
            at,
            is_service,
            is_on_trial,
            generation: 0,
            rows: 0,
            numbers: HashMap::default(),
            texts: Vec::new(),
            bytes: 0,
            given_up: false,
            shown: Arc::new(StringArray::new_null(0)),
        }
    }

    fn keys_of(&mut self, rows: &RecordBatch) -> Option<ColumnKeys> {
        if self.given_up {
            return None;
        }
        let texts = rows.column(self.at).as_string::<i32>();
        let numbers = self.numbers_of(texts).or_else(|| {
            if self.is_on_trial && self.rows < REPEATS_MIN * self.texts.len() {
                return None;
            }
            self.numbers.clear();
            self.texts.clear();
            self.bytes = 0;
            self.rows = 0;
            self.generation += 1;
            self.numbers_of(texts)
        });
        self.rows += texts.len();
        let Some(numbers) = numbers else {
            let next = Self::new(self.at, self.is_service, self.is_on_trial);
            *self = Self { given_up: true, generation: self.generation + 1, ..next };
            return None;
        };
        let distinct = distinct_of(&numbers, self.texts.len());
        let numbers = match distinct.as_deref() {
            Some([number]) => Numbers::All(*number),
            _ => Numbers::Each(numbers.into()),
        };
        Some(ColumnKeys { column: self.at, generation: self.generation, numbers, distinct })
    }

    /// The number of each text, or nothing where the dictionary is full.
    fn numbers_of(&mut self, texts: &StringArray) -> Option<Vec<i32>> {
        let mut numbers = Vec::with_capacity(texts.len());
        RecentTexts::of(texts.len()).number(
            texts.iter().map(Option::unwrap_or_default),
            self,
            |number| numbers.push(number.cast_signed()),
        )?;
        Some(numbers)
    }

    fn dictionary(&mut self) -> Dictionary {
        let shown = self.shown.as_string::<i32>();
        let first =
            self.texts.first().is_none_or(|text| shown.len() > 0 && *shown.value(0) == **text);
        if shown.len() != self.texts.len() || !first {
            self.shown = Arc::new(StringArray::from_iter_values(&self.texts));
        }
        let values = Arc::clone(&self.shown);
        let (column, is_service) = (self.at, self.is_service);
        Dictionary { column, is_service, generation: self.generation, values }
    }
}

impl recent_texts::Numbers<'_, str> for Column {
    fn is(&self, number: u32, text: &str) -> bool {
        self.texts.get(number as usize).is_some_and(|known| **known == *text)
    }

    fn number_of(&mut self, text: &str) -> Option<u32> {
        if let Some(&number) = self.numbers.get(text) {
            return Some(number);
        }
        if self.texts.len() == VALUES_MAX || self.bytes + text.len() > VALUES_BYTES_MAX {
            return None;
        }
        let number = u32::try_from(self.texts.len()).ok()?;
        self.numbers.insert(text.into(), number);
        self.texts.push(text.into());
        self.bytes += text.len();
        Some(number)
    }
}

fn distinct_of(numbers: &[i32], values: usize) -> Option<Box<[i32]>> {
    let mut seen = vec![false; values];
    let mut distinct = Vec::new();
    for &number in numbers {
        let seen = seen.get_mut(usize::try_from(number).ok()?)?;
        if !std::mem::replace(seen, true) {
            if distinct.len() == DISTINCT_MAX {
                return None;
            }
            distinct.push(number);
        }
    }
    Some(distinct.into())
}
