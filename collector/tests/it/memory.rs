//! A store that keeps batches in memory, and ways to look into them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::time::Duration;

use arrow::array::{
    Array, BooleanArray, FixedSizeBinaryArray, Int64Array, RecordBatch, StringArray,
};
use undine_schema::{Append, AppendError, Frame, Pending, Upid};

#[derive(Debug, Default)]
pub(crate) struct Memory {
    tables: Mutex<HashMap<&'static str, Vec<RecordBatch>>>,
    full: Mutex<bool>,
}

impl Append for Memory {
    fn append(&self, frame: Frame) -> Result<Pending, AppendError> {
        if *self.full.lock().unwrap() {
            return Err(AppendError::Full { retry_after: Duration::from_millis(1) });
        }
        let mut tables = self.tables.lock().unwrap();
        for part in frame.parts {
            assert_eq!(part.rows.schema(), part.table.arrow_schema());
            tables.entry(part.table.name).or_default().push(part.rows);
        }
        Ok(Pending::new(Vec::new(), std::future::ready(Ok(()))))
    }
}

impl Memory {
    pub(crate) fn set_full(&self, full: bool) {
        *self.full.lock().unwrap() = full;
    }

    /// What `show` makes of each table, in the order of their names.
    pub(crate) fn with_tables(&self, show: impl Fn(&str, &[RecordBatch]) -> Vec<String>) -> String {
        let tables = self.tables.lock().unwrap();
        let tables: BTreeMap<_, _> = tables.iter().collect();
        tables.into_iter().flat_map(|(table, batches)| show(table, batches)).collect()
    }

    /// Each row of a table as its values in `columns`.
    pub(crate) fn rows(&self, table: &str, columns: &[&str]) -> Vec<Vec<String>> {
        let tables = self.tables.lock().unwrap();
        let mut rows = Vec::new();
        for batch in tables.get(table).into_iter().flatten() {
            for row in 0..batch.num_rows() {
                let cell = |column: &&str| {
                    let array = batch.column_by_name(column).unwrap().as_any();
                    if let Some(upids) = array.downcast_ref::<FixedSizeBinaryArray>() {
                        return Upid::from_bytes(upids.value(row).try_into().unwrap()).to_string();
                    }
                    if let Some(texts) = array.downcast_ref::<StringArray>() {
                        texts.value(row).to_owned()
                    } else if let Some(flags) = array.downcast_ref::<BooleanArray>() {
                        flags.value(row).to_string()
                    } else {
                        array.downcast_ref::<Int64Array>().unwrap().value(row).to_string()
                    }
                };
                rows.push(columns.iter().map(cell).collect());
            }
        }
        rows
    }

    pub(crate) fn sum(&self, table: &str, column: &str) -> u64 {
        self.rows(table, &[column]).iter().map(|row| row[0].parse::<u64>().unwrap()).sum()
    }
}
