//! Typed relations: what a script computes, before anything is known of where rows are.
//!
//! Relations form a DAG. Equal relations are the same one: two functions that build the same table
//! share it, however they came to it.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use undine_schema::{ColumnDef, PxlType, SemanticType, TableDef};

use crate::diagnostics::Range;
use crate::expr::{Typed, TypedKind};

/// A column of a relation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Column {
    pub(crate) name: Arc<str>,
    pub(crate) pxl_type: PxlType,
    pub(crate) semantic: SemanticType,
}

/// The internal name under which the context column `name` travels beside the visible ones. No
/// script can write it.
pub(crate) fn hidden_name(name: &str) -> Arc<str> {
    format!("\u{1}{name}").into()
}

/// Some rows with named columns.
#[derive(Debug)]
pub(crate) struct Relation {
    id: usize,
    pub(crate) op: Op,
    /// What a script sees, in order.
    pub(crate) columns: Vec<Column>,
    /// Context of the process that each row is about, by [`hidden_name`].
    pub(crate) hidden: Vec<Column>,
    /// Where the script asked for it first.
    pub(crate) range: Range,
}

impl PartialEq for Relation {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Relation {}

impl Hash for Relation {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl Relation {
    /// A number that no other relation of the script has.
    pub(crate) fn id(&self) -> usize {
        self.id
    }

    /// The visible column called `name`.
    pub(crate) fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| &*column.name == name)
    }

    /// The context column called `name`.
    pub(crate) fn context(&self, name: &str) -> Option<&Column> {
        self.hidden.iter().find(|column| column.name.strip_prefix('\u{1}') == Some(name))
    }

    /// Visible and hidden columns.
    pub(crate) fn all_columns(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().chain(&self.hidden)
    }

    pub(crate) fn inputs(&self) -> Vec<&Arc<Self>> {
        match &self.op {
            Op::Scan(_) | Op::Listing(_) | Op::Traced(_) => Vec::new(),
            Op::Map { input, .. }
            | Op::Filter { input, .. }
            | Op::Aggregate { input, .. }
            | Op::Head { input, .. } => vec![input],
            Op::Join(join) => vec![&join.left, &join.right],
            Op::Union { inputs } => inputs.iter().collect(),
        }
    }
}

/// How a relation comes about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Op {
    Scan(Scan),
    /// Rows that describe Undine itself.
    Listing(Listing),
    /// Rows of a tracepoint's table.
    Traced(Traced),
    /// New visible columns; hidden ones stay.
    Map {
        input: Arc<Relation>,
        exprs: Vec<(Arc<str>, Typed)>,
    },
    Filter {
        input: Arc<Relation>,
        predicate: Typed,
    },
    Aggregate {
        input: Arc<Relation>,
        keys: Vec<Arc<str>>,
        values: Vec<Aggregated>,
    },
    Join(Join),
    Head {
        input: Arc<Relation>,
        rows: usize,
    },
    Union {
        inputs: Vec<Arc<Relation>>,
    },
}

/// Rows of a table whose time lies in a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scan {
    pub(crate) table: &'static TableDef,
    /// The visible columns that are asked for, in order.
    pub(crate) columns: Vec<&'static str>,
    /// First time, included; without one, the oldest row there is.
    pub(crate) start: Option<i64>,
    /// Last time, included; without one, the moment the script was compiled.
    pub(crate) end: Option<i64>,
}

impl Hash for Scan {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.table.name, &self.columns, self.start, self.end).hash(state);
    }
}

/// Rows of a tracepoint's table whose time lies in a range.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Traced {
    pub(crate) table: Arc<str>,
    /// First time, included.
    pub(crate) start: Option<i64>,
    /// Last time, included.
    pub(crate) end: Option<i64>,
}

/// Which description of Undine itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Listing {
    Tables,
    Schemas,
    Functions,
    Aggregates,
    TableFunctions,
    Agents,
    KernelHeaders,
    ProfilerPeriods,
    HeapGrowth,
    TableInfo,
    Tracepoints,
}

/// One output of an aggregate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Aggregated {
    pub(crate) name: Arc<str>,
    pub(crate) kind: AggregateKind,
    pub(crate) arg: Arc<str>,
}

/// What is computed of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum AggregateKind {
    Count,
    Sum,
    Mean,
    Min,
    Max,
    Any,
    Quantiles,
    /// Endpoints found among request paths.
    PathClusters,
}

impl AggregateKind {
    pub(crate) const ALL: [(&'static str, Self); 8] = [
        ("_build_request_path_clusters", Self::PathClusters),
        ("any", Self::Any),
        ("count", Self::Count),
        ("max", Self::Max),
        ("mean", Self::Mean),
        ("min", Self::Min),
        ("quantiles", Self::Quantiles),
        ("sum", Self::Sum),
    ];

    pub(crate) fn find(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(other, _)| *other == name).map(|(_, kind)| *kind)
    }

    pub(crate) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }

    /// The type of the result, if the aggregate takes such an argument.
    pub(crate) fn result(self, arg: PxlType) -> Option<PxlType> {
        use PxlType::{Boolean, Float64, Int64, String, Time64Ns, Uint128};
        match (self, arg) {
            (Self::Count, _) | (Self::Sum, Int64 | Boolean) => Some(Int64),
            (Self::Sum, Float64) | (Self::Mean, Int64 | Float64 | Boolean) => Some(Float64),
            (Self::Min | Self::Max, Int64 | Float64 | Time64Ns | String) | (Self::Any, _) => {
                Some(arg)
            }
            (Self::Quantiles, Int64 | Float64) | (Self::PathClusters, String) => Some(String),
            (Self::Sum | Self::Mean | Self::Quantiles, String | Time64Ns | Uint128)
            | (Self::Min | Self::Max, Boolean | Uint128)
            | (Self::Quantiles, Boolean)
            | (Self::PathClusters, Int64 | Float64 | Boolean | Time64Ns | Uint128) => None,
        }
    }

    /// The meaning of the result.
    pub(crate) fn meaning(self, arg: SemanticType) -> SemanticType {
        use SemanticType as St;
        let rate = matches!(arg, St::Bytes | St::ThroughputPerNs | St::ThroughputBytesPerNs);
        match self {
            Self::Any => arg,
            Self::Quantiles if arg == St::DurationNs => St::DurationNsQuantiles,
            Self::Quantiles => St::Quantiles,
            Self::Sum if rate || arg == St::Percent => arg,
            Self::Mean | Self::Min | Self::Max
                if rate || matches!(arg, St::Percent | St::DurationNs) =>
            {
                arg
            }
            Self::Min | Self::Max if arg == St::TimeNs => arg,
            Self::Count | Self::Sum | Self::Mean | Self::Min | Self::Max | Self::PathClusters => {
                St::None
            }
        }
    }
}

/// Which rows without a partner stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum JoinKind {
    Inner,
    Left,
    Right,
    Outer,
}

/// Which side of a join a column is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Side {
    Left,
    Right,
}

/// Pairs of rows whose keys are equal; all pairs where there are no keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Join {
    pub(crate) left: Arc<Relation>,
    pub(crate) right: Arc<Relation>,
    pub(crate) kind: JoinKind,
    pub(crate) keys: Vec<(Arc<str>, Arc<str>)>,
    /// Where each output column, hidden ones last, comes from.
    pub(crate) outputs: Vec<(Side, Arc<str>, Arc<str>)>,
}

/// More relations than a script may have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TooMany {
    pub(crate) nodes_max: usize,
}

/// Makes relations and keeps equal ones the same.
#[derive(Debug)]
pub(crate) struct Relations {
    known: HashMap<Op, Vec<Arc<Relation>>>,
    count: usize,
    nodes_max: usize,
    /// Where what is made now is asked for, if not where its text stands.
    pub(crate) place: Option<Range>,
}

impl Relations {
    pub(crate) fn new(nodes_max: usize) -> Self {
        Self { known: HashMap::new(), count: 0, nodes_max, place: None }
    }

    fn make(
        &mut self,
        op: Op,
        columns: Vec<Column>,
        hidden: Vec<Column>,
        range: Range,
    ) -> Result<Arc<Relation>, TooMany> {
        let same = self.known.entry(op.clone()).or_default();
        let equal = |other: &&Arc<Relation>| other.columns == columns && other.hidden == hidden;
        if let Some(known) = same.iter().find(equal) {
            return Ok(Arc::clone(known));
        }
        if self.count == self.nodes_max {
            return Err(TooMany { nodes_max: self.nodes_max });
        }
        self.count += 1;
        let range = self.place.unwrap_or(range);
        let relation = Arc::new(Relation { id: self.count, op, columns, hidden, range });
        same.push(Arc::clone(&relation));
        Ok(relation)
    }

    pub(crate) fn scan(&mut self, scan: Scan, range: Range) -> Result<Arc<Relation>, TooMany> {
        let column =
            |def: &ColumnDef, name| Column { name, pxl_type: def.pxl_type, semantic: def.semantic };
        let columns = scan
            .columns
            .iter()
            .filter_map(|name| scan.table.column(name))
            .map(|def| column(def, def.name.into()))
            .collect();
        let hidden = scan
            .table
            .columns
            .iter()
            .filter(|def| def.visibility == undine_schema::column::Visibility::Context)
            .map(|def| column(def, hidden_name(def.name)))
            .collect();
        self.make(Op::Scan(scan), columns, hidden, range)
    }

    pub(crate) fn listing(
        &mut self,
        listing: Listing,
        columns: Vec<Column>,
        range: Range,
    ) -> Result<Arc<Relation>, TooMany> {
        self.make(Op::Listing(listing), columns, Vec::new(), range)
    }

    pub(crate) fn traced(
        &mut self,
        traced: Traced,
        columns: Vec<Column>,
        range: Range,
    ) -> Result<Arc<Relation>, TooMany> {
        self.make(Op::Traced(traced), columns, Vec::new(), range)
    }

    /// Consecutive maps become one where that repeats no computation.
    pub(crate) fn map(
        &mut self,
        input: &Arc<Relation>,
        exprs: Vec<(Arc<str>, Typed)>,
        range: Range,
    ) -> Result<Arc<Relation>, TooMany> {
        let columns = exprs
            .iter()
            .map(|(name, expr)| Column {
                name: Arc::clone(name),
                pxl_type: expr.pxl_type,
                semantic: expr.semantic,
            })
            .collect::<Vec<_>>();
        let loses_identity = input.column("upid").is_some()
            && exprs.iter().any(|(name, expr)| {
                &**name == "upid" && expr.as_column().is_none_or(|from| &**from != "upid")
            });
        let hidden = if loses_identity { Vec::new() } else { input.hidden.clone() };
        if let Op::Map { input: below, exprs: inner } = &input.op
            && let Some(fused) = fuse(inner, &exprs)
        {
            return self.make(
                Op::Map { input: Arc::clone(below), exprs: fused },
                columns,
                hidden,
                range,
            );
        }
        self.make(Op::Map { input: Arc::clone(input), exprs }, columns, hidden, range)
    }

    pub(crate) fn filter(
        &mut self,
        input: &Arc<Relation>,
        predicate: Typed,
        range: Range,
    ) -> Result<Arc<Relation>, TooMany> {
        if let TypedKind::Const(constant) = &predicate.kind
            && constant.value == crate::scalar::Const::Bool(true)
        {
            return Ok(Arc::clone(input));
        }
        let (columns, hidden) = (input.columns.clone(), input.hidden.clone());
        self.make(Op::Filter { input: Arc::clone(input), predicate }, columns, hidden, range)
    }

    pub(crate) fn head(
        &mut self,
        input: &Arc<Relation>,
        rows: usize,
        range: Range,
    ) -> Result<Arc<Relation>, TooMany> {
        let (columns, hidden) = (input.columns.clone(), input.hidden.clone());
        self.make(Op::Head { input: Arc::clone(input), rows }, columns, hidden, range)
    }

    /// The context of a process stays known where rows are grouped by process.
    pub(crate) fn aggregate(
        &mut self,
        input: &Arc<Relation>,
        keys: Vec<Arc<str>>,
        mut values: Vec<Aggregated>,
        columns: Vec<Column>,
        range: Range,
    ) -> Result<Arc<Relation>, TooMany> {
        let by_process = keys.iter().any(|key| &**key == "upid");
        let hidden = if by_process { input.hidden.clone() } else { Vec::new() };
        values.extend(hidden.iter().map(|column| Aggregated {
            name: Arc::clone(&column.name),
            kind: AggregateKind::Max,
            arg: Arc::clone(&column.name),
        }));
        self.make(Op::Aggregate { input: Arc::clone(input), keys, values }, columns, hidden, range)
    }

    pub(crate) fn join(
        &mut self,
        join: Join,
        columns: Vec<Column>,
        hidden: Vec<Column>,
        range: Range,
    ) -> Result<Arc<Relation>, TooMany> {
        self.make(Op::Join(join), columns, hidden, range)
    }

    pub(crate) fn union(
        &mut self,
        inputs: Vec<Arc<Relation>>,
        range: Range,
    ) -> Result<Arc<Relation>, TooMany> {
        let Some(first) = inputs.first() else { return Err(TooMany { nodes_max: self.nodes_max }) };
        let columns = first.columns.clone();
        let same = inputs.iter().all(|input| input.hidden == first.hidden);
        let hidden = if same { first.hidden.clone() } else { Vec::new() };
        self.make(Op::Union { inputs }, columns, hidden, range)
    }
}

/// Nodes that a fused expression may have.
const FUSED_NODES_MAX: usize = 200;

/// `outer` on top of `inner` as one list of expressions, if no computed column is used twice.
fn fuse(
    inner: &[(Arc<str>, Typed)],
    outer: &[(Arc<str>, Typed)],
) -> Option<Vec<(Arc<str>, Typed)>> {
    let by_name: HashMap<&Arc<str>, &Typed> = inner.iter().map(|(name, e)| (name, e)).collect();
    let mut uses: HashMap<Arc<str>, usize> = HashMap::new();
    for (_, expr) in outer {
        expr.walk(&mut |part| {
            if let TypedKind::Column(name) = &part.kind {
                *uses.entry(Arc::clone(name)).or_default() += 1;
            }
        });
    }
    let repeats = by_name.iter().any(|(name, expr)| {
        matches!(expr.kind, TypedKind::Call { .. }) && uses.get(*name).is_some_and(|&n| n > 1)
    });
    if repeats {
        return None;
    }
    outer
        .iter()
        .map(|(name, expr)| {
            let mut nodes_max = FUSED_NODES_MAX;
            let fused = expr.substitute(&mut nodes_max, &|column| {
                // Hidden columns pass a map by their own name.
                match by_name.get(column) {
                    Some(expr) => Some((*expr).clone()),
                    None if column.starts_with('\u{1}') => Some(expr_of_hidden(column, expr)),
                    None => None,
                }
            })?;
            Some((Arc::clone(name), fused))
        })
        .collect()
}

fn expr_of_hidden(column: &Arc<str>, within: &Typed) -> Typed {
    let mut found = None;
    within.walk(&mut |part| {
        if part.as_column() == Some(column) {
            found = Some(part.clone());
        }
    });
    found.unwrap_or_else(|| within.clone())
}
