//! Functions that are called from outside, by their names with texts.

use std::sync::Arc;

use undine_schema::PxlType;

use super::arguments::Arguments;
use super::calls::annotation_name;
use super::value::{UserFunction, Value};
use super::{Eval, Evaluator, FunctionCall, Raised, natives};
use crate::ast::At;
use crate::diagnostics::{Diagnostic, Range, did_you_mean};
use crate::parse;
use crate::scalar::{Const, Scalar};

impl Evaluator<'_> {
    pub(super) fn call_by_text(&mut self, call: &FunctionCall) -> Eval<()> {
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
}

fn parse_argument(pxl_type: PxlType, text: &str) -> Option<Const> {
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
