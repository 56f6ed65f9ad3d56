//! What names stand for.

use std::sync::Arc;

use super::value::{TYPES, Value};
use super::{Eval, Evaluator, Raised};
use crate::ast::Name;
use crate::diagnostics::{Diagnostic, did_you_mean};

impl Evaluator<'_> {
    pub(super) fn set(&mut self, name: &Arc<str>, value: Value) {
        let scope = match self.locals.last_mut() {
            Some(local) => &mut local.names,
            None => &mut self.globals,
        };
        scope.insert(Arc::clone(name), value);
    }

    pub(super) fn lookup(&mut self, name: &Name) -> Eval<Value> {
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
}

fn builtin(name: &str) -> Option<Value> {
    match name {
        "list" => Some(Value::ListType),
        _ => TYPES.iter().find(|to| to.name == name).map(|to| Value::Type(*to)),
    }
}
