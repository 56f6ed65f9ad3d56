//! Calls, and what the functions of a script return.

use std::collections::HashMap;
use std::sync::Arc;

use super::arguments::Arguments;
use super::value::{Method, UserFunction, Value};
use super::{CALLS_MAX, Eval, Evaluator, Local, Raised};
use crate::ast::{At, Stmt};
use crate::diagnostics::{Diagnostic, Range, did_you_mean};
use crate::expr::SymbolKind;

impl Evaluator<'_> {
    pub(super) fn call(
        &mut self,
        callee: Value,
        callee_range: Range,
        args: Arguments,
    ) -> Eval<Value> {
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

    pub(super) fn call_user(
        &mut self,
        function: &Arc<UserFunction>,
        args: Arguments,
    ) -> Eval<Value> {
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
}

pub(super) fn annotation_name(annotation: &Value) -> String {
    match annotation {
        Value::Type(to) => format!("of type {} ({})", to.name, to.pxl_type.name()),
        Value::ListType => "a list".to_owned(),
        Value::FrameType => "a DataFrame".to_owned(),
        other => other.describe(),
    }
}
