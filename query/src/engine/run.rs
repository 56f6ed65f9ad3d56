//! One run: each of its tables planned, executed and made into an answer.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::DataFusionError;
use datafusion::logical_expr::LogicalPlanBuilder;
use undine_schema::column::{PXL_TYPE_KEY, SEMANTIC_TYPE_KEY};
use undine_schema::{PxlType, SemanticType, TableKind, tables};

use super::needs::any_below;
use super::{Engine, Error};
use crate::answer::{Note, ResultTable, SourceUse, Tier};
use crate::diagnostics::Diagnostics;
use crate::plan::{Fault, Origin, Planned, Planner, bare};
use crate::provider::zero_filled;
use crate::relation::{AggregateKind, Column, Op, Relation};

/// One run of one script.
pub(super) struct Run<'a> {
    pub(super) engine: &'a Engine,
    pub(super) source: &'a str,
    pub(super) rows_max: usize,
    pub(super) planner: Planner,
    /// How each table was computed, if the script wants to know: its name, what is said and the text.
    pub(super) explained: Option<Vec<(String, &'static str, String)>>,
}

impl Run<'_> {
    pub(super) fn error(&self, fault: Fault) -> Error {
        match fault {
            Fault::Script(diagnostic) => {
                Error::Script(Diagnostics::new(self.source, vec![diagnostic]))
            }
            Fault::Engine(_) => self.engine.run_error(fault),
        }
    }

    pub(super) async fn table(
        &mut self,
        name: String,
        relation: &Arc<Relation>,
    ) -> Result<ResultTable, Error> {
        let lowered = self.planner.lower(relation, None);
        let Planned { plan, origin } = lowered.map_err(|fault| self.error(fault))?;
        let Origin { mut notes, sources } = origin;
        let schema = answer_schema(&relation.columns);
        // One row more than may be shown tells whether any was cut.
        let visible: Vec<_> = relation.columns.iter().map(|column| bare(&column.name)).collect();
        let limited = LogicalPlanBuilder::from(plan)
            .limit(0, Some(self.rows_max.saturating_add(1)))
            .and_then(|plan| plan.project(visible))
            .and_then(LogicalPlanBuilder::build);
        let plan = limited.map_err(|error| self.error(error.into()))?;
        if let Some(explained) = &mut self.explained {
            let text = self.planner.explain(&plan).await;
            explained.push((
                name.clone(),
                "plan",
                text.map_err(|fault| self.engine.run_error(fault))?,
            ));
        }
        let executed = self.planner.execute(plan).await;
        let batches = executed.map_err(|fault| self.error(fault))?;
        let losses = self.planner.losses(&sources).await;
        notes.extend(losses.map_err(|fault| self.error(fault))?);
        let mut room = self.rows_max;
        let mut kept = Vec::with_capacity(batches.len());
        for batch in batches {
            let cut = batch.slice(0, batch.num_rows().min(room));
            if cut.num_rows() < batch.num_rows() {
                notes.push(Note::RowsCut { rows_max: self.rows_max });
            }
            room -= cut.num_rows();
            if cut.num_rows() > 0 {
                kept.push(conform(&cut, &schema).map_err(|error| self.error(error.into()))?);
            }
        }
        notes.dedup();
        if let Some(explained) = &mut self.explained {
            let reads = sources.iter().map(|source| ("reads", source.to_string()));
            let known = notes.iter().map(|note| ("note", note.to_string()));
            let lines = reads.chain(known);
            explained.extend(lines.map(|(kind, text)| (name.clone(), kind, text)));
        }
        let estimates = any_below(relation, |relation| match &relation.op {
            Op::Aggregate { values, .. } => {
                values.iter().any(|value| value.kind == AggregateKind::Quantiles)
            }
            _ => false,
        });
        let exact = !estimates && !is_partial(&sources, &notes);
        Ok(ResultTable { name, schema, batches: kept, notes, sources, exact })
    }
}

/// Whether what was read stands for rows that are not all told apart: what was folded, and summaries
/// of stacks, which keep those that came most.
pub(crate) fn is_partial(sources: &[SourceUse], notes: &[Note]) -> bool {
    let of_stacks = |source: &SourceUse| {
        let kind = tables::find(source.table).map(|table| table.kind);
        matches!(source.tier, Tier::Summary { .. }) && kind == Some(TableKind::Stacks)
    };
    sources.iter().any(of_stacks) || notes.iter().any(|note| matches!(note, Note::Folded { .. }))
}

/// The table that says how the others were computed.
pub(super) fn explanation(
    lines: &[(String, &'static str, String)],
) -> Result<ResultTable, DataFusionError> {
    let names = ["table", "kind", "text"].map(|name| Column {
        name: name.into(),
        pxl_type: PxlType::String,
        semantic: SemanticType::None,
    });
    let schema = answer_schema(&names);
    let tables = StringArray::from_iter_values(lines.iter().map(|(table, ..)| table));
    let kinds = StringArray::from_iter_values(lines.iter().map(|(_, kind, _)| kind));
    let texts = StringArray::from_iter_values(lines.iter().map(|(.., text)| text));
    let columns: Vec<ArrayRef> = vec![Arc::new(tables), Arc::new(kinds), Arc::new(texts)];
    Ok(ResultTable {
        name: "explain".to_owned(),
        batches: vec![RecordBatch::try_new(Arc::clone(&schema), columns)?],
        schema,
        notes: Vec::new(),
        sources: Vec::new(),
        exact: true,
    })
}

/// The schema of a result: never null, with type and meaning in each field's metadata.
pub(crate) fn answer_schema(columns: &[Column]) -> SchemaRef {
    let fields: Vec<Field> = columns
        .iter()
        .map(|column| {
            Field::new(&*column.name, column.pxl_type.arrow(), false).with_metadata(
                [
                    (PXL_TYPE_KEY.to_owned(), column.pxl_type.name().to_owned()),
                    (SEMANTIC_TYPE_KEY.to_owned(), column.semantic.name().to_owned()),
                ]
                .into(),
            )
        })
        .collect();
    Arc::new(Schema::new(fields))
}

/// The rows with exactly the answer's types and no nulls.
fn conform(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, DataFusionError> {
    let columns = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(array, field)| zero_filled(&cast(array, field.data_type())?))
        .collect::<Result<Vec<_>, DataFusionError>>()?;
    let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &rows)?)
}
