//! The rows of a summary: their schema, and how a table's rows become partial states.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use undine_schema::TableDef;
use undine_schema::column::Role;

/// Schema of a summary's segments: `window_start`, the same as a timestamp in `time`, the table's
/// dimensions by their own names, `rows`, `first_time`, `last_time`, and for each measure `m`
/// `m_sum`, `m_min`, `m_max`, where it is sketched also `m_sketch_keys` and `m_sketch_counts`.
pub fn summary_schema(table: &TableDef) -> SchemaRef {
    let mut fields = vec![
        Field::new("window_start", DataType::Int64, false),
        Field::new("time", timestamp(), false),
    ];
    for dimension in table.dimensions() {
        fields.push(Field::new(dimension.name, on_disk(&dimension.pxl_type.arrow()), false));
    }
    fields.extend(["rows", "first_time", "last_time"].map(|n| Field::new(n, DataType::Int64, false)));
    for measure in table.measures() {
        let value = measure.pxl_type.arrow();
        for state in ["sum", "min", "max"] {
            fields.push(Field::new(format!("{}_{state}", measure.name), value.clone(), false));
        }
        if measure.role == Role::Sketched {
            for (part, item) in [("keys", DataType::Int32), ("counts", DataType::Int64)] {
                let item = Arc::new(Field::new("element", item, false));
                let name = format!("{}_sketch_{part}", measure.name);
                fields.push(Field::new(name, DataType::List(item), false));
            }
        }
    }
    Arc::new(Schema::new(fields))
}

/// Schema of a table's raw segments: its columns, and `time` as a timestamp after them.
pub fn raw_schema(table: &TableDef) -> SchemaRef {
    let mut fields: Vec<_> = table
        .columns
        .iter()
        .map(|column| Field::new(column.name, on_disk(&column.pxl_type.arrow()), false))
        .collect();
    fields.push(Field::new("time", timestamp(), false));
    Arc::new(Schema::new(fields))
}

/// The type that every reader of a Delta table understands.
fn on_disk(data_type: &DataType) -> DataType {
    match data_type {
        DataType::FixedSizeBinary(_) => DataType::Binary,
        other => other.clone(),
    }
}

fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}
