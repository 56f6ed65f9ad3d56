//! Single rows: those in memory and those on disk, each once, and no further back than all are there.

use std::sync::Arc;

use datafusion::common::DataFusionError;
use datafusion::datasource::MemTable;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast, lit};
use undine_schema::trace::arrow_schema;
use undine_schema::{PxlType, Seq, TableDef, TimeNs};
use undine_store::Snapshot;

use super::{Fault, Origin, Planned, Planner, bare};
use crate::answer::{Note, SourceUse, Tier};
use crate::diagnostics::{Diagnostic, Range};
use crate::provider::{Rows, rows_schema_on_disk};
use crate::relation::{Relation, Scan, Traced};
use crate::span::Span;
use crate::time_text::show;

/// Why single rows are needed, where nothing says more.
const ROWS: &str = "summaries cannot show single rows";

impl Planner {
    pub(super) fn lower_scan(
        &mut self,
        relation: &Arc<Relation>,
        scan: &Scan,
        reason: Option<&str>,
    ) -> Result<Planned, Fault> {
        let mut origin = Origin::default();
        let (plan, ..) = self.rows(scan, relation.range, reason.unwrap_or(ROWS), &mut origin)?;
        let columns = relation.all_columns().map(|column| {
            let own = column.name.strip_prefix('\u{1}').unwrap_or(&column.name);
            bare(own).alias(&*column.name)
        });
        let plan = LogicalPlanBuilder::from(plan).project(columns)?.build()?;
        Ok(Planned { plan, origin })
    }

    /// The rows of a tracepoint's table. They are in memory only, and older ones make room.
    pub(super) fn lower_traced(
        &mut self,
        relation: &Arc<Relation>,
        traced: &Traced,
    ) -> Result<Planned, Fault> {
        let Some(table) = self.environment.traces.get(&*traced.table) else {
            let message = format!("the tracepoint of table `{}` has just ended", traced.table);
            let diagnostic = Diagnostic::new(relation.range, message, "its rows are gone");
            return Err(Fault::Script(diagnostic.help("deploy it again, for longer")));
        };
        let schema = arrow_schema(&table.columns);
        let memory = MemTable::try_new(schema, vec![table.batches.clone()])?;
        let until = traced.end.map_or(i64::MAX, |end| end.saturating_add(1));
        let span = Span { from: traced.start.unwrap_or(i64::MIN), until };
        let columns = relation.columns.iter().map(|column| bare(&column.name).alias(&*column.name));
        let rows = self.scan_of(Arc::new(memory))?.filter(within("time_", span))?;
        let plan = rows.project(columns)?.build()?;
        Ok(Planned { plan, origin: Origin::default() })
    }

    /// All columns of the rows that a scan asks for, by their own names.
    fn rows(
        &mut self,
        scan: &Scan,
        range: Range,
        reason: &str,
        origin: &mut Origin,
    ) -> Result<(LogicalPlan, Span), Fault> {
        let snapshot = self.snapshot(scan.table);
        let asked = Self::asked(scan);
        let from = self.clip(scan, &snapshot, range, reason, origin)?;
        let span = Span { from: from.max(asked.from), until: asked.until };
        let plan = self.rows_in(scan.table, &snapshot, span, origin)?;
        Ok((plan, span))
    }

    /// The range that a scan asks for. Without an end it reaches to the newest row.
    pub(super) fn asked(scan: &Scan) -> Span {
        let until = match scan.end {
            Some(end) => end.saturating_add(1),
            // Rows that arrived between compilation and snapshot belong to the answer.
            None => i64::MAX,
        };
        Span { from: scan.start.unwrap_or(i64::MIN), until }
    }

    /// A span for people: without a start from the epoch, without an end until now.
    pub(super) fn shown(&self, span: Span) -> (TimeNs, TimeNs) {
        let until = if span.until == i64::MAX { self.now.saturating_add(1) } else { span.until };
        (TimeNs::new(span.from.max(0)), TimeNs::new(until))
    }

    /// The first time since which all rows are there; noted, or refused, if that cuts the answer.
    fn clip(
        &mut self,
        scan: &Scan,
        snapshot: &Snapshot,
        range: Range,
        reason: &str,
        origin: &mut Origin,
    ) -> Result<i64, Fault> {
        let horizon = horizon(snapshot);
        let cuts = scan.start.unwrap_or(i64::MIN) < horizon && has_older(snapshot, horizon);
        if !cuts {
            return Ok(i64::MIN);
        }
        if self.strict && scan.start.is_some() {
            let message =
                format!("rows of `{}` are kept since {} only", scan.table.name, show(horizon));
            let help = format!("{reason}; ask for a later start, or run without strict");
            return Err(Fault::Script(
                Diagnostic::new(range, message, "reaches further back").help(help),
            ));
        }
        origin.note(Note::Clipped {
            table: scan.table.name,
            asked: scan.start.map(TimeNs::new),
            from: TimeNs::new(horizon),
            reason: reason.to_owned(),
        });
        Ok(horizon)
    }

    /// All columns of the rows in `span`, wherever they are. A range that reaches further back than
    /// rows do is refused, so that no answer is partial unknown to anybody.
    pub(crate) fn rows_in(
        &mut self,
        table: &'static TableDef,
        snapshot: &Snapshot,
        span: Span,
        origin: &mut Origin,
    ) -> Result<LogicalPlan, Fault> {
        let horizon = horizon(snapshot);
        if span.from < horizon && has_older(snapshot, horizon) {
            let (name, from) = (table.name, show(horizon));
            return Err(DataFusionError::Internal(format!(
                "rows of {name} are asked for from before {from}, since when they are kept, and \
                 nobody cut the range or took summaries"
            ))
            .into());
        }
        let rows = self.rows_of(table, snapshot, span)?;
        let read = rows.count();
        let mut source = |tier, rows| {
            let range = self.shown(span);
            origin.sources.push(SourceUse { table: table.name, tier, rows, range });
        };
        source(Tier::Hot, read.hot_rows);
        if read.raw_rows > 0 {
            source(Tier::Raw, read.raw_rows);
        }
        self.scan_rows(table, rows)
    }

    /// The rows in `span`, wherever they are.
    pub(crate) fn rows_of(
        &mut self,
        table: &'static TableDef,
        snapshot: &Snapshot,
        span: Span,
    ) -> Result<Rows, Fault> {
        let raw = snapshot.raw.as_ref().filter(|_| span.from < snapshot.hot_complete_from.get());
        let above = raw.map_or(Seq::ZERO, |raw| raw.sealed_to);
        let raw = raw
            .map(|raw| self.segments(raw, rows_schema_on_disk(table, snapshot), span))
            .transpose()?;
        Ok(Rows::new(table, snapshot, above, raw, span))
    }

    /// All columns of the hot rows above `above` in `span`.
    pub(super) fn hot(
        &mut self,
        table: &'static TableDef,
        snapshot: &Snapshot,
        above: Seq,
        span: Span,
        origin: &mut Origin,
    ) -> Result<LogicalPlan, Fault> {
        let rows = Rows::new(table, snapshot, above, None, span);
        origin.sources.push(SourceUse {
            table: table.name,
            tier: Tier::Hot,
            rows: rows.count().hot_rows,
            range: self.shown(span),
        });
        self.scan_rows(table, rows)
    }

    /// All columns of `rows` with their types in scripts.
    pub(crate) fn scan_rows(
        &mut self,
        table: &'static TableDef,
        rows: Rows,
    ) -> Result<LogicalPlan, Fault> {
        let given = datafusion::catalog::TableProvider::schema(&rows);
        let columns = table.columns.iter().zip(given.fields()).map(|(column, given)| {
            let wanted = column.pxl_type.arrow();
            if *given.data_type() == wanted {
                bare(column.name).alias(column.name)
            } else {
                cast(bare(column.name), wanted).alias(column.name)
            }
        });
        Ok(self.scan_of(Arc::new(rows))?.project(columns)?.build()?)
    }
}

/// Whether a point in time is in `span`; only the bounds that there are.
pub(super) fn within(column: &str, span: Span) -> Expr {
    let from = (span.from > i64::MIN).then(|| bare(column).gt_eq(lit(span.from)));
    let until = (span.until < i64::MAX).then(|| bare(column).lt(lit(span.until)));
    from.into_iter().chain(until).reduce(Expr::and).unwrap_or_else(|| lit(true))
}

/// A column of a file as it is in memory.
pub(super) fn on_disk(name: &str, pxl_type: PxlType) -> Expr {
    if pxl_type == PxlType::Uint128 {
        cast(bare(name), pxl_type.arrow()).alias(name)
    } else {
        bare(name).alias(name)
    }
}

/// The first time since which all rows of a table are in memory or on disk.
pub(crate) fn horizon(snapshot: &Snapshot) -> i64 {
    let hot = snapshot.hot_complete_from.get();
    snapshot.raw.as_ref().map_or(hot, |raw| raw.complete_from.get().min(hot))
}

/// Whether anything is known from before `horizon`.
pub(crate) fn has_older(snapshot: &Snapshot, horizon: i64) -> bool {
    let tiers = snapshot.tiers.iter().chain(&snapshot.raw);
    tiers.flat_map(|tier| tier.segments.iter()).any(|s| s.first_time.get() < horizon)
        || snapshot.tiers.iter().any(|tier| tier.complete_from.get() > TimeNs::ZERO.get())
}
