//! What was lost of the rows that an answer is made of.

use std::collections::BTreeMap;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use datafusion::logical_expr::LogicalPlanBuilder;
use undine_schema::Seq;
use undine_schema::tables::DATA_LOSS;
use undine_store::Wanted;

use super::{Fault, Origin, Planner, bare};
use crate::answer::{Note, SourceUse};
use crate::plan::{has_older, horizon};
use crate::span::Span;

/// Rows that are missing, by table and reason: at least and, where there is a bound, at most.
type Missing = BTreeMap<(&'static str, String), (i64, Option<i64>)>;

impl Planner {
    /// What `data_loss` says of the tables and ranges that were read.
    pub(crate) async fn losses(&mut self, sources: &[SourceUse]) -> Result<Vec<Note>, Fault> {
        let snapshot = self.snapshot(&DATA_LOSS);
        let sealed = snapshot.raw.iter().any(|raw| !raw.segments.is_empty());
        let live = snapshot.hot_rows(&Wanted::above(Seq::ZERO)).next().is_some();
        if !live && !sealed {
            return Ok(Vec::new());
        }
        let mut ranges: BTreeMap<&'static str, Span> = BTreeMap::new();
        for source in sources.iter().filter(|source| source.table != DATA_LOSS.name) {
            let (from, until) = (source.range.0.get(), source.range.1.get());
            let range = ranges.entry(source.table).or_insert(Span { from, until });
            *range = Span { from: range.from.min(from), until: range.until.max(until) };
        }
        let Some(from) = ranges.values().map(|range| range.from).min() else {
            return Ok(Vec::new());
        };
        let until = ranges.values().map(|range| range.until).max().unwrap_or(i64::MAX);
        let since = horizon(&snapshot);
        let from = if has_older(&snapshot, since) { from.max(since) } else { from };
        let span = Span { from, until: until.max(from) };
        let rows = self.rows_in(&DATA_LOSS, &snapshot, span, &mut Origin::default())?;
        let columns = ["time_", "source_table", "reason", "rows_min", "rows_max"];
        let plan = LogicalPlanBuilder::from(rows).project(columns.map(bare))?.build()?;
        let mut missing = Missing::new();
        for batch in self.execute(plan).await? {
            add(&batch, &ranges, &mut missing);
        }
        let notes = missing.into_iter().map(|((table, reason), (rows_min, rows_max))| Note::Lost {
            table,
            reason,
            rows_min,
            rows_max,
        });
        Ok(notes.collect())
    }
}

fn add(batch: &RecordBatch, ranges: &BTreeMap<&'static str, Span>, missing: &mut Missing) {
    let integers = |at: usize| batch.column(at).as_primitive::<Int64Type>();
    let texts = |at: usize| batch.column(at).as_string::<i32>();
    for row in 0..batch.num_rows() {
        let time = integers(0).value(row);
        let Some((&table, range)) = ranges.get_key_value(texts(1).value(row)) else { continue };
        let (least, most) = (integers(3).value(row), integers(4).value(row));
        if !(range.from..range.until).contains(&time) || (least <= 0 && most == 0) {
            continue;
        }
        let key = (table, texts(2).value(row).to_owned());
        let (rows_min, rows_max) = missing.entry(key).or_insert((0, Some(0)));
        *rows_min = rows_min.saturating_add(least);
        // Below zero there is no bound.
        *rows_max = rows_max.filter(|_| most >= 0).map(|sum| sum.saturating_add(most));
    }
}
