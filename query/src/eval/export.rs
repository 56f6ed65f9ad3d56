//! `px.otel`: what to export, checked against the DataFrame that is exported.

use std::sync::Arc;
use std::time::Duration;

use undine_schema::PxlType;

use super::arguments::{Arguments, Bound};
use super::value::{Entry, Value};
use super::{Eval, Evaluator};
use crate::diagnostics::{Diagnostic, Range};
use crate::expr::SymbolKind;
use crate::otel::{Attributes, Endpoint, ExportSpec, Signal, Source};
use crate::relation::Relation;
use crate::scalar::{Const, Scalar};

/// What a bare column or a literal may stand for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Literals {
    Allowed,
    Refused,
}

impl Evaluator<'_> {
    pub(super) fn otel_data(&mut self, args: Arguments) -> Eval<Value> {
        let mut bound = args.bind(self, "Data", ["resource", "data", "endpoint"], 2)?;
        let (resource, resource_range) = bound.required(0);
        let resource = self.attributes_of((resource, resource_range), Literals::Allowed)?;
        if !resource.iter().any(|(key, _)| key == "service.name") {
            let diagnostic = Diagnostic::new(
                resource_range,
                "the resource lacks `service.name`",
                "missing here",
            );
            let help = "OpenTelemetry needs it: `'service.name': df.service`";
            return Err(self.fail(diagnostic.help(help)));
        }
        let (data, data_range) = bound.required(1);
        let items = match data {
            Value::List(items) | Value::Tuple(items) if !items.is_empty() => items,
            other => {
                let message = "`data` is a list with at least one metric or span";
                let label = format!("this is {}", other.describe());
                return Err(self.fail(Diagnostic::new(data_range, message, label)));
            }
        };
        let mut signals = Vec::with_capacity(items.len());
        for (item, range) in items.iter() {
            let Value::Signal(signal) = item else {
                let message = "`data` holds metrics and spans only";
                let label = format!("this is {}", item.describe());
                return Err(self.fail(Diagnostic::new(*range, message, label)));
            };
            signals.push((**signal).clone());
        }
        let endpoint = match bound.optional(2) {
            None if self.surroundings.has_plugin_endpoint => None,
            None => {
                let diagnostic =
                    Diagnostic::new(bound.range, "nothing says where to export to", "no endpoint");
                let help = "pass `endpoint=px.otel.Endpoint(url='host:4317', insecure=True)`";
                return Err(self.fail(diagnostic.help(help)));
            }
            Some((Value::Endpoint(endpoint), _)) => Some((*endpoint).clone()),
            Some((other, range)) => {
                let message = "`endpoint` must be a `px.otel.Endpoint`";
                let label = format!("this is {}", other.describe());
                return Err(self.fail(Diagnostic::new(range, message, label)));
            }
        };
        Ok(Value::Export(Arc::new(ExportSpec { endpoint, resource, signals })))
    }

    pub(super) fn otel_endpoint(&mut self, args: Arguments) -> Eval<Value> {
        let names = ["url", "headers", "insecure", "timeout"];
        let mut bound = args.bind(self, "Endpoint", names, 1)?;
        let url = bound.text(self, 0)?.to_string();
        if url.contains("://") {
            let diagnostic =
                Diagnostic::new(bound.range, "an endpoint's url has no scheme", "here");
            return Err(self.fail(diagnostic.help("write host and port: 'localhost:4317'")));
        }
        let mut headers = Vec::new();
        if let Some((value, range)) = bound.optional(1) {
            for entry in self.entries(value, range)?.iter() {
                headers.push((self.text_of(&entry.key)?, self.text_of(&entry.value)?));
            }
        }
        let insecure = bound.optional_flag(self, 2)?.unwrap_or(false);
        let timeout = match bound.optional(3) {
            None => 5,
            Some((Value::Scalar(Scalar { value: Const::Int(seconds @ 1..=3600), .. }), _)) => {
                seconds
            }
            Some((_, range)) => {
                let message = "a timeout is a number of seconds from 1 to 3600";
                return Err(self.fail(Diagnostic::new(range, message, "out of bounds")));
            }
        };
        let timeout = Duration::from_secs(timeout.unsigned_abs());
        Ok(Value::Endpoint(Arc::new(Endpoint { url, headers, insecure, timeout })))
    }

    pub(super) fn otel_gauge(&mut self, args: Arguments) -> Eval<Value> {
        let names = ["name", "value", "description", "attributes", "unit"];
        let mut bound = args.bind(self, "Gauge", names, 2)?;
        let name = self.metric_name(&mut bound)?;
        let value = bound.required(1);
        let value = self.bare_column(value)?;
        let description = bound.optional_text(self, 2)?.map_or_else(String::new, |d| d.to_string());
        let attributes = self.optional_attributes(&mut bound, 3, Literals::Allowed)?;
        let unit = bound.optional_text(self, 4)?.map(|unit| unit.to_string());
        let signal = Signal::Gauge { name, description, unit, value, attributes };
        Ok(Value::Signal(Arc::new((signal, bound.range))))
    }

    pub(super) fn otel_summary(&mut self, args: Arguments) -> Eval<Value> {
        let names =
            ["name", "count", "sum", "quantile_values", "description", "attributes", "unit"];
        let mut bound = args.bind(self, "Summary", names, 4)?;
        let name = self.metric_name(&mut bound)?;
        let (count, sum) = (bound.required(1), bound.required(2));
        let (count, sum) = (self.bare_column(count)?, self.bare_column(sum)?);
        let (quantiles, range) = bound.required(3);
        let entries = self.entries(quantiles, range)?;
        if entries.is_empty() {
            let message = "`quantile_values` needs at least one quantile";
            return Err(self.fail(Diagnostic::new(range, message, "empty")));
        }
        let mut quantiles = Vec::with_capacity(entries.len());
        for entry in entries.iter() {
            let Value::Scalar(Scalar { value: Const::Float(q), .. }) = &entry.key.0 else {
                let diagnostic = Diagnostic::new(
                    entry.key.1,
                    "a quantile is a float",
                    format!("this is {}", entry.key.0.describe()),
                );
                return Err(self.fail(diagnostic.help("write `0.5: df.p50`")));
            };
            quantiles.push((*q, self.bare_column(entry.value.clone())?));
        }
        let description = bound.optional_text(self, 4)?.map_or_else(String::new, |d| d.to_string());
        let attributes = self.optional_attributes(&mut bound, 5, Literals::Allowed)?;
        let unit = bound.optional_text(self, 6)?.map(|unit| unit.to_string());
        let signal = Signal::Summary { name, description, unit, count, sum, quantiles, attributes };
        Ok(Value::Signal(Arc::new((signal, bound.range))))
    }

    pub(super) fn otel_span(&mut self, args: Arguments) -> Eval<Value> {
        let names = [
            "name",
            "start_time",
            "end_time",
            "trace_id",
            "span_id",
            "parent_span_id",
            "attributes",
            "kind",
        ];
        let mut bound = args.bind(self, "Span", names, 3)?;
        let name = bound.required(0);
        let name = self.source(name, Literals::Allowed)?;
        let (start, end) = (bound.required(1), bound.required(2));
        let (start, end) = (self.bare_column(start)?, self.bare_column(end)?);
        let mut id = |at: usize, evaluator: &mut Self| match bound.optional(at) {
            None => Ok(None),
            Some(id) => evaluator.bare_column(id).map(Some),
        };
        let (trace_id, span_id, parent_span_id) = (id(3, self)?, id(4, self)?, id(5, self)?);
        let attributes = self.optional_attributes(&mut bound, 6, Literals::Refused)?;
        let kind = match bound.optional(7) {
            None => 2,
            Some((Value::Scalar(Scalar { value: Const::Int(kind @ 0..=5), .. }), _)) => kind,
            Some((_, range)) => {
                let diagnostic = Diagnostic::new(range, "there is no such kind of span", "here");
                return Err(self.fail(diagnostic.help("use `px.otel.trace.SPAN_KIND_SERVER`")));
            }
        };
        let kind = i32::try_from(kind).unwrap_or(0);
        let signal =
            Signal::Span { name, start, end, trace_id, span_id, parent_span_id, kind, attributes };
        Ok(Value::Signal(Arc::new((signal, bound.range))))
    }

    fn metric_name<const N: usize>(&mut self, bound: &mut Bound<N>) -> Eval<String> {
        let name = bound.text(self, 0)?;
        let mut chars = name.chars();
        let good = chars.next().is_some_and(|c| c.is_ascii_alphabetic())
            && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
        if good {
            return Ok(name.to_string());
        }
        let message = format!("`{name}` is no name for a metric");
        let diagnostic = Diagnostic::new(bound.range, message, "in this metric");
        Err(self.fail(diagnostic.help("a letter, then letters, digits, `_`, `.` or `-`")))
    }

    fn entries(&mut self, value: Value, range: Range) -> Eval<Arc<[Entry]>> {
        match value {
            Value::Dict(entries) => Ok(entries),
            other => {
                let label = format!("this is {}", other.describe());
                Err(self.fail(Diagnostic::new(range, "a dict is needed here", label)))
            }
        }
    }

    fn text_of(&mut self, (value, range): &(Value, Range)) -> Eval<String> {
        match value {
            Value::Scalar(Scalar { value: Const::Str(text), .. }) => Ok(text.to_string()),
            other => {
                let label = format!("this is {}", other.describe());
                Err(self.fail(Diagnostic::new(*range, "a constant string is needed here", label)))
            }
        }
    }

    fn optional_attributes<const N: usize>(
        &mut self,
        bound: &mut Bound<N>,
        at: usize,
        literals: Literals,
    ) -> Eval<Attributes> {
        match bound.optional(at) {
            None => Ok(Vec::new()),
            Some(value) => self.attributes_of(value, literals),
        }
    }

    fn attributes_of(
        &mut self,
        (value, range): (Value, Range),
        literals: Literals,
    ) -> Eval<Attributes> {
        let entries = self.entries(value, range)?;
        let mut attributes: Attributes = Vec::with_capacity(entries.len());
        for entry in entries.iter() {
            let key = self.text_of(&entry.key)?;
            if key.is_empty() {
                let message = "an attribute needs a name";
                return Err(self.fail(Diagnostic::new(entry.key.1, message, "empty")));
            }
            let source = self.source(entry.value.clone(), literals)?;
            attributes.push((key, source));
        }
        Ok(attributes)
    }

    fn source(&mut self, (value, range): (Value, Range), literals: Literals) -> Eval<Source> {
        match (&value, literals) {
            (Value::Scalar(Scalar { value: Const::Str(text), .. }), Literals::Allowed) => {
                Ok(Source::Text(text.to_string()))
            }
            (Value::Scalar(_), Literals::Refused) => {
                let diagnostic =
                    Diagnostic::new(range, "a span's attribute must be a column", "a literal");
                Err(self
                    .fail(diagnostic.help("assign it first: `df.kind = 'x'`, then use `df.kind`")))
            }
            _ => self.bare_column((value, range)).map(Source::Column),
        }
    }

    /// A column by itself, not an expression.
    fn bare_column(&mut self, (value, range): (Value, Range)) -> Eval<String> {
        if let Value::Column(symbol) = &value
            && let SymbolKind::Column(name) = &symbol.kind
        {
            return Ok(name.to_string());
        }
        if matches!(value, Value::Poison) {
            return Err(super::Raised);
        }
        let label = match value {
            Value::Column(_) => "this is an expression".to_owned(),
            other => format!("this is {}", other.describe()),
        };
        let diagnostic = Diagnostic::new(range, "a column of the DataFrame is needed here", label);
        Err(self.fail(diagnostic.help("assign it to a column first: `df.value = …`")))
    }

    /// Whether the exported rows have what the target wants of them.
    pub(super) fn check_export(
        &mut self,
        spec: &ExportSpec,
        relation: &Arc<Relation>,
        range: Range,
    ) -> Eval<()> {
        self.check_attributes(&spec.resource, relation, range)?;
        for (signal, range) in &spec.signals {
            let range = *range;
            let attributes = match signal {
                Signal::Gauge { value, attributes, .. } => {
                    self.check_time(relation, range)?;
                    let number = [PxlType::Int64, PxlType::Float64];
                    self.check_column(value, &number, relation, range)?;
                    attributes
                }
                Signal::Summary { count, sum, quantiles, attributes, .. } => {
                    self.check_time(relation, range)?;
                    self.check_column(count, &[PxlType::Int64], relation, range)?;
                    self.check_column(sum, &[PxlType::Float64], relation, range)?;
                    for (_, column) in quantiles {
                        self.check_column(column, &[PxlType::Float64], relation, range)?;
                    }
                    attributes
                }
                Signal::Span {
                    name,
                    start,
                    end,
                    trace_id,
                    span_id,
                    parent_span_id,
                    attributes,
                    ..
                } => {
                    for time in [start, end] {
                        self.check_column(time, &[PxlType::Time64Ns], relation, range)?;
                    }
                    for id in [trace_id, span_id, parent_span_id].into_iter().flatten() {
                        self.check_column(id, &[PxlType::String], relation, range)?;
                    }
                    if let Source::Column(name) = name {
                        self.check_column(name, &[PxlType::String], relation, range)?;
                    }
                    attributes
                }
            };
            self.check_attributes(attributes, relation, range)?;
        }
        Ok(())
    }

    fn check_time(&mut self, relation: &Arc<Relation>, range: Range) -> Eval<()> {
        if relation.column("time_").is_some_and(|c| c.pxl_type == PxlType::Time64Ns) {
            return Ok(());
        }
        let message = "a metric needs the time of its rows in a column `time_`";
        let diagnostic = Diagnostic::new(range, message, "this metric");
        Err(self.fail(diagnostic.help("keep it: `.agg(time_=('time_', px.max), …)`")))
    }

    fn check_attributes(
        &mut self,
        attributes: &Attributes,
        relation: &Arc<Relation>,
        range: Range,
    ) -> Eval<()> {
        let types = [PxlType::String, PxlType::Int64, PxlType::Float64, PxlType::Boolean];
        for (_, source) in attributes {
            if let Source::Column(column) = source {
                self.check_column(column, &types, relation, range)?;
            }
        }
        Ok(())
    }

    fn check_column(
        &mut self,
        name: &str,
        types: &[PxlType],
        relation: &Arc<Relation>,
        range: Range,
    ) -> Eval<()> {
        let Some(column) = relation.column(name) else {
            return Err(self.no_column(name, range, relation));
        };
        if types.contains(&column.pxl_type) {
            return Ok(());
        }
        let wanted: Vec<_> = types.iter().map(|t| t.name()).collect();
        let message = format!(
            "column `{name}` is {} but must be {}",
            column.pxl_type.name(),
            wanted.join(" or ")
        );
        Err(self.fail(Diagnostic::new(range, message, "exported here")))
    }
}
