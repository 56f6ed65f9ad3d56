//! What the demo asks, in PxL as its users would, and what it reads from the answers.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result};
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use undine_query::{Answer, Engine, Tier};
use undine_schema::tables::{DATA_LOSS, INCIDENTS};
use undine_schema::{Feed, Seq};
use undine_store::Store;

use crate::appliance::question;
use crate::value;

/// The export that runs every ten seconds: the shape of Pixie's tutorial, as a plugin script.
pub(crate) const EXPORT: &str = "\
import px
df = px.DataFrame(table='http_events', start_time=px.plugin.start_time, end_time=px.plugin.end_time)
df.pod = df.ctx['pod']
df.service = df.ctx['service']
df = df.groupby(['pod', 'service', 'req_path']).agg(
  throughput=('latency', px.count),
  time_=('time_', px.max),
)
df.requests_per_s = df.throughput / 10
px.export(df, px.otel.Data(
  resource={'service.name': df.service, 'service.instance.id': df.pod},
  data=[px.otel.metric.Gauge(
    name='http.throughput',
    description='Requests per second',
    value=df.requests_per_s,
    attributes={'req_path': df.req_path},
  )],
))
";

const LAST_TEN_SECONDS: &str = "\
import px
df = px.DataFrame('http_events', start_time='-10s')
df.service = df.ctx['service']
df.failed = px.select(df.resp_status >= 500, 1, 0)
df = df.groupby('service').agg(
  requests=('latency', px.count),
  errors=('failed', px.sum),
  latency=('latency', px.quantiles),
)
px.display(df)
";

const ALL_REQUESTS: &str = "\
import px
df = px.DataFrame('http_events', start_time='-2h')
df.service = df.ctx['service']
df = df.groupby(['service', 'resp_status']).agg(requests=('latency', px.count))
px.display(df)
";

/// How many rows are read from a table at a time.
const ROWS_MAX: usize = 10_000;

/// A service over the last ten seconds.
#[derive(Debug)]
pub(crate) struct Seen {
    service: String,
    requests: i64,
    errors: i64,
    p99_ns: f64,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/s", self.service, self.requests / 10)?;
        if self.errors > 0 {
            write!(f, ", {} errors", self.errors)?;
        }
        write!(f, ", p99 {}", value::duration(self.p99_ns))
    }
}

/// A change of an incident, as its row says.
#[derive(Clone, Debug)]
pub(crate) struct Incident {
    pub(crate) id: String,
    pub(crate) state: String,
    pub(crate) service: String,
    pub(crate) summary: String,
}

/// Requests by service over memory and Parquet.
#[derive(Debug)]
pub(crate) struct Counted {
    pub(crate) by_service: BTreeMap<String, u64>,
    pub(crate) used_summaries: bool,
}

/// Every service of the last ten seconds.
pub(crate) async fn last_ten_seconds(engine: &Engine) -> Result<Vec<Seen>> {
    let answer = engine.run(question(LAST_TEN_SECONDS)).await?;
    let mut seen = Vec::new();
    for batch in batches(&answer)? {
        for row in 0..batch.num_rows() {
            let quantiles: serde_json::Value = serde_json::from_str(&text(batch, "latency", row)?)?;
            seen.push(Seen {
                service: text(batch, "service", row)?,
                requests: number(batch, "requests", row)?,
                errors: number(batch, "errors", row)?,
                p99_ns: quantiles["p99"].as_f64().unwrap_or(0.0),
            });
        }
    }
    seen.sort_by(|one, other| one.service.cmp(&other.service));
    Ok(seen)
}

/// Everything that was ever captured, counted by service.
pub(crate) async fn requests(engine: &Engine) -> Result<Counted> {
    let answer = engine.run(question(ALL_REQUESTS)).await?;
    let mut by_service = BTreeMap::new();
    for batch in batches(&answer)? {
        for row in 0..batch.num_rows() {
            let requests = u64::try_from(number(batch, "requests", row)?)?;
            *by_service.entry(text(batch, "service", row)?).or_default() += requests;
        }
    }
    let sources = answer.tables.iter().flat_map(|table| &table.sources);
    let used_summaries = sources
        .into_iter()
        .any(|source| matches!(source.tier, Tier::Summary { .. }) && source.rows > 0);
    Ok(Counted { by_service, used_summaries })
}

/// Changes of incidents after `cursor`, which moves on.
pub(crate) async fn incidents(store: &Store, cursor: &mut Seq) -> Result<Vec<Incident>> {
    let progress = store.read(&INCIDENTS, *cursor, ROWS_MAX).await?;
    *cursor = progress.cursor;
    let mut incidents = Vec::new();
    for slice in &progress.slices {
        for row in 0..slice.rows.num_rows() {
            incidents.push(Incident {
                id: text(&slice.rows, "incident_id", row)?,
                state: text(&slice.rows, "state", row)?,
                service: text(&slice.rows, "service", row)?,
                summary: text(&slice.rows, "summary", row)?,
            });
        }
    }
    Ok(incidents)
}

/// At least and at most how many rows of `http_events` are missing.
pub(crate) async fn missing_rows(store: &Store) -> Result<(u64, u64)> {
    let mut bounds = (0, 0);
    let (mut cursor, mut slices) = (Seq::ZERO, Vec::new());
    loop {
        let progress = store.read(&DATA_LOSS, cursor, ROWS_MAX).await?;
        if progress.cursor == cursor {
            break;
        }
        cursor = progress.cursor;
        slices.extend(progress.slices);
    }
    for slice in slices {
        for row in 0..slice.rows.num_rows() {
            if text(&slice.rows, "source_table", row)? == "http_events" {
                bounds.0 += u64::try_from(number(&slice.rows, "rows_min", row)?).unwrap_or(0);
                // Where there is no bound, any number may be missing.
                let most = u64::try_from(number(&slice.rows, "rows_max", row)?).unwrap_or(u64::MAX);
                bounds.1 = most.saturating_add(bounds.1);
            }
        }
    }
    Ok(bounds)
}

fn batches(answer: &Answer) -> Result<&[RecordBatch]> {
    Ok(&answer.tables.first().context("the script displayed nothing")?.batches)
}

fn text(batch: &RecordBatch, column: &str, row: usize) -> Result<String> {
    let array =
        batch.column_by_name(column).with_context(|| format!("there is no column {column}"))?;
    let strings = array.as_string_opt::<i32>().with_context(|| format!("{column} is not text"))?;
    Ok(strings.value(row).to_owned())
}

fn number(batch: &RecordBatch, column: &str, row: usize) -> Result<i64> {
    let array =
        batch.column_by_name(column).with_context(|| format!("there is no column {column}"))?;
    let numbers = array
        .as_primitive_opt::<Int64Type>()
        .with_context(|| format!("{column} is not a number"))?;
    Ok(numbers.value(row))
}
