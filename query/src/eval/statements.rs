//! What statements do.

use std::sync::Arc;

use super::value::{Module, Native, UserFunction, Value};
use super::{Eval, Evaluator, Raised, arguments};
use crate::ast::{At, Def, ExprAt, Name, Stmt, Target};
use crate::diagnostics::Diagnostic;

impl Evaluator<'_> {
    pub(super) fn run(&mut self, body: &[At<Stmt>]) {
        for stmt in body {
            if let Err(Raised) = self.stmt(stmt) {
                self.poison(&stmt.node);
            }
        }
    }

    /// What a wrong statement should have bound is known to be wrong, not missing.
    pub(super) fn poison(&mut self, stmt: &Stmt) {
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
    pub(super) fn stmt(&mut self, stmt: &At<Stmt>) -> Eval<Option<Value>> {
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
}
