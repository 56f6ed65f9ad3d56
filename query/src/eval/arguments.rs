//! Arguments of a call, matched to the names of its parameters.

use std::sync::Arc;

use super::value::Value;
use super::{Eval, Evaluator};
use crate::ast::Name;
use crate::diagnostics::{Diagnostic, Range, did_you_mean};
use crate::scalar::Const;

/// The evaluated arguments of one call.
#[derive(Debug)]
pub(crate) struct Arguments {
    /// The whole call.
    pub(crate) range: Range,
    pub(crate) positional: Vec<(Value, Range)>,
    pub(crate) named: Vec<(Name, (Value, Range))>,
}

/// Arguments in the order of the parameters.
#[derive(Debug)]
pub(crate) struct Bound<const N: usize> {
    pub(crate) range: Range,
    names: [&'static str; N],
    values: [Option<(Value, Range)>; N],
}

impl Arguments {
    /// Matches the arguments to `names`, of which the first `required` must be given.
    pub(crate) fn bind<const N: usize>(
        self,
        evaluator: &mut Evaluator<'_>,
        function: &str,
        names: [&'static str; N],
        required: usize,
    ) -> Eval<Bound<N>> {
        let mut values = [const { None }; N];
        if let Some((_, extra)) = self.positional.get(N) {
            let message = format!("`{function}` takes at most {N} arguments");
            return Err(evaluator.fail(Diagnostic::new(*extra, message, "one too many")));
        }
        for (place, value) in values.iter_mut().zip(self.positional) {
            *place = Some(value);
        }
        for (name, value) in self.named {
            let Some(at) = names.iter().position(|known| **known == *name.node) else {
                let message = format!("`{function}` has no argument `{}`", name.node);
                let help = did_you_mean(&name.node, names)
                    .unwrap_or_else(|| format!("it takes {}", names.join(", ")));
                let diagnostic = Diagnostic::new(name.range, message, "unknown argument");
                return Err(evaluator.fail(diagnostic.help(help)));
            };
            if values[at].is_some() {
                let message = format!("argument `{}` is given twice", name.node);
                return Err(evaluator.fail(Diagnostic::new(name.range, message, "again here")));
            }
            values[at] = Some(value);
        }
        if let Some(missing) = (0..required).find(|&at| values[at].is_none()) {
            let message = format!("`{function}` needs the argument `{}`", names[missing]);
            return Err(evaluator.fail(Diagnostic::new(self.range, message, "missing here")));
        }
        Ok(Bound { range: self.range, names, values })
    }
}

impl<const N: usize> Bound<N> {
    /// The argument at `at`, if it is given and not `None`.
    pub(crate) fn optional(&mut self, at: usize) -> Option<(Value, Range)> {
        self.values[at].take().filter(|(value, _)| !matches!(value, Value::None))
    }

    /// The argument at `at`, which the caller declared to be required.
    pub(crate) fn required(&mut self, at: usize) -> (Value, Range) {
        self.values[at].take().unwrap_or((Value::None, self.range))
    }

    fn mismatch(&self, at: usize, value: &Value, range: Range, wanted: &str) -> Diagnostic {
        let message = format!("`{}` must be {wanted}", self.names[at]);
        Diagnostic::new(range, message, format!("this is {}", value.describe()))
    }

    /// A constant text.
    pub(crate) fn text(&mut self, evaluator: &mut Evaluator<'_>, at: usize) -> Eval<Arc<str>> {
        let (value, range) = self.required(at);
        match value {
            Value::Scalar(scalar) => match scalar.value {
                Const::Str(text) => Ok(text),
                other => {
                    let value = Value::constant(other);
                    Err(evaluator.fail(self.mismatch(at, &value, range, "a constant string")))
                }
            },
            other => Err(evaluator.fail(self.mismatch(at, &other, range, "a constant string"))),
        }
    }

    /// A constant text, if it is given.
    pub(crate) fn optional_text(
        &mut self,
        evaluator: &mut Evaluator<'_>,
        at: usize,
    ) -> Eval<Option<Arc<str>>> {
        match self.optional(at) {
            None => Ok(None),
            given => {
                self.values[at] = given;
                self.text(evaluator, at).map(Some)
            }
        }
    }

    /// A constant integer.
    pub(crate) fn integer(&mut self, evaluator: &mut Evaluator<'_>, at: usize) -> Eval<i64> {
        let (value, range) = self.required(at);
        match &value {
            Value::Scalar(scalar) => match scalar.value {
                Const::Int(number) | Const::Time(number) => Ok(number),
                _ => Err(evaluator.fail(self.mismatch(at, &value, range, "a constant integer"))),
            },
            _ => Err(evaluator.fail(self.mismatch(at, &value, range, "a constant integer"))),
        }
    }

    /// A constant boolean, if it is given.
    pub(crate) fn optional_flag(
        &mut self,
        evaluator: &mut Evaluator<'_>,
        at: usize,
    ) -> Eval<Option<bool>> {
        let Some((value, range)) = self.optional(at) else { return Ok(None) };
        if let Value::Scalar(scalar) = &value
            && let Const::Bool(flag) = scalar.value
        {
            return Ok(Some(flag));
        }
        Err(evaluator.fail(self.mismatch(at, &value, range, "True or False")))
    }

    /// A DataFrame.
    pub(crate) fn frame(
        &mut self,
        evaluator: &mut Evaluator<'_>,
        at: usize,
    ) -> Eval<super::value::Frame> {
        let (value, range) = self.required(at);
        match value {
            Value::Frame(frame) => Ok(frame),
            Value::Poison => Err(super::Raised),
            other => Err(evaluator.fail(self.mismatch(at, &other, range, "a DataFrame"))),
        }
    }

    /// One name, or a list or tuple of names.
    pub(crate) fn names(
        &mut self,
        evaluator: &mut Evaluator<'_>,
        at: usize,
    ) -> Eval<Vec<(Arc<str>, Range)>> {
        let (value, range) = self.required(at);
        match names(&value, range) {
            Some(names) => Ok(names),
            None => Err(evaluator.fail(self.mismatch(
                at,
                &value,
                range,
                "a string or a list of strings",
            ))),
        }
    }
}

/// One name, or a list or tuple of names.
pub(crate) fn names(value: &Value, range: Range) -> Option<Vec<(Arc<str>, Range)>> {
    let name = |value: &Value| match value {
        Value::Scalar(scalar) => match &scalar.value {
            Const::Str(text) => Some(Arc::clone(text)),
            _ => None,
        },
        _ => None,
    };
    match value {
        Value::List(items) | Value::Tuple(items) => {
            items.iter().map(|(item, range)| Some((name(item)?, *range))).collect()
        }
        other => Some(vec![(name(other)?, range)]),
    }
}
