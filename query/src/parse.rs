//! Text → [`ast`](crate::ast). A Python parser reads the text; what `PxL` does not have is refused
//! here, all of it in one go.
//!
//! One comma may be missing in a call before its keyword arguments: upstream's parser allows that
//! and its own library makes use of it.

use std::sync::Arc;

use ruff_python_ast as py;
use ruff_python_parser::{Mode, ParseErrorType, ParseOptions, parse_unchecked};
use ruff_text_size::Ranged;

use crate::ast::{At, BinaryOp, Def, Expr, ExprAt, Name, Param, Script, Stmt, Target, UnaryOp};
use crate::diagnostics::{Diagnostic, Range};

/// How large and how deep a script may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) script_bytes_max: usize,
    pub(crate) depth_max: usize,
}

/// Reads a whole script.
pub(crate) fn script(source: &str, limits: Limits) -> Result<Script, Vec<Diagnostic>> {
    check_size(source, limits)?;
    let parsed = parse_unchecked(source, ParseOptions::from(Mode::Module));
    let mut reader = Reader::new(limits);
    let Some(module) = parsed.syntax().as_module() else {
        return Err(vec![Diagnostic::new(Range::default(), "not a script", "here")]);
    };
    let body = reader.block(&module.body, Block::Module);
    reader.syntax_errors(parsed.errors());
    if reader.mistakes.is_empty() { Ok(Script { body }) } else { Err(reader.mistakes) }
}

/// Reads one expression, such as the text of a `list` argument.
pub(crate) fn expression(source: &str, limits: Limits) -> Result<ExprAt, Vec<Diagnostic>> {
    check_size(source, limits)?;
    let parsed = parse_unchecked(source, ParseOptions::from(Mode::Expression));
    let mut reader = Reader::new(limits);
    let expr = parsed.syntax().as_expression().map(|module| reader.expr(&module.body));
    reader.syntax_errors(parsed.errors());
    match expr {
        Some(expr) if reader.mistakes.is_empty() => Ok(expr),
        _ => Err(reader.mistakes),
    }
}

/// Refuses what could exhaust the stack of the parser before it sees it.
fn check_size(source: &str, limits: Limits) -> Result<(), Vec<Diagnostic>> {
    if source.len() > limits.script_bytes_max {
        let message = format!(
            "the script has {} bytes, more than the {} that are allowed",
            source.len(),
            limits.script_bytes_max
        );
        return Err(vec![Diagnostic::new(Range::default(), message, "too long")]);
    }
    let mut depth = 0_usize;
    for (at, byte) in source.bytes().enumerate() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > limits.depth_max {
            return Err(vec![too_deep(place(at, at + 1), limits.depth_max)]);
        }
    }
    Ok(())
}

fn too_deep(range: Range, depth_max: usize) -> Diagnostic {
    Diagnostic::new(range, format!("nested deeper than {depth_max} levels"), "too deep here")
        .help("give parts of it a name first")
}

fn place(start: usize, end: usize) -> Range {
    Range {
        start: u32::try_from(start).unwrap_or(u32::MAX),
        end: u32::try_from(end).unwrap_or(u32::MAX),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Block {
    Module,
    Function,
}

/// A call in which one comma may be missing.
struct CallSite {
    range: Range,
    keywords: Vec<Range>,
    forgiven: bool,
}

struct Reader {
    limits: Limits,
    depth: usize,
    calls: Vec<CallSite>,
    mistakes: Vec<Diagnostic>,
}

impl Reader {
    fn new(limits: Limits) -> Self {
        Self { limits, depth: 0, calls: Vec::new(), mistakes: Vec::new() }
    }

    fn refuse(&mut self, range: impl Into<Range>, what: &str, help: &str) {
        let message = format!("PxL has no {what}");
        self.mistakes
            .push(Diagnostic::new(range.into(), message, "not part of the language").help(help));
    }

    fn syntax_errors(&mut self, errors: &[ruff_python_parser::ParseError]) {
        for error in errors {
            let range = Range::from(error.location);
            let comma = matches!(
                error.error,
                ParseErrorType::ExpectedToken { expected: py::token::TokenKind::Comma, .. }
            );
            if comma && self.forgive_comma(range) {
                continue;
            }
            let message = format!("cannot read the script: {}", lower_first(&error.error));
            self.mistakes.push(Diagnostic::new(range, message, "here"));
        }
    }

    /// Forgives one missing comma per call, if a keyword argument starts where it is missed.
    fn forgive_comma(&mut self, at: Range) -> bool {
        let inside =
            |call: &&mut CallSite| call.range.start <= at.start && at.end <= call.range.end;
        let innermost = self
            .calls
            .iter_mut()
            .filter(inside)
            .min_by_key(|call| call.range.end - call.range.start);
        match innermost {
            Some(call)
                if !call.forgiven
                    && call.keywords.iter().any(|keyword| keyword.start == at.start) =>
            {
                call.forgiven = true;
                true
            }
            _ => false,
        }
    }

    fn block(&mut self, body: &[py::Stmt], kind: Block) -> Vec<At<Stmt>> {
        let mut statements = Vec::with_capacity(body.len());
        for (index, stmt) in body.iter().enumerate() {
            if is_string(stmt) {
                if index > 0 {
                    self.mistakes.push(
                        Diagnostic::new(stmt.range().into(), "a string stands alone", "no effect")
                            .help("a docstring is the first statement; use `#` for a comment"),
                    );
                }
                continue;
            }
            if let Some(node) = self.stmt(stmt, kind) {
                statements.push(At { range: stmt.range().into(), node });
            }
        }
        statements
    }

    fn stmt(&mut self, stmt: &py::Stmt, kind: Block) -> Option<Stmt> {
        let range = stmt.range();
        match stmt {
            py::Stmt::Import(import) => self.import(import),
            py::Stmt::ImportFrom(import) => self.import_from(import),
            py::Stmt::Assign(assign) => self.assign(assign),
            py::Stmt::FunctionDef(def) => Some(self.def(def)),
            py::Stmt::Return(ret) if kind == Block::Function => {
                Some(Stmt::Return(ret.value.as_deref().map(|value| self.expr(value))))
            }
            py::Stmt::Return(_) => {
                self.mistakes.push(Diagnostic::new(
                    range.into(),
                    "`return` outside a function",
                    "there is nothing to return from",
                ));
                None
            }
            py::Stmt::Expr(expr) => Some(Stmt::Expr(self.expr(&expr.value))),
            other => {
                let (what, help) = refused_statement(other);
                self.refuse(range, what, help);
                None
            }
        }
    }

    fn import(&mut self, import: &py::StmtImport) -> Option<Stmt> {
        let [alias] = import.names.as_slice() else {
            self.refuse(import.range, "`import a, b`", "write one import a line");
            return None;
        };
        let module = identifier(&alias.name);
        let name = alias.asname.as_ref().map_or_else(|| module.clone(), identifier);
        Some(Stmt::Import { module, name })
    }

    fn import_from(&mut self, import: &py::StmtImportFrom) -> Option<Stmt> {
        let Some(module) = import.module.as_ref().filter(|_| import.level == 0) else {
            self.refuse(import.range, "relative import", "import from px, pxviews or pxtrace");
            return None;
        };
        let names = import
            .names
            .iter()
            .map(|alias| {
                let name = identifier(&alias.name);
                let bound = alias.asname.as_ref().map_or_else(|| name.clone(), identifier);
                (name, bound)
            })
            .collect();
        Some(Stmt::From { module: identifier(module), names })
    }

    fn assign(&mut self, assign: &py::StmtAssign) -> Option<Stmt> {
        let value = self.expr(&assign.value);
        let [target] = assign.targets.as_slice() else {
            self.refuse(assign.range, "`a = b = c`", "assign one name a line");
            return None;
        };
        let target = match target {
            py::Expr::Name(name) => Target::Name(at(name.range, name.id.as_str().into())),
            py::Expr::Attribute(attribute) => Target::Attribute {
                base: self.base(&attribute.value)?,
                attr: identifier(&attribute.attr),
            },
            py::Expr::Subscript(item) => {
                Target::Item { base: self.base(&item.value)?, key: self.expr(&item.slice) }
            }
            other => {
                self.refuse(other.range(), "such a target of `=`", "assign one name a line");
                return None;
            }
        };
        Some(Stmt::Assign { target, value })
    }

    /// The bare name whose attribute or item is assigned.
    fn base(&mut self, expr: &py::Expr) -> Option<Name> {
        if let py::Expr::Name(name) = expr {
            return Some(at(name.range, name.id.as_str().into()));
        }
        self.refuse(expr.range(), "assignment into an expression", "give it a name first");
        None
    }

    fn def(&mut self, def: &py::StmtFunctionDef) -> Stmt {
        if def.is_async {
            self.refuse(def.range, "`async`", "write a plain `def`");
        }
        for decorator in def.decorator_list.iter().skip(1) {
            self.refuse(decorator.range, "second decorator", "leave it out");
        }
        let decorator = def.decorator_list.first().map(|first| self.expr(&first.expression));
        let parameters = &def.parameters;
        for variadic in parameters.vararg.iter().chain(&parameters.kwarg) {
            self.refuse(variadic.range, "`*args` or `**kwargs`", "name each parameter");
        }
        for keyword_only in &parameters.kwonlyargs {
            self.refuse(keyword_only.range, "keyword-only parameter", "leave out the `*`");
        }
        let mut params = Vec::new();
        for parameter in parameters.posonlyargs.iter().chain(&parameters.args) {
            if let Some(default) = &parameter.default {
                self.refuse(default.range(), "default value", "pass the value at each call");
            }
            params.push(Param {
                name: identifier(&parameter.parameter.name),
                annotation: parameter.parameter.annotation.as_deref().map(|a| self.expr(a)),
            });
        }
        self.depth += 1;
        let body = if self.depth > self.limits.depth_max {
            self.mistakes.push(too_deep(def.range.into(), self.limits.depth_max));
            Vec::new()
        } else {
            self.block(&def.body, Block::Function)
        };
        self.depth -= 1;
        Stmt::Def(Arc::new(Def { decorator, name: identifier(&def.name), params, body }))
    }

    fn expr(&mut self, expr: &py::Expr) -> ExprAt {
        let range = Range::from(expr.range());
        self.depth += 1;
        let node = if self.depth > self.limits.depth_max {
            if self.mistakes.len() < 100 {
                self.mistakes.push(too_deep(range, self.limits.depth_max));
            }
            Expr::None
        } else {
            self.expr_node(expr)
        };
        self.depth -= 1;
        At { range, node }
    }

    fn expr_node(&mut self, expr: &py::Expr) -> Expr {
        match expr {
            py::Expr::NoneLiteral(_) => Expr::None,
            py::Expr::BooleanLiteral(literal) => Expr::Bool(literal.value),
            py::Expr::NumberLiteral(literal) => self.number(literal),
            py::Expr::StringLiteral(literal) => Expr::Str(literal.value.to_str().into()),
            py::Expr::Name(name) => Expr::Name(name.id.as_str().into()),
            py::Expr::Attribute(attribute) => Expr::Attribute {
                base: Box::new(self.expr(&attribute.value)),
                attr: identifier(&attribute.attr),
            },
            py::Expr::Subscript(item) => Expr::Item {
                base: Box::new(self.expr(&item.value)),
                key: Box::new(self.expr(&item.slice)),
            },
            py::Expr::Call(call) => self.call(call),
            py::Expr::UnaryOp(unary) => {
                let op = match unary.op {
                    py::UnaryOp::Not => UnaryOp::Not,
                    py::UnaryOp::USub => UnaryOp::Negate,
                    py::UnaryOp::UAdd => UnaryOp::Plus,
                    py::UnaryOp::Invert => UnaryOp::Invert,
                };
                Expr::Unary { op, operand: Box::new(self.expr(&unary.operand)) }
            }
            py::Expr::BinOp(binary) => self.binary(binary),
            py::Expr::BoolOp(bool_op) => self.bool_op(bool_op),
            py::Expr::Compare(compare) => self.compare(compare),
            py::Expr::List(list) => Expr::List(list.elts.iter().map(|e| self.expr(e)).collect()),
            py::Expr::Tuple(tuple) => {
                Expr::Tuple(tuple.elts.iter().map(|e| self.expr(e)).collect())
            }
            py::Expr::Dict(dict) => self.dict(dict),
            other => {
                let (what, help) = refused_expression(other);
                self.refuse(other.range(), what, help);
                Expr::None
            }
        }
    }

    fn number(&mut self, literal: &py::ExprNumberLiteral) -> Expr {
        match &literal.value {
            py::Number::Int(int) => {
                if let Some(value) = int.as_i64() {
                    return Expr::Int(value);
                }
                self.mistakes.push(Diagnostic::new(
                    literal.range.into(),
                    "the number does not fit in 64 bits",
                    "too large",
                ));
                Expr::Int(0)
            }
            py::Number::Float(value) => Expr::Float(*value),
            py::Number::Complex { .. } => {
                self.refuse(literal.range, "complex number", "use a float");
                Expr::None
            }
        }
    }

    fn call(&mut self, call: &py::ExprCall) -> Expr {
        let function = Box::new(self.expr(&call.func));
        let args = call.arguments.args.iter().map(|arg| self.expr(arg)).collect();
        let mut kwargs: Vec<(Name, ExprAt)> = Vec::new();
        for keyword in &call.arguments.keywords {
            let Some(name) = keyword.arg.as_ref().map(identifier) else {
                self.refuse(keyword.range, "`**` in a call", "write the arguments out");
                continue;
            };
            if kwargs.iter().any(|(other, _)| other.node == name.node) {
                self.mistakes.push(Diagnostic::new(
                    name.range,
                    format!("argument `{}` is given twice", name.node),
                    "again here",
                ));
            }
            let value = self.expr(&keyword.value);
            kwargs.push((name, value));
        }
        self.calls.push(CallSite {
            range: call.arguments.range.into(),
            keywords: call.arguments.keywords.iter().map(|k| k.range.into()).collect(),
            forgiven: false,
        });
        Expr::Call { function, args, kwargs }
    }

    fn binary(&mut self, binary: &py::ExprBinOp) -> Expr {
        let left = Box::new(self.expr(&binary.left));
        let right = Box::new(self.expr(&binary.right));
        let op = match binary.op {
            py::Operator::Add => BinaryOp::Add,
            py::Operator::Sub => BinaryOp::Subtract,
            py::Operator::Mult => BinaryOp::Multiply,
            py::Operator::Div => BinaryOp::Divide,
            py::Operator::Mod => BinaryOp::Modulo,
            other => {
                let help = match other {
                    py::Operator::FloorDiv => "use `px.floor(a / b)`",
                    py::Operator::Pow => "use `px.pow(a, b)`",
                    py::Operator::BitAnd => "use `and`",
                    py::Operator::BitOr => "use `or`",
                    _ => "use +, -, *, / or %",
                };
                self.refuse(binary.range, &format!("operator `{other}`"), help);
                return Expr::None;
            }
        };
        Expr::Binary { op, left, right }
    }

    /// Chains of more than two operands are refused upstream; here they group from the left.
    fn bool_op(&mut self, bool_op: &py::ExprBoolOp) -> Expr {
        let op = match bool_op.op {
            py::BoolOp::And => BinaryOp::And,
            py::BoolOp::Or => BinaryOp::Or,
        };
        let mut operands = bool_op.values.iter().map(|value| self.expr(value));
        let Some(first) = operands.next() else { return Expr::None };
        let joined = operands.fold(first, |left, right| At {
            range: Range { start: left.range.start, end: right.range.end },
            node: Expr::Binary { op, left: Box::new(left), right: Box::new(right) },
        });
        joined.node
    }

    fn compare(&mut self, compare: &py::ExprCompare) -> Expr {
        let ([op], [right]) = (compare.ops.as_ref(), compare.comparators.as_ref()) else {
            self.refuse(compare.range, "chained comparison", "write `a < b and b < c`");
            return Expr::None;
        };
        let op = match op {
            py::CmpOp::Eq => BinaryOp::Equal,
            py::CmpOp::NotEq => BinaryOp::NotEqual,
            py::CmpOp::Lt => BinaryOp::Less,
            py::CmpOp::LtE => BinaryOp::LessEqual,
            py::CmpOp::Gt => BinaryOp::Greater,
            py::CmpOp::GtE => BinaryOp::GreaterEqual,
            other => {
                let help = match other {
                    py::CmpOp::In | py::CmpOp::NotIn => "use `px.equals_any(value, [...])`",
                    _ => "use `==` or `!=`",
                };
                self.refuse(compare.range, &format!("operator `{}`", other.as_str()), help);
                return Expr::None;
            }
        };
        let left = Box::new(self.expr(&compare.left));
        Expr::Binary { op, left, right: Box::new(self.expr(right)) }
    }

    fn dict(&mut self, dict: &py::ExprDict) -> Expr {
        let mut items = Vec::with_capacity(dict.items.len());
        for item in &dict.items {
            match &item.key {
                Some(key) => items.push((self.expr(key), self.expr(&item.value))),
                None => self.refuse(item.value.range(), "`**` in a dict", "write it out"),
            }
        }
        Expr::Dict(items)
    }
}

fn lower_first(error: &ParseErrorType) -> String {
    let text = error.to_string();
    let mut chars = text.chars();
    match (chars.next(), chars.as_str()) {
        (Some(first), rest) if !rest.starts_with(char::is_uppercase) => {
            first.to_lowercase().chain(rest.chars()).collect()
        }
        _ => text,
    }
}

fn at<T>(range: impl Into<Range>, node: T) -> At<T> {
    At { range: range.into(), node }
}

fn identifier(identifier: &py::Identifier) -> Name {
    at(identifier.range, identifier.id.as_str().into())
}

fn is_string(stmt: &py::Stmt) -> bool {
    matches!(stmt, py::Stmt::Expr(expr) if expr.value.is_string_literal_expr())
}

fn refused_statement(stmt: &py::Stmt) -> (&'static str, &'static str) {
    match stmt {
        py::Stmt::If(_) => ("`if`", "filter with `df[condition]` or choose with `px.select`"),
        py::Stmt::For(_) | py::Stmt::While(_) => {
            ("loops", "operations on a DataFrame apply to every row")
        }
        py::Stmt::ClassDef(_) => ("classes", "use functions"),
        py::Stmt::AugAssign(_) => ("`+=` and its like", "write `a = a + b`"),
        py::Stmt::AnnAssign(_) => ("annotated assignment", "leave the annotation out"),
        py::Stmt::With(_) => ("`with`", "leave it out"),
        py::Stmt::Try(_) | py::Stmt::Raise(_) | py::Stmt::Assert(_) => {
            ("exceptions", "leave them out")
        }
        py::Stmt::Pass(_) => ("`pass`", "leave it out"),
        py::Stmt::Delete(_) => ("`del`", "use `df.drop('column')`"),
        py::Stmt::Global(_) | py::Stmt::Nonlocal(_) => {
            ("`global`", "return the value and assign it outside")
        }
        _ => ("such a statement", "use imports, assignments, functions and calls"),
    }
}

fn refused_expression(expr: &py::Expr) -> (&'static str, &'static str) {
    match expr {
        py::Expr::If(_) => ("`a if c else b`", "use `px.select(c, a, b)`"),
        py::Expr::Lambda(_) => ("`lambda`", "write a function with `def`"),
        py::Expr::ListComp(_)
        | py::Expr::SetComp(_)
        | py::Expr::DictComp(_)
        | py::Expr::Generator(_) => ("comprehensions", "write the elements out"),
        py::Expr::FString(_) | py::Expr::TString(_) => ("f-strings", "join strings with `+`"),
        py::Expr::BytesLiteral(_) => ("byte strings", "use a string"),
        py::Expr::Slice(_) => ("slices", "use `px.substring` or `df.head`"),
        py::Expr::Starred(_) => ("`*` before an argument", "write the arguments out"),
        py::Expr::Set(_) => ("sets", "use a list"),
        py::Expr::Named(_) => ("`:=`", "assign on a line of its own"),
        _ => ("such an expression", "use names, calls, literals and operators"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostics::Diagnostics;
    use expect_test::{Expect, expect};

    const LIMITS: Limits = Limits { script_bytes_max: 64 * 1024, depth_max: 100 };

    fn refused(source: &str, expected: &Expect) {
        let mistakes = script(source, LIMITS).expect_err("the script is wrong");
        expected.assert_eq(&Diagnostics::new(source, mistakes).to_string());
    }

    #[test]
    fn one_comma_may_be_missing_before_keyword_arguments() {
        script("df = df.agg(a=('b', px.count)\n  c=('d', px.sum))", LIMITS).unwrap();
        script("f(1 a=2)\nf(2 a=3)", LIMITS).unwrap();
        assert!(script("f(1 a=2 b=3)", LIMITS).is_err());
        assert!(script("f(1 2)", LIMITS).is_err());
        assert!(script("f(g(1 2), a=2)", LIMITS).is_err());
    }

    #[test]
    fn every_mistake_is_reported_with_its_remedy() {
        refused(
            "if x:\n  y = 1\ndf = a if b else c\n",
            &expect![[r"
                error: PxL has no `if`
                  |
                1 | / if x:
                2 | |   y = 1
                  | |_______^ not part of the language
                  |
                  = help: filter with `df[condition]` or choose with `px.select`

                error: PxL has no `a if c else b`
                  |
                3 | df = a if b else c
                  |      ^^^^^^^^^^^^^ not part of the language
                  |
                  = help: use `px.select(c, a, b)`"]],
        );
    }

    #[test]
    fn nothing_that_a_user_can_write_exhausts_the_stack() {
        std::thread::Builder::new()
            .stack_size(crate::engine::COMPILER_STACK_BYTES)
            .spawn(|| {
                for source in [
                    "(".repeat(30_000),
                    format!("x = {}", "1+".repeat(30_000) + "1"),
                    format!("x = {}1", "-".repeat(60_000)),
                    format!("x = {}1", "not ".repeat(15_000)),
                    format!("x = a{}", ".b".repeat(30_000)),
                    "f(".repeat(20_000),
                    "a:".repeat(20_000),
                ] {
                    assert!(script(&source, LIMITS).is_err(), "{}", &source[..10]);
                }
            })
            .unwrap()
            .join()
            .unwrap();
    }
}
