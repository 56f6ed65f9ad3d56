//! Reads Arrow columns as the values that the text formats write.

use std::borrow::Cow;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, FixedSizeBinaryArray, Float64Array, Int64Array,
    RecordBatch, StringArray, UInt64Array,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, UInt64Type};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use undine_schema::Upid;
use undine_schema::column::{PXL_TYPE_KEY, SEMANTIC_TYPE_KEY};

/// One value of a table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell<'a> {
    Null,
    Boolean(bool),
    Int(i64),
    Unsigned(u64),
    Float(f64),
    Text(Cow<'a, str>),
}

enum Column {
    Boolean(BooleanArray),
    Int(Int64Array),
    Unsigned(UInt64Array),
    Float(Float64Array),
    Text(StringArray),
    Wide(FixedSizeBinaryArray),
    /// What only SQL can make: timestamps, decimals, lists and the like, shown as Arrow shows them.
    Other(ArrayRef),
}

/// The columns of one batch, ready to be read by row.
pub(crate) struct Cells {
    columns: Vec<Column>,
    rows: usize,
}

impl Cells {
    pub(crate) fn new(batch: &RecordBatch) -> Result<Self, ArrowError> {
        let columns = batch.columns().iter().map(column).collect::<Result<_, _>>()?;
        Ok(Self { columns, rows: batch.num_rows() })
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// The cells of row `at`, which is below [`Self::rows`].
    pub(crate) fn row(&self, at: usize) -> impl Iterator<Item = Result<Cell<'_>, ArrowError>> {
        self.columns.iter().map(move |column| cell(column, at))
    }
}

fn column(array: &ArrayRef) -> Result<Column, ArrowError> {
    use DataType as T;
    Ok(match array.data_type() {
        T::Boolean => Column::Boolean(array.as_boolean().clone()),
        T::Int64 => Column::Int(array.as_primitive::<Int64Type>().clone()),
        T::Int8 | T::Int16 | T::Int32 | T::UInt8 | T::UInt16 | T::UInt32 => {
            Column::Int(cast(array, &T::Int64)?.as_primitive::<Int64Type>().clone())
        }
        T::UInt64 => Column::Unsigned(array.as_primitive::<UInt64Type>().clone()),
        T::Float64 => Column::Float(array.as_primitive::<Float64Type>().clone()),
        T::Float16 | T::Float32 => {
            Column::Float(cast(array, &T::Float64)?.as_primitive::<Float64Type>().clone())
        }
        T::Utf8 => Column::Text(array.as_string::<i32>().clone()),
        T::LargeUtf8 | T::Utf8View => Column::Text(cast(array, &T::Utf8)?.as_string().clone()),
        T::Dictionary(_, values) if **values == T::Utf8 => {
            Column::Text(cast(array, &T::Utf8)?.as_string().clone())
        }
        T::FixedSizeBinary(16) => Column::Wide(array.as_fixed_size_binary().clone()),
        _ => Column::Other(ArrayRef::clone(array)),
    })
}

fn cell(column: &Column, at: usize) -> Result<Cell<'_>, ArrowError> {
    let array: &dyn Array = match column {
        Column::Boolean(values) => values,
        Column::Int(values) => values,
        Column::Unsigned(values) => values,
        Column::Float(values) => values,
        Column::Text(values) => values,
        Column::Wide(values) => values,
        Column::Other(values) => values,
    };
    if array.is_null(at) {
        return Ok(Cell::Null);
    }
    Ok(match column {
        Column::Boolean(values) => Cell::Boolean(values.value(at)),
        Column::Int(values) => Cell::Int(values.value(at)),
        Column::Unsigned(values) => Cell::Unsigned(values.value(at)),
        Column::Float(values) => Cell::Float(values.value(at)),
        Column::Text(values) => Cell::Text(Cow::Borrowed(values.value(at))),
        Column::Wide(values) => {
            let bytes = values.value(at).try_into().unwrap_or_default();
            Cell::Text(Cow::Owned(Upid::from_bytes(bytes).to_string()))
        }
        Column::Other(values) => {
            let shown = ArrayFormatter::try_new(values, &FormatOptions::default())?;
            Cell::Text(Cow::Owned(shown.value(at).try_to_string()?))
        }
    })
}

/// The type of a column as answers name it: `PxL`'s name where it has one, otherwise Arrow's.
pub(crate) fn type_name(field: &Field) -> String {
    if let Some(name) = field.metadata().get(PXL_TYPE_KEY) {
        return name.clone();
    }
    match field.data_type() {
        DataType::Boolean => "BOOLEAN".to_owned(),
        DataType::Int64 => "INT64".to_owned(),
        DataType::Float64 => "FLOAT64".to_owned(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "STRING".to_owned(),
        DataType::FixedSizeBinary(16) => "UINT128".to_owned(),
        other => other.to_string(),
    }
}

/// What a column's values mean, `ST_NONE` where nobody said.
pub(crate) fn semantic_name(field: &Field) -> &str {
    field.metadata().get(SEMANTIC_TYPE_KEY).map_or("ST_NONE", String::as_str)
}
