//! What can be done with a DataFrame.

use std::sync::Arc;

use undine_schema::PxlType;

use super::arguments::{self, Arguments};
use super::expressions::column;
use super::value::{Absent, Frame, Method, Value};
use super::{Eval, Evaluator, Raised};
use crate::ast::Name;
use crate::diagnostics::{Diagnostic, Range, did_you_mean};
use crate::expr::{Annotation, Symbol, SymbolKind, Typed, TypedKind};
use crate::relation::{Aggregated, Column, Join, JoinKind, Relation, Side};
use crate::scalar::{Const, Scalar};

/// A column as it is.
fn pass(column: &Column) -> (Arc<str>, Typed) {
    let typed = Typed {
        kind: TypedKind::Column(Arc::clone(&column.name)),
        pxl_type: column.pxl_type,
        semantic: column.semantic,
    };
    (Arc::clone(&column.name), typed)
}

impl Evaluator<'_> {
    pub(super) fn method(&mut self, frame: &Frame, method: Method, args: Arguments) -> Eval<Value> {
        match method {
            Method::Merge => self.merge(frame, args),
            Method::Agg => self.aggregate(frame, &[], args),
            Method::Drop => self.drop_columns(frame, args),
            Method::Head => {
                let mut bound = args.bind(self, "head", ["n"], 0)?;
                let rows = match bound.optional(0) {
                    None => 5,
                    Some((value, range)) => self.row_count(&value, range)?,
                };
                let relation = self.settled(frame)?;
                let made = self.relations.head(&relation, rows, bound.range);
                self.made(made, bound.range).map(Value::Frame)
            }
            Method::Filter => {
                let mut bound = args.bind(self, "filter", ["condition"], 1)?;
                let (value, range) = bound.required(0);
                self.filter(frame, (value, range), bound.range)
            }
            Method::Groupby => {
                let keys = args.bind(self, "groupby", ["by"], 1)?.names(self, 0)?;
                let relation = self.settled(frame)?;
                for (name, range) in &keys {
                    if relation.column(name).is_none() {
                        return Err(self.no_column(name, *range, &relation));
                    }
                }
                Ok(Value::Grouped { frame: Frame::new(relation), keys: keys.into() })
            }
            Method::Append => self.append(frame, args),
            Method::Stream => Ok(Value::Frame(frame.clone())),
            Method::Map | Method::Rolling => {
                let (name, help) = match method {
                    Method::Map => ("map", "assign columns: `df.c = …`"),
                    _ => ("rolling", "group by `px.bin(df.time_, width)`"),
                };
                let message = format!("`{name}` cannot be executed");
                Err(self.fail(Diagnostic::new(args.range, message, "not supported").help(help)))
            }
        }
    }

    fn row_count(&mut self, value: &Value, range: Range) -> Eval<usize> {
        if let Value::Scalar(Scalar { value: Const::Int(rows), .. }) = value
            && let Ok(rows) = usize::try_from(*rows)
        {
            return Ok(rows);
        }
        let message = "a number of rows must be a constant integer, not negative";
        Err(self.fail(Diagnostic::new(range, message, format!("this is {}", value.describe()))))
    }

    /// The relation of a frame that must be whole.
    pub(super) fn settled(&mut self, frame: &Frame) -> Eval<Arc<Relation>> {
        match &frame.absent {
            None => Ok(Arc::clone(&frame.relation)),
            Some(absent) => {
                for (name, range) in &absent.missing {
                    self.no_column(name, *range, &frame.relation);
                }
                Err(Raised)
            }
        }
    }

    /// `df[…]`: a column, a projection or a filter.
    pub(super) fn frame_item(
        &mut self,
        frame: &Frame,
        item: Value,
        item_range: Range,
        range: Range,
    ) -> Eval<Value> {
        match item {
            Value::Scalar(Scalar { value: Const::Str(name), .. }) => Ok(column(name, range)),
            Value::List(_) | Value::Tuple(_) => {
                let Some(names) = arguments::names(&item, item_range) else {
                    let message = "a projection is a list of column names";
                    return Err(self.fail(Diagnostic::new(
                        item_range,
                        message,
                        "not all are strings",
                    )));
                };
                self.project(frame, &names, range)
            }
            condition => self.filter(frame, (condition, item_range), range),
        }
    }

    fn project(&mut self, frame: &Frame, names: &[(Arc<str>, Range)], range: Range) -> Eval<Value> {
        let relation = self.settled(frame)?;
        let mut exprs = Vec::with_capacity(names.len());
        let mut missing = Vec::new();
        for (index, (name, place)) in names.iter().enumerate() {
            if names[..index].iter().any(|(other, _)| other == name) {
                let message = format!("column `{name}` is named twice");
                return Err(self.fail(Diagnostic::new(*place, message, "again here")));
            }
            match relation.column(name) {
                Some(column) => exprs.push(pass(column)),
                None => missing.push((Arc::clone(name), *place)),
            }
        }
        if !missing.is_empty() {
            let wanted = names.iter().map(|(name, _)| Arc::clone(name)).collect();
            let absent = Some(Arc::new(Absent { wanted, missing }));
            return Ok(Value::Frame(Frame { relation, absent }));
        }
        let made = self.relations.map(&relation, exprs, range);
        self.made(made, range).map(Value::Frame)
    }

    fn filter(&mut self, frame: &Frame, condition: (Value, Range), range: Range) -> Eval<Value> {
        let relation = self.settled(frame)?;
        let place = condition.1;
        let symbol = self.symbol(condition)?;
        let predicate = self.bind(&symbol, &relation)?;
        if predicate.pxl_type != PxlType::Boolean {
            let message = "a filter needs a condition";
            let label = format!("this is {}", predicate.pxl_type.name());
            return Err(self
                .fail(Diagnostic::new(place, message, label).help("compare it: `df[df.c == …]`")));
        }
        let made = self.relations.filter(&relation, predicate, range);
        self.made(made, range).map(Value::Frame)
    }

    /// `df.name = value`: the column goes to the end, also where it was there before.
    pub(super) fn assign_column(
        &mut self,
        frame: &Frame,
        name: &Name,
        value: (Value, Range),
    ) -> Eval<Frame> {
        if name.node.chars().any(char::is_control) {
            let message = "a column's name holds no control characters";
            return Err(self.fail(Diagnostic::new(name.range, message, "not a name")));
        }
        let range = Range { start: name.range.start, end: value.1.end.max(name.range.end) };
        let symbol = self.symbol(value)?;
        let Some(absent) = &frame.absent else {
            let relation = Arc::clone(&frame.relation);
            let typed = self.bind(&symbol, &relation)?;
            let kept = relation.columns.iter().filter(|column| column.name != name.node);
            let exprs = kept.map(pass).chain([(Arc::clone(&name.node), typed)]).collect();
            let made = self.relations.map(&relation, exprs, range);
            return self.made(made, range);
        };
        // A projection named columns that are not there; this may be the assignment that brings one.
        let missing: Vec<_> =
            absent.missing.iter().filter(|(other, _)| *other != name.node).cloned().collect();
        let typed = self.bind(&symbol, &frame.relation)?;
        if !missing.is_empty() {
            return Err(self.settled(frame).err().unwrap_or(Raised));
        }
        let relation = Arc::clone(&frame.relation);
        let kept = absent.wanted.iter().filter(|other| **other != name.node);
        let kept = kept.filter_map(|other| relation.column(other)).map(pass);
        let exprs = kept.chain([(Arc::clone(&name.node), typed)]).collect();
        let made = self.relations.map(&relation, exprs, range);
        self.made(made, range)
    }

    pub(super) fn cast(
        &mut self,
        to: Annotation,
        value: Value,
        range: Range,
        whole: Range,
    ) -> Eval<Value> {
        match value {
            Value::Scalar(scalar) => {
                self.check_cast(to, scalar.value.pxl_type(), range)?;
                Ok(Value::Scalar(Scalar { semantic: to.semantic, ..scalar }))
            }
            other => {
                let operand = self.symbol((other, range))?;
                self.symbolic(Symbol::new(whole, SymbolKind::Cast { to, operand }))
            }
        }
    }

    fn drop_columns(&mut self, frame: &Frame, args: Arguments) -> Eval<Value> {
        let mut bound = args.bind(self, "drop", ["columns"], 1)?;
        let names = bound.names(self, 0)?;
        let relation = self.settled(frame)?;
        for (name, range) in &names {
            if relation.column(name).is_none() {
                return Err(self.no_column(name, *range, &relation));
            }
        }
        let kept = relation
            .columns
            .iter()
            .filter(|column| !names.iter().any(|(name, _)| *name == column.name));
        let exprs = kept.map(pass).collect();
        let made = self.relations.map(&relation, exprs, bound.range);
        self.made(made, bound.range).map(Value::Frame)
    }

    /// `.agg(out=('column', px.fn), …)`; without arguments, the distinct groups.
    pub(super) fn aggregate(
        &mut self,
        frame: &Frame,
        keys: &[(Arc<str>, Range)],
        args: Arguments,
    ) -> Eval<Value> {
        if let Some((_, range)) = args.positional.first() {
            let diagnostic = Diagnostic::new(*range, "`agg` takes named arguments only", "unnamed");
            return Err(self.fail(diagnostic.help("write `.agg(out=('column', px.count))`")));
        }
        if keys.is_empty() && args.named.is_empty() {
            let message = "`agg` without groups needs something to compute";
            let diagnostic = Diagnostic::new(args.range, message, "nothing is computed");
            return Err(self.fail(diagnostic.help("write `.agg(out=('column', px.count))`")));
        }
        let relation = self.settled(frame)?;
        let mut columns = Vec::with_capacity(keys.len() + args.named.len());
        let mut names: Vec<Arc<str>> = Vec::new();
        for (name, range) in keys {
            match relation.column(name) {
                Some(column) if !names.contains(name) => {
                    names.push(Arc::clone(name));
                    columns.push(column.clone());
                }
                Some(_) => {}
                None => return Err(self.no_column(name, *range, &relation)),
            }
        }
        let mut values = Vec::with_capacity(args.named.len());
        for (name, (value, range)) in args.named {
            if columns.iter().any(|column| column.name == name.node) {
                let message = format!("two columns are called `{}`", name.node);
                return Err(self.fail(Diagnostic::new(name.range, message, "again here")));
            }
            let (aggregated, column) = self.aggregated(&relation, &name, &value, range)?;
            values.push(aggregated);
            columns.push(column);
        }
        let made = self.relations.aggregate(&relation, names, values, columns, args.range);
        self.made(made, args.range).map(Value::Frame)
    }

    fn aggregated(
        &mut self,
        relation: &Arc<Relation>,
        name: &Name,
        value: &Value,
        range: Range,
    ) -> Eval<(Aggregated, Column)> {
        let parts = match value {
            Value::Tuple(items) => match &**items {
                [
                    (Value::Scalar(Scalar { value: Const::Str(column), .. }), at),
                    (function, at_fn),
                ] => Some((column, *at, function, *at_fn)),
                _ => None,
            },
            _ => None,
        };
        let Some((column, at, function, at_function)) = parts else {
            let message = format!("`{}` must be a pair of a column and an aggregate", name.node);
            let label = format!("this is {}", value.describe());
            let help = format!("write `{}=('column', px.count)`", name.node);
            return Err(self.fail(Diagnostic::new(range, message, label).help(help)));
        };
        let Value::Aggregate(kind) = function else {
            let message = "the second part must be an aggregate such as `px.count`";
            let label = format!("this is {}", function.describe());
            return Err(self.fail(Diagnostic::new(at_function, message, label)));
        };
        let symbol = Symbol::new(at, SymbolKind::Column(Arc::clone(column)));
        let arg = self.bind(&symbol, relation)?;
        let (pxl_type, semantic) = self.bind_aggregate(*kind, &arg, at)?;
        let aggregated =
            Aggregated { name: Arc::clone(&name.node), kind: *kind, arg: Arc::clone(column) };
        Ok((aggregated, Column { name: Arc::clone(&name.node), pxl_type, semantic }))
    }

    fn append(&mut self, frame: &Frame, args: Arguments) -> Eval<Value> {
        let mut bound = args.bind(self, "append", ["objs"], 1)?;
        let (value, range) = bound.required(0);
        let others = match value {
            Value::Frame(other) => vec![(Value::Frame(other), range)],
            Value::List(items) | Value::Tuple(items) => items.to_vec(),
            Value::Poison => return Err(Raised),
            other => vec![(other, range)],
        };
        let first = self.settled(frame)?;
        let mut inputs = vec![Arc::clone(&first)];
        for (other, place) in others {
            let Value::Frame(other) = other else {
                let message = "`append` takes a DataFrame or a list of them";
                let label = format!("this is {}", other.describe());
                return Err(self.fail(Diagnostic::new(place, message, label)));
            };
            let other = self.settled(&other)?;
            inputs.push(self.aligned(&first, &other, place)?);
        }
        let made = self.relations.union(inputs, bound.range);
        self.made(made, bound.range).map(Value::Frame)
    }

    /// `other` with its columns in the order of `first`; both must have the same.
    fn aligned(
        &mut self,
        first: &Arc<Relation>,
        other: &Arc<Relation>,
        range: Range,
    ) -> Eval<Arc<Relation>> {
        for column in &first.columns {
            let Some(same) = other.column(&column.name) else {
                let message = format!("column `{}` is missing from the appended rows", column.name);
                return Err(self.fail(Diagnostic::new(range, message, "lacks it")));
            };
            if same.pxl_type != column.pxl_type {
                let (have, want) = (same.pxl_type.name(), column.pxl_type.name());
                let message = format!("column `{}` is {have} here but {want} there", column.name);
                return Err(self.fail(Diagnostic::new(range, message, "another type")));
            }
        }
        if let Some(extra) = other.columns.iter().find(|c| first.column(&c.name).is_none()) {
            let message = format!("column `{}` is only in the appended rows", extra.name);
            return Err(self.fail(Diagnostic::new(range, message, "has it")));
        }
        if first.columns.iter().zip(&other.columns).all(|(a, b)| a.name == b.name) {
            return Ok(Arc::clone(other));
        }
        let in_order = first.columns.iter().filter_map(|column| other.column(&column.name));
        let exprs = in_order.map(pass).collect();
        let made = self.relations.map(other, exprs, range);
        self.made(made, range).map(|frame| frame.relation)
    }

    fn merge(&mut self, frame: &Frame, args: Arguments) -> Eval<Value> {
        let names = ["right", "how", "left_on", "right_on", "suffixes"];
        let mut bound = args.bind(self, "merge", names, 4)?;
        let right = bound.frame(self, 0)?;
        let how_range = bound.range;
        let how = bound.text(self, 1)?;
        let kind = match &*how {
            "inner" => JoinKind::Inner,
            "left" => JoinKind::Left,
            "right" => JoinKind::Right,
            "outer" => JoinKind::Outer,
            other => {
                let message = format!("there is no join `{other}`");
                let kinds = ["inner", "left", "right", "outer"];
                let help = did_you_mean(other, kinds)
                    .unwrap_or_else(|| "use inner, left, right or outer".to_owned());
                return Err(
                    self.fail(Diagnostic::new(how_range, message, "in this call").help(help))
                );
            }
        };
        let left_on = bound.names(self, 2)?;
        let right_on = bound.names(self, 3)?;
        let suffixes = match bound.optional(4) {
            None => ["_x".into(), "_y".into()],
            Some((value, range)) => {
                let names = arguments::names(&value, range);
                let Some([(left, _), (right, _)]) = names.as_deref() else {
                    let message = "`suffixes` are two strings";
                    let label = format!("this is {}", value.describe());
                    return Err(self.fail(Diagnostic::new(range, message, label)));
                };
                [Arc::clone(left), Arc::clone(right)]
            }
        };
        let (left, right) = (self.settled(frame)?, self.settled(&right)?);
        let keys = self.join_keys(&left, &right, &left_on, &right_on, bound.range)?;
        self.join(left, right, kind, keys, &suffixes, bound.range)
    }

    fn join_keys(
        &mut self,
        left: &Relation,
        right: &Relation,
        left_on: &[(Arc<str>, Range)],
        right_on: &[(Arc<str>, Range)],
        range: Range,
    ) -> Eval<Vec<(Arc<str>, Arc<str>)>> {
        if left_on.len() != right_on.len() {
            let message =
                format!("{} keys on the left, {} on the right", left_on.len(), right_on.len());
            return Err(self.fail(Diagnostic::new(range, message, "they must pair up")));
        }
        let mut keys = Vec::with_capacity(left_on.len());
        for ((l, l_range), (r, r_range)) in left_on.iter().zip(right_on) {
            let Some(l_column) = left.column(l) else {
                return Err(self.no_column(l, *l_range, left));
            };
            let Some(r_column) = right.column(r) else {
                return Err(self.no_column(r, *r_range, right));
            };
            if l_column.pxl_type != r_column.pxl_type {
                let message = format!(
                    "key `{l}` is {} but `{r}` is {}",
                    l_column.pxl_type.name(),
                    r_column.pxl_type.name()
                );
                return Err(self.fail(Diagnostic::new(*r_range, message, "another type")));
            }
            keys.push((Arc::clone(l), Arc::clone(r)));
        }
        Ok(keys)
    }

    fn join(
        &mut self,
        left: Arc<Relation>,
        right: Arc<Relation>,
        kind: JoinKind,
        keys: Vec<(Arc<str>, Arc<str>)>,
        [left_suffix, right_suffix]: &[Arc<str>; 2],
        range: Range,
    ) -> Eval<Value> {
        let mut outputs = Vec::new();
        let mut columns: Vec<Column> = Vec::new();
        for (side, own, other, suffix) in
            [(Side::Left, &left, &right, left_suffix), (Side::Right, &right, &left, right_suffix)]
        {
            for column in &own.columns {
                let name: Arc<str> = match other.column(&column.name) {
                    Some(_) => format!("{}{suffix}", column.name).into(),
                    None => Arc::clone(&column.name),
                };
                if columns.iter().any(|known| known.name == name) {
                    let message = format!("two columns of the join are called `{name}`");
                    let diagnostic = Diagnostic::new(range, message, "in this join");
                    return Err(self.fail(diagnostic.help("choose other `suffixes`")));
                }
                outputs.push((side, Arc::clone(&column.name), Arc::clone(&name)));
                columns.push(Column { name, ..column.clone() });
            }
        }
        // The side whose process stays in sight keeps its context.
        let keeps = |side: Side, relation: &Relation| {
            let visible = outputs
                .iter()
                .any(|(from, source, name)| *from == side && source == name && &**name == "upid");
            !relation.hidden.is_empty() && (visible || relation.column("upid").is_none())
        };
        let hidden = if keeps(Side::Left, &left) {
            Some((Side::Left, left.hidden.clone()))
        } else if keeps(Side::Right, &right) {
            Some((Side::Right, right.hidden.clone()))
        } else {
            None
        };
        let hidden = hidden.map_or_else(Vec::new, |(side, hidden)| {
            outputs.extend(hidden.iter().map(|c| (side, Arc::clone(&c.name), Arc::clone(&c.name))));
            hidden
        });
        let join = Join { left, right, kind, keys, outputs };
        let made = self.relations.join(join, columns, hidden, range);
        self.made(made, range).map(Value::Frame)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_visible_column_can_be_called_like_a_hidden_one() {
        assert!(crate::relation::hidden_name("pod").chars().any(char::is_control));
    }
}
