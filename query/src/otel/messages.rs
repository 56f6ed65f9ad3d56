//! Rows → OTLP messages.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::summary_data_point::ValueAtQuantile;
use opentelemetry_proto::tonic::metrics::v1::{
    Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Summary, SummaryDataPoint,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use ulid::Ulid;
use undine_schema::SemanticType;

use super::{Attributes, ExportSpec, Signal, Source};
use crate::functions::json::members;
use crate::relation::{Column, Relation};

/// Resources that one row may be replicated to.
const REPLICAS_MAX: usize = 100;

/// The messages of all rows.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    pub(crate) metrics: Vec<ResourceMetrics>,
    pub(crate) spans: Vec<ResourceSpans>,
}

/// Builds the messages for the rows of `batches`, whose columns are those of `relation`.
pub(crate) fn build(spec: &ExportSpec, relation: &Relation, batches: &[RecordBatch]) -> Messages {
    let mut messages = Messages::default();
    for batch in batches {
        for row in 0..batch.num_rows() {
            Row { relation, batch, at: row }.add_to(spec, &mut messages);
        }
    }
    messages
}

/// One cell.
#[derive(Clone, Debug, PartialEq)]
enum Cell {
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
}

impl Cell {
    fn any(self) -> AnyValue {
        let value = match self {
            Self::Bool(value) => Any::BoolValue(value),
            Self::Int(value) => Any::IntValue(value),
            Self::Float(value) => Any::DoubleValue(value),
            Self::Text(value) => Any::StringValue(value),
        };
        AnyValue { value: Some(value) }
    }
}

struct Row<'a> {
    relation: &'a Relation,
    batch: &'a RecordBatch,
    at: usize,
}

impl Row<'_> {
    fn column(&self, name: &str) -> Option<(&Column, Cell)> {
        let place = self.relation.columns.iter().position(|column| &*column.name == name)?;
        let array = self.batch.columns().get(place)?;
        let cell = match array.data_type() {
            DataType::Boolean => Cell::Bool(array.as_boolean().value(self.at)),
            DataType::Int64 => Cell::Int(array.as_primitive::<Int64Type>().value(self.at)),
            DataType::Float64 => Cell::Float(array.as_primitive::<Float64Type>().value(self.at)),
            DataType::Utf8 => Cell::Text(array.as_string::<i32>().value(self.at).to_owned()),
            _ => return None,
        };
        Some((&self.relation.columns[place], cell))
    }

    fn text(&self, name: &str) -> String {
        match self.column(name) {
            Some((_, Cell::Text(text))) => text,
            _ => String::new(),
        }
    }

    fn integer(&self, name: &str) -> i64 {
        match self.column(name) {
            Some((_, Cell::Int(value))) => value,
            _ => 0,
        }
    }

    fn double(&self, name: &str) -> f64 {
        match self.column(name) {
            Some((_, Cell::Float(value))) => value,
            _ => 0.0,
        }
    }

    /// Times before the epoch do not exist in OTLP.
    fn time(&self, name: &str) -> u64 {
        u64::try_from(self.integer(name)).unwrap_or(0)
    }

    fn add_to(&self, spec: &ExportSpec, messages: &mut Messages) {
        let metrics: Vec<Metric> =
            spec.signals.iter().filter_map(|(signal, _)| self.metric(signal)).collect();
        let spans: Vec<Span> =
            spec.signals.iter().filter_map(|(signal, _)| self.span(signal)).collect();
        let scope = Some(InstrumentationScope::default());
        for resource in self.resources(&spec.resource) {
            let resource = Some(resource);
            if !metrics.is_empty() {
                messages.metrics.push(ResourceMetrics {
                    resource: resource.clone(),
                    scope_metrics: vec![ScopeMetrics {
                        scope: scope.clone(),
                        metrics: metrics.clone(),
                        schema_url: String::new(),
                    }],
                    schema_url: String::new(),
                });
            }
            if !spans.is_empty() {
                messages.spans.push(ResourceSpans {
                    resource,
                    scope_spans: vec![ScopeSpans {
                        scope: scope.clone(),
                        spans: spans.clone(),
                        schema_url: String::new(),
                    }],
                    schema_url: String::new(),
                });
            }
        }
    }

    /// One resource for each combination of the services that its attributes name.
    fn resources(&self, attributes: &Attributes) -> Vec<Resource> {
        let mut resources: Vec<Vec<KeyValue>> = vec![Vec::with_capacity(attributes.len())];
        for (key, source) in attributes {
            let values = self.values(source);
            resources = resources
                .iter()
                .flat_map(|before| {
                    values.iter().map(|value| {
                        let mut attributes = before.clone();
                        attributes.push(key_value(key, value.clone()));
                        attributes
                    })
                })
                .take(REPLICAS_MAX)
                .collect();
        }
        resources
            .into_iter()
            .map(|attributes| Resource { attributes, ..Resource::default() })
            .collect()
    }

    fn values(&self, source: &Source) -> Vec<Cell> {
        match source {
            Source::Text(text) => vec![Cell::Text(text.clone())],
            Source::Column(name) => match self.column(name) {
                Some((column, Cell::Text(text)))
                    if column.semantic == SemanticType::ServiceName =>
                {
                    match members(&text) {
                        Some(services) if !services.is_empty() => {
                            services.into_iter().map(Cell::Text).collect()
                        }
                        _ => vec![Cell::Text(text)],
                    }
                }
                Some((_, cell)) => vec![cell],
                None => Vec::new(),
            },
        }
    }

    fn attributes(&self, attributes: &Attributes) -> Vec<KeyValue> {
        attributes
            .iter()
            .filter_map(|(key, source)| {
                let cell = match source {
                    Source::Text(text) => Cell::Text(text.clone()),
                    Source::Column(name) => self.column(name)?.1,
                };
                Some(key_value(key, cell))
            })
            .collect()
    }

    fn metric(&self, signal: &Signal) -> Option<Metric> {
        let time_unix_nano = self.time("time_");
        match signal {
            Signal::Gauge { name, description, unit, value, attributes } => {
                let (column, cell) = self.column(value)?;
                let number = match cell {
                    Cell::Int(value) => Number::AsInt(value),
                    Cell::Float(value) => Number::AsDouble(value),
                    Cell::Bool(_) | Cell::Text(_) => return None,
                };
                let point = NumberDataPoint {
                    attributes: self.attributes(attributes),
                    time_unix_nano,
                    value: Some(number),
                    ..NumberDataPoint::default()
                };
                Some(Metric {
                    name: name.clone(),
                    description: description.clone(),
                    unit: unit.clone().unwrap_or_else(|| unit_of(column.semantic).to_owned()),
                    data: Some(Data::Gauge(Gauge { data_points: vec![point] })),
                    ..Metric::default()
                })
            }
            Signal::Summary { name, description, unit, count, sum, quantiles, attributes } => {
                let semantic = quantiles
                    .first()
                    .and_then(|(_, column)| self.column(column))
                    .map_or(SemanticType::None, |(column, _)| column.semantic);
                let quantile_values = quantiles
                    .iter()
                    .map(|(quantile, column)| ValueAtQuantile {
                        quantile: *quantile,
                        value: self.double(column),
                    })
                    .collect();
                let point = SummaryDataPoint {
                    attributes: self.attributes(attributes),
                    time_unix_nano,
                    count: u64::try_from(self.integer(count)).unwrap_or(0),
                    sum: self.double(sum),
                    quantile_values,
                    ..SummaryDataPoint::default()
                };
                Some(Metric {
                    name: name.clone(),
                    description: description.clone(),
                    unit: unit.clone().unwrap_or_else(|| unit_of(semantic).to_owned()),
                    data: Some(Data::Summary(Summary { data_points: vec![point] })),
                    ..Metric::default()
                })
            }
            Signal::Span { .. } => None,
        }
    }

    fn span(&self, signal: &Signal) -> Option<Span> {
        let Signal::Span { name, start, end, trace_id, span_id, parent_span_id, kind, attributes } =
            signal
        else {
            return None;
        };
        let name = match name {
            Source::Text(text) => text.clone(),
            Source::Column(column) => self.text(column),
        };
        let id =
            |column: &Option<String>| column.as_ref().map(|c| self.text(c)).unwrap_or_default();
        Some(Span {
            trace_id: trace(&id(trace_id)).unwrap_or_else(|| random().to_vec()),
            span_id: hex(&id(span_id), 8).unwrap_or_else(|| random()[8..].to_vec()),
            parent_span_id: hex(&id(parent_span_id), 8).unwrap_or_default(),
            name,
            kind: *kind,
            start_time_unix_nano: self.time(start),
            end_time_unix_nano: self.time(end),
            attributes: self.attributes(attributes),
            status: Some(Status::default()),
            ..Span::default()
        })
    }
}

fn key_value(key: &str, cell: Cell) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(cell.any()), ..KeyValue::default() }
}

/// The unit that a meaning implies, as upstream sends it.
fn unit_of(semantic: SemanticType) -> &'static str {
    match semantic {
        SemanticType::DurationNs | SemanticType::DurationNsQuantiles => "ns",
        SemanticType::Bytes => "By",
        SemanticType::ThroughputPerNs | SemanticType::Percent => "/ns",
        SemanticType::ThroughputBytesPerNs => "By/ns",
        _ => "",
    }
}

/// A trace id of 32 digits, or of 16 with zeros before them.
fn trace(text: &str) -> Option<Vec<u8>> {
    hex(text, 16).or_else(|| {
        let mut id = vec![0; 8];
        id.extend(hex(text, 8)?);
        Some(id)
    })
}

/// Exactly `bytes` bytes in hexadecimal.
fn hex(text: &str, bytes: usize) -> Option<Vec<u8>> {
    if text.len() != 2 * bytes || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    (0..bytes).map(|at| u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()).collect()
}

fn random() -> [u8; 16] {
    // The upper bytes hold the time, the lower ten are random.
    Ulid::generate().to_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_padded_or_refused_but_never_cut() {
        assert_eq!(trace("0123456789abcdef"), Some([[0; 8], hex8()].concat()));
        assert_eq!(hex("0123456789abcdef", 8), Some(hex8().to_vec()));
        assert_eq!(hex("0123456789abcde", 8), None);
        assert_eq!(trace("+123456789abcdef"), None);
        assert_ne!(random(), random());
    }

    fn hex8() -> [u8; 8] {
        [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef]
    }
}
