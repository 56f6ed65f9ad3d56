//! Columns as Delta describes them.

use arrow::datatypes::{DataType, Schema};
use serde_json::{Value, json};

/// The schema as Delta writes it: every field may be null, so that a later one can be added.
pub(super) fn schema_string(schema: &Schema) -> String {
    let fields: Vec<_> = schema
        .fields()
        .iter()
        .map(|field| {
            let delta_type = delta_type(field.data_type());
            json!({"name": field.name(), "type": delta_type, "nullable": true, "metadata": {}})
        })
        .collect();
    json!({"type": "struct", "fields": fields}).to_string()
}

fn delta_type(data_type: &DataType) -> Value {
    match data_type {
        DataType::Int64 => json!("long"),
        DataType::Int32 => json!("integer"),
        DataType::Float64 => json!("double"),
        DataType::Boolean => json!("boolean"),
        DataType::Binary => json!("binary"),
        DataType::Timestamp(..) => json!("timestamp"),
        DataType::List(item) => json!({
            "type": "array", "elementType": delta_type(item.data_type()), "containsNull": true,
        }),
        _ => json!("string"),
    }
}
