//! Aggregates over more than memory holds: states of summaries, merged with states of the rows
//! that are not summarised yet.
//!
//! ```text
//! tier's segments ── filter ── key and parts of each state ─┐
//!                                                           ├─ union ─ merge by key ─ finish
//! hot rows above the tier ── filter ── aggregate to parts ──┘
//! ```

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::DataType;
use datafusion::common::DataFusionError;
use datafusion::functions_aggregate::expr_fn::{first_value, max, min, sum};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast};
use undine_schema::TimeNs;
use undine_store::{Snapshot, TierView};

use super::lower::{finish, over_rows};
use super::scan::{horizon, on_disk, within};
use super::{Fault, Origin, Planned, Planner, bare};
use crate::answer::{Note, SourceUse, Tier};
use crate::diagnostics::{Diagnostic, Range};
use crate::provider::{Span, segments_in};
use crate::quantiles;
use crate::relation::Relation;
use crate::rewrite::{Part, State, Summarised, on_states, parts};
use crate::time_text::{show, show_width};

/// A coarser summary is read where its windows are below this share of the range.
const WINDOWS_MIN: i64 = 500;

impl Planner {
    /// The aggregate over summaries; none where all rows that it asks for are in memory.
    pub(super) fn lower_states(
        &mut self,
        relation: &Arc<Relation>,
        summarised: &Summarised,
    ) -> Result<Option<Planned>, Fault> {
        let table = summarised.scan.table;
        let snapshot = self.snapshot(table);
        let asked = Self::asked(&summarised.scan);
        if asked.from >= snapshot.hot_complete_from.get() || snapshot.tiers.is_empty() {
            return Ok(None);
        }
        let Some(tier) = self.choose(&snapshot, asked, summarised) else {
            return Self::too_fine(&snapshot, asked, summarised, relation.range);
        };
        let span = widened(asked, tier.width);
        let mut origin = Origin::default();
        self.note_states(&mut origin, tier, asked, span, summarised, relation.range)?;
        let old = self.states_of(tier, span, summarised, &mut origin)?;
        let new = self.hot(table, &snapshot, tier.sealed_to, span, &mut origin)?;
        let new = self.states_of_rows(new, summarised)?;
        let plan = merged(old, new, summarised)?;
        Ok(Some(Planned { plan, origin }))
    }

    /// The coarsest summary that is fine enough for the bins and for the range, and complete; of
    /// those with the same width the one with the fewest states that has every column it takes.
    fn choose<'a>(
        &self,
        snapshot: &'a Snapshot,
        asked: Span,
        summarised: &Summarised,
    ) -> Option<&'a TierView> {
        let columns = summarised.state_columns();
        let fits = |tier: &&TierView| {
            let width = width_ns(tier);
            width > 0
                && summarised.bins.iter().all(|bin| bin % width == 0)
                && columns.iter().all(|name| tier.schema.field_with_name(name).is_ok())
        };
        let all = snapshot.tiers.iter().chain(&snapshot.cubes);
        let mut fine_enough: Vec<&TierView> = all.filter(fits).collect();
        fine_enough.sort_by_key(|tier| width_ns(tier));
        let reaches = |tier: &&&TierView| tier.complete_from.get() <= asked.from;
        let first = fine_enough.iter().map(|tier| tier.complete_from.get()).min()?;
        let reaching: Vec<&&TierView> = match fine_enough.iter().filter(reaches).collect::<Vec<_>>()
        {
            none if none.is_empty() => {
                fine_enough.iter().filter(|tier| tier.complete_from.get() == first).collect()
            }
            some => some,
        };
        let oldest = reaching
            .iter()
            .flat_map(|tier| tier.segments.iter())
            .map(|segment| segment.first_time.get())
            .min();
        let from = asked.from.max(oldest.unwrap_or(asked.from));
        let length = asked.until.min(self.now).saturating_sub(from);
        let coarse =
            reaching.iter().rev().find(|tier| width_ns(tier).saturating_mul(WINDOWS_MIN) <= length);
        let width = coarse.or_else(|| reaching.first())?.width;
        let states = |tier: &TierView| -> u64 {
            segments_in(tier, widened(asked, width)).iter().map(|segment| segment.rows).sum()
        };
        let alike = reaching.iter().filter(|tier| tier.width == width);
        alike.map(|tier| **tier).min_by_key(|tier| states(tier))
    }

    /// Bins that no summary is fine enough for: rows if they are there, otherwise an error that
    /// names the width to use.
    fn too_fine(
        snapshot: &Snapshot,
        asked: Span,
        summarised: &Summarised,
        range: Range,
    ) -> Result<Option<Planned>, Fault> {
        let horizon = horizon(snapshot);
        let finest = snapshot.tiers.iter().map(width_ns).min().unwrap_or(0);
        if asked.from >= horizon || finest == 0 {
            return Ok(None);
        }
        let wrong = summarised.bins.iter().find(|bin| *bin % finest != 0).copied().unwrap_or(0);
        let better = (wrong / finest + 1) * finest;
        let message = format!(
            "bins of {} do not fit the summaries of {}, whose windows are {}",
            show_width(wrong),
            summarised.scan.table.name,
            show_width(finest)
        );
        let help = format!(
            "use `px.bin(df.time_, {better})` ({}), or start at {} or later, since when single \
             rows are kept",
            show_width(better),
            show(horizon)
        );
        Err(Fault::Script(Diagnostic::new(range, message, "binned this finely").help(help)))
    }

    fn note_states(
        &self,
        origin: &mut Origin,
        tier: &TierView,
        asked: Span,
        span: Span,
        summarised: &Summarised,
        range: Range,
    ) -> Result<(), Fault> {
        let table = summarised.scan.table.name;
        let complete = tier.complete_from;
        if span.from < complete.get() && complete > TimeNs::ZERO {
            if self.strict && summarised.scan.start.is_some() {
                let message = format!("`{table}` is kept since {} only", show(complete.get()));
                return Err(Fault::Script(
                    Diagnostic::new(range, message, "reaches further back")
                        .help("ask for a later start, or run without strict"),
                ));
            }
            origin.note(Note::SummariesStart { table, from: complete });
        }
        let (from, until) = self.shown(span);
        if asked != span || summarised.scan.start.is_some() {
            let width_ns = width_ns(tier);
            origin.note(Note::Widened { table, from, until, width_ns });
        }
        for (column, template) in &summarised.templated {
            origin.note(Note::Templated { table, column, template });
        }
        Ok(())
    }

    /// Key and parts of each state of a summary.
    fn states_of(
        &mut self,
        tier: &TierView,
        span: Span,
        summarised: &Summarised,
        origin: &mut Origin,
    ) -> Result<LogicalPlan, Fault> {
        let table = summarised.scan.table;
        let (files, rows) = self.files_of(tier, span)?;
        origin.sources.push(SourceUse {
            table: table.name,
            tier: Tier::Summary { width_ns: width_ns(tier) },
            rows,
            range: self.shown(span),
        });
        let dimensions = || tier.cube.dimensions(table);
        let dimension_names: Vec<&str> = dimensions().map(|column| column.name).collect();
        let dimensions = dimensions().map(|column| on_disk(column.name, column.pxl_type));
        let others = tier
            .schema
            .fields()
            .iter()
            .filter(|field| !dimension_names.contains(&field.name().as_str()))
            .map(|field| bare(field.name()).alias(field.name()));
        let columns: Vec<Expr> = dimensions.chain(others).collect();
        let mut plan =
            self.scan_of(files)?.filter(within("window_start", span))?.project(columns)?;
        for predicate in &summarised.predicates {
            plan = plan.filter(self.expr(&on_states(predicate)))?;
        }
        let mut exprs = Vec::new();
        for (index, (_, key)) in summarised.keys.iter().enumerate() {
            exprs.push(self.expr(&on_states(key)).alias(format!("k{index}")));
        }
        for (index, value) in summarised.values.iter().enumerate() {
            for (at, state) in value.states.iter().enumerate() {
                let expr = match state {
                    State::Value(typed) => cast(self.expr(typed), typed.pxl_type.arrow()),
                    State::Sketch(measure) => quantiles::packed(
                        bare(&format!("{measure}_sketch_keys")),
                        bare(&format!("{measure}_sketch_counts")),
                    ),
                };
                exprs.push(expr.alias(format!("s{index}_{at}")));
            }
        }
        Ok(plan.project(exprs)?.build()?)
    }

    /// Rows, aggregated to the same columns.
    fn states_of_rows(
        &self,
        rows: LogicalPlan,
        summarised: &Summarised,
    ) -> Result<LogicalPlan, Fault> {
        let mut plan = LogicalPlanBuilder::from(rows);
        for predicate in &summarised.predicates {
            plan = plan.filter(self.expr(predicate))?;
        }
        let keys = summarised.keys.iter().enumerate();
        let keys = keys.map(|(index, (_, key))| self.expr(key).alias(format!("k{index}")));
        let args = summarised.values.iter().enumerate();
        let args = args.map(|(index, value)| self.expr(&value.arg).alias(format!("v{index}")));
        plan = plan.project(keys.chain(args).collect::<Vec<_>>())?;
        let mut accumulated = Vec::new();
        for (index, value) in summarised.values.iter().enumerate() {
            let arg = bare(&format!("v{index}"));
            for (at, part) in parts(value.aggregated.kind).iter().enumerate() {
                let state = match part {
                    Part::Sketch => quantiles::sketch(cast(arg.clone(), DataType::Float64)),
                    other => over_rows(*other, arg.clone(), value.arg.pxl_type),
                };
                accumulated.push(state.alias(format!("s{index}_{at}")));
            }
        }
        let group: Vec<Expr> = key_columns(summarised).collect();
        Ok(plan.aggregate(group, accumulated)?.build()?)
    }
}

fn width_ns(tier: &TierView) -> i64 {
    i64::try_from(tier.width.as_nanos()).unwrap_or(i64::MAX)
}

fn key_columns(summarised: &Summarised) -> impl Iterator<Item = Expr> {
    (0..summarised.keys.len()).map(|index| bare(&format!("k{index}")))
}

/// States of both kinds, merged by key and finished.
fn merged(
    old: LogicalPlan,
    new: LogicalPlan,
    summarised: &Summarised,
) -> Result<LogicalPlan, Fault> {
    let mut merges = Vec::new();
    let mut finished = Vec::new();
    for (index, (name, _)) in summarised.keys.iter().enumerate() {
        finished.push(bare(&format!("k{index}")).alias(&**name));
    }
    for (index, value) in summarised.values.iter().enumerate() {
        let mut names = Vec::new();
        for (at, part) in parts(value.aggregated.kind).iter().enumerate() {
            let state = bare(&format!("s{index}_{at}"));
            let merged = match part {
                Part::Rows | Part::Sum => sum(state),
                Part::Min => min(state),
                Part::Max => max(state),
                Part::Any => first_value(state, Vec::new()),
                Part::Sketch => quantiles::merged(state),
                // No summary keeps paths; `rewrite` says so before.
                Part::PathClusters => {
                    let message = "clusters of paths were asked of summaries".to_owned();
                    return Err(DataFusionError::Internal(message).into());
                }
            };
            let name = format!("m{index}_{at}");
            merges.push(merged.alias(&name));
            names.push(name);
        }
        let kind = value.aggregated.kind;
        finished.push(finish(kind, value.arg.pxl_type, &names).alias(&*value.aggregated.name));
    }
    let group: Vec<Expr> = key_columns(summarised).collect();
    let plan = LogicalPlanBuilder::from(old)
        .union(new)?
        .aggregate(group, merges)?
        .project(finished)?
        .build()?;
    Ok(plan)
}

/// The range, widened to whole windows.
fn widened(asked: Span, width: Duration) -> Span {
    let from = if asked.from == i64::MIN {
        i64::MIN
    } else {
        TimeNs::new(asked.from).floor_to(width).get()
    };
    let until = if asked.until == i64::MAX {
        i64::MAX
    } else {
        TimeNs::new(asked.until).ceil_to(width).get()
    };
    Span { from, until }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_widened_to_whole_windows_and_never_narrowed() {
        let width = Duration::from_nanos(10);
        let span = |from, until| Span { from, until };
        assert_eq!(widened(span(11, 19), width), span(10, 20));
        assert_eq!(widened(span(10, 20), width), span(10, 20));
        assert_eq!(widened(span(10, 21), width), span(10, 30));
        assert_eq!(widened(span(i64::MIN, i64::MAX), width), span(i64::MIN, i64::MAX));
    }
}
