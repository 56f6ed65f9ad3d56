//! Evaluates a script on symbols: what it displays and exports, as typed relations.
//!
//! Nothing is read here. A mistake is recorded with its place, and evaluation goes on with the next
//! statement, so that one run reports all of them; what depends on a mistake is left alone.

use std::collections::HashMap;
use std::sync::Arc;

use undine_schema::TimeNs;
use undine_schema::trace::{TraceColumn, Tracepoint};

mod value;
mod arguments;
mod bind;
mod frame;
mod module;
mod natives;
mod export;
mod library;
mod trace;

use arguments::Arguments;
pub(crate) use trace::tables_instead;
use value::{Entry, Frame, Method, Module, Native, TYPES, UserFunction, Value};

use crate::ast::{At, BinaryOp, Def, Expr, ExprAt, Name, Script, Stmt, Target, UnaryOp};
use crate::diagnostics::{Diagnostic, Range, did_you_mean};
use crate::expr::{Symbol, SymbolKind};
use crate::otel::ExportSpec;
use crate::parse;
use crate::relation::{Relation, Relations, TooMany};
use crate::scalar::{self, Const, Scalar};

/// A function that is called by name with texts as arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionCall {
    /// The function's name.
    pub name: String,
    /// Parameter names with values, which are read by the parameter's annotation.
    pub args: Vec<(String, String)>,
    /// What the result's table is called.
    pub output_prefix: String,
}

/// The span of time that a scheduled script covers, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PluginWindow {
    /// `px.plugin.start_time`
    pub start: TimeNs,
    /// `px.plugin.end_time`
    pub end: TimeNs,
}

/// What evaluation takes from outside.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    pub(crate) now: i64,
    pub(crate) plugin: Option<PluginWindow>,
    pub(crate) has_plugin_endpoint: bool,
    pub(crate) functions: Vec<FunctionCall>,
    pub(crate) parse_limits: parse::Limits,
    pub(crate) nodes_max: usize,
    /// The tables of tracepoints, and their columns.
    pub(crate) traces: Vec<(String, Arc<[TraceColumn]>)>,
    /// Whether the tracepoints of the script are deployed, so that their tables are there.
    pub(crate) is_deployed: bool,
}

/// What a script asks for.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) sinks: Vec<Sink>,
    /// What is to be traced, or no longer, in order.
    pub(crate) mutations: Vec<Mutation>,
    /// Whether it reads a table that is not there before these have been made.
    pub(crate) awaits_tables: bool,
}

/// A change to what is traced.
#[derive(Debug)]
pub(crate) enum Mutation {
    Upsert(Tracepoint, Range),
    Delete(String, Range),
}

#[derive(Debug)]
pub(crate) enum Sink {
    Table { name: String, relation: Arc<Relation> },
    Export { relation: Arc<Relation>, spec: Arc<ExportSpec> },
}

impl Sink {
    pub(crate) fn relation(&self) -> &Arc<Relation> {
        match self {
            Self::Table { relation, .. } | Self::Export { relation, .. } => relation,
        }
    }
}

/// Evaluates `script`.
pub(crate) fn evaluate(
    script: &Script,
    surroundings: &Surroundings,
) -> Result<Program, Vec<Diagnostic>> {
    let mut evaluator = Evaluator::new(surroundings);
    evaluator.run(&script.body);
    evaluator.call_functions();
    let does_nothing = evaluator.sinks.is_empty() && evaluator.mutations.is_empty();
    if does_nothing && evaluator.mistakes.is_empty() {
        evaluator.mistakes.push(
            Diagnostic::new(Range::default(), "the script outputs nothing", "nothing to show")
                .help("end it with `px.display(df)` or `px.export(df, …)`"),
        );
    }
    if evaluator.mistakes.is_empty() {
        let Evaluator { sinks, mutations, awaits_tables, .. } = evaluator;
        Ok(Program { sinks, mutations, awaits_tables })
    } else {
        Err(evaluator.mistakes)
    }
}

/// A mistake that is recorded already.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Raised;

type Eval<T> = Result<T, Raised>;

/// Calls within calls that a script may make.
const CALLS_MAX: usize = 64;
/// Calls and operators that a script may evaluate in all.
const STEPS_MAX: usize = 1_000_000;

pub(crate) struct Evaluator<'a> {
    surroundings: &'a Surroundings,
    relations: Relations,
    globals: HashMap<Arc<str>, Value>,
    /// The names of the functions being called, innermost last.
    locals: Vec<Local>,
    /// What a script assigned to attributes of modules.
    attributes: HashMap<(&'static str, Arc<str>), Value>,
    sinks: Vec<Sink>,
    mutations: Vec<Mutation>,
    awaits_tables: bool,
    /// Tables that the script's tracepoints make.
    made_tables: Vec<String>,
    mistakes: Vec<Diagnostic>,
    steps: usize,
    /// The functions of `pxviews`, once it was imported.
    views: Option<Arc<HashMap<Arc<str>, Value>>>,
    /// Where the script called the library that is being evaluated.
    library_call: Option<Range>,
}

#[derive(Default)]
struct Local {
    names: HashMap<Arc<str>, Value>,
    around: Option<Arc<HashMap<Arc<str>, Value>>>,
}

impl<'a> Evaluator<'a> {
    fn new(surroundings: &'a Surroundings) -> Self {
        Self {
            surroundings,
            relations: Relations::new(surroundings.nodes_max),
            globals: HashMap::new(),
            locals: Vec::new(),
            attributes: HashMap::new(),
            sinks: Vec::new(),
            mutations: Vec::new(),
            awaits_tables: false,
            made_tables: Vec::new(),
            mistakes: Vec::new(),
            steps: 0,
            views: None,
            library_call: None,
        }
    }

    fn fail(&mut self, mut diagnostic: Diagnostic) -> Raised {
        if let Some(range) = self.library_call {
            diagnostic.range = range;
        }
        if self.mistakes.len() < 100 {
            self.mistakes.push(diagnostic);
        }
        Raised
    }

    fn made(&mut self, made: Result<Arc<Relation>, TooMany>, range: Range) -> Eval<Frame> {
        match made {
            Ok(relation) => Ok(Frame::new(relation)),
            Err(TooMany { nodes_max }) => {
                let message = format!("the script builds more than {nodes_max} operators");
                Err(self.fail(Diagnostic::new(range, message, "one too many here")))
            }
        }
    }

    fn step(&mut self, range: Range) -> Eval<()> {
        self.steps += 1;
        if self.steps == STEPS_MAX {
            let message = format!("the script takes more than {STEPS_MAX} steps to evaluate");
            return Err(self.fail(Diagnostic::new(range, message, "given up here")));
        }
        if self.steps > STEPS_MAX { Err(Raised) } else { Ok(()) }
    }

    fn call_functions(&mut self) {
        for call in &self.surroundings.functions {
            // The mistake is recorded; the other functions may have some of their own.
            let Err(Raised) = self.call_by_text(call) else { continue };
        }
    }

    fn is_function_mode(&self) -> bool {
        !self.surroundings.functions.is_empty()
    }

    // --- statements -------------------------------------------------------------------------

    fn run(&mut self, body: &[At<Stmt>]) {
        for stmt in body {
            if let Err(Raised) = self.stmt(stmt) {
                self.poison(&stmt.node);
            }
        }
    }

    /// What a wrong statement should have bound is known to be wrong, not missing.
    fn poison(&mut self, stmt: &Stmt) {
        let name = match stmt {
            Stmt::Import { name, .. } | Stmt::Assign { target: Target::Name(name), .. } => name,
            Stmt::Assign {
                target: Target::Attribute { base, .. } | Target::Item { base, .. },
                ..
            } => base,
            Stmt::Def(def) => &def.name,
            Stmt::From { .. } | Stmt::Return(_) | Stmt::Expr(_) => return,
        };
        self.set(&name.node, Value::Poison);
    }

    /// `Some` if the statement returns.
    fn stmt(&mut self, stmt: &At<Stmt>) -> Eval<Option<Value>> {
        match &stmt.node {
            Stmt::Import { module, name } => {
                let module = self.import(module)?;
                self.set(&name.node, Value::Module(module));
            }
            Stmt::From { module, names } => {
                let module = self.import(module)?;
                for (attr, name) in names {
                    let value = self.module_attribute(module, attr)?;
                    self.set(&name.node, value);
                }
            }
            Stmt::Assign { target, value } => self.assign(target, value)?,
            Stmt::Def(def) => self.define(def)?,
            Stmt::Return(value) => {
                return match value {
                    Some(value) => self.expr(value).map(Some),
                    None => Ok(Some(Value::None)),
                };
            }
            Stmt::Expr(expr) => {
                self.expr(expr)?;
            }
        }
        Ok(None)
    }

    fn import(&mut self, module: &Name) -> Eval<Module> {
        let help = match &*module.node {
            "px" => return Ok(Module::Px),
            "pxtrace" => return Ok(Module::Trace),
            "pxviews" => return self.import_views(module.range),
            "pxconfig" => "Undine has no settings that a script could change",
            _ => "write `import px`",
        };
        let message = format!("there is no module `{}`", module.node);
        Err(self.fail(Diagnostic::new(module.range, message, "unknown module").help(help)))
    }

    fn define(&mut self, def: &Arc<Def>) -> Eval<()> {
        let mut annotations = Vec::with_capacity(def.params.len());
        for (index, param) in def.params.iter().enumerate() {
            if def.params[..index].iter().any(|other| other.name.node == param.name.node) {
                let message = format!("two parameters are called `{}`", param.name.node);
                return Err(self.fail(Diagnostic::new(param.name.range, message, "again here")));
            }
            let annotation = match &param.annotation {
                None => None,
                Some(annotation) => match self.expr(annotation)? {
                    value @ (Value::Type(_) | Value::ListType | Value::FrameType) => Some(value),
                    Value::Native(Native::DataFrame) => Some(Value::FrameType),
                    other => {
                        let label = format!("this is {}", other.describe());
                        let message = "an annotation must be a type";
                        return Err(self.fail(Diagnostic::new(annotation.range, message, label)));
                    }
                },
            };
            annotations.push(annotation);
        }
        let around = self.locals.last().map(|local| {
            let mut names = local.around.as_deref().cloned().unwrap_or_default();
            names.extend(local.names.iter().map(|(k, v)| (Arc::clone(k), v.clone())));
            Arc::new(names)
        });
        let in_library = self.library_call.is_some();
        let function = UserFunction { def: Arc::clone(def), around, annotations, in_library };
        let function = Arc::new(function);
        let value = match &def.decorator {
            None => Value::Function(function),
            Some(decorator) => self.decorate(decorator, function)?,
        };
        self.set(&def.name.node, value);
        Ok(())
    }

    fn assign(&mut self, target: &Target, value: &ExprAt) -> Eval<()> {
        match target {
            Target::Name(name) => {
                let value = self.expr(value)?;
                self.set(&name.node, value);
                Ok(())
            }
            Target::Attribute { base, attr } => {
                let owner = self.lookup(base)?;
                let new = self.expr(value)?;
                match owner {
                    Value::Frame(frame) => {
                        let assigned = self.assign_column(&frame, attr, (new, value.range))?;
                        self.set(&base.node, Value::Frame(assigned));
                        Ok(())
                    }
                    Value::Module(module) => {
                        self.attributes.insert((module.name(), Arc::clone(&attr.node)), new);
                        Ok(())
                    }
                    other => Err(self.not_assignable(base, &other)),
                }
            }
            Target::Item { base, key } => {
                let owner = self.lookup(base)?;
                let column = self.expr(key)?;
                let new = self.expr(value)?;
                let Value::Frame(frame) = owner else {
                    return Err(self.not_assignable(base, &owner));
                };
                let name = match arguments::names(&column, key.range).as_deref() {
                    Some([(name, range)])
                        if !matches!(column, Value::List(_) | Value::Tuple(_)) =>
                    {
                        At { range: *range, node: Arc::clone(name) }
                    }
                    _ => {
                        let label = format!("this is {}", column.describe());
                        let message = "a column's name must be a constant string";
                        return Err(self.fail(Diagnostic::new(key.range, message, label)));
                    }
                };
                let assigned = self.assign_column(&frame, &name, (new, value.range))?;
                self.set(&base.node, Value::Frame(assigned));
                Ok(())
            }
        }
    }

    fn not_assignable(&mut self, base: &Name, value: &Value) -> Raised {
        if matches!(value, Value::Poison) {
            return Raised;
        }
        let message = format!("`{}` has nothing that can be assigned", base.node);
        self.fail(Diagnostic::new(base.range, message, format!("this is {}", value.describe())))
    }

    // --- names ------------------------------------------------------------------------------

    fn set(&mut self, name: &Arc<str>, value: Value) {
        let scope = match self.locals.last_mut() {
            Some(local) => &mut local.names,
            None => &mut self.globals,
        };
        scope.insert(Arc::clone(name), value);
    }

    fn lookup(&mut self, name: &Name) -> Eval<Value> {
        let local = self.locals.last().and_then(|local| {
            local.names.get(&name.node).or_else(|| local.around.as_ref()?.get(&name.node))
        });
        let found = local.or_else(|| self.globals.get(&name.node)).cloned();
        if let Some(value) = found.or_else(|| builtin(&name.node)) {
            return if matches!(value, Value::Poison) { Err(Raised) } else { Ok(value) };
        }
        let message = format!("there is no `{}` here", name.node);
        let help = if &*name.node == "px" {
            Some("begin the script with `import px`".to_owned())
        } else {
            let local = self.locals.last().into_iter().flat_map(|local| local.names.keys());
            did_you_mean(&name.node, local.chain(self.globals.keys()).map(|known| &**known))
        };
        let diagnostic = Diagnostic::new(name.range, message, "unknown name").maybe_help(help);
        Err(self.fail(diagnostic))
    }

    // --- expressions ------------------------------------------------------------------------

    fn expr(&mut self, expr: &ExprAt) -> Eval<Value> {
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
    fn operator(
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
    fn apply(&mut self, function: Arc<str>, args: Vec<Arc<Symbol>>, range: Range) -> Eval<Value> {
        self.symbolic(Symbol::new(range, SymbolKind::Call { function, args }))
    }

    fn symbolic(&mut self, symbol: Symbol) -> Eval<Value> {
        let depth_max = self.surroundings.parse_limits.depth_max;
        if symbol.depth > depth_max {
            let message = format!("the expression is nested deeper than {depth_max} levels");
            let diagnostic = Diagnostic::new(symbol.range, message, "too deep here");
            return Err(self.fail(diagnostic.help("assign parts of it to columns first")));
        }
        Ok(Value::Column(Arc::new(symbol)))
    }

    /// The value as part of an expression on columns.
    fn symbol(&mut self, (value, range): (Value, Range)) -> Eval<Arc<Symbol>> {
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

    // --- calls ------------------------------------------------------------------------------

    fn call(&mut self, callee: Value, callee_range: Range, args: Arguments) -> Eval<Value> {
        match callee {
            Value::Method { frame, method } => self.method(&frame, method, args),
            Value::Grouping { frame, keys } => self.aggregate(&frame, &keys, args),
            Value::Function(function) if function.in_library && self.library_call.is_none() => {
                self.call_library(&function, args)
            }
            Value::Function(function) => self.call_user(&function, args),
            Value::Native(native) => self.native(native, args),
            Value::Scalarwise(function) => {
                if let Some((name, _)) = args.named.first() {
                    let message = format!("`px.{function}` takes no named arguments");
                    let diagnostic = Diagnostic::new(name.range, message, "named here");
                    return Err(self.fail(diagnostic.help("pass the values in order")));
                }
                let range = args.range;
                let args = args
                    .positional
                    .into_iter()
                    .map(|arg| self.symbol(arg))
                    .collect::<Eval<Vec<_>>>()?;
                self.apply(function.into(), args, range)
            }
            Value::Type(to) => {
                let mut bound = args.bind(self, to.name, ["value"], 1)?;
                let (value, range) = bound.required(0);
                self.cast(to, value, range, bound.range)
            }
            Value::Listing(listing) => self.listing(listing, args),
            Value::Aggregate(kind) => {
                let message = format!("`px.{}` is not called but passed on", kind.name());
                let diagnostic = Diagnostic::new(args.range, message, "called here");
                let help = format!("write `.agg(out=('column', px.{}))`", kind.name());
                Err(self.fail(diagnostic.help(help)))
            }
            Value::Column(symbol) => {
                let SymbolKind::Column(name) = &symbol.kind else {
                    let message = "a column cannot be called";
                    return Err(self.fail(Diagnostic::new(
                        callee_range,
                        message,
                        "not a function",
                    )));
                };
                let message = format!("a DataFrame has no method `{name}`");
                let help = did_you_mean(name, Method::ALL.iter().map(|(name, _)| *name));
                let diagnostic = Diagnostic::new(callee_range, message, "unknown method");
                Err(self.fail(diagnostic.maybe_help(help)))
            }
            Value::Poison => Err(Raised),
            other => {
                let message = format!("{} cannot be called", other.describe());
                Err(self.fail(Diagnostic::new(callee_range, message, "not a function")))
            }
        }
    }

    fn call_user(&mut self, function: &Arc<UserFunction>, args: Arguments) -> Eval<Value> {
        let def = &function.def;
        let mut local = Local { names: HashMap::new(), around: function.around.clone() };
        if let Some((_, extra)) = args.positional.get(def.params.len()) {
            let message = format!("`{}` takes {} arguments", def.name.node, def.params.len());
            return Err(self.fail(Diagnostic::new(*extra, message, "one too many")));
        }
        for (param, (value, range)) in def.params.iter().zip(args.positional) {
            local.names.insert(Arc::clone(&param.name.node), value.clone());
            self.check_annotation(function, &param.name.node, &value, range)?;
        }
        for (name, (value, range)) in args.named {
            if !def.params.iter().any(|param| param.name.node == name.node) {
                let message =
                    format!("`{}` does not have an argument called `{}`", def.name.node, name.node);
                let help = did_you_mean(&name.node, def.params.iter().map(|p| &*p.name.node));
                let diagnostic = Diagnostic::new(name.range, message, "unknown argument");
                return Err(self.fail(diagnostic.maybe_help(help)));
            }
            self.check_annotation(function, &name.node, &value, range)?;
            if local.names.insert(Arc::clone(&name.node), value).is_some() {
                let message = format!("argument `{}` is given twice", name.node);
                return Err(self.fail(Diagnostic::new(name.range, message, "again here")));
            }
        }
        for param in &def.params {
            if !local.names.contains_key(&param.name.node) {
                let message =
                    format!("`{}` needs the argument `{}`", def.name.node, param.name.node);
                return Err(self.fail(Diagnostic::new(args.range, message, "missing here")));
            }
        }
        if self.locals.len() == CALLS_MAX {
            let message = format!("functions call each other more than {CALLS_MAX} deep");
            return Err(self.fail(Diagnostic::new(args.range, message, "too deep here")));
        }
        self.locals.push(local);
        let result = self.body(&def.body);
        self.locals.pop();
        result
    }

    fn body(&mut self, body: &[At<Stmt>]) -> Eval<Value> {
        let mut failed = false;
        for stmt in body {
            match self.stmt(stmt) {
                Ok(Some(_)) if failed => return Err(Raised),
                Ok(Some(value)) => return Ok(value),
                Ok(None) => {}
                Err(Raised) => {
                    failed = true;
                    self.poison(&stmt.node);
                }
            }
        }
        if failed { Err(Raised) } else { Ok(Value::None) }
    }

    /// A constant must have the annotated type; what a column is shows only where it ends up.
    fn check_annotation(
        &mut self,
        function: &UserFunction,
        param: &str,
        value: &Value,
        range: Range,
    ) -> Eval<()> {
        let at = function.def.params.iter().position(|other| &*other.name.node == param);
        let annotation = at.and_then(|at| function.annotations.get(at)).and_then(Option::as_ref);
        let fits = match (annotation, value) {
            (Some(Value::Type(to)), Value::Scalar(scalar)) => {
                to.pxl_type == scalar.value.pxl_type()
            }
            (Some(Value::Type(_)), Value::Column(_)) | (None, _) => true,
            (Some(Value::FrameType), value) => matches!(value, Value::Frame(_)),
            (Some(Value::ListType), value) => matches!(value, Value::List(_) | Value::Tuple(_)),
            (Some(_), _) => false,
        };
        if fits {
            return Ok(());
        }
        let wanted = annotation.map_or_else(String::new, annotation_name);
        let message = format!("`{param}` must be {wanted}");
        Err(self.fail(Diagnostic::new(range, message, format!("this is {}", value.describe()))))
    }

    // --- function mode ----------------------------------------------------------------------

    fn call_by_text(&mut self, call: &FunctionCall) -> Eval<()> {
        let nowhere = Range::default();
        let function = match self.globals.get(call.name.as_str()) {
            Some(Value::Function(function)) => Arc::clone(function),
            Some(Value::Poison) => return Err(Raised),
            _ => {
                let message = format!("the script has no function `{}`", call.name);
                let functions = self.globals.iter().filter_map(|(name, value)| {
                    matches!(value, Value::Function(_)).then_some(&**name)
                });
                let help = did_you_mean(&call.name, functions);
                let diagnostic = Diagnostic::new(nowhere, message, "asked for from outside");
                return Err(self.fail(diagnostic.maybe_help(help)));
            }
        };
        let range = function.def.name.range;
        let mut named = Vec::with_capacity(call.args.len());
        for (name, text) in &call.args {
            let value = self.argument(&function, name, text)?;
            named.push((At { range, node: name.as_str().into() }, (value, range)));
        }
        let args = Arguments { range, positional: Vec::new(), named };
        let result = self.call_user(&function, args)?;
        self.output(call, &result, range)
    }

    fn output(&mut self, call: &FunctionCall, result: &Value, range: Range) -> Eval<()> {
        match result {
            Value::Frame(frame) => self.add_table(call.output_prefix.clone(), frame),
            Value::List(items) | Value::Tuple(items)
                if items.iter().all(|(item, _)| matches!(item, Value::Frame(_))) =>
            {
                for (index, (item, _)) in items.iter().enumerate() {
                    if let Value::Frame(frame) = item {
                        self.add_table(format!("{}[{index}]", call.output_prefix), frame)?;
                    }
                }
                Ok(())
            }
            other => {
                let message = format!("`{}` must return a DataFrame", call.name);
                let label = format!("it returns {}", other.describe());
                Err(self.fail(Diagnostic::new(range, message, label)))
            }
        }
    }

    fn argument(&mut self, function: &UserFunction, name: &str, text: &str) -> Eval<Value> {
        let params = &function.def.params;
        let Some(at) = params.iter().position(|param| &*param.name.node == name) else {
            let message =
                format!("`{}` does not have an argument called `{name}`", function.def.name.node);
            let help = did_you_mean(name, params.iter().map(|param| &*param.name.node));
            let diagnostic = Diagnostic::new(function.def.name.range, message, "defined here");
            return Err(self.fail(diagnostic.maybe_help(help)));
        };
        let range = params[at].name.range;
        let Some(annotation) = &function.annotations[at] else {
            let message = format!("`{name}` needs an annotation to be passed from outside");
            let help = format!("write `{name}: str`");
            return Err(self.fail(Diagnostic::new(range, message, "no type here").help(help)));
        };
        let parsed = match annotation {
            Value::Type(to) => parse_argument(to.pxl_type, text)
                .map(|value| Value::Scalar(Scalar { value, semantic: to.semantic })),
            Value::ListType => match parse::expression(text, self.surroundings.parse_limits) {
                Ok(expr) => match self.expr(&expr)? {
                    list @ Value::List(_) => Some(list),
                    _ => None,
                },
                Err(_not_an_expression) => None,
            },
            _ => None,
        };
        parsed.ok_or_else(|| {
            let message = format!("`{text}` is not {}", annotation_name(annotation));
            self.fail(Diagnostic::new(range, message, "the value passed for this"))
        })
    }

    fn add_table(&mut self, name: String, frame: &Frame) -> Eval<()> {
        let relation = self.settled(frame)?;
        let taken = |name: &str| {
            self.sinks.iter().any(|sink| matches!(sink, Sink::Table { name: n, .. } if n == name))
        };
        let name = if taken(&name) {
            let numbered = (1..=self.sinks.len()).map(|n| format!("{name}_{n}"));
            numbered.into_iter().find(|name| !taken(name)).unwrap_or(name)
        } else {
            name
        };
        self.sinks.push(Sink::Table { name, relation });
        Ok(())
    }
}

fn annotation_name(annotation: &Value) -> String {
    match annotation {
        Value::Type(to) => format!("of type {} ({})", to.name, to.pxl_type.name()),
        Value::ListType => "a list".to_owned(),
        Value::FrameType => "a DataFrame".to_owned(),
        other => other.describe(),
    }
}

/// A column by name, of whatever DataFrame the expression ends up in.
fn column(name: Arc<str>, range: Range) -> Value {
    Value::Column(Arc::new(Symbol::new(range, SymbolKind::Column(name))))
}

fn builtin(name: &str) -> Option<Value> {
    match name {
        "list" => Some(Value::ListType),
        _ => TYPES.iter().find(|to| to.name == name).map(|to| Value::Type(*to)),
    }
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

fn parse_argument(pxl_type: undine_schema::PxlType, text: &str) -> Option<Const> {
    use undine_schema::PxlType;
    match pxl_type {
        PxlType::String => Some(Const::Str(text.into())),
        PxlType::Int64 => text.trim().parse().ok().map(Const::Int),
        PxlType::Float64 => text.trim().parse().ok().map(Const::Float),
        PxlType::Time64Ns => text.trim().parse().ok().map(Const::Time),
        PxlType::Boolean => match text.trim().to_ascii_lowercase().as_str() {
            "true" | "t" | "yes" | "y" | "1" => Some(Const::Bool(true)),
            "false" | "f" | "no" | "n" | "0" => Some(Const::Bool(false)),
            _ => None,
        },
        PxlType::Uint128 => natives::uuid(text).map(Const::Uint128),
    }
}
