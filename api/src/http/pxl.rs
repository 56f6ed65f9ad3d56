//! Runs and checks scripts and SQL.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::to_bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use http_body_util::LengthLimitError;
use serde::{Deserialize, Serialize};
use undine_query as query;

use super::answer::{self, Asked};
use super::format::Format;
use super::metrics::Refusal;
use super::problem::Problem;
use super::{AppState, Shared};

/// What the address of a question may say.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Parameters {
    /// A script that comes with Undine, instead of a body.
    name: Option<String>,
    /// `json`, `ndjson`, `csv` or `arrow`; wins over `Accept`.
    format: Option<String>,
    /// Which table, for formats that hold one.
    table: Option<String>,
    /// At most so many rows of each table, JSON only; the rest is counted.
    limit: Option<usize>,
    /// An error instead of a note where rows of the range are no longer kept.
    strict: Option<bool>,
}

/// A script with what it is called with.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScriptBody {
    #[serde(default)]
    script: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    functions: Vec<Function>,
    #[serde(default)]
    args: BTreeMap<String, Argument>,
    /// A `vis.json`, which says what to call; `args` are then values of its variables.
    #[serde(default)]
    vis: Option<serde_json::Value>,
    #[serde(default)]
    strict: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Function {
    name: String,
    #[serde(default)]
    args: BTreeMap<String, Argument>,
    /// What its tables' names start with.
    #[serde(default)]
    output: Option<String>,
}

/// Arguments are text, as in Pixie's API; JSON's other scalars are taken for their text.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Argument {
    Text(String),
    Bool(bool),
    Number(serde_json::Number),
}

impl Argument {
    fn into_text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Bool(true) => "True".to_owned(),
            Self::Bool(false) => "False".to_owned(),
            Self::Number(number) => number.to_string(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SqlBody {
    sql: String,
    strict: Option<bool>,
}

/// What is wrong with a script.
#[derive(Debug, Serialize)]
pub(crate) struct Checked {
    ok: bool,
    diagnostics: Vec<query::Placed>,
    #[serde(skip_serializing_if = "String::is_empty")]
    rendered: String,
}

/// `POST /api/v1/pxl:run`.
pub(crate) async fn run(
    State(shared): AppState,
    parameters: Result<Query<Parameters>, QueryRejection>,
    request: Request,
) -> Result<Response, Problem> {
    let parameters = parsed(parameters)?;
    let format = Format::choose(parameters.format.as_deref(), request.headers())?;
    let headers = request.headers().clone();
    let text = body(&shared, request).await?;
    let body = script_body(&headers, text)?;
    let name = parameters.name.or(body.name);
    let script = script_text(name, body.script)?;
    let functions = calls(body.functions, body.args, body.vis)?;
    let strict = parameters.strict.or(body.strict).unwrap_or(false);
    let question =
        query::Request { script, functions, plugin: None, plugin_endpoint: None, strict };
    let permit = shared.admit().await?;
    let began = tokio::time::Instant::now();
    let answer = shared.engine.run(question).await.map_err(refused)?;
    let sent = answer::send(&shared, answer.exports).await?;
    drop(permit);
    let asked = Asked { format, table: parameters.table, rows_max: parameters.limit };
    answer::respond(&shared, answer.tables, sent, asked, began.elapsed()).await
}

/// `POST /api/v1/pxl:check`.
pub(crate) async fn check(
    State(shared): AppState,
    parameters: Result<Query<Parameters>, QueryRejection>,
    request: Request,
) -> Result<Json<Checked>, Problem> {
    let parameters = parsed(parameters)?;
    let headers = request.headers().clone();
    let text = body(&shared, request).await?;
    let body = script_body(&headers, text)?;
    let script = script_text(parameters.name.or(body.name), body.script)?;
    let engine = shared.engine.clone();
    let _permit = shared.admit().await?;
    let checked = tokio::task::spawn_blocking(move || engine.check(&script)).await;
    let diagnostics = checked.map_err(|error| Problem::internal(&error))?;
    let rendered = if diagnostics.is_empty() { String::new() } else { diagnostics.to_string() };
    let ok = diagnostics.is_empty();
    Ok(Json(Checked { ok, diagnostics: diagnostics.placed(), rendered }))
}

/// `POST /api/v1/sql`.
pub(crate) async fn sql(
    State(shared): AppState,
    parameters: Result<Query<Parameters>, QueryRejection>,
    request: Request,
) -> Result<Response, Problem> {
    let parameters = parsed(parameters)?;
    let format = Format::choose(parameters.format.as_deref(), request.headers())?;
    let headers = request.headers().clone();
    let text = body(&shared, request).await?;
    let SqlBody { sql, strict } = match kind_of(&headers)? {
        BodyKind::Text => SqlBody { sql: text, strict: None },
        BodyKind::Json => parse(&text)?,
    };
    let strict = parameters.strict.or(strict).unwrap_or(false);
    if sql.trim().is_empty() {
        return Err(Problem::bad_request("no_sql", "the body holds no SQL")
            .hint("send the statement as text/plain, or {\"sql\": …} as application/json"));
    }
    let permit = shared.admit().await?;
    let began = tokio::time::Instant::now();
    let engine = &shared.engine;
    let answer = if strict { engine.sql_strictly(&sql).await } else { engine.sql(&sql).await };
    let answer = answer.map_err(refused)?;
    drop(permit);
    let asked = Asked { format, table: parameters.table, rows_max: parameters.limit };
    answer::respond(&shared, vec![answer], Vec::new(), asked, began.elapsed()).await
}

enum BodyKind {
    Text,
    Json,
}

fn kind_of(headers: &HeaderMap) -> Result<BodyKind, Problem> {
    let Some(kind) = headers.get(header::CONTENT_TYPE) else { return Ok(BodyKind::Text) };
    let kind = kind.to_str().unwrap_or_default();
    let name = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match name.as_str() {
        "application/json" => Ok(BodyKind::Json),
        "text/plain" | "text/x-python" | "application/sql" | "" => Ok(BodyKind::Text),
        _ => {
            let detail = format!("a body of type {kind:?} is not understood");
            Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail)
                .hint("send text/plain or application/json"))
        }
    }
}

fn script_body(headers: &HeaderMap, text: String) -> Result<ScriptBody, Problem> {
    match kind_of(headers)? {
        BodyKind::Json => parse(&text),
        BodyKind::Text => {
            let script = if text.is_empty() { None } else { Some(text) };
            Ok(ScriptBody { script, ..ScriptBody::default() })
        }
    }
}

fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Problem> {
    serde_json::from_str(text).map_err(|error| {
        Problem::bad_request("invalid_json", format!("the body is not as expected: {error}"))
            .hint("/api/v1/openapi.json shows what it holds")
    })
}

fn script_text(name: Option<String>, script: Option<String>) -> Result<String, Problem> {
    match (name, script) {
        (Some(name), None) => {
            query::Engine::script(&name).map(|script| script.text.to_owned()).ok_or_else(|| {
                let detail = format!("no script called {name:?} comes with undine");
                Problem::new(StatusCode::NOT_FOUND, "unknown_script", detail)
                    .hint("/api/v1/scripts lists them")
            })
        }
        (None, Some(script)) => Ok(script),
        (Some(_), Some(_)) => Err(Problem::bad_request(
            "two_scripts",
            "both a name and a script were sent, but only one can run",
        )
        .hint("leave out one of them")),
        (None, None) => Err(Problem::bad_request("no_script", "the body holds no script").hint(
            "send the script as text/plain, {\"script\": …} as application/json, or ?name=…",
        )),
    }
}

fn calls(
    mut functions: Vec<Function>,
    args: BTreeMap<String, Argument>,
    vis: Option<serde_json::Value>,
) -> Result<Vec<query::FunctionCall>, Problem> {
    if let Some(vis) = vis {
        if !functions.is_empty() {
            return Err(Problem::bad_request(
                "functions_and_vis",
                "both functions and a vis were sent, but a vis says itself what to call",
            )
            .hint("leave out one of them"));
        }
        let given = args.into_iter().map(|(name, value)| (name, value.into_text())).collect();
        let calls = query::Vis::parse(&vis.to_string()).and_then(|vis| vis.calls(&given));
        return calls.map_err(|error| {
            Problem::bad_request("vis_error", error.to_string())
                .hint("vis is the content of a vis.json, args are values of its variables")
        });
    }
    if !args.is_empty() {
        let [function] = functions.as_mut_slice() else {
            return Err(Problem::bad_request(
                "args_without_function",
                "args are for a single function, but functions names none or several",
            )
            .hint("say functions: [{\"name\": …, \"args\": {…}}]"));
        };
        function.args.extend(args);
    }
    Ok(functions.into_iter().map(call).collect())
}

fn call(function: Function) -> query::FunctionCall {
    let Function { name, args, output } = function;
    let args = args.into_iter().map(|(name, value)| (name, value.into_text())).collect();
    let output_prefix = output.unwrap_or_else(|| name.clone());
    query::FunctionCall { name, args, output_prefix }
}

fn parsed(parameters: Result<Query<Parameters>, QueryRejection>) -> Result<Parameters, Problem> {
    match parameters {
        Ok(Query(parameters)) => Ok(parameters),
        Err(rejection) => Err(Problem::bad_request("invalid_parameters", rejection.body_text())
            .hint("/api/v1/openapi.json lists the parameters")),
    }
}

async fn body(shared: &Shared, request: Request) -> Result<String, Problem> {
    let bytes_max = shared.body_bytes_max;
    let bytes = to_bytes(request.into_body(), bytes_max).await.map_err(|error| {
        let is_over = std::error::Error::source(&error)
            .is_some_and(<dyn std::error::Error>::is::<LengthLimitError>);
        if !is_over {
            return Problem::bad_request("incomplete_body", "the body ended early");
        }
        shared.metrics.http.refused(Refusal::BodySize);
        let detail = format!("the body is larger than {bytes_max} bytes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
            .hint("send a shorter script, or raise api.body_bytes_max")
    })?;
    String::from_utf8(bytes.into()).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Problem::bad_request("not_utf8", format!("the body is not UTF-8 from byte {at} on"))
    })
}

/// Tells what the engine refused or could not do.
pub(crate) fn refused(error: query::Error) -> Problem {
    match error {
        query::Error::Script(diagnostics) => {
            let first = diagnostics.iter().next().map(|diagnostic| diagnostic.message.clone());
            let detail = first.unwrap_or_else(|| "the script has mistakes".to_owned());
            let rendered = diagnostics.to_string();
            Problem::bad_request("script_error", detail).diagnosed(diagnostics.placed(), rendered)
        }
        query::Error::Sql(detail) => Problem::bad_request("sql_error", detail)
            .hint("/api/v1/tables lists the tables with their columns"),
        query::Error::Timeout(_) => {
            Problem::new(StatusCode::GATEWAY_TIMEOUT, "query_timeout", error.to_string())
        }
        query::Error::Memory { .. } => {
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "query_memory", error.to_string())
        }
        error @ (query::Error::Run(_) | query::Error::Compiler) => Problem::internal(&error),
    }
}
