//! Asks a running appliance over its HTTP API and prints what it says.
//!
//! Data goes to standard output, everything else to standard error.

use std::fs;
use std::io::{IsTerminal, Read, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use comfy_table::Table;
use serde_json::{Value, json};

use crate::cli::{Appliance, Get, Output, Query, Run};
use crate::value;

/// Longest time that an answer may take; the appliance has a shorter limit of its own.
const ANSWER_TIME_MAX: Duration = Duration::from_mins(5);
/// When somebody who waits is told so.
const PATIENCE: Duration = Duration::from_secs(1);

/// Runs a script and prints the tables that it displays.
///
/// # Errors
/// Where the script cannot be read, the appliance cannot be reached or refuses the script.
pub(crate) async fn run(args: Run) -> Result<()> {
    let mut body = json!({ "strict": args.strict });
    match source(args.script.as_deref(), args.file.as_deref())? {
        Source::Name(name) => body["name"] = name.into(),
        Source::Text(text) => body["script"] = text.into(),
        Source::Folder { script, vis } => {
            body["script"] = script.into();
            if args.function.is_none() {
                body["vis"] = vis;
            }
        }
    }
    if let Some(function) = args.function {
        body["functions"] = json!([{ "name": function }]);
    }
    for given in &args.args {
        let Some((name, value)) = given.split_once('=') else {
            bail!("--arg {given} gives no value; write --arg {given}=VALUE");
        };
        body["args"][name] = value.into();
    }
    ask(&args.appliance, "pxl:run", &body, args.table.as_deref()).await
}

/// Asks in SQL.
///
/// # Errors
/// As [`run`].
pub(crate) async fn query(args: Query) -> Result<()> {
    let sql = if args.sql == "-" { standard_input()? } else { args.sql };
    ask(&args.appliance, "sql", &json!({ "sql": sql, "strict": args.strict }), None).await
}

/// Shows one of the lists that the appliance keeps.
///
/// # Errors
/// As [`run`].
pub(crate) async fn get(what: Get) -> Result<()> {
    match what {
        Get::Tables(appliance) => {
            list(
                &appliance,
                "tables",
                "tables",
                &["name", "kind", "rows.hot", "rows.sealed", "doc"],
            )
            .await
        }
        Get::Scripts(appliance) => list(&appliance, "scripts", "scripts", &["name", "doc"]).await,
        Get::Incidents(appliance) => {
            let columns = ["started_at", "state", "severity", "service", "feature", "summary"];
            list(&appliance, "incidents", "incidents", &columns).await
        }
        Get::Schemas { table, appliance } => schemas(&appliance, table.as_deref()).await,
    }
}

enum Source {
    Name(String),
    Text(String),
    /// A script and the `vis.json` beside it.
    Folder {
        script: String,
        vis: Value,
    },
}

fn source(script: Option<&str>, file: Option<&Path>) -> Result<Source> {
    match (script, file) {
        (_, Some(path)) if path.is_dir() => folder(path),
        (_, Some(path)) => fs::read_to_string(path)
            .map(Source::Text)
            .with_context(|| format!("cannot read the script {}", path.display())),
        (Some("-"), None) => standard_input().map(Source::Text),
        (Some(name), None) => Ok(Source::Name(name.to_owned())),
        (None, None) => bail!("name a script, or give one with --file"),
    }
}

fn folder(path: &Path) -> Result<Source> {
    let cannot = || format!("cannot read the folder {}", path.display());
    let mut scripts = Vec::new();
    for entry in fs::read_dir(path).with_context(cannot)? {
        let file = entry.with_context(cannot)?.path();
        if file.extension().is_some_and(|extension| extension == "pxl") {
            scripts.push(file);
        }
    }
    let [script] = scripts.as_slice() else {
        bail!("{} holds {} files that end in .pxl; one is needed", path.display(), scripts.len());
    };
    let read = |file: &Path| {
        fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
    };
    let (script, vis) = (read(script)?, path.join("vis.json"));
    if !vis.exists() {
        return Ok(Source::Text(script));
    }
    let vis = serde_json::from_str(&read(&vis)?)
        .with_context(|| format!("{} is not JSON", vis.display()))?;
    Ok(Source::Folder { script, vis })
}

fn standard_input() -> Result<String> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
    Ok(text)
}

async fn ask(appliance: &Appliance, what: &str, body: &Value, table: Option<&str>) -> Result<()> {
    let mut url = format!("{}/api/v1/{what}?format={}", base(appliance), format(appliance.output));
    if let Some(table) = table {
        url += &format!("&table={table}");
    }
    let request =
        client()?.post(url).header("content-type", "application/json").body(body.to_string());
    let bytes = answer(appliance, request).await?;
    if appliance.output == Output::Table {
        print_answer(&serde_json::from_slice(&bytes).context("the answer is not JSON")?)
    } else {
        print_bytes(&bytes)
    }
}

async fn list(appliance: &Appliance, path: &str, key: &str, columns: &[&str]) -> Result<()> {
    let answer = fetch(appliance, path).await?;
    let rows = answer[key].as_array().cloned().unwrap_or_default();
    match appliance.output {
        Output::Table => {
            let mut table = plain(columns);
            for row in &rows {
                table.add_row(columns.iter().map(|column| value::cell(at(row, column), column)));
            }
            print_line(&table.to_string())
        }
        Output::Json => print_line(&serde_json::to_string_pretty(&answer)?),
        Output::Ndjson => rows.iter().try_for_each(|row| print_line(&row.to_string())),
        Output::Csv | Output::Arrow => {
            bail!("this list is printed as table, json or ndjson; for the others, query its table")
        }
    }
}

async fn schemas(appliance: &Appliance, only: Option<&str>) -> Result<()> {
    let answer = fetch(appliance, "tables").await?;
    let tables = answer["tables"].as_array().cloned().unwrap_or_default();
    if let Some(name) = only
        && !tables.iter().any(|table| table["name"] == name)
    {
        bail!("there is no table '{name}'; `undine get tables` lists them");
    }
    for table in tables.iter().filter(|table| only.is_none_or(|name| table["name"] == name)) {
        if appliance.output == Output::Json {
            print_line(&serde_json::to_string_pretty(table)?)?;
            continue;
        }
        let columns = ["name", "type", "semantic", "doc"];
        let mut shown = plain(&columns);
        for column in table["columns"].as_array().into_iter().flatten() {
            shown.add_row(columns.iter().map(|key| value::cell(&column[*key], key)));
        }
        print_line(&format!(
            "{}: {}\n{shown}\n",
            value::cell(&table["name"], ""),
            value::cell(&table["doc"], "")
        ))?;
    }
    Ok(())
}

async fn fetch(appliance: &Appliance, path: &str) -> Result<Value> {
    let request = client()?.get(format!("{}/api/v1/{path}", base(appliance)));
    serde_json::from_slice(&answer(appliance, request).await?).context("the answer is not JSON")
}

fn client() -> Result<reqwest::Client> {
    reqwest::Client::builder()
        .timeout(ANSWER_TIME_MAX)
        .build()
        .context("cannot make an HTTP client")
}

fn base(appliance: &Appliance) -> &str {
    appliance.addr.trim_end_matches('/')
}

const fn format(output: Output) -> &'static str {
    match output {
        Output::Table | Output::Json => "json",
        Output::Ndjson => "ndjson",
        Output::Csv => "csv",
        Output::Arrow => "arrow",
    }
}

/// Sends a request; a problem document becomes the error, drawn as the appliance draws it.
async fn answer(appliance: &Appliance, request: reqwest::RequestBuilder) -> Result<Vec<u8>> {
    let unreachable = || {
        format!(
            "cannot reach an appliance at {}; start one with `undine up`, or name it with --addr",
            appliance.addr
        )
    };
    let exchange = async {
        let response = request.send().await.with_context(unreachable)?;
        let status = response.status();
        let bytes = response.bytes().await.context("the answer broke off")?;
        if status.is_success() { Ok(bytes.to_vec()) } else { Err(refusal(status, &bytes)) }
    };
    tokio::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => return answer,
        () = tokio::time::sleep(PATIENCE) => {}
    }
    if std::io::stderr().is_terminal() {
        note("still waiting for the answer; Ctrl-C gives up");
    }
    exchange.await
}

fn refusal(status: reqwest::StatusCode, body: &[u8]) -> anyhow::Error {
    let problem: Value = serde_json::from_slice(body).unwrap_or_default();
    if let Some(rendered) = problem["rendered"].as_str() {
        return anyhow::anyhow!("the script cannot run\n{rendered}");
    }
    let detail = problem["detail"].as_str().or(problem["title"].as_str());
    let mut text = detail.map_or_else(|| format!("the appliance answered {status}"), str::to_owned);
    if let Some(hint) = problem["hint"].as_str() {
        text += &format!("; {hint}");
    }
    anyhow::anyhow!(text)
}

fn print_answer(answer: &Value) -> Result<()> {
    let tables = answer["tables"].as_array().cloned().unwrap_or_default();
    for table in &tables {
        let columns: Vec<_> = table["columns"].as_array().cloned().unwrap_or_default();
        let names: Vec<_> =
            columns.iter().map(|c| c["name"].as_str().unwrap_or_default()).collect();
        let mut shown = plain(&names);
        for row in table["rows"].as_array().into_iter().flatten() {
            let cells = columns.iter().enumerate().map(|(index, column)| {
                value::cell(&row[index], column["semantic"].as_str().unwrap_or_default())
            });
            shown.add_row(cells);
        }
        if tables.len() > 1 {
            print_line(&format!("{}:", table["name"].as_str().unwrap_or_default()))?;
        }
        print_line(&shown.to_string())?;
        for remark in table["notes"].as_array().into_iter().flatten() {
            let text = remark.as_str().or(remark["text"].as_str()).or(remark["message"].as_str());
            note(&format!("note: {}", text.unwrap_or_default()));
        }
    }
    for export in answer["exports"].as_array().into_iter().flatten() {
        note(&format!("exported: {export}"));
    }
    Ok(())
}

fn at<'a>(row: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(row, |value, key| &value[key])
}

fn plain(columns: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_header(columns.iter().map(|column| column.to_uppercase()));
    table
}

fn print_line(text: &str) -> Result<()> {
    print_bytes(format!("{text}\n").as_bytes())
}

/// Writes to standard output; a reader that went away, as `head` does, is not a failure.
fn print_bytes(bytes: &[u8]) -> Result<()> {
    match std::io::stdout().lock().write_all(bytes) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to standard output"),
    }
}

#[expect(clippy::print_stderr, reason = "notes are not data")]
fn note(text: &str) {
    eprintln!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_its_only_script_with_the_view_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        let why = |read: Result<Source>| read.err().map(|error| error.to_string());
        assert!(why(folder_of(&folder)).unwrap().contains("holds 0 files that end in .pxl"));
        write("data.pxl", "import px\n");
        assert!(matches!(folder_of(&folder), Ok(Source::Text(text)) if text == "import px\n"));
        write("vis.json", "{\"widgets\": []}");
        assert!(matches!(
            folder_of(&folder),
            Ok(Source::Folder { vis, .. }) if vis == json!({"widgets": []})
        ));
        write("vis.json", "{");
        assert!(why(folder_of(&folder)).unwrap().ends_with("vis.json is not JSON"));
        write("other.pxl", "import px\n");
        assert!(why(folder_of(&folder)).unwrap().contains("holds 2 files that end in .pxl"));
    }

    fn folder_of(folder: &tempfile::TempDir) -> Result<Source> {
        source(None, Some(folder.path()))
    }
}
