//! Incidents as one object each, put together from their changes.

use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int64Type};
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use undine_schema::TimeNs;

use super::problem::Problem;
use super::{AppState, pxl};

/// Most incidents of one answer; older ones are left out and counted.
const INCIDENTS_MAX: usize = 500;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Parameters {
    /// Only incidents that changed at or after it, with those changes.
    since: Option<String>,
    /// `open` or `resolved`.
    state: Option<String>,
}

#[derive(Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "the names are those of the answer")]
pub(crate) struct Incidents {
    at: String,
    incidents: Vec<Incident>,
    /// Incidents beyond the limit of one answer.
    omitted: usize,
    notes: Vec<String>,
}

/// An incident as it is now.
#[derive(Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "the names are those of the answer")]
struct Incident {
    incident_id: String,
    state: String,
    severity: String,
    service: String,
    pod: String,
    started_at: String,
    ended_at: Option<String>,
    changed_at: String,
    feature: String,
    value: f64,
    expected: f64,
    score: f64,
    summary: String,
    contributions: Value,
    samples: Value,
    pxl: String,
    history: Vec<Change>,
}

#[derive(Debug, Serialize)]
struct Change {
    time: String,
    state: String,
    severity: String,
    feature: String,
    value: f64,
    expected: f64,
    score: f64,
}

/// `GET /api/v1/incidents`, the newest first.
pub(crate) async fn list(
    State(shared): AppState,
    parameters: Result<Query<Parameters>, QueryRejection>,
) -> Result<Json<Incidents>, Problem> {
    let Query(Parameters { since, state }) = parameters.map_err(|rejection| {
        Problem::bad_request("invalid_parameters", rejection.body_text())
            .hint("there are since and state")
    })?;
    if let Some(state) = state.as_deref()
        && !matches!(state, "open" | "resolved")
    {
        return Err(Problem::bad_request("invalid_state", format!("there is no state {state:?}"))
            .hint("use open or resolved"));
    }
    let now = shared.clock.now();
    let since = since.map(|since| moment(&since, now)).transpose()?;
    let since_ns = since.unwrap_or(TimeNs::ZERO).get();
    let _permit = shared.admit().await?;
    let sql = format!("SELECT * FROM incidents WHERE time_ >= {since_ns} ORDER BY time_ DESC");
    let answer = shared.engine.sql(&sql).await.map_err(pxl::refused)?;
    let mut incidents: Vec<Incident> = Vec::new();
    // The newest come first, so that a limit of the engine would leave out the oldest.
    for batch in answer.batches.iter().rev() {
        gather(batch, &mut incidents);
    }
    let notes = answer.notes.iter().map(ToString::to_string).collect();
    incidents.retain(|incident| match state.as_deref() {
        Some("open") => incident.state != "resolved",
        Some(_) => incident.state == "resolved",
        None => true,
    });
    incidents.sort_by(|a, b| {
        let is_resolved = |incident: &Incident| incident.state == "resolved";
        is_resolved(a).cmp(&is_resolved(b)).then_with(|| b.started_at.cmp(&a.started_at))
    });
    let omitted = incidents.len().saturating_sub(INCIDENTS_MAX);
    incidents.truncate(INCIDENTS_MAX);
    Ok(Json(Incidents { at: rfc3339(now.get()), incidents, omitted, notes }))
}

/// Adds a batch of changes, the newest first, to what is known of each incident.
fn gather(batch: &RecordBatch, incidents: &mut Vec<Incident>) {
    for row in (0..batch.num_rows()).rev() {
        let text = |name: &str| text(batch, name, row);
        let number = |name: &str| float(batch, name, row);
        let time = |name: &str| integer(batch, name, row);
        let incident_id = text("incident_id");
        let at = incidents.iter().position(|incident| incident.incident_id == incident_id);
        let mut history = at.map(|at| incidents.swap_remove(at).history).unwrap_or_default();
        history.push(Change {
            time: rfc3339(time("time_")),
            state: text("state"),
            severity: text("severity"),
            feature: text("feature"),
            value: number("value"),
            expected: number("expected"),
            score: number("score"),
        });
        let ended_at = time("ended_at");
        incidents.push(Incident {
            incident_id,
            state: text("state"),
            severity: text("severity"),
            service: text("service"),
            pod: text("pod"),
            started_at: rfc3339(time("started_at")),
            ended_at: (ended_at != 0).then(|| rfc3339(ended_at)),
            changed_at: rfc3339(time("time_")),
            feature: text("feature"),
            value: number("value"),
            expected: number("expected"),
            score: number("score"),
            summary: text("summary"),
            contributions: embedded(text("contributions")),
            samples: embedded(text("samples")),
            pxl: text("pxl"),
            history,
        });
    }
}

/// JSON that a text column holds; what is no JSON stays text.
fn embedded(text: String) -> Value {
    serde_json::from_str(&text).unwrap_or(Value::String(text))
}

fn text(batch: &RecordBatch, name: &str, row: usize) -> String {
    let Some(column) = batch.column_by_name(name) else { return String::new() };
    if let Some(values) = column.as_string_opt::<i32>() {
        return values.value(row).to_owned();
    }
    column.as_string_view_opt().map(|values| values.value(row).to_owned()).unwrap_or_default()
}

fn float(batch: &RecordBatch, name: &str, row: usize) -> f64 {
    batch
        .column_by_name(name)
        .and_then(|column| column.as_primitive_opt::<Float64Type>())
        .map_or(0.0, |values| values.value(row))
}

fn integer(batch: &RecordBatch, name: &str, row: usize) -> i64 {
    batch
        .column_by_name(name)
        .and_then(|column| column.as_primitive_opt::<Int64Type>())
        .map_or(0, |values| values.value(row))
}

/// A moment in UTC with all its digits; the epoch for anything before it.
fn rfc3339(ns: i64) -> String {
    let since_epoch = Duration::from_nanos(u64::try_from(ns).unwrap_or(0));
    humantime::format_rfc3339_nanos(std::time::UNIX_EPOCH + since_epoch).to_string()
}

/// `-1h`, nanoseconds since the epoch, or RFC 3339.
fn moment(text: &str, now: TimeNs) -> Result<TimeNs, Problem> {
    let parsed = if let Some(ago) = text.strip_prefix('-') {
        humantime::parse_duration(ago).ok().map(|ago| now.saturating_sub(ago))
    } else if let Ok(ns) = text.parse::<i64>() {
        Some(TimeNs::new(ns))
    } else {
        humantime::parse_rfc3339_weak(text).ok().and_then(|time| {
            let since_epoch = time.duration_since(std::time::UNIX_EPOCH).ok()?;
            Some(TimeNs::new(i64::try_from(since_epoch.as_nanos()).ok()?))
        })
    };
    parsed.ok_or_else(|| {
        Problem::bad_request("invalid_time", format!("{text:?} is no moment"))
            .hint("use -1h, nanoseconds since the epoch, or 2026-01-31T12:00:00Z")
    })
}

#[cfg(test)]
mod tests {
    use undine_schema::tables::{Incident as Row, Incidents as Rows};

    use super::*;

    fn row(time: i64, id: &'static str, state: &'static str) -> Row<'static> {
        Row {
            time_: TimeNs::new(time),
            incident_id: id,
            state,
            service: "cart",
            started_at: TimeNs::new(1_000_000_000),
            ended_at: if state == "resolved" { TimeNs::new(time) } else { TimeNs::ZERO },
            contributions: "[{\"feature\":\"latency_p99\",\"share\":0.9}]",
            samples: "not json",
            ..Row::default()
        }
    }

    #[test]
    fn an_incident_is_its_last_change_and_remembers_the_others() {
        let mut rows = Rows::new(3);
        rows.push(&row(4_000_000_000, "a", "resolved"));
        rows.push(&row(3_000_000_000, "b", "open"));
        rows.push(&row(2_000_000_000, "a", "open"));
        let mut incidents = Vec::new();
        gather(&rows.finish(), &mut incidents);
        let a = incidents.iter().find(|incident| incident.incident_id == "a").unwrap();
        assert_eq!(a.state, "resolved");
        assert_eq!(a.ended_at.as_deref(), Some("1970-01-01T00:00:04.000000000Z"));
        let states: Vec<_> = a.history.iter().map(|change| change.state.as_str()).collect();
        assert_eq!(states, ["open", "resolved"]);
        assert_eq!(a.contributions[0]["share"], 0.9);
        assert_eq!(a.samples, "not json");
        assert_eq!(incidents.len(), 2);
    }

    #[test]
    fn a_moment_may_be_said_in_three_ways() {
        let now = TimeNs::new(1_000_000_000_000_000_000);
        let ns = |text| moment(text, now).map(TimeNs::get).map_err(|problem| problem.code());
        assert_eq!(ns("-1h"), Ok(1_000_000_000_000_000_000 - 3_600_000_000_000));
        assert_eq!(ns("17"), Ok(17));
        assert_eq!(ns("1970-01-01T00:00:01Z"), Ok(1_000_000_000));
        assert_eq!(ns("yesterday"), Err("invalid_time"));
    }
}
