//! `pxviews`: a library that is written in `PxL` itself and comes with Undine.
//!
//! Its text is not the script's, so whatever happens in it is shown at the script's call.

use std::collections::HashMap;
use std::sync::Arc;

use super::arguments::Arguments;
use super::value::{Module, UserFunction, Value};
use super::{Eval, Evaluator, Local};
use crate::diagnostics::{Diagnostic, Range};
use crate::parse;

const VIEWS: &str = include_str!("../../scripts/pxviews.pxl");

impl Evaluator<'_> {
    /// Evaluates the library, once for each script that imports it.
    pub(super) fn import_views(&mut self, range: Range) -> Eval<Module> {
        if self.views.is_some() {
            return Ok(Module::Views);
        }
        let parsed = parse::script(VIEWS, self.surroundings.parse_limits).map_err(|_mistakes| {
            let message = "`pxviews` cannot be read";
            let diagnostic = Diagnostic::new(range, message, "imported here");
            self.fail(diagnostic.help("raise the limits of a script's bytes and depth"))
        })?;
        // A scope of its own: its names are not the script's, and each function sees those above.
        let outer = self.locals.split_off(0);
        self.locals.push(Local::default());
        self.at_call(range, |evaluator| evaluator.run(&parsed.body));
        let names = self.locals.pop().map_or_else(HashMap::new, |local| local.names);
        self.locals = outer;
        self.views = Some(Arc::new(names));
        Ok(Module::Views)
    }

    /// What the library has under `name` for scripts.
    pub(super) fn view(&self, name: &str) -> Option<&Value> {
        let found = self.views.as_ref()?.get(name).filter(|_| !name.starts_with('_'));
        found.filter(|value| matches!(value, Value::Function(_)))
    }

    pub(super) fn view_names(&self) -> Vec<&str> {
        let names = self.views.iter().flat_map(|views| views.keys()).map(|name| &**name);
        names.filter(|name| self.view(name).is_some()).collect()
    }

    /// Calls a function of the library from the script.
    pub(super) fn call_library(
        &mut self,
        function: &Arc<UserFunction>,
        args: Arguments,
    ) -> Eval<Value> {
        let range = args.range;
        self.at_call(range, |evaluator| evaluator.call_user(function, args))
    }

    fn at_call<T>(&mut self, range: Range, evaluate: impl FnOnce(&mut Self) -> T) -> T {
        (self.library_call, self.relations.place) = (Some(range), Some(range));
        let result = evaluate(self);
        (self.library_call, self.relations.place) = (None, None);
        result
    }
}
