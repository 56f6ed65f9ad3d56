//! Aggregates over more than memory holds: states of summaries, merged with states of the rows
//! that are not summarised yet.
//!
//! ```text
//! tiers' segments ── filter ── key and parts of each state ──┐
//!                                                            ├─ union ─ merge by key ─ finish
//! hot rows above the tiers ── filter ── aggregate to parts ──┘
//! ```
//!
//! The range is cut into pieces at edges of windows, each read from one tier: days from days, what
//! is left of a day at both ends from hours.

use std::time::Duration;

use datafusion::common::DataFusionError;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use undine_schema::{Seq, TimeNs};
use undine_store::{Snapshot, TierView};

use super::aggregation::Aggregation;
use super::scan::{horizon, on_disk, within};
use super::{Fault, Origin, Planned, Planner, bare};
use crate::answer::{Note, SourceUse, Tier};
use crate::diagnostics::Diagnostic;
use crate::segments::segments_in;
use crate::span::Span;
use crate::time_text::{show, show_width};

/// A coarser summary is read where its windows are below this share of the range.
const WINDOWS_MIN: i64 = 500;
/// A coarser summary is read for the whole windows inside the range if that saves so many bytes:
/// another scan costs as much as reading these.
const BYTES_SAVED_MIN: u64 = 400_000;

/// A part of the range, and the summary that it is read from.
#[derive(Clone, Copy, Debug)]
struct Piece<'a> {
    tier: &'a TierView,
    span: Span,
}

impl Planner {
    /// The aggregate over summaries; none where all rows that it asks for are in memory.
    pub(crate) fn lower_states(
        &mut self,
        aggregation: &Aggregation,
    ) -> Result<Option<Planned>, Fault> {
        let Aggregation { table, asked, .. } = *aggregation;
        let snapshot = self.snapshot(table);
        if asked.from >= snapshot.hot_complete_from.get() || snapshot.tiers.is_empty() {
            return Ok(None);
        }
        let tiers = fine_enough(&snapshot, asked, aggregation);
        if let Some(further) = reaching_further(&snapshot, asked, aggregation, &tiers) {
            if asked.from >= horizon(&snapshot) {
                // Single rows know every bin.
                return Ok(None);
            }
            return Err(too_fine(&snapshot, &tiers, further, aggregation));
        }
        let Some(at) = self.finest(&tiers, asked) else { return Ok(None) };
        let span = widened(asked, tiers[at].width);
        let mut origin = Origin::default();
        self.note_states(&mut origin, tiers[at], span, aggregation)?;
        let pieces = pieces(span, &tiers[at..]);
        let mut states = Vec::new();
        for piece in &pieces {
            states.push(self.states_of(*piece, aggregation, &mut origin)?);
        }
        for (above, span) in unsealed(&pieces) {
            let rows = self.hot(table, &snapshot, above, span, &mut origin)?;
            states.push(Self::states_of_rows(rows, aggregation)?);
        }
        let plan = merged(states, aggregation)?;
        Ok(Some(Planned { plan, origin }))
    }

    /// Which of `tiers`, finest first, decides how far the range is widened: the coarsest whose
    /// windows are small beside the range, of those that reach back to its start.
    fn finest(&self, tiers: &[&TierView], asked: Span) -> Option<usize> {
        let first = tiers.iter().map(|tier| tier.complete_from.get()).min()?;
        let back_to = first.max(asked.from);
        let reaching = || {
            let tiers = tiers.iter().enumerate();
            tiers.filter(move |(_, tier)| tier.complete_from.get() <= back_to)
        };
        let oldest = reaching()
            .flat_map(|(_, tier)| tier.segments.iter())
            .map(|segment| segment.first_time.get())
            .min();
        let from = asked.from.max(oldest.unwrap_or(asked.from));
        let length = asked.until.min(self.now).saturating_sub(from);
        let is_small = |tier: &TierView| width_ns(tier).saturating_mul(WINDOWS_MIN) <= length;
        let coarse = reaching().rfind(|(_, tier)| is_small(tier));
        coarse.or_else(|| reaching().next()).map(|(at, _)| at)
    }

    fn note_states(
        &self,
        origin: &mut Origin,
        tier: &TierView,
        span: Span,
        aggregation: &Aggregation,
    ) -> Result<(), Fault> {
        let table = aggregation.table.name;
        let complete = tier.complete_from;
        if span.from < complete.get() && complete > TimeNs::ZERO {
            if self.strict && aggregation.asked.has_start() {
                let message = format!("`{table}` is kept since {} only", show(complete.get()));
                return Err(Fault::Script(
                    Diagnostic::new(
                        aggregation.range.unwrap_or_default(),
                        message,
                        "reaches further back",
                    )
                    .help("ask for a later start, or run without strict"),
                ));
            }
            let width_ns = width_ns(tier);
            origin.note(Note::SummariesStart { table, width_ns, from: complete });
        }
        let (from, until) = self.shown(span);
        if aggregation.asked != span || aggregation.asked.has_start() {
            let width_ns = width_ns(tier);
            origin.note(Note::Widened { table, from, until, width_ns });
        }
        for (column, template) in &aggregation.templated {
            origin.note(Note::Templated { table, column, template });
        }
        Ok(())
    }

    /// Key and parts of each state of a summary.
    fn states_of(
        &mut self,
        Piece { tier, span }: Piece<'_>,
        aggregation: &Aggregation,
        origin: &mut Origin,
    ) -> Result<LogicalPlan, Fault> {
        let table = aggregation.table;
        let (files, rows) = self.files_of(tier, span)?;
        origin.sources.push(SourceUse {
            table: table.name,
            tier: Tier::Summary { width_ns: width_ns(tier), cube: tier.cube },
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
        for predicate in &aggregation.predicates {
            plan = plan.filter(predicate.states.clone())?;
        }
        Ok(plan.project(aggregation.columns_of_states())?.build()?)
    }

    /// Rows, aggregated to the same columns.
    fn states_of_rows(rows: LogicalPlan, aggregation: &Aggregation) -> Result<LogicalPlan, Fault> {
        let mut plan = LogicalPlanBuilder::from(rows);
        for predicate in &aggregation.predicates {
            plan = plan.filter(predicate.rows.clone())?;
        }
        plan = plan.project(aggregation.columns_of_rows())?;
        plan = plan.aggregate(aggregation.groups_of_rows(), aggregation.parts_of_rows())?;
        Ok(plan.project(aggregation.key_and_part_columns())?.build()?)
    }
}

fn width_ns(tier: &TierView) -> i64 {
    i64::try_from(tier.width.as_nanos()).unwrap_or(i64::MAX)
}

/// Bins that the summaries do not fit which reach back as far as is asked: an error that names the width
/// to use.
fn too_fine(
    snapshot: &Snapshot,
    fitting: &[&TierView],
    further: &TierView,
    aggregation: &Aggregation,
) -> Fault {
    let width = width_ns(further);
    let wrong = aggregation.bins.iter().find(|bin| *bin % width != 0).copied().unwrap_or(0);
    let better = (wrong / width + 1) * width;
    let message = format!(
        "bins of {} do not fit the summaries of {} that reach back so far, whose windows are {}",
        show_width(wrong),
        aggregation.table.name,
        show_width(width)
    );
    let finer = fitting.iter().map(|tier| tier.complete_from.get()).min();
    let since = horizon(snapshot).min(finer.unwrap_or(i64::MAX));
    let time = if aggregation.range.is_some() { "px.bin(df.time_" } else { "bin(time_" };
    let help = format!(
        "use `{time}, {better})` ({}), or start at {} or later, since when finer ones or single rows \
         are kept",
        show_width(better),
        show(since)
    );
    let range = aggregation.range.unwrap_or_default();
    Fault::Script(Diagnostic::new(range, message, "binned this finely").help(help))
}

/// The summaries that have every column that the aggregate takes.
fn with_columns<'a>(
    snapshot: &'a Snapshot,
    aggregation: &Aggregation,
) -> impl Iterator<Item = &'a TierView> {
    let columns = aggregation.state_columns();
    let has_all = move |tier: &&TierView| {
        width_ns(tier) > 0 && columns.iter().all(|name| tier.schema.field_with_name(name).is_ok())
    };
    snapshot.tiers.iter().chain(&snapshot.cubes).filter(has_all)
}

/// The summaries whose windows fit the bins and that have every column it takes, finest first; of
/// those with the same width the one that reaches back furthest with the fewest bytes.
fn fine_enough<'a>(
    snapshot: &'a Snapshot,
    asked: Span,
    aggregation: &Aggregation,
) -> Vec<&'a TierView> {
    let fits = |tier: &&TierView| aggregation.bins.iter().all(|bin| bin % width_ns(tier) == 0);
    let mut tiers: Vec<_> = with_columns(snapshot, aggregation).filter(fits).collect();
    tiers.sort_by_cached_key(|tier| {
        let back_to = tier.complete_from.get().max(asked.from);
        (tier.width, back_to, bytes_in(tier, widened(asked, tier.width)))
    });
    tiers.dedup_by_key(|tier| tier.width);
    tiers
}

/// The finest summary of those that reach back furthest, where those that fit the bins do not reach back
/// to where the range is said to start. One without a start is all there is.
fn reaching_further<'a>(
    snapshot: &'a Snapshot,
    asked: Span,
    aggregation: &Aggregation,
    fitting: &[&TierView],
) -> Option<&'a TierView> {
    let back_to = |tier: &TierView| tier.complete_from.get().max(asked.from);
    let reached = fitting.iter().map(|tier| back_to(tier)).min();
    if reached.is_some() && !aggregation.asked.has_start() {
        return None;
    }
    let further = with_columns(snapshot, aggregation)
        .filter(|tier| reached.is_none_or(|reached| back_to(tier) < reached));
    further.min_by_key(|tier| (back_to(tier), tier.width))
}

/// `span`, cut into pieces in order of time: whole windows of a coarser summary are read from it
/// where it has all rows, what is left at both ends from finer ones. `tiers` has the finest first,
/// and `span` is whole windows of that one.
fn pieces<'a>(span: Span, tiers: &[&'a TierView]) -> Vec<Piece<'a>> {
    let Some((coarse, finer)) = tiers.split_last() else {
        return Vec::new();
    };
    let Some(next) = finer.last() else {
        return vec![Piece { tier: coarse, span }];
    };
    let inner = narrowed(span, coarse);
    let saved = bytes_in(next, inner).saturating_sub(bytes_in(coarse, inner));
    if inner.from >= inner.until || saved < BYTES_SAVED_MIN {
        return pieces(span, finer);
    }
    let before = Span { from: span.from, until: inner.from };
    let after = Span { from: inner.until, until: span.until };
    let mut cut = Vec::new();
    if before.from < before.until {
        cut.append(&mut pieces(before, finer));
    }
    cut.push(Piece { tier: coarse, span: inner });
    if after.from < after.until {
        cut.append(&mut pieces(after, finer));
    }
    cut
}

/// Above which places, and in which spans, rows are in no summary of these pieces yet.
fn unsealed(pieces: &[Piece<'_>]) -> Vec<(Seq, Span)> {
    let mut spans: Vec<(Seq, Span)> = Vec::new();
    for Piece { tier, span } in pieces {
        match spans.last_mut() {
            Some((above, last)) if *above == tier.sealed_to => last.until = span.until,
            _ => spans.push((tier.sealed_to, *span)),
        }
    }
    spans
}

/// Bytes of a summary's segments that touch `span`.
fn bytes_in(tier: &TierView, span: Span) -> u64 {
    segments_in(tier, span).iter().map(|segment| segment.bytes).sum()
}

/// States of all pieces, merged by key and finished.
fn merged(pieces: Vec<LogicalPlan>, aggregation: &Aggregation) -> Result<LogicalPlan, Fault> {
    let mut pieces = pieces.into_iter();
    let Some(first) = pieces.next() else {
        return Err(DataFusionError::Internal("a range has no pieces".to_owned()).into());
    };
    let all = pieces.try_fold(LogicalPlanBuilder::from(first), LogicalPlanBuilder::union)?;
    let merged = all.aggregate(aggregation.key_columns(), aggregation.merged_parts())?;
    Ok(merged.project(aggregation.finished())?.build()?)
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

/// The whole windows of a summary that are in `span` and of which it has all rows.
fn narrowed(span: Span, tier: &TierView) -> Span {
    let complete = tier.complete_from;
    let from = if span.from == i64::MIN && complete <= TimeNs::ZERO {
        i64::MIN
    } else {
        complete.max(TimeNs::new(span.from)).ceil_to(tier.width).get()
    };
    let until = if span.until == i64::MAX {
        i64::MAX
    } else {
        TimeNs::new(span.until).floor_to(tier.width).get()
    };
    Span { from, until }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;
    use object_store::path::Path;
    use undine_schema::Cube;
    use undine_store::Segment;

    use super::*;

    const MINUTE: i64 = 60_000_000_000;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;

    /// A summary of a hundred days with 50 states of 40 bytes in each window.
    fn tier(width: i64, complete_from: i64) -> TierView {
        let segment = |day: i64| Segment {
            path: Path::from(format!("{day}.parquet")),
            bytes: 2000 * (DAY / width).cast_unsigned(),
            rows: 50 * (DAY / width).cast_unsigned(),
            source_rows: 1,
            first_time: TimeNs::new(day * DAY),
            last_time: TimeNs::new((day + 1) * DAY - 1),
            first_window: TimeNs::new(day * DAY),
            last_window: TimeNs::new((day + 1) * DAY - width),
            places: None,
        };
        TierView {
            width: Duration::from_nanos(width.cast_unsigned()),
            cube: Cube::Full,
            sealed_to: Seq::ZERO,
            complete_from: TimeNs::new(complete_from),
            segments: (0..100).map(segment).collect(),
            schema: Arc::new(arrow::datatypes::Schema::empty()),
            objects: Arc::new(InMemory::new()),
        }
    }

    fn cut(from: i64, until: i64, tiers: &[TierView]) -> Vec<(i64, i64, i64)> {
        let tiers: Vec<&TierView> = tiers.iter().collect();
        let pieces = pieces(Span { from, until }, &tiers);
        pieces.iter().map(|p| (width_ns(p.tier), p.span.from, p.span.until)).collect()
    }

    #[test]
    fn a_long_range_is_days_with_hours_and_minutes_at_its_ends() {
        let tiers = [tier(MINUTE, 0), tier(HOUR, 0), tier(DAY, 0)];
        let (from, until) = (3 * DAY + 17 * HOUR + 5 * MINUTE, 90 * DAY + 7 * HOUR);
        assert_eq!(
            cut(from, until, &tiers),
            [
                (MINUTE, from, 3 * DAY + 18 * HOUR),
                (HOUR, 3 * DAY + 18 * HOUR, 4 * DAY),
                (DAY, 4 * DAY, 90 * DAY),
                (HOUR, 90 * DAY, until),
            ]
        );
        assert_eq!(cut(DAY, 50 * DAY, &tiers), [(DAY, DAY, 50 * DAY)]);
        assert_eq!(cut(i64::MIN, i64::MAX, &tiers), [(DAY, i64::MIN, i64::MAX)]);
    }

    #[test]
    fn a_coarser_summary_is_read_only_where_it_is_complete_and_worth_a_scan() {
        let tiers = [tier(MINUTE, 0), tier(HOUR, 2 * DAY + 1)];
        let since = 2 * DAY + HOUR;
        let (before, after) = ((MINUTE, DAY, since), (HOUR, since, 9 * DAY));
        assert_eq!(cut(DAY, 9 * DAY, &tiers), [before, after]);
        assert_eq!(
            cut(i64::MIN, i64::MAX, &tiers),
            [(MINUTE, i64::MIN, since), (HOUR, since, i64::MAX)]
        );
        // A day of hours is 48,000 bytes.
        let tiers = [tier(HOUR, 0), tier(DAY, 0)];
        assert_eq!(cut(DAY, 9 * DAY + HOUR, &tiers), [(HOUR, DAY, 9 * DAY + HOUR)]);
        assert_eq!(cut(DAY, 10 * DAY, &tiers), [(DAY, DAY, 10 * DAY)]);
    }

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
