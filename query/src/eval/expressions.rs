//! Values of expressions.

use std::sync::Arc;

use super::arguments::Arguments;
use super::value::{Entry, Method, Value};
use super::{Eval, Evaluator, Raised};
use crate::ast::{At, BinaryOp, Expr, ExprAt, Name, UnaryOp};
use crate::diagnostics::{Diagnostic, Range};
use crate::expr::{Symbol, SymbolKind};
use crate::scalar::{self, Const, Scalar};

impl Evaluator<'_> {
    pub(super) fn expr(&mut self, expr: &ExprAt) -> Eval<Value> {
        self.step(expr.range)?;
        let range = expr.range;
        match &expr.node {
            Expr::None => Ok(Value::None),
            Expr::Bool(value) => Ok(Value::constant(Const::Bool(*value))),
            Expr::Int(value) => Ok(Value::constant(Const::Int(*value))),
            Expr::Float(value) => Ok(Value::constant(Const::Float(*value))),
            Expr::Str(value) => Ok(Value::text(Arc::clone(value))),
            Expr::Name(name) => self.lookup(&At { range, node: Arc::clone(name) }),
            Expr::Attribute { base, attr } => {
                let owner = self.expr(base)?;
                self.attribute(&owner, attr, range)
            }
            Expr::Item { base, key } => {
                let owner = self.expr(base)?;
                let item = self.expr(key)?;
                self.item(owner, item, base.range, key.range, range)
            }
            Expr::Call { function, args, kwargs } => {
                let callee = self.expr(function)?;
                let positional = args
                    .iter()
                    .map(|arg| Ok((self.expr(arg)?, arg.range)))
                    .collect::<Eval<Vec<_>>>()?;
                let named = kwargs
                    .iter()
                    .map(|(name, arg)| Ok((name.clone(), (self.expr(arg)?, arg.range))))
                    .collect::<Eval<Vec<_>>>()?;
                self.call(callee, function.range, Arguments { range, positional, named })
            }
            Expr::Unary { op, operand } => {
                let value = self.expr(operand)?;
                let function = match op {
                    UnaryOp::Plus => return Ok(value),
                    UnaryOp::Not => "logicalNot",
                    UnaryOp::Negate => "negate",
                    UnaryOp::Invert => "invert",
                };
                self.operator(function, vec![(value, operand.range)], range)
            }
            Expr::Binary { op, left, right } => self.binary(*op, left, right, range),
            Expr::List(items) => Ok(Value::List(self.items(items)?.into())),
            Expr::Tuple(items) => Ok(Value::Tuple(self.items(items)?.into())),
            Expr::Dict(items) => {
                let entries = items
                    .iter()
                    .map(|(key, value)| {
                        Ok(Entry {
                            key: (self.expr(key)?, key.range),
                            value: (self.expr(value)?, value.range),
                        })
                    })
                    .collect::<Eval<Vec<_>>>()?;
                Ok(Value::Dict(entries.into()))
            }
        }
    }

    fn items(&mut self, items: &[ExprAt]) -> Eval<Vec<(Value, Range)>> {
        items.iter().map(|item| Ok((self.expr(item)?, item.range))).collect()
    }

    fn binary(&mut self, op: BinaryOp, left: &ExprAt, right: &ExprAt, range: Range) -> Eval<Value> {
        let left = (self.expr(left)?, left.range);
        let right = (self.expr(right)?, right.range);
        // `x and True` is `x`: scripts switch conditions on and off that way.
        if let (Value::Scalar(_), Value::Column(_)) | (Value::Column(_), Value::Scalar(_)) =
            (&left.0, &right.0)
            && let Some(value) = absorb(op, &left.0, &right.0)
        {
            return Ok(value);
        }
        self.operator(op.function(), vec![left, right], range)
    }

    /// Folds an operator on constants, or makes it part of an expression on columns.
    pub(super) fn operator(
        &mut self,
        function: &'static str,
        operands: Vec<(Value, Range)>,
        range: Range,
    ) -> Eval<Value> {
        let constants: Option<Vec<Scalar>> = operands
            .iter()
            .map(|(value, _)| match value {
                Value::Scalar(scalar) => Some(scalar.clone()),
                _ => None,
            })
            .collect();
        let Some(constants) = constants else {
            let args = operands
                .into_iter()
                .map(|operand| self.symbol(operand))
                .collect::<Eval<Vec<_>>>()?;
            return self.apply(function.into(), args, range);
        };
        let folded = scalar::fold(function, &constants).ok_or_else(|| {
            let types: Vec<_> = constants.iter().map(|c| c.value.pxl_type().name()).collect();
            let message = format!("`{function}` has no form for ({})", types.join(", "));
            self.fail(Diagnostic::new(range, message, "these types do not go together"))
        })?;
        Ok(Value::Scalar(folded))
    }

    /// A call of a function on rows.
    pub(super) fn apply(
        &mut self,
        function: Arc<str>,
        args: Vec<Arc<Symbol>>,
        range: Range,
    ) -> Eval<Value> {
        self.symbolic(Symbol::new(range, SymbolKind::Call { function, args }))
    }

    pub(super) fn symbolic(&mut self, symbol: Symbol) -> Eval<Value> {
        let depth_max = self.surroundings.parse_limits.depth_max;
        if symbol.depth > depth_max {
            let message = format!("the expression is nested deeper than {depth_max} levels");
            let diagnostic = Diagnostic::new(symbol.range, message, "too deep here");
            return Err(self.fail(diagnostic.help("assign parts of it to columns first")));
        }
        Ok(Value::Column(Arc::new(symbol)))
    }

    /// The value as part of an expression on columns.
    pub(super) fn symbol(&mut self, (value, range): (Value, Range)) -> Eval<Arc<Symbol>> {
        match value {
            Value::Column(symbol) => Ok(symbol),
            Value::Scalar(scalar) => Ok(Arc::new(Symbol::new(range, SymbolKind::Const(scalar)))),
            Value::Poison => Err(Raised),
            other => {
                let label = format!("this is {}", other.describe());
                let message = "a column or a constant is needed here";
                Err(self.fail(Diagnostic::new(range, message, label)))
            }
        }
    }

    fn attribute(&mut self, owner: &Value, attr: &Name, range: Range) -> Eval<Value> {
        match owner {
            Value::Frame(frame) => Ok(match (&*attr.node, Method::find(&attr.node)) {
                ("ctx", _) => Value::Context,
                (_, Some(method)) => Value::Method { frame: frame.clone(), method },
                _ => column(Arc::clone(&attr.node), range),
            }),
            Value::Grouped { frame, keys } if &*attr.node == "agg" => {
                Ok(Value::Grouping { frame: frame.clone(), keys: Arc::clone(keys) })
            }
            Value::Grouped { .. } => {
                let message = format!("a grouped DataFrame has no `{}`", attr.node);
                let diagnostic = Diagnostic::new(attr.range, message, "not here");
                Err(self.fail(diagnostic.help("follow `groupby` by `.agg(out=('column', px.fn))`")))
            }
            Value::Module(module) => self.module_attribute(*module, attr),
            Value::Poison => Err(Raised),
            other => {
                let message = format!("{} has no `{}`", other.describe(), attr.node);
                Err(self.fail(Diagnostic::new(attr.range, message, "not here")))
            }
        }
    }

    fn item(
        &mut self,
        owner: Value,
        item: Value,
        owner_range: Range,
        item_range: Range,
        range: Range,
    ) -> Eval<Value> {
        match (owner, item) {
            (Value::Frame(frame), item) => self.frame_item(&frame, item, item_range, range),
            (Value::Context, Value::Scalar(Scalar { value: Const::Str(key), .. })) => {
                Ok(Value::Column(Arc::new(Symbol::new(range, SymbolKind::Context(key)))))
            }
            (Value::Context, other) => {
                let label = format!("this is {}", other.describe());
                let message = "a key of `ctx` must be a constant string";
                Err(self.fail(Diagnostic::new(item_range, message, label)))
            }
            (
                Value::List(items) | Value::Tuple(items),
                Value::Scalar(Scalar { value: Const::Int(at), .. }),
            ) => {
                let found = usize::try_from(at).ok().and_then(|at| items.get(at));
                found.map(|(value, _)| value.clone()).ok_or_else(|| {
                    let message = format!("there is no element {at}");
                    let label = format!("the list has {}", items.len());
                    self.fail(Diagnostic::new(item_range, message, label))
                })
            }
            (Value::Poison, _) | (_, Value::Poison) => Err(Raised),
            (owner, _) => {
                let message = format!("{} has no elements", owner.describe());
                Err(self.fail(Diagnostic::new(owner_range, message, "cannot be indexed")))
            }
        }
    }
}

/// A column by name, of whatever DataFrame the expression ends up in.
pub(super) fn column(name: Arc<str>, range: Range) -> Value {
    Value::Column(Arc::new(Symbol::new(range, SymbolKind::Column(name))))
}

/// `and` or `or` of a condition on rows with one that is known.
fn absorb(op: BinaryOp, left: &Value, right: &Value) -> Option<Value> {
    let (known, open) = match (left, right) {
        (Value::Scalar(scalar), open) | (open, Value::Scalar(scalar)) => match scalar.value {
            Const::Bool(known) => (known, open),
            _ => return None,
        },
        _ => return None,
    };
    match (op, known) {
        (BinaryOp::And, true) | (BinaryOp::Or, false) => Some(open.clone()),
        (BinaryOp::And, false) | (BinaryOp::Or, true) => Some(Value::constant(Const::Bool(known))),
        _ => None,
    }
}
