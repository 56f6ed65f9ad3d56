//! Decides whether an aggregate can be computed from summaries, and how.
//!
//! A summary keeps, per window and dimensions, how many rows there were and a state of each
//! measure. An aggregate can be computed from that if its keys and filters are functions of
//! dimensions and of `px.bin(time_, width)`, and its arguments are functions of dimensions or
//! measures that a state can stand in for:
//!
//! ```text
//! count(anything)             rows
//! sum(f(dimensions))          f · rows           (also of conditions: select(f, rows, 0))
//! sum(a·m + b·n)              a·m_sum + b·n_sum  (a and b functions of dimensions, also select)
//! mean(e)                     sum(e) / rows
//! min(m), max(time_)          m_min, last_time
//! quantiles(m)                the merged sketches of m
//! ```
//!
//! A column that has a template, such as `req_path`, is replaced by it, unless it is compared with what is
//! no template. Everything here is done on relations, before there is a plan.

use std::collections::HashMap;
use std::sync::Arc;

use undine_schema::path_template::template;
use undine_schema::{ColumnDef, PxlType, Role, SemanticType, TableDef};

use crate::expr::{Typed, TypedKind};
use crate::functions;
use crate::relation::{AggregateKind, Aggregated, Op, Relation, Scan};
use crate::scalar::{Const, Scalar};

/// Nodes of one expression after the columns of a chain of maps are put into each other.
const INLINED_NODES_MAX: usize = 400;

/// An aggregate in terms of its table's own columns.
#[derive(Debug)]
pub(crate) struct Summarised {
    pub(crate) scan: Scan,
    /// On rows; see [`on_states`] for the same on states.
    pub(crate) predicates: Vec<Typed>,
    pub(crate) keys: Vec<(Arc<str>, Typed)>,
    pub(crate) values: Vec<Value>,
    /// Widths of `px.bin(time_, …)`, in nanoseconds.
    pub(crate) bins: Vec<i64>,
    /// Columns that were replaced by their templates.
    pub(crate) templated: Vec<(&'static str, &'static str)>,
}

/// One output of the aggregate.
#[derive(Debug)]
pub(crate) struct Value {
    pub(crate) aggregated: Aggregated,
    /// Its argument, on rows.
    pub(crate) arg: Typed,
    /// For each of [`parts`], what stands in for it in a state.
    pub(crate) states: Vec<State>,
}

/// What a state contributes to a part.
#[derive(Debug)]
pub(crate) enum State {
    Value(Typed),
    /// The measure whose sketch it is.
    Sketch(&'static str),
}

/// What an aggregate is put together from; each part of a union is the same part of the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Rows,
    Sum,
    Min,
    Max,
    Any,
    Sketch,
    PathClusters,
}

pub(crate) const fn parts(kind: AggregateKind) -> &'static [Part] {
    match kind {
        AggregateKind::Count => &[Part::Rows],
        AggregateKind::Sum => &[Part::Sum],
        AggregateKind::Mean => &[Part::Sum, Part::Rows],
        AggregateKind::Min => &[Part::Min],
        AggregateKind::Max => &[Part::Max],
        AggregateKind::Any => &[Part::Any],
        AggregateKind::Quantiles => &[Part::Sketch],
        AggregateKind::PathClusters => &[Part::PathClusters],
    }
}

/// Why an aggregate needs rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NeedsRows {
    /// It is not computed from one table.
    NotOneTable,
    /// Of something that summaries do not keep.
    NotKept(String),
}

/// The aggregate `relation` in terms of states.
pub(crate) fn summarised(relation: &Relation) -> Result<Summarised, NeedsRows> {
    let Op::Aggregate { input, keys, values } = &relation.op else {
        return Err(NeedsRows::NotOneTable);
    };
    let chain = inline(input)?;
    let mut rewriter =
        Rewriter { table: chain.scan.table, bins: Vec::new(), templated: Vec::new() };
    let column = |name: &Arc<str>| chain.columns.get(name).cloned().ok_or(NeedsRows::NotOneTable);
    let predicates = chain
        .predicates
        .iter()
        .map(|predicate| rewriter.dimensional(predicate))
        .collect::<Result<_, _>>()?;
    let keys = keys
        .iter()
        .map(|key| Ok((Arc::clone(key), rewriter.dimensional(&column(key)?)?)))
        .collect::<Result<_, NeedsRows>>()?;
    let values = values
        .iter()
        .map(|value| rewriter.value(value, &column(&value.arg)?))
        .collect::<Result<_, NeedsRows>>()?;
    let Rewriter { mut bins, mut templated, .. } = rewriter;
    bins.sort_unstable();
    bins.dedup();
    templated.sort_unstable();
    templated.dedup();
    Ok(Summarised { scan: chain.scan, predicates, keys, values, bins, templated })
}

/// The same on states: a state's time is the start of its window.
pub(crate) fn on_states(expr: &Typed) -> Typed {
    match &expr.kind {
        TypedKind::Column(name) if &**name == "time_" => {
            Typed { kind: TypedKind::Column("window_start".into()), ..expr.clone() }
        }
        TypedKind::Column(_) | TypedKind::Const(_) => expr.clone(),
        TypedKind::Call { overload, args } => {
            let args = args.iter().map(|arg| Arc::new(on_states(arg))).collect();
            Typed { kind: TypedKind::Call { overload, args }, ..*expr }
        }
    }
}

/// A chain of filters and maps over one scan, put into each other.
struct Chain {
    scan: Scan,
    columns: HashMap<Arc<str>, Typed>,
    predicates: Vec<Typed>,
}

fn inline(relation: &Relation) -> Result<Chain, NeedsRows> {
    match &relation.op {
        Op::Scan(scan) => {
            let columns = relation
                .all_columns()
                .map(|column| {
                    let own = column.name.strip_prefix('\u{1}').unwrap_or(&column.name);
                    let typed = Typed {
                        kind: TypedKind::Column(own.into()),
                        pxl_type: column.pxl_type,
                        semantic: column.semantic,
                    };
                    (Arc::clone(&column.name), typed)
                })
                .collect();
            Ok(Chain { scan: scan.clone(), columns, predicates: Vec::new() })
        }
        Op::Filter { input, predicate } => {
            let mut chain = inline(input)?;
            let predicate = put_in(predicate, &chain.columns)?;
            chain.predicates.push(predicate);
            Ok(chain)
        }
        Op::Map { input, exprs } => {
            let mut chain = inline(input)?;
            let mut columns = exprs
                .iter()
                .map(|(name, expr)| Ok((Arc::clone(name), put_in(expr, &chain.columns)?)))
                .collect::<Result<HashMap<_, _>, NeedsRows>>()?;
            for hidden in &relation.hidden {
                if let Some(expr) = chain.columns.remove(&hidden.name) {
                    columns.insert(Arc::clone(&hidden.name), expr);
                }
            }
            Ok(Chain { columns, ..chain })
        }
        Op::Listing(_)
        | Op::Traced(_)
        | Op::Aggregate { .. }
        | Op::Join(_)
        | Op::Head { .. }
        | Op::Union { .. } => Err(NeedsRows::NotOneTable),
    }
}

fn put_in(expr: &Typed, columns: &HashMap<Arc<str>, Typed>) -> Result<Typed, NeedsRows> {
    let mut nodes_max = INLINED_NODES_MAX;
    expr.substitute(&mut nodes_max, &|name| columns.get(name).cloned())
        .ok_or_else(|| NeedsRows::NotKept("its expressions are too large".to_owned()))
}

struct Rewriter {
    table: &'static TableDef,
    bins: Vec<i64>,
    templated: Vec<(&'static str, &'static str)>,
}

impl Rewriter {
    fn not_kept(&self, what: &str) -> NeedsRows {
        NeedsRows::NotKept(format!("summaries of {} do not keep {what}", self.table.name))
    }

    fn definition(&self, column: &str) -> Result<&'static ColumnDef, NeedsRows> {
        self.table.column(column).ok_or_else(|| self.not_kept(column))
    }

    /// The expression with templates in place of what they stand for, if it is a function of
    /// dimensions and bins of time.
    fn dimensional(&mut self, expr: &Typed) -> Result<Typed, NeedsRows> {
        match &expr.kind {
            TypedKind::Const(_) => Ok(expr.clone()),
            TypedKind::Column(name) => {
                let definition = self.definition(name)?;
                if definition.role == Role::Dimension {
                    return Ok(expr.clone());
                }
                let template = self
                    .table
                    .columns
                    .iter()
                    .find(|other| other.template_of == Some(definition.name))
                    .ok_or_else(|| self.not_kept(&format!("{name} row by row")))?;
                self.templated.push((definition.name, template.name));
                Ok(Typed { kind: TypedKind::Column(template.name.into()), ..expr.clone() })
            }
            TypedKind::Call { overload, args } => {
                if let Some(width) = time_bin(expr) {
                    self.bins.push(width);
                    return Ok(expr.clone());
                }
                self.compares_as_template(overload.function, args)?;
                let args = args
                    .iter()
                    .map(|arg| self.dimensional(arg).map(Arc::new))
                    .collect::<Result<_, _>>()?;
                Ok(Typed { kind: TypedKind::Call { overload, args }, ..*expr })
            }
        }
    }

    /// A column is not compared by its template with what is itself no template: `req_path == '/item/7'`
    /// holds for some of the requests under `/item/*`.
    fn compares_as_template(&self, function: &str, args: &[Arc<Typed>]) -> Result<(), NeedsRows> {
        let (true, [a, b]) = (matches!(function, "equal" | "notEqual"), args) else {
            return Ok(());
        };
        let has_template =
            |name: &str| self.table.columns.iter().any(|column| column.template_of == Some(name));
        for (column, other) in [(a, b), (b, a)] {
            if let TypedKind::Column(name) = &column.kind
                && has_template(name)
                && !is_template(other)
            {
                return Err(self.not_kept(&format!("which {name} each request had")));
            }
        }
        Ok(())
    }

    /// As [`dimensional`](Self::dimensional), leaving no trace where it is not.
    fn try_dimensional(&mut self, expr: &Typed) -> Option<Typed> {
        let (bins, templated) = (self.bins.len(), self.templated.len());
        let result = self.dimensional(expr).ok();
        if result.is_none() {
            self.bins.truncate(bins);
            self.templated.truncate(templated);
        }
        result
    }

    fn value(&mut self, aggregated: &Aggregated, arg: &Typed) -> Result<Value, NeedsRows> {
        let states = parts(aggregated.kind)
            .iter()
            .map(|part| match part {
                Part::Rows => Ok(State::Value(rows())),
                Part::Sum => self.sum(arg).map(State::Value),
                Part::Min | Part::Any => self.extreme(arg, "min").map(State::Value),
                Part::Max => self.extreme(arg, "max").map(State::Value),
                Part::Sketch => self.sketch(arg).map(State::Sketch),
                Part::PathClusters => Err(self.not_kept("paths row by row")),
            })
            .collect::<Result<_, _>>()?;
        // What a row contributes must be what a state contributes, templates included.
        let arg = self.try_dimensional(arg).unwrap_or_else(|| arg.clone());
        Ok(Value { aggregated: aggregated.clone(), arg, states })
    }

    fn sum(&mut self, expr: &Typed) -> Result<Typed, NeedsRows> {
        if let Some(dimensional) = self.try_dimensional(expr) {
            let dimensional = on_states(&dimensional);
            let total = match dimensional.pxl_type {
                PxlType::Boolean => {
                    let none = Typed::constant(Scalar::from(Const::Int(0)));
                    call("select", vec![dimensional, rows(), none])
                }
                _ => call("multiply", vec![dimensional, rows()]),
            };
            return total.ok_or_else(|| self.not_kept("such a sum"));
        }
        let (name, args) = match &expr.kind {
            TypedKind::Column(name) => return self.measure(name, expr, "sum"),
            TypedKind::Call { overload, args } => (overload.function, args),
            TypedKind::Const(_) => return Err(self.not_kept("such a sum")),
        };
        let total = match (name, args.as_slice()) {
            ("add" | "subtract", [a, b]) => call(name, vec![self.sum(a)?, self.sum(b)?]),
            ("negate", [a]) => call(name, vec![self.sum(a)?]),
            ("multiply", [a, b]) => match (self.try_dimensional(a), self.try_dimensional(b)) {
                (Some(factor), _) => call(name, vec![on_states(&factor), self.sum(b)?]),
                (_, Some(factor)) => call(name, vec![self.sum(a)?, on_states(&factor)]),
                _ => None,
            },
            ("divide", [a, b]) => match self.try_dimensional(b) {
                Some(divisor) => call(name, vec![self.sum(a)?, on_states(&divisor)]),
                None => None,
            },
            ("select", [condition, a, b]) => {
                let condition = on_states(&self.dimensional(condition)?);
                call(name, vec![condition, self.sum(a)?, self.sum(b)?])
            }
            _ => None,
        };
        total.ok_or_else(|| self.not_kept(&format!("the sum of `{name}` of its measures")))
    }

    fn extreme(&mut self, expr: &Typed, which: &str) -> Result<Typed, NeedsRows> {
        if let Some(dimensional) = self.try_dimensional(expr) {
            return Ok(on_states(&dimensional));
        }
        match &expr.kind {
            TypedKind::Column(name) if &**name == "time_" => {
                let end = if which == "min" { "first_time" } else { "last_time" };
                Ok(Typed { kind: TypedKind::Column(end.into()), ..expr.clone() })
            }
            TypedKind::Column(name) => self.measure(name, expr, which),
            TypedKind::Call { overload, args } if overload.function == "select" => {
                let [condition, a, b] = args.as_slice() else {
                    return Err(self.not_kept("such a choice"));
                };
                let condition = on_states(&self.dimensional(condition)?);
                let choices = vec![condition, self.extreme(a, which)?, self.extreme(b, which)?];
                call("select", choices).ok_or_else(|| self.not_kept("such a choice"))
            }
            TypedKind::Call { overload, args } => match (overload.function, args.as_slice()) {
                (name @ ("multiply" | "divide"), [a, b]) if is_positive(b) => {
                    let scaled = vec![self.extreme(a, which)?, (**b).clone()];
                    call(name, scaled).ok_or_else(|| self.not_kept("such a product"))
                }
                (name, _) => {
                    Err(self.not_kept(&format!("the {which} of `{name}` of its measures")))
                }
            },
            TypedKind::Const(_) => Ok(expr.clone()),
        }
    }

    fn measure(&self, name: &str, expr: &Typed, state: &str) -> Result<Typed, NeedsRows> {
        let definition = self.definition(name)?;
        if !matches!(definition.role, Role::Measure | Role::Sketched | Role::Counter) {
            return Err(self.not_kept(&format!("{name} row by row")));
        }
        Ok(Typed { kind: TypedKind::Column(format!("{name}_{state}").into()), ..expr.clone() })
    }

    fn sketch(&self, expr: &Typed) -> Result<&'static str, NeedsRows> {
        let name = expr.as_column().ok_or_else(|| self.not_kept("quantiles of expressions"))?;
        let definition = self.definition(name)?;
        if definition.role == Role::Sketched {
            Ok(definition.name)
        } else {
            Err(self.not_kept(&format!("quantiles of {name}")))
        }
    }
}

/// How many rows a state stands for.
fn rows() -> Typed {
    Typed {
        kind: TypedKind::Column("rows".into()),
        pxl_type: PxlType::Int64,
        semantic: SemanticType::None,
    }
}

fn call(name: &str, args: Vec<Typed>) -> Option<Typed> {
    let types: Vec<PxlType> = args.iter().map(|arg| arg.pxl_type).collect();
    let overload = functions::resolve(functions::find(name)?, &types)?;
    Some(Typed {
        kind: TypedKind::Call { overload, args: args.into_iter().map(Arc::new).collect() },
        pxl_type: overload.result,
        semantic: SemanticType::None,
    })
}

/// The width of `px.bin(time_, width)`.
fn time_bin(expr: &Typed) -> Option<i64> {
    let TypedKind::Call { overload, args } = &expr.kind else { return None };
    let [value, width] = args.as_slice() else { return None };
    let is_time = value.as_column().is_some_and(|name| &**name == "time_");
    match &width.kind {
        TypedKind::Const(Scalar { value: Const::Int(width) | Const::Time(width), .. })
            if overload.function == "bin" && is_time && *width > 0 =>
        {
            Some(*width)
        }
        _ => None,
    }
}

/// Whether it is a constant text that is its own template.
fn is_template(expr: &Typed) -> bool {
    match &expr.kind {
        TypedKind::Const(Scalar { value: Const::Str(text), .. }) => template(text) == **text,
        _ => false,
    }
}

fn is_positive(expr: &Typed) -> bool {
    match &expr.kind {
        TypedKind::Const(Scalar { value: Const::Int(value), .. }) => *value > 0,
        TypedKind::Const(Scalar { value: Const::Float(value), .. }) => *value > 0.0,
        _ => false,
    }
}
