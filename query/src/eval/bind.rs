//! Binds an expression to the relation that it ends up in: names become columns, calls get their
//! overload, and every part gets its type and its meaning.

use std::sync::Arc;

use undine_schema::{PxlType, SemanticType};

use super::{Eval, Evaluator, Raised};
use crate::diagnostics::{Diagnostic, Range, did_you_mean};
use crate::expr::{Annotation, Symbol, SymbolKind, Typed, TypedKind};
use crate::functions::{self, signature};
use crate::relation::{AggregateKind, Relation};
use crate::scalar::{Const, Scalar};

/// A key of `df.ctx`: its aliases, and the columns that it can be derived from, in order.
struct ContextKey {
    names: &'static [&'static str],
    sources: &'static [&'static str],
}

const fn key(names: &'static [&'static str], sources: &'static [&'static str]) -> ContextKey {
    ContextKey { names, sources }
}

/// The first name is the one that functions and context columns end in.
static CONTEXT: [ContextKey; 15] = [
    key(&["pod_name", "pod"], &["upid", "pod_id"]),
    key(&["namespace"], &["upid", "pod_id", "pod_name", "service_name"]),
    key(&["service_name", "service"], &["upid", "service_id", "pod_id", "pod_name"]),
    key(&["node_name", "node"], &["upid", "pod_id"]),
    key(&["container_name", "container"], &["upid"]),
    key(
        &["deployment_name", "deployment"],
        &["upid", "deployment_id", "pod_id", "pod_name", "replicaset_id", "replicaset_name"],
    ),
    key(&["cmdline", "cmd"], &["upid"]),
    key(&["pod_id"], &["upid", "pod_name"]),
    key(&["container_id"], &["upid"]),
    key(&["pid"], &["upid"]),
    key(&["service_id"], &["upid", "service_name", "pod_id", "pod_name"]),
    key(&["deployment_id"], &["upid", "deployment_name", "pod_id", "pod_name"]),
    key(&["replicaset_name", "replica_set", "replicaset"], &["upid", "pod_id", "pod_name"]),
    key(&["replicaset_id", "replica_set_id"], &["upid", "pod_id", "pod_name"]),
    key(&["hostname", "host"], &["upid"]),
];

impl Evaluator<'_> {
    /// Binds `symbol` to `relation`.
    pub(super) fn bind(&mut self, symbol: &Symbol, relation: &Relation) -> Eval<Typed> {
        match &symbol.kind {
            SymbolKind::Const(scalar) => Ok(Typed::constant(scalar.clone())),
            SymbolKind::Column(name) => self.bind_column(name, symbol.range, relation),
            SymbolKind::Context(key) => self.bind_context(key, symbol.range, relation),
            SymbolKind::Cast { to, operand } => {
                let operand_range = operand.range;
                let operand = self.bind(operand, relation)?;
                self.check_cast(*to, operand.pxl_type, operand_range)?;
                Ok(Typed { semantic: to.semantic, ..operand })
            }
            SymbolKind::Call { function, args } => {
                let ranges: Vec<Range> = args.iter().map(|arg| arg.range).collect();
                let args =
                    args.iter().map(|arg| self.bind(arg, relation)).collect::<Eval<Vec<_>>>()?;
                self.bind_call(function, args, symbol.range, &ranges)
            }
            SymbolKind::ScriptReference { label, script, args } => {
                self.bind_script_reference(label, script, args, relation, symbol.range)
            }
        }
    }

    pub(super) fn check_cast(
        &mut self,
        to: Annotation,
        pxl_type: PxlType,
        range: Range,
    ) -> Eval<()> {
        if to.pxl_type == pxl_type {
            return Ok(());
        }
        let message = format!("`px.{}` needs {}", to.name, to.pxl_type.name());
        let diagnostic = Diagnostic::new(range, message, format!("this is {}", pxl_type.name()));
        let diagnostic = if (to.pxl_type, pxl_type) == (PxlType::Int64, PxlType::Float64) {
            diagnostic.help("wrap it in `px.floor(…)`")
        } else {
            diagnostic
        };
        Err(self.fail(diagnostic))
    }

    fn bind_column(&mut self, name: &Arc<str>, range: Range, relation: &Relation) -> Eval<Typed> {
        if let Some(column) = relation.column(name) {
            return Ok(Typed {
                kind: TypedKind::Column(Arc::clone(name)),
                pxl_type: column.pxl_type,
                semantic: column.semantic,
            });
        }
        Err(self.no_column(name, range, relation))
    }

    pub(super) fn no_column(&mut self, name: &str, range: Range, relation: &Relation) -> Raised {
        let message = format!("there is no column `{name}`");
        let columns = relation.columns.iter().map(|column| &*column.name);
        let help = if relation.context(name).is_some() {
            format!("it is context: write `df.ctx['{name}']`")
        } else {
            did_you_mean(name, columns.clone()).unwrap_or_else(|| {
                let columns: Vec<_> = columns.collect();
                format!("the columns here are {}", columns.join(", "))
            })
        };
        self.fail(Diagnostic::new(range, message, "unknown column").help(help))
    }

    /// Context that came with the row wins over a lookup by one of its columns.
    fn bind_context(&mut self, name: &str, range: Range, relation: &Relation) -> Eval<Typed> {
        let known = CONTEXT.iter().find(|key| key.names.contains(&name));
        let names = known.map_or(std::slice::from_ref(&name), |key| key.names);
        // A pod's name is its id here.
        let names = if names == ["pod_id"] { &["pod_id", "pod"] } else { names };
        if let Some(column) = names.iter().find_map(|name| relation.context(name)) {
            return Ok(Typed {
                kind: TypedKind::Column(Arc::clone(&column.name)),
                pxl_type: column.pxl_type,
                semantic: column.semantic,
            });
        }
        let Some(known) = known else {
            let message = format!("`ctx` has no key `{name}`");
            let context = relation.hidden.iter().filter_map(|c| c.name.strip_prefix('\u{1}'));
            let all = CONTEXT.iter().flat_map(|key| key.names.iter().copied()).chain(context);
            let help = match name {
                "svc" => Some("did you mean `service`?".to_owned()),
                _ => did_you_mean(name, all),
            };
            let diagnostic = Diagnostic::new(range, message, "unknown key");
            return Err(self.fail(diagnostic.maybe_help(help)));
        };
        let Some(source) = known.sources.iter().find(|source| relation.column(source).is_some())
        else {
            let message = format!("`ctx['{name}']` cannot be found here");
            let diagnostic = Diagnostic::new(range, message, "nothing to derive it from");
            let help = format!(
                "it needs one of the columns {}; take it before they are gone",
                known.sources.join(", ")
            );
            return Err(self.fail(diagnostic.help(help)));
        };
        let operand = self.bind_column(&(*source).into(), range, relation)?;
        let function = format!("{source}_to_{}", known.names[0]);
        self.bind_call(&function, vec![operand], range, &[range])
    }

    pub(super) fn bind_call(
        &mut self,
        name: &str,
        args: Vec<Typed>,
        range: Range,
        arg_ranges: &[Range],
    ) -> Eval<Typed> {
        let Some(function) = functions::find(name) else {
            let message = format!("there is no function `{name}`");
            let help = did_you_mean(name, functions::names());
            let diagnostic = Diagnostic::new(range, message, "unknown function");
            return Err(self.fail(diagnostic.maybe_help(help)));
        };
        let types: Vec<PxlType> = args.iter().map(|arg| arg.pxl_type).collect();
        let Some(overload) = functions::resolve(function, &types) else {
            let given: Vec<_> = types.iter().map(|t| t.name()).collect();
            let message = format!("`{name}` has no form for ({})", given.join(", "));
            let forms: Vec<_> = function.overloads.iter().take(6).map(signature).collect();
            let at = match arg_ranges {
                [first, .., last] => Range { start: first.start, end: last.end },
                _ => range,
            };
            let diagnostic = Diagnostic::new(at, message, "these types do not go together");
            return Err(self.fail(diagnostic.help(format!("it takes {}", forms.join(", ")))));
        };
        let meanings: Vec<SemanticType> = args.iter().map(|arg| arg.semantic).collect();
        Ok(Typed {
            pxl_type: overload.result,
            semantic: functions::meaning(overload, &meanings),
            kind: TypedKind::Call { overload, args: args.into_iter().map(Arc::new).collect() },
        })
    }

    /// `{"label":…,"script":…,"args":{…}}`, joined row by row.
    fn bind_script_reference(
        &mut self,
        label: &Symbol,
        script: &Symbol,
        args: &[(Arc<str>, Arc<Symbol>)],
        relation: &Relation,
        range: Range,
    ) -> Eval<Typed> {
        let mut pieces = Vec::with_capacity(2 * args.len() + 4);
        let mut operands = Vec::with_capacity(args.len() + 2);
        let mut before = "{\"label\":".to_owned();
        let named = args.iter().map(|(name, value)| (Some(name), value.as_ref()));
        let mut open_args = false;
        for (index, (name, value)) in
            [(None, label), (None, script)].into_iter().chain(named).enumerate()
        {
            match (index, name) {
                (1, _) => before.push_str(",\"script\":"),
                (_, Some(name)) => {
                    before.push_str(if open_args { "," } else { ",\"args\":{" });
                    open_args = true;
                    before.push_str(&serde_json::Value::from(&**name).to_string());
                    before.push(':');
                }
                _ => {}
            }
            let bound = self.bind(value, relation)?;
            if bound.pxl_type != PxlType::String {
                let message = "a script reference is made of strings";
                let label = format!("this is {}", bound.pxl_type.name());
                return Err(self.fail(Diagnostic::new(value.range, message, label)));
            }
            pieces.push(std::mem::take(&mut before));
            operands.push(bound);
        }
        let end = if open_args { "}}" } else { ",\"args\":{}}" };
        let mut joined = Vec::with_capacity(operands.len() * 2 + 1);
        for (piece, operand) in pieces.into_iter().zip(operands) {
            joined.push(Typed::constant(Scalar::from(Const::Str(piece.into()))));
            joined.push(self.bind_call("_json_string", vec![operand], range, &[range])?);
        }
        joined.push(Typed::constant(Scalar::from(Const::Str(end.into()))));
        let mut joined = joined.into_iter();
        let Some(mut text) = joined.next() else { return Err(Raised) };
        for piece in joined {
            text = self.bind_call("add", vec![text, piece], range, &[range, range])?;
        }
        Ok(Typed { semantic: SemanticType::ScriptReference, ..text })
    }

    /// The type and meaning of an aggregate of a column.
    pub(super) fn bind_aggregate(
        &mut self,
        kind: AggregateKind,
        arg: &Typed,
        range: Range,
    ) -> Eval<(PxlType, SemanticType)> {
        let result = kind.result(arg.pxl_type).ok_or_else(|| {
            let message = format!("`px.{}` does not take {}", kind.name(), arg.pxl_type.name());
            self.fail(Diagnostic::new(range, message, "of this type"))
        })?;
        Ok((result, kind.meaning(arg.semantic)))
    }
}
