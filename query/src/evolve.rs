//! Segments that an older version wrote: what it did not have reads as zero.
//!
//! Absence is the type's zero everywhere. Of a measure whose first, last or increase was not kept
//! yet, the extremes stand in; the store does the same when it merges such segments.

use std::sync::Arc;

use arrow::array::{ListArray, new_empty_array};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{Column, binary, col, lit};
use datafusion::physical_expr_adapter::{
    DefaultPhysicalExprAdapterFactory, PhysicalExprAdapter, PhysicalExprAdapterFactory,
};

/// Makes the expressions of a scan fit each of its files.
#[derive(Debug)]
pub(crate) struct Evolution;

impl PhysicalExprAdapterFactory for Evolution {
    fn create(
        &self,
        logical_file_schema: SchemaRef,
        physical_file_schema: SchemaRef,
    ) -> Result<Arc<dyn PhysicalExprAdapter>> {
        let plain = DefaultPhysicalExprAdapterFactory
            .create(Arc::clone(&logical_file_schema), Arc::clone(&physical_file_schema))?;
        Ok(Arc::new(Evolved { table: logical_file_schema, file: physical_file_schema, plain }))
    }
}

#[derive(Debug)]
struct Evolved {
    table: SchemaRef,
    file: SchemaRef,
    plain: Arc<dyn PhysicalExprAdapter>,
}

impl PhysicalExprAdapter for Evolved {
    fn rewrite(&self, expr: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
        let missing = |expr: Arc<dyn PhysicalExpr>| {
            let name = expr.downcast_ref::<Column>().map(|column| column.name().to_owned());
            match name.filter(|name| self.file.index_of(name).is_err()) {
                Some(name) => self.stand_in(&name).map(Transformed::yes),
                None => Ok(Transformed::no(expr)),
            }
        };
        self.plain.rewrite(expr.transform_up(missing).data()?)
    }
}

impl Evolved {
    /// What a column that the file does not have reads as.
    fn stand_in(&self, name: &str) -> Result<Arc<dyn PhysicalExpr>> {
        let state = |measure: &str, state: &str| {
            let name = format!("{measure}_{state}");
            self.file.index_of(&name).is_ok().then(|| col(&name, &self.table))
        };
        let (first, last) = (name.strip_suffix("_first"), name.strip_suffix("_last"));
        let one = first.and_then(|m| state(m, "min")).or(last.and_then(|m| state(m, "max")));
        if let Some(one) = one {
            return one;
        }
        if let Some(measure) = name.strip_suffix("_increase")
            && let (Some(max), Some(min)) = (state(measure, "max"), state(measure, "min"))
        {
            return binary(max?, Operator::Minus, min?, &self.table);
        }
        zero(&self.table, name).map(lit)
    }
}

fn zero(schema: &Schema, name: &str) -> Result<ScalarValue> {
    Ok(match schema.field_with_name(name)?.data_type() {
        DataType::Utf8 => ScalarValue::from(""),
        DataType::Dictionary(key, value) if **value == DataType::Utf8 => {
            ScalarValue::Dictionary(key.clone(), Box::new(ScalarValue::from("")))
        }
        DataType::Boolean => ScalarValue::from(false),
        // The only binary columns are 128 bits wide.
        DataType::Binary => ScalarValue::Binary(Some(vec![0; 16])),
        DataType::List(item) => {
            let none = new_empty_array(item.data_type());
            let offsets = OffsetBuffer::from_lengths([0]);
            let list = ListArray::try_new(Arc::clone(item), offsets, none, None)?;
            ScalarValue::List(Arc::new(list))
        }
        other => ScalarValue::new_zero(other)?,
    })
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
    use arrow::datatypes::{Field, Int64Type};

    use super::*;

    #[test]
    fn a_column_that_a_segment_does_not_have_reads_as_zero_and_an_end_as_the_extreme() {
        let int = |name: &str| Field::new(name, DataType::Int64, false);
        let file = Arc::new(Schema::new(vec![int("m_min"), int("m_max")]));
        let columns: Vec<ArrayRef> =
            vec![Arc::new(Int64Array::from(vec![3])), Arc::new(Int64Array::from(vec![10]))];
        let rows = RecordBatch::try_new(Arc::clone(&file), columns).unwrap();
        let names = ["m_first", "m_last", "m_increase", "m_max", "n_sum", "m_min"];
        let mut fields = names.map(int).to_vec();
        fields.push(Field::new("pod", DataType::Utf8, false));
        let numbered = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
        fields.push(Field::new("region", numbered, false));
        let table = Arc::new(Schema::new(fields));
        let adapter = Evolution.create(Arc::clone(&table), file).unwrap();
        let value = |name: &str| {
            let expr = adapter.rewrite(col(name, &table).unwrap()).unwrap();
            expr.evaluate(&rows).unwrap().into_array(1).unwrap()
        };
        let ints = names.map(|name| value(name).as_primitive::<Int64Type>().value(0));
        assert_eq!(ints, [3, 10, 7, 10, 0, 3]);
        assert_eq!(value("pod").as_string::<i32>().value(0), "");
        let region = arrow::compute::cast(&value("region"), &DataType::Utf8).unwrap();
        assert_eq!(region.as_string::<i32>().value(0), "");
    }
}
