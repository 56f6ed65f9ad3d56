//! The hot rows of one service, found by the store's own lists of each chunk's rows by service, so
//! that no other row is looked at; where a chunk has no list yet, by its texts.

use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::{Result, ScalarValue};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};

use crate::hot::{HotPart, deal};
use crate::provider::uncast;

/// The column by which the store lists a chunk's rows.
const SERVICE: &str = "service";

/// A part of the rows of one service.
#[derive(Debug)]
struct OfService {
    service: String,
    parts: Vec<HotPart>,
    columns: Arc<[usize]>,
    schema: SchemaRef,
}

/// The service whose rows are wanted, if that is what `filter` says.
pub(crate) fn service_of(filter: &Expr) -> Option<&str> {
    let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) = filter else {
        return None;
    };
    let is_service =
        |expr| matches!(uncast(expr, is_text), Expr::Column(column) if column.name == SERVICE);
    match (is_service(left), is_service(right)) {
        (true, false) => text(right),
        (false, true) => text(left),
        _ => None,
    }
}

/// A scan of the rows of `service` in `parts`.
pub(crate) fn scan(
    service: &str,
    parts: &[HotPart],
    columns: &[usize],
    schema: &SchemaRef,
    partitions: usize,
) -> Result<Arc<dyn ExecutionPlan>> {
    let columns: Arc<[usize]> = columns.into();
    let streams = deal(parts, partitions).into_iter().map(|run| {
        let stream: Arc<dyn PartitionStream> = Arc::new(OfService {
            service: service.to_owned(),
            parts: run.to_vec(),
            columns: Arc::clone(&columns),
            schema: Arc::clone(schema),
        });
        stream
    });
    let plan =
        StreamingTableExec::try_new(Arc::clone(schema), streams.collect(), None, [], false, None)?;
    Ok(Arc::new(plan))
}

impl PartitionStream for OfService {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (service, columns) = (self.service.clone(), Arc::clone(&self.columns));
        let schema = Arc::clone(&self.schema);
        let parts = self.parts.clone().into_iter();
        let parts = parts.filter_map(move |part| part.holding(SERVICE, &service));
        let batches = parts.map(move |part| part.project(&columns, &schema));
        let batches = futures::stream::iter(batches);
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), batches))
    }
}

/// Whether a cast of a text to this type leaves its bytes as they are.
fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, value) => is_text(value),
        other => other.is_string(),
    }
}

fn text(expr: &Expr) -> Option<&str> {
    fn of(value: &ScalarValue) -> Option<&str> {
        match value {
            ScalarValue::Dictionary(_, value) => of(value),
            _ => value.try_as_str().flatten(),
        }
    }
    match expr {
        Expr::Literal(value, _) => of(value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::logical_expr::{cast, col, lit};

    use super::*;

    #[test]
    fn only_a_comparison_of_the_service_with_a_text_names_one() {
        let shop = || lit("shop");
        let named = [
            col("service").eq(shop()),
            shop().eq(cast(col("service"), DataType::Utf8)),
            col("service").eq(lit(ScalarValue::Dictionary(
                Box::new(DataType::Int32),
                Box::new(ScalarValue::from("shop")),
            ))),
        ];
        for filter in named {
            assert_eq!(service_of(&filter), Some("shop"));
        }
        for filter in [
            col("service").not_eq(shop()),
            col("service").eq(col("pod")),
            col("service").eq(shop()).or(col("service").eq(lit("cart"))),
            col("service").eq(lit(ScalarValue::Utf8(None))),
            col("pod").eq(shop()),
            cast(cast(col("service"), DataType::Int64), DataType::Utf8).eq(lit("7")),
        ] {
            assert_eq!(service_of(&filter), None);
        }
    }
}
