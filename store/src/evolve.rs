//! Rows of an older version as this version keeps them.
//!
//! What the older one did not have reads as its type's zero, as absence does everywhere: a text as
//! empty, a measure as the measure of zeros. A sketch that it did not keep counts no value. Of a
//! measure whose ends or increase it did not keep, the extremes stand for them: the lowest value of
//! a counter is its first and the highest its last wherever it did not restart.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, ListArray, RecordBatch, StringArray,
};
use arrow::array::{new_empty_array, new_null_array};
use arrow::buffer::OffsetBuffer;
use arrow::compute::cast;
use arrow::compute::kernels::numeric::sub_wrapping;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;

/// The rows with the columns of `schema`, in its order.
pub(crate) fn evolve(rows: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    if rows.schema().fields() == schema.fields() {
        return Ok(rows.clone());
    }
    let column = |name: &str, data_type: &DataType| match rows.column_by_name(name) {
        Some(column) => cast(column, data_type),
        None => match stand_in(rows, name)? {
            Some(column) => Ok(column),
            None => zeros(data_type, rows.num_rows()),
        },
    };
    let columns = schema.fields().iter().map(|field| column(field.name(), field.data_type()));
    RecordBatch::try_new(Arc::clone(schema), columns.collect::<Result<_, _>>()?)
}

/// What stands for a state that was not kept.
fn stand_in(rows: &RecordBatch, name: &str) -> Result<Option<ArrayRef>, ArrowError> {
    let state = |measure: &str, state: &str| rows.column_by_name(&format!("{measure}_{state}"));
    if let Some(measure) = name.strip_suffix("_first") {
        return Ok(state(measure, "min").cloned());
    }
    if let Some(measure) = name.strip_suffix("_last") {
        return Ok(state(measure, "max").cloned());
    }
    let Some(measure) = name.strip_suffix("_increase") else { return Ok(None) };
    match (state(measure, "max"), state(measure, "min")) {
        (Some(max), Some(min)) => sub_wrapping(max, min).map(Some),
        _ => Ok(None),
    }
}

fn zeros(data_type: &DataType, rows: usize) -> Result<ArrayRef, ArrowError> {
    Ok(match data_type {
        DataType::Utf8 => Arc::new(StringArray::from(vec![""; rows])),
        DataType::Boolean => Arc::new(BooleanArray::from(vec![false; rows])),
        // The only binary columns are 128 bits wide.
        DataType::Binary => Arc::new(BinaryArray::from(vec![[0_u8; 16].as_slice(); rows])),
        DataType::List(item) => {
            let offsets = OffsetBuffer::<i32>::from_lengths(std::iter::repeat_n(0, rows));
            let none = new_empty_array(item.data_type());
            Arc::new(ListArray::try_new(Arc::clone(item), offsets, none, None)?)
        }
        other => {
            let zero = cast(&arrow::array::Int64Array::from(vec![0; rows]), other)?;
            if zero.null_count() > 0 { new_null_array(other, rows) } else { zero }
        }
    })
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::{Field, Int64Type, Schema};

    use super::*;

    #[test]
    fn what_an_older_version_did_not_keep_reads_as_zero_or_as_its_stand_in() {
        let old = ["m_min", "m_max"].map(|name| Field::new(name, DataType::Int64, false));
        let columns: Vec<ArrayRef> =
            vec![Arc::new(Int64Array::from(vec![3, 5])), Arc::new(Int64Array::from(vec![10, 5]))];
        let old = RecordBatch::try_new(Arc::new(Schema::new(old.to_vec())), columns).unwrap();
        let list = DataType::List(Arc::new(Field::new("element", DataType::Int32, false)));
        let new = [
            ("pod", DataType::Utf8),
            ("m_max", DataType::Int64),
            ("m_first", DataType::Int64),
            ("m_last", DataType::Int64),
            ("m_increase", DataType::Int64),
            ("n_sum", DataType::Float64),
            ("n_first", DataType::Int64),
            ("n_sketch_keys", list),
            ("upid", DataType::Binary),
            ("flag", DataType::Boolean),
        ];
        let new = new.map(|(name, data_type)| Field::new(name, data_type, false));
        let schema = Arc::new(Schema::new(new.to_vec()));
        let rows = evolve(&old, &schema).unwrap();
        assert_eq!(rows.schema(), schema);
        let int = |name: &str| rows[name].as_primitive::<Int64Type>().values().to_vec();
        assert_eq!(int("m_max"), [10, 5]);
        assert_eq!(int("m_first"), [3, 5]);
        assert_eq!(int("m_last"), [10, 5]);
        assert_eq!(int("m_increase"), [7, 0]);
        assert_eq!(int("n_first"), [0, 0]);
        assert_eq!(rows["pod"].as_string::<i32>().value(1), "");
        assert_eq!(rows["upid"].as_binary::<i32>().value(0), [0; 16]);
        assert_eq!(rows["n_sketch_keys"].as_list::<i32>().value(1).len(), 0);
        assert!(rows.columns().iter().all(|column| column.null_count() == 0));
    }
}
