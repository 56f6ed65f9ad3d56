//! From an OTLP trace request to rows of `otel_spans`.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use undine_schema::TimeNs;
use undine_schema::tables::{OtelSpan, OtelSpans};

use super::attributes::{Origin, json};
use super::refused::{Refusal, Refused, TextBudget};
use super::{Mapped, time};

/// Maps every span; rows take at most `text_bytes_max` bytes of text.
pub(super) fn rows(request: &ExportTraceServiceRequest, text_bytes_max: usize) -> Mapped {
    let mut rows = OtelSpans::new(span_count(request));
    let mut refused = Refused::default();
    let mut left_out = 0;
    let mut budget = TextBudget::new(text_bytes_max);
    for resource in &request.resource_spans {
        let origin = Origin::new(resource.resource.as_ref());
        for scope in &resource.scope_spans {
            let scope_name = scope.scope.as_ref().map_or("", |scope| &scope.name);
            for span in &scope.spans {
                match push(&mut rows, &mut budget, &origin, scope_name, span) {
                    Ok(()) => left_out += span.events.len() + span.links.len(),
                    Err(refusal) => refused.add(refusal),
                }
            }
        }
    }
    let rows = (!rows.is_empty()).then(|| rows.finish());
    Mapped { rows, refused, left_out }
}

fn span_count(request: &ExportTraceServiceRequest) -> usize {
    let scopes = request.resource_spans.iter().flat_map(|resource| &resource.scope_spans);
    scopes.map(|scope| scope.spans.len()).sum()
}

fn push(
    rows: &mut OtelSpans,
    budget: &mut TextBudget,
    origin: &Origin,
    scope: &str,
    span: &Span,
) -> Result<(), Refusal> {
    let trace_id = id(&span.trace_id, 16).ok_or(Refusal::TraceId)?;
    let span_id = id(&span.span_id, 8).ok_or(Refusal::SpanId)?;
    // Some senders write eight zero bytes where a span has no parent.
    let is_root = span.parent_span_id.iter().all(|byte| *byte == 0);
    let parent_span_id =
        if is_root { String::new() } else { id(&span.parent_span_id, 8).ok_or(Refusal::SpanId)? };
    let start_time = time(span.start_time_unix_nano)?;
    let end_time = time(span.end_time_unix_nano)?;
    if end_time < start_time {
        return Err(Refusal::Time);
    }
    let attributes = json(&span.attributes);
    let status = span.status.as_ref();
    let status_message = status.map_or("", |status| &status.message);
    budget.take(
        origin.text_bytes() + attributes.len() + span.name.len() + status_message.len() + 64,
    )?;
    rows.push(&OtelSpan {
        time_: end_time,
        start_time,
        trace_id: &trace_id,
        span_id: &span_id,
        parent_span_id: &parent_span_id,
        name: &span.name,
        kind: i64::from(span.kind),
        status_code: status.map_or(0, |status| i64::from(status.code)),
        status_message,
        latency: latency_ns(start_time, end_time),
        attributes: &attributes,
        resource: &origin.resource,
        scope,
        service: &origin.service,
        pod: &origin.pod,
        namespace: &origin.namespace,
        node: &origin.node,
    });
    Ok(())
}

/// Both are positive, so the difference cannot overflow.
const fn latency_ns(start: TimeNs, end: TimeNs) -> i64 {
    end.get() - start.get()
}

/// An id of `length` bytes, not all zero, in hexadecimal.
fn id(bytes: &[u8], length: usize) -> Option<String> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let is_valid = bytes.len() == length && bytes.iter().any(|byte| *byte != 0);
    is_valid.then(|| {
        let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
    })
}

#[cfg(test)]
mod tests {
    use arrow::util::pretty::pretty_format_batches;
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
    use opentelemetry_proto::tonic::resource::v1::Resource;
    use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
    use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Status};

    use super::*;

    fn span() -> Span {
        Span {
            trace_id: vec![0xab; 16],
            span_id: vec![0x01; 8],
            name: "GET /cart".to_owned(),
            kind: 2,
            start_time_unix_nano: 1_000,
            end_time_unix_nano: 1_250,
            status: Some(Status { message: "broken".to_owned(), code: 2 }),
            attributes: vec![KeyValue {
                key: "http.status".to_owned(),
                value: Some(AnyValue { value: Some(Value::IntValue(500)) }),
                ..KeyValue::default()
            }],
            ..Span::default()
        }
    }

    fn request(spans: Vec<Span>) -> ExportTraceServiceRequest {
        let service = KeyValue {
            key: "service.name".to_owned(),
            value: Some(AnyValue { value: Some(Value::StringValue("cart".to_owned())) }),
            ..KeyValue::default()
        };
        let scope = InstrumentationScope { name: "lib".to_owned(), ..Default::default() };
        ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(Resource { attributes: vec![service], ..Resource::default() }),
                scope_spans: vec![ScopeSpans { scope: Some(scope), spans, ..Default::default() }],
                ..ResourceSpans::default()
            }],
        }
    }

    #[test]
    fn a_span_becomes_a_row_with_every_field() {
        let mapped = rows(&request(vec![span()]), usize::MAX);
        assert_eq!(mapped.refused.total(), 0);
        let table = pretty_format_batches(&[mapped.rows.unwrap()]).unwrap().to_string();
        expect_test::expect![[r#"
            +-------+------------+----------------------------------+------------------+----------------+-----------+------+-------------+----------------+---------+---------------------+-------------------------+-------+---------+-----+-----------+------+
            | time_ | start_time | trace_id                         | span_id          | parent_span_id | name      | kind | status_code | status_message | latency | attributes          | resource                | scope | service | pod | namespace | node |
            +-------+------------+----------------------------------+------------------+----------------+-----------+------+-------------+----------------+---------+---------------------+-------------------------+-------+---------+-----+-----------+------+
            | 1250  | 1000       | abababababababababababababababab | 0101010101010101 |                | GET /cart | 2    | 2           | broken         | 250     | {"http.status":500} | {"service.name":"cart"} | lib   | cart    |     |           |      |
            +-------+------------+----------------------------------+------------------+----------------+-----------+------+-------------+----------------+---------+---------------------+-------------------------+-------+---------+-----+-----------+------+"#]]
        .assert_eq(&table);
    }

    #[test]
    fn events_and_links_have_no_column_and_are_counted() {
        let events = vec![Event::default(); 2];
        let detailed = Span { events, links: vec![Link::default()], ..span() };
        assert_eq!(rows(&request(vec![span(), detailed]), usize::MAX).left_out, 3);
    }

    #[test]
    fn spans_with_wrong_ids_or_times_are_refused_one_by_one() {
        let wrong: [fn(&mut Span); 7] = [
            |span| span.trace_id = vec![1; 8],
            |span| span.trace_id = vec![0; 16],
            |span| span.span_id = Vec::new(),
            |span| span.parent_span_id = vec![1; 3],
            |span| span.end_time_unix_nano = 0,
            |span| span.end_time_unix_nano = u64::MAX,
            |span| span.end_time_unix_nano = 999,
        ];
        let mut spans = vec![span()];
        spans.extend(wrong.map(|spoil| {
            let mut spoilt = span();
            spoil(&mut spoilt);
            spoilt
        }));
        let mapped = rows(&request(spans), usize::MAX);
        assert_eq!(mapped.rows.unwrap().num_rows(), 1);
        assert_eq!(
            mapped.refused.to_string(),
            "refused 2 without a valid 16-byte trace id, 2 without a valid 8-byte span id, \
             3 with a missing or impossible time"
        );
    }

    #[test]
    fn a_small_request_cannot_expand_beyond_the_text_budget() {
        let mapped = rows(&request(vec![span(); 100]), 1_000);
        let kept = mapped.rows.unwrap().num_rows() as u64;
        assert!(kept > 0 && kept < 10, "{kept} rows");
        assert_eq!(mapped.refused.total(), 100 - kept);
    }
}
