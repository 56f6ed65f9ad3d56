//! What was lost of the rows that an answer is made of.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use datafusion::logical_expr::LogicalPlanBuilder;
use undine_schema::Seq;
use undine_schema::tables::DATA_LOSS;
use undine_store::Wanted;

use super::{Fault, Origin, Planner, bare};
use crate::answer::{Note, SourceUse, Tier};
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
        let since = horizon(&snapshot);
        let from = if has_older(&snapshot, since) { from.max(since) } else { from };
        // A loss is noticed after the rows were captured, as late as when the store is opened again.
        let span = Span { from, until: i64::MAX };
        let rows = self.rows_in(&DATA_LOSS, &snapshot, span, &mut Origin::default())?;
        let plan = LogicalPlanBuilder::from(rows).project(COLUMNS.map(bare))?.build()?;
        let summarised = |table: &str| {
            let of_it = sources.iter().filter(|source| source.table == table);
            of_it.map(|source| source.tier).any(|tier| matches!(tier, Tier::Summary { .. }))
        };
        let (mut missing, mut folded) = (Missing::new(), BTreeSet::new());
        for batch in self.execute(plan).await? {
            for Row { table, reason, least, most } in in_ranges(&batch, &ranges) {
                if reason == FOLDED {
                    folded.extend(Some(table).filter(|&table| summarised(table)));
                    continue;
                }
                let (rows_min, rows_max) =
                    missing.entry((table, reason.to_owned())).or_insert((0, Some(0)));
                *rows_min = rows_min.saturating_add(least);
                // Below zero there is no bound.
                *rows_max = rows_max.filter(|_| most >= 0).map(|sum| sum.saturating_add(most));
            }
        }
        missing.retain(|_, (rows_min, rows_max)| *rows_min > 0 || *rows_max != Some(0));
        let lost = missing.into_iter().map(|((table, reason), (rows_min, rows_max))| Note::Lost {
            table,
            reason,
            rows_min,
            rows_max,
        });
        Ok(lost.chain(folded.into_iter().map(|table| Note::Folded { table })).collect())
    }
}

/// What is read of `data_loss`.
const COLUMNS: [&str; 7] =
    ["time_", "rows_from", "rows_until", "source_table", "reason", "rows_min", "rows_max"];
/// The reason of rows that a summary holds under `*`.
const FOLDED: &str = "folded";

/// A row of `data_loss`.
struct Row<'a> {
    table: &'static str,
    reason: &'a str,
    least: i64,
    most: i64,
}

/// The rows of `data_loss` whose lost rows may have been in the range that was read of their table.
fn in_ranges<'a>(
    batch: &'a RecordBatch,
    ranges: &'a BTreeMap<&'static str, Span>,
) -> impl Iterator<Item = Row<'a>> {
    let integers = |at: usize| batch.column(at).as_primitive::<Int64Type>().values();
    let texts = |at: usize| batch.column(at).as_string::<i32>();
    let (noticed, first, last) = (integers(0), integers(1), integers(2));
    let (tables, reasons, least, most) = (texts(3), texts(4), integers(5), integers(6));
    (0..batch.num_rows()).filter_map(move |row| {
        let (&table, range) = ranges.get_key_value(tables.value(row))?;
        let (from, upto) = match last[row] {
            0 => (noticed[row], noticed[row]),
            last => (first[row], last),
        };
        let touches = from < range.until && upto >= range.from;
        let row = Row { table, reason: reasons.value(row), least: least[row], most: most[row] };
        touches.then_some(row)
    })
}
