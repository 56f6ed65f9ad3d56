//! Sends what a script exports, and writes what it shows.

use std::fmt::Write as _;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::Serialize;
use serde_json::{Value, json};
use undine_query::{Note, ResultTable, SourceUse, Tier};
use undine_schema::TimeNs;

use super::Shared;
use super::format::{self, Bounded, Format, Table, WriteError, put};
use super::metrics::Refusal;
use super::problem::Problem;
use crate::otlp_export::ExportError;

/// The header in which formats without room for it say where an answer came from.
const PROVENANCE: HeaderName = HeaderName::from_static("undine-provenance");
/// The header that names all tables of an answer of which one is sent.
const TABLES: HeaderName = HeaderName::from_static("undine-tables");
/// Longest value of a header of ours, in bytes; many clients refuse more than 8 KiB in all.
const HEADER_BYTES_MAX: usize = 4096;

/// What a client wants to get.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) format: Format,
    pub(crate) table: Option<String>,
    pub(crate) rows_max: Option<usize>,
}

/// What was exported and acknowledged.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SentExport {
    endpoint: String,
    points: u64,
    spans: u64,
    rejected: u64,
    rows: usize,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
}

/// Sends every export in order; one that is not acknowledged fails the request.
pub(crate) async fn send(
    shared: &Shared,
    exports: Vec<undine_query::Export>,
) -> Result<Vec<SentExport>, Problem> {
    let mut outcomes = Vec::with_capacity(exports.len());
    for export in exports {
        let rows = export.rows;
        let failed = |error: ExportError| {
            let detail = format!("what the script exports was not delivered: {error}");
            let problem = Problem::new(StatusCode::BAD_GATEWAY, "export_failed", detail)
                .hint("check that the receiver runs, and the url and insecure of px.otel.Endpoint");
            problem.log(&error);
            problem
        };
        let mut shipment = shared.exports.pack(export.into(), None).map_err(failed)?;
        shared.exports.send_rest(&mut shipment).await.map_err(failed)?;
        let sent = shipment.sent();
        outcomes.push(SentExport {
            endpoint: shipment.target().to_owned(),
            points: sent.points,
            spans: sent.spans,
            rejected: sent.rejected(),
            rows,
            message: sent.message.clone(),
        });
    }
    Ok(outcomes)
}

/// Writes an answer in the format that was asked for.
pub(crate) async fn respond(
    shared: &Shared,
    tables: Vec<ResultTable>,
    exports: Vec<SentExport>,
    asked: Asked,
    took: Duration,
) -> Result<Response, Problem> {
    let at = shared.clock.now();
    let bytes_max = shared.answer_bytes_max;
    let format = asked.format;
    let chosen = match format {
        Format::Csv | Format::Arrow => Chosen::One(choose(&tables, asked.table.as_deref())?),
        Format::Json | Format::NdJson => match asked.table.as_deref() {
            Some(name) => Chosen::One(choose(&tables, Some(name))?),
            None => Chosen::All,
        },
    };
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.media_type()));
    if format != Format::Json {
        let picked = chosen.of(&tables);
        put_header(headers, TABLES, &json!(tables.iter().map(|t| &t.name).collect::<Vec<_>>()));
        put_header(headers, PROVENANCE, &json!(picked.iter().map(provenance).collect::<Vec<_>>()));
    }
    let written = tokio::task::spawn_blocking(move || {
        let picked = chosen.of(&tables);
        let views: Vec<Table<'_>> = picked.iter().map(view).collect();
        let mut out = Bounded::new(bytes_max);
        let result = match format {
            Format::Json => {
                let rows_max = asked.rows_max.unwrap_or(usize::MAX);
                json(picked, &exports, rows_max, at, took, &mut out)
            }
            Format::NdJson => format::ndjson(&views, &mut out),
            Format::Csv => views.iter().try_for_each(|table| format::csv(table, &mut out)),
            Format::Arrow => views.iter().try_for_each(|table| format::arrow(table, &mut out)),
        };
        out.finish(result)
    });
    match written.await {
        Ok(Ok(bytes)) => {
            *response.body_mut() = Body::from(bytes);
            Ok(response)
        }
        Ok(Err(error)) => Err(unwritten(shared, &error)),
        Err(error) => Err(Problem::internal(&error)),
    }
}

enum Chosen {
    All,
    One(usize),
}

impl Chosen {
    fn of<'a>(&self, tables: &'a [ResultTable]) -> &'a [ResultTable] {
        match *self {
            Self::All => tables,
            Self::One(at) => &tables[at..=at],
        }
    }
}

/// The table called `name`, or the first.
fn choose(tables: &[ResultTable], name: Option<&str>) -> Result<usize, Problem> {
    let Some(name) = name else {
        return if tables.is_empty() {
            Err(Problem::bad_request("no_table", "the script shows no table")
                .hint("call px.display(df) on what you want to get"))
        } else {
            Ok(0)
        };
    };
    tables.iter().position(|table| table.name == name).ok_or_else(|| {
        let names: Vec<_> = tables.iter().map(|table| table.name.as_str()).collect();
        let detail = format!("the answer has no table {name:?}");
        Problem::new(StatusCode::NOT_FOUND, "unknown_table", detail)
            .hint(format!("it has: {}", names.join(", ")))
    })
}

fn unwritten(shared: &Shared, error: &WriteError) -> Problem {
    if let WriteError::TooLarge { .. } = error {
        shared.metrics.http.refused(Refusal::AnswerSize);
        return Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "answer_too_large", error.to_string())
            .hint("take fewer rows with df.head(n) or ?limit=n, or raise api.answer_bytes_max");
    }
    Problem::internal(error)
}

fn view(table: &ResultTable) -> Table<'_> {
    Table {
        name: &table.name,
        schema: std::sync::Arc::clone(&table.schema),
        batches: &table.batches,
    }
}

/// Where a table's rows come from and what to know about them.
fn provenance(table: &ResultTable) -> Value {
    let start = table.sources.iter().map(|source| source.range.0).min();
    let end = table.sources.iter().map(|source| source.range.1).max();
    let effective_range = start
        .zip(end)
        .map(|(start, end)| json!({"start_ns": bounded(start), "end_ns": bounded(end)}));
    json!({
        "table": table.name,
        "notes": table.notes.iter().map(note).collect::<Vec<_>>(),
        "sources": table.sources.iter().map(source).collect::<Vec<_>>(),
        "effective_range": effective_range,
        "exact": table.exact,
    })
}

fn note(note: &Note) -> Value {
    let code = match note {
        Note::RowsCut { .. } => "rows_cut",
        Note::Clipped { .. } => "clipped",
        Note::Widened { .. } => "widened",
        Note::Templated { .. } => "templated",
        Note::SummariesStart { .. } => "summaries_start",
        Note::Lost { .. } => "lost",
        Note::Folded { .. } => "folded",
    };
    json!({"code": code, "message": note.to_string()})
}

fn source(source: &SourceUse) -> Value {
    let kind = match source.tier {
        Tier::Hot => "live",
        Tier::Raw => "raw",
        Tier::Summary { .. } => "summary",
        Tier::Exemplars => "exemplars",
    };
    json!({
        "table": source.table,
        "kind": kind,
        "tier": source.tier.to_string(),
        "rows": source.rows,
        "start_ns": bounded(source.range.0),
        "end_ns": bounded(source.range.1),
    })
}

/// A moment, or none where a range has no end on that side.
fn bounded(time: TimeNs) -> Option<i64> {
    Some(time.get()).filter(|ns| *ns > 0 && *ns < i64::MAX)
}

fn json(
    tables: &[ResultTable],
    exports: &[SentExport],
    rows_max: usize,
    at: TimeNs,
    took: Duration,
    out: &mut Bounded,
) -> Result<(), WriteError> {
    let took_ms = took.as_secs_f64() * 1e3;
    put(out, format!("{{\"at_ns\":{at},\"elapsed_ms\":{took_ms:.3},\"exports\":").as_bytes())?;
    to_json(out, &exports)?;
    put(out, b",\"tables\":[")?;
    for (index, table) in tables.iter().enumerate() {
        put(out, if index == 0 { b"\n{\"name\":" } else { b",\n{\"name\":" })?;
        format::json_text(&table.name, out)?;
        put(out, b",\"columns\":")?;
        to_json(out, &format::columns(&view(table)))?;
        let rows: usize = table.batches.iter().map(arrow::array::RecordBatch::num_rows).sum();
        let truncated = rows > rows_max;
        put(out, format!(",\"row_count\":{rows},\"truncated\":{truncated},").as_bytes())?;
        put(out, b"\"rows\":")?;
        format::rows(&view(table), rows_max, out)?;
        let Value::Object(origin) = provenance(table) else { continue };
        for (key, value) in origin.iter().filter(|(key, _)| *key != "table") {
            put(out, b",")?;
            format::json_text(key, out)?;
            put(out, b":")?;
            to_json(out, value)?;
        }
        put(out, b"}")?;
    }
    put(out, b"]}\n")
}

fn to_json(out: &mut Bounded, value: &impl Serialize) -> Result<(), WriteError> {
    serde_json::to_writer(out, value).map_err(WriteError::Json)
}

/// Sets a header to JSON in ASCII, or says that it is too long for one.
fn put_header(headers: &mut axum::http::HeaderMap, name: HeaderName, value: &Value) {
    let mut text = String::new();
    for character in value.to_string().chars() {
        if character.is_ascii() && !character.is_ascii_control() {
            text.push(character);
            continue;
        }
        for unit in character.encode_utf16(&mut [0; 2]) {
            write!(text, "\\u{unit:04x}").expect("writing to a string cannot fail");
        }
    }
    let text =
        if text.len() > HEADER_BYTES_MAX { "\"too long; ask for JSON\"".to_owned() } else { text };
    if let Ok(value) = HeaderValue::from_str(&text) {
        headers.insert(name, value);
    }
}
