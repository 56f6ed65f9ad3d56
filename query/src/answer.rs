//! What a script answers.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use undine_schema::{Cube, TimeNs};

use crate::otel::Export;

/// Everything that one run gives.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// What the script displays, in order.
    pub tables: Vec<ResultTable>,
    /// What it exports, in order.
    pub exports: Vec<Export>,
}

/// One table of an answer.
#[derive(Clone, Debug)]
pub struct ResultTable {
    /// Its name.
    pub name: String,
    /// Its columns, with `PxL` type and meaning in each field's metadata.
    pub schema: SchemaRef,
    /// Its rows; none of the columns holds nulls.
    pub batches: Vec<RecordBatch>,
    /// What to know about the rows.
    pub notes: Vec<Note>,
    /// Where the rows come from.
    pub sources: Vec<SourceUse>,
    /// Whether every value is what all rows give to the last bit. Quantiles come from sketches: each is
    /// within [`RELATIVE_ERROR_MAX`](undine_store::sketch::RELATIVE_ERROR_MAX) of the value of its rank.
    pub exact: bool,
}

impl ResultTable {
    /// How many rows it has.
    pub fn rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }
}

/// Something to know about an answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Note {
    /// Rows were cut off at the limit for one table.
    RowsCut {
        /// The limit.
        rows_max: usize,
    },
    /// Single rows of a table do not reach back as far as was asked.
    Clipped {
        /// The table.
        table: &'static str,
        /// First time that was asked for; none means all there is.
        asked: Option<TimeNs>,
        /// First time that is answered.
        from: TimeNs,
        /// Why summaries could not stand in.
        reason: String,
    },
    /// The range of an aggregate was widened to the windows of a summary.
    Widened {
        /// The table.
        table: &'static str,
        /// First time that is answered.
        from: TimeNs,
        /// First time that is no longer answered.
        until: TimeNs,
        /// Width of the windows, in nanoseconds.
        width_ns: i64,
    },
    /// A column was replaced by its template, since summaries keep only that.
    Templated {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
        /// What stands in for it.
        template: &'static str,
    },
    /// Rows of a table were lost in the range that is answered, or may have been.
    Lost {
        /// The table.
        table: &'static str,
        /// Why, as in `data_loss`.
        reason: String,
        /// At least this many rows.
        rows_min: i64,
        /// At most this many rows; none where there is no bound.
        rows_max: Option<i64>,
    },
    /// Summaries in the range hold some rows under `*`, since their windows had more groups than they may.
    Folded {
        /// The table.
        table: &'static str,
    },
    /// Summaries of this width do not reach back as far as was asked.
    SummariesStart {
        /// The table.
        table: &'static str,
        /// Width of the windows, in nanoseconds.
        width_ns: i64,
        /// First time that is complete.
        from: TimeNs,
    },
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use crate::time_text::{show, show_width};
        match self {
            Self::RowsCut { rows_max } => write!(
                f,
                "only the first {rows_max} rows are shown; \
                 `#px:set max_output_rows_per_table=N` allows more"
            ),
            Self::Clipped { table, from, reason, .. } => write!(
                f,
                "{table}: single rows are kept since {} only, and {reason}; \
                 the answer starts there",
                show(from.get())
            ),
            Self::Widened { table, from, until, width_ns } => write!(
                f,
                "{table}: summaries of {} cover {} to {}",
                show_width(*width_ns),
                show(from.get()),
                show(until.get())
            ),
            Self::Templated { table, column, template } => {
                write!(
                    f,
                    "{table}: {column} stands for {template}, since older rows are summarised"
                )
            }
            Self::Lost { table, reason, rows_min, rows_max } => {
                let most = rows_max.map_or("or more".to_owned(), |most| format!("to {most}"));
                let rows = match rows_max {
                    Some(most) if most == rows_min => format!("{rows_min}"),
                    _ => format!("{rows_min} {most}"),
                };
                write!(f, "{table}: {rows} rows were lost in this range ({reason}); see data_loss")
            }
            Self::Folded { table } => write!(
                f,
                "{table}: summaries in this range hold some rows under * (store.groups_per_window_max); \
                 totals are complete; see data_loss"
            ),
            Self::SummariesStart { table, width_ns, from } => write!(
                f,
                "{table}: summaries of {} are kept since {} only",
                show_width(*width_ns),
                show(from.get())
            ),
        }
    }
}

/// One place that rows were read from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SourceUse {
    /// The table.
    pub table: &'static str,
    /// Which part of the store.
    pub tier: Tier,
    /// Rows, or states of a summary, that were offered to the query.
    pub rows: u64,
    /// First time that is answered from here, and the first that no longer is.
    pub range: (TimeNs, TimeNs),
}

/// A part of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tier {
    /// Rows in memory.
    Hot,
    /// Rows on disk.
    Raw,
    /// A summary.
    Summary {
        /// The width of its windows, in nanoseconds.
        width_ns: i64,
        /// Its dimensions.
        cube: Cube,
    },
    /// Rows that stand for others.
    Exemplars,
}

/// As in SQL after the table's name and `__`: `1h`, or `1h_service` of a smaller cube.
impl std::fmt::Display for Tier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Hot => f.write_str("hot"),
            Self::Raw => f.write_str("raw"),
            Self::Exemplars => f.write_str("exemplars"),
            Self::Summary { width_ns, cube } => {
                f.write_str(&crate::time_text::show_width(*width_ns))?;
                match cube.name() {
                    "" => Ok(()),
                    name => write!(f, "_{name}"),
                }
            }
        }
    }
}

impl std::fmt::Display for SourceUse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use crate::time_text::show;
        let Self { table, tier, rows, range: (from, until) } = self;
        let what = if matches!(tier, Tier::Summary { .. }) { "states" } else { "rows" };
        let (from, until) = (show(from.get()), show(until.get()));
        write!(f, "{table} {tier}: {rows} {what}, {from} to {until}")
    }
}
