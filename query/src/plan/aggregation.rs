//! An aggregate as it is computed over rows and over the states of summaries alike: what those of scripts and
//! of SQL are both turned into.
//!
//! Each of its values is put together from parts; a part of rows and a part of states are merged the same way:
//!
//! ```text
//! rows ── v0, v1 … (arguments) ── parts of rows ──┐
//!                                                 ├─ s0_0, s0_1 … ── merged ── m0_0, m0_1 … ── finished
//! states ── parts of states ──────────────────────┘
//! ```

use std::collections::BTreeSet;

use datafusion::functions_aggregate::expr_fn::{count_distinct, first_value, max, min, sum};
use datafusion::logical_expr::Expr;
use undine_schema::TableDef;

use super::bare;
use crate::diagnostics::Range;
use crate::quantiles;
use crate::span::Span;

/// An aggregate of rows of one table.
#[derive(Debug)]
pub(crate) struct Aggregation {
    pub(crate) table: &'static TableDef,
    /// The times of the rows that it is about.
    pub(crate) asked: Span,
    /// Where it stands in a script; that of a statement of SQL has no place.
    pub(crate) range: Option<Range>,
    pub(crate) predicates: Vec<Both>,
    /// What rows are grouped by, with the names of the answer's columns.
    pub(crate) keys: Vec<(String, Both)>,
    pub(crate) values: Vec<Value>,
    /// Widths of bins of time, in nanoseconds.
    pub(crate) bins: Vec<i64>,
    /// Columns that were replaced by their templates.
    pub(crate) templated: Vec<(&'static str, &'static str)>,
}

/// An expression over rows, and the same over states.
#[derive(Clone, Debug)]
pub(crate) struct Both {
    pub(crate) rows: Expr,
    pub(crate) states: Expr,
}

/// One output of an aggregate.
#[derive(Debug)]
pub(crate) struct Value {
    pub(crate) name: String,
    /// Its argument over rows, which parts of rows find as [`argument`].
    pub(crate) arg: Expr,
    pub(crate) parts: Vec<Part>,
    /// The output from its merged parts, each a [`merged_part`].
    pub(crate) finished: Expr,
}

/// What a value is put together from; each part of a union is the same part of the whole.
#[derive(Debug)]
pub(crate) struct Part {
    /// An aggregate over rows; of [`Merge::CountDistinct`], what rows are grouped by as well.
    pub(crate) of_rows: Expr,
    /// What a state contributes.
    pub(crate) of_states: Expr,
    pub(crate) merge: Merge,
}

/// How parts are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Merge {
    Sum,
    Min,
    Max,
    First,
    /// Values to how many are different.
    CountDistinct,
    /// Sketches to one.
    Sketch,
    /// Sketches to their quantiles as JSON.
    Quantiles,
}

impl Merge {
    fn of(self, part: Expr) -> Expr {
        match self {
            Self::Sum => sum(part),
            Self::Min => min(part),
            Self::Max => max(part),
            Self::First => first_value(part, Vec::new()),
            Self::CountDistinct => count_distinct(part),
            Self::Sketch => quantiles::merged_sketch(part),
            Self::Quantiles => quantiles::merged(part),
        }
    }
}

/// What the parts of rows of the value at `index` are computed of.
pub(crate) fn argument(index: usize) -> Expr {
    bare(&format!("v{index}"))
}

/// The merged part at `at` of the value at `index`.
pub(crate) fn merged_part(index: usize, at: usize) -> Expr {
    bare(&format!("m{index}_{at}"))
}

/// The sketch of a measure in a state, as bytes.
pub(crate) fn sketch_of(measure: &str) -> Expr {
    let [keys, counts] = ["keys", "counts"].map(|of| bare(&format!("{measure}_sketch_{of}")));
    quantiles::packed(keys, counts)
}

impl Aggregation {
    /// The columns of a summary that it reads: a smaller summary that has them all answers as well.
    pub(super) fn state_columns(&self) -> BTreeSet<String> {
        let keys = self.keys.iter().map(|(_, key)| &key.states);
        let predicates = self.predicates.iter().map(|predicate| &predicate.states);
        let parts = self.values.iter().flat_map(|value| &value.parts).map(|part| &part.of_states);
        let columns = keys.chain(predicates).chain(parts).flat_map(Expr::column_refs);
        columns.map(|column| column.name.clone()).collect()
    }

    pub(super) fn key_columns(&self) -> Vec<Expr> {
        (0..self.keys.len()).map(|index| bare(&format!("k{index}"))).collect()
    }

    /// Keys and arguments over rows.
    pub(super) fn columns_of_rows(&self) -> Vec<Expr> {
        let keys = self.keys.iter().enumerate();
        let keys = keys.map(|(index, (_, key))| key.rows.clone().alias(format!("k{index}")));
        let args = self.values.iter().enumerate();
        let args = args.map(|(index, value)| value.arg.clone().alias(format!("v{index}")));
        keys.chain(args).collect()
    }

    /// Keys and parts over states.
    pub(super) fn columns_of_states(&self) -> Vec<Expr> {
        let keys = self.keys.iter().enumerate();
        let keys = keys.map(|(index, (_, key))| key.states.clone().alias(format!("k{index}")));
        keys.chain(self.named_parts(|_| true, |part| part.of_states.clone())).collect()
    }

    /// What rows are grouped by: the keys, and values of which is counted how many are different.
    pub(super) fn groups_of_rows(&self) -> Vec<Expr> {
        let values = self.named_parts(Part::is_group, |part| part.of_rows.clone());
        self.key_columns().into_iter().chain(values).collect()
    }

    /// The aggregates over each of these groups.
    pub(super) fn parts_of_rows(&self) -> Vec<Expr> {
        self.named_parts(|part| !part.is_group(), |part| part.of_rows.clone()).collect()
    }

    /// Keys and parts, in the order of [`columns_of_states`](Self::columns_of_states).
    pub(super) fn key_and_part_columns(&self) -> Vec<Expr> {
        let parts = self.part_names().map(|(name, _)| bare(&name));
        self.key_columns().into_iter().chain(parts).collect()
    }

    pub(super) fn merged_parts(&self) -> Vec<Expr> {
        let merged = |(name, part): (String, &Part)| {
            part.merge.of(bare(&name)).alias(name.replacen('s', "m", 1))
        };
        self.part_names().map(merged).collect()
    }

    /// The answer's columns.
    pub(super) fn finished(&self) -> Vec<Expr> {
        let keys = self.keys.iter().enumerate();
        let keys = keys.map(|(index, (name, _))| bare(&format!("k{index}")).alias(name));
        let values = self.values.iter().map(|value| value.finished.clone().alias(&value.name));
        keys.chain(values).collect()
    }

    /// What `of` makes of the parts that `is_wanted`, by their names.
    fn named_parts(
        &self,
        is_wanted: impl Fn(&Part) -> bool,
        of: impl Fn(&Part) -> Expr,
    ) -> impl Iterator<Item = Expr> {
        let wanted = self.part_names().filter(move |(_, part)| is_wanted(part));
        wanted.map(move |(name, part)| of(part).alias(name))
    }

    fn part_names(&self) -> impl Iterator<Item = (String, &Part)> {
        self.values.iter().enumerate().flat_map(|(index, value)| {
            value.parts.iter().enumerate().map(move |(at, part)| (format!("s{index}_{at}"), part))
        })
    }
}

impl Part {
    /// Whether it is a value that rows are grouped by.
    fn is_group(&self) -> bool {
        self.merge == Merge::CountDistinct
    }
}
