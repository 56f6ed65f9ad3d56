//! What stands in `px` and in the modules below it.

use std::sync::Arc;

use super::value::{CASTS, LISTINGS, Module, Native, TraceFunction, Value};
use super::{Eval, Evaluator};
use crate::ast::Name;
use crate::diagnostics::{Diagnostic, did_you_mean};
use crate::functions;
use crate::relation::AggregateKind;
use crate::scalar::Const;

const SPAN_KINDS: [(&str, i64); 6] = [
    ("SPAN_KIND_UNSPECIFIED", 0),
    ("SPAN_KIND_INTERNAL", 1),
    ("SPAN_KIND_SERVER", 2),
    ("SPAN_KIND_CLIENT", 3),
    ("SPAN_KIND_PRODUCER", 4),
    ("SPAN_KIND_CONSUMER", 5),
];

impl Evaluator<'_> {
    pub(super) fn module_attribute(&mut self, module: Module, attr: &Name) -> Eval<Value> {
        let name: &str = &attr.node;
        if let Some(assigned) = self.attributes.get(&(module.name(), Arc::clone(&attr.node))) {
            return Ok(assigned.clone());
        }
        let found = match module {
            Module::Px => px(name),
            Module::Otel => match name {
                "metric" => Some(Value::Module(Module::OtelMetric)),
                "trace" => Some(Value::Module(Module::OtelTrace)),
                "Data" => Some(Value::Native(Native::OtelData)),
                "Endpoint" => Some(Value::Native(Native::OtelEndpoint)),
                _ => None,
            },
            Module::OtelMetric => match name {
                "Gauge" => Some(Value::Native(Native::OtelGauge)),
                "Summary" => Some(Value::Native(Native::OtelSummary)),
                _ => None,
            },
            Module::OtelTrace => match name {
                "Span" => Some(Value::Native(Native::OtelSpan)),
                _ => SPAN_KINDS
                    .iter()
                    .find(|(kind, _)| *kind == name)
                    .map(|(_, number)| Value::constant(Const::Int(*number))),
            },
            Module::Plugin => return self.plugin_attribute(attr),
            Module::Views => self.view(name).cloned(),
            Module::Trace => TraceFunction::ALL
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, function)| Value::Native(Native::Trace(*function))),
        };
        found.map_or_else(|| Err(self.no_attribute(module, attr)), Ok)
    }

    fn plugin_attribute(&mut self, attr: &Name) -> Eval<Value> {
        if !matches!(&*attr.node, "start_time" | "end_time") {
            return Err(self.no_attribute(Module::Plugin, attr));
        }
        let Some(window) = self.surroundings.plugin else {
            let message = "`px.plugin` is known in scheduled scripts only";
            let diagnostic = Diagnostic::new(attr.range, message, "this run has no window");
            return Err(
                self.fail(diagnostic.help("use a time such as '-30s', or schedule the script"))
            );
        };
        let time = if &*attr.node == "start_time" { window.start } else { window.end };
        Ok(Value::constant(Const::Int(time.get())))
    }

    fn no_attribute(&mut self, module: Module, attr: &Name) -> super::Raised {
        let message = format!("`{}` has no `{}`", module.name(), attr.node);
        let known: Vec<&str> = match module {
            Module::Px => functions::names()
                .chain(AggregateKind::ALL.iter().map(|(name, _)| *name))
                .chain(Native::PX.iter().map(|(name, _)| *name))
                .chain(LISTINGS.iter().map(|(name, _)| *name))
                .chain(CASTS.iter().map(|cast| cast.name))
                .chain(["otel", "plugin"])
                .collect(),
            Module::Otel => vec!["metric", "trace", "Data", "Endpoint"],
            Module::OtelMetric => vec!["Gauge", "Summary"],
            Module::OtelTrace => SPAN_KINDS.iter().map(|(kind, _)| *kind).chain(["Span"]).collect(),
            Module::Plugin => vec!["start_time", "end_time"],
            Module::Views => self.view_names(),
            Module::Trace => TraceFunction::ALL.iter().map(|(name, _)| *name).collect(),
        };
        let help = did_you_mean(&attr.node, known);
        self.fail(Diagnostic::new(attr.range, message, "unknown function").maybe_help(help))
    }
}

fn px(name: &str) -> Option<Value> {
    match name {
        "otel" => return Some(Value::Module(Module::Otel)),
        "plugin" => return Some(Value::Module(Module::Plugin)),
        _ => {}
    }
    // `px.DataFrame` is also a type; where one is wanted, the function stands for it.
    let native = Native::PX.iter().find(|(known, _)| *known == name);
    native
        .map(|(_, native)| Value::Native(*native))
        .or_else(|| AggregateKind::find(name).map(Value::Aggregate))
        .or_else(|| CASTS.iter().find(|cast| cast.name == name).map(|cast| Value::Type(*cast)))
        .or_else(|| {
            LISTINGS.iter().find(|(known, _)| *known == name).map(|(_, l)| Value::Listing(*l))
        })
        .or_else(|| functions::names().find(|known| *known == name).map(Value::Scalarwise))
}
