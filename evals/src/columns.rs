//! Cells of an answer, by the names of their columns.

use anyhow::{Context, Result};
use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int64Type};

/// The columns of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Columns<'a>(pub(crate) &'a RecordBatch);

impl<'a> Columns<'a> {
    pub(crate) fn column(self, name: &str) -> Result<&'a ArrayRef> {
        self.0.column_by_name(name).with_context(|| format!("no column {name}"))
    }

    pub(crate) fn number(self, name: &str, row: usize) -> Result<i64> {
        Ok(self.column(name)?.as_primitive::<Int64Type>().value(row))
    }

    pub(crate) fn float(self, name: &str, row: usize) -> Result<f64> {
        Ok(self.column(name)?.as_primitive::<Float64Type>().value(row))
    }

    pub(crate) fn text(self, name: &str, row: usize) -> Result<String> {
        Ok(self.column(name)?.as_string::<i32>().value(row).to_owned())
    }
}
