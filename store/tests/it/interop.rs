//! Other engines read what the store wrote: every version of every tier, views over the present
//! files, and the SQL of `docs/storage.md`.
//!
//! The engines are Python's modules deltalake, duckdb and chdb. One that is not there is skipped,
//! unless `UNDINE_TEST_ENGINES` names it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use undine_schema::tables::{HTTP_EVENTS, HttpEvent, HttpEvents};
use undine_schema::{Append, Frame, TimeNs};
use undine_store::inspect::{Dialect, Folder};
use undine_store::sketch::Sketch;
use undine_store::{Config, Store};

use super::fixture::{NOTES, REQUESTS, Row, clock, config, notes, requests};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/interop.py");
const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/storage.md");
/// Rounds in which rows of all tables come.
const ROUNDS: i64 = 12;
/// Rows of a round.
const ROWS: i64 = 100;

/// A question to each version of a tier: how many rows it stands for, and the sum of a column.
struct Tier {
    dir: PathBuf,
    sql: &'static str,
    /// What each version has to answer.
    versions: BTreeMap<u64, (i64, i64)>,
}

/// A folder with many versions, and what each has to say.
struct Written {
    dir: TempDir,
    rows: Vec<Row>,
    tiers: Vec<Tier>,
}

/// Writes rows of all tables, and further notes alone, up to `notes_rounds`.
fn written(notes_rounds: i64) -> Written {
    let dir = TempDir::new().unwrap();
    let runtime = Runtime::new().unwrap();
    let tables = vec![&REQUESTS, &NOTES, &HTTP_EVENTS];
    let store = Config { tables, ..config(dir.path(), clock()) }.build().unwrap();
    let tier = |path: &str, sql| {
        let dir = dir.path().join("tables").join(path).join("node-1");
        Tier { dir, sql, versions: BTreeMap::new() }
    };
    let states = "SELECT coalesce(sum(rows), 0), coalesce(sum(size_sum), 0) FROM t";
    let mut tiers = vec![
        tier("requests/10s", states),
        tier("requests/1m", states),
        tier("requests/raw", "SELECT count(*), coalesce(sum(size), 0) FROM t"),
        tier("notes.Beta/raw", "SELECT count(*), coalesce(sum(id), 0) FROM t"),
    ];
    let (mut all, mut ids) = (Vec::new(), (0, 0));
    note(&mut tiers, &all, ids);
    for round in 0..ROUNDS.max(notes_rounds) {
        let time = 1_700_000_000_000_000_000 + round * ROWS * 7_000_001;
        if round < ROUNDS {
            let row = |at: i64| Row {
                time: time + at * 7_000_001,
                kind: u8::try_from(at % 30).unwrap(),
                value: at * (round + 1) % 9999,
                path_bytes: 10,
            };
            let rows: Vec<_> = (0..ROWS).map(row).collect();
            append(&store, &rows);
            all.extend(rows);
        }
        store.append(Frame::captured(&NOTES, notes(&[round], time))).unwrap();
        ids = (ids.0 + 1, ids.1 + round);
        runtime.block_on(store.seal()).unwrap();
        note(&mut tiers, &all, ids);
        if round % 5 == 4 {
            let tidied = runtime.block_on(store.tidy()).unwrap();
            assert!(tidied.merged_segments > 0, "{tidied:?}");
            note(&mut tiers, &all, ids);
        }
    }
    Written { dir, rows: all, tiers }
}

fn append(store: &Store, rows: &[Row]) {
    store.append(Frame::captured(&REQUESTS, requests(rows))).unwrap();
    let mut http = HttpEvents::new(rows.len());
    for row in rows {
        http.push(&HttpEvent {
            time_: TimeNs::new(row.time),
            service: if row.kind % 2 == 0 { "cart" } else { "shop" },
            req_method: "GET",
            req_path: "/cart/7",
            req_path_template: "/cart/*",
            resp_status: if row.kind == 7 { 500 } else { 200 },
            latency: row.value * 1000,
            ..HttpEvent::default()
        });
    }
    store.append(Frame::captured(&HTTP_EVENTS, http.finish())).unwrap();
}

/// Notes what the last version of each tier has to say now.
fn note(tiers: &mut [Tier], rows: &[Row], ids: (i64, i64)) {
    for tier in tiers {
        let names = fs::read_dir(tier.dir.join("_delta_log")).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let version = names.filter_map(|name| name.strip_suffix(".json")?.parse().ok()).max();
        let of_rows = || (i64::try_from(rows.len()).unwrap(), rows.iter().map(|r| r.value).sum());
        let is_notes = tier.dir.to_string_lossy().contains("notes.Beta");
        tier.versions.insert(version.unwrap(), if is_notes { ids } else { of_rows() });
    }
}

/// The Python that has a module; none, where it is not required, if it is not installed.
fn python_with(engine: &str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "tests have no configuration")]
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let python = Some(variable("UNDINE_TEST_PYTHON")).filter(|path| !path.is_empty());
    let python = python.unwrap_or_else(|| "python3".to_owned());
    let import = Command::new(&python).args(["-c", &format!("import {engine}")]).output();
    if !import.is_ok_and(|import| import.status.success()) {
        let required = variable("UNDINE_TEST_ENGINES");
        assert!(!required.split(',').any(|name| name == engine), "{python} lacks {engine}");
        println!("skipped: {python} has no module {engine}");
        return None;
    }
    Some(python)
}

/// The rows that an engine answers each question with.
fn ask(python: &str, engine: &str, setup: &str, questions: &[Value]) -> Vec<Vec<Value>> {
    ask_with(&mut Command::new(python), engine, setup, questions)
}

/// The same of a Python that has been told more.
pub(crate) fn ask_with(
    python: &mut Command,
    engine: &str,
    setup: &str,
    questions: &[Value],
) -> Vec<Vec<Value>> {
    let mut asked = python
        .arg(SCRIPT)
        // ClickHouse reads only below the folder that it runs in.
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let text = json!({ "engine": engine, "setup": setup, "questions": questions }).to_string();
    asked.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = asked.wait_with_output().unwrap();
    assert!(output.status.success(), "{engine} failed");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn every_version_is_read_by(engine: &str) {
    let Some(python) = python_with(engine) else { return };
    // More than the commits between two checkpoints.
    let written = written(104);
    let mut questions = Vec::new();
    let mut expected = Vec::new();
    for tier in &written.tiers {
        assert!(tier.versions.len() as u64 > tier.versions.keys().max().unwrap() - 1);
        for (version, (rows, sum)) in &tier.versions {
            let dir = tier.dir.display().to_string();
            questions.push(json!({ "sql": tier.sql, "delta": dir, "version": version }));
            expected.push((format!("{dir} version {version}"), json!([[rows, sum]])));
        }
    }
    assert!(questions.len() > 150, "{}", questions.len());
    let answers = ask(&python, engine, "", &questions);
    assert_eq!(answers.len(), expected.len());
    for (answer, (what, rows)) in answers.into_iter().zip(expected) {
        assert_eq!(integers(&answer), rows, "{what}");
    }
}

/// The rows with every number as an integer; `ClickHouse` writes long ones as text.
pub(crate) fn integers(rows: &[Value]) -> Value {
    let integer = |value: &Value| match value {
        Value::String(text) => text.parse::<i64>().map_or(value.clone(), Value::from),
        value => value.as_f64().map_or(value.clone(), |number| {
            assert!(number.fract().abs() < f64::EPSILON, "{value}");
            value.as_i64().map_or_else(|| json!(format!("{number:.0}")), Value::from)
        }),
    };
    let row = |row: &Value| row.as_array().unwrap().iter().map(integer).collect::<Value>();
    rows.iter().map(row).collect()
}

#[test]
fn deltalake_agrees_on_every_version_of_every_tier() {
    every_version_is_read_by("deltalake");
}

#[test]
fn clickhouse_agrees_on_every_version_of_every_tier() {
    every_version_is_read_by("chdb");
}

fn views_and_document_are_read_by(engine: &str, dialect: Dialect, fence: &str) {
    let Some(python) = python_with(engine) else { return };
    let written = written(ROUNDS);
    let folder = Folder::open(written.dir.path()).unwrap();
    let held = Runtime::new().unwrap().block_on(folder.inspect()).unwrap();
    let setup = folder.views(&held, dialect).unwrap();
    let mut questions: Vec<_> = [
        "SELECT sum(rows), sum(size_sum) FROM requests__10s",
        "SELECT sum(rows), sum(size_sum) FROM requests__1m",
        "SELECT count(*), sum(size) FROM requests",
        "SELECT count(*), sum(id) FROM \"notes.Beta\"",
        "SELECT count(*), 0 FROM data_loss",
        "SELECT service, undine_quantile(latency_sketch_keys, latency_sketch_counts, 0.99) \
         FROM requests__1m GROUP BY service ORDER BY service",
    ]
    .map(|sql| json!({ "sql": sql }))
    .into();
    let own = questions.len();
    let document = statements(fence, folder.dir());
    assert!(document.len() >= 3, "the document has {} statements for {fence}", document.len());
    questions.extend(document.iter().map(|sql| json!({ "sql": sql })));
    let answers = ask(&python, engine, &setup, &questions);

    let rows = i64::try_from(written.rows.len()).unwrap();
    let sum: i64 = written.rows.iter().map(|row| row.value).sum();
    let notes = (ROUNDS, (0..ROUNDS).sum::<i64>());
    for (at, (rows, sum)) in
        [(rows, sum), (rows, sum), (rows, sum), notes, (0, 0)].into_iter().enumerate()
    {
        assert_eq!(integers(&answers[at]), json!([[rows, sum]]), "{}", questions[at]);
    }
    let mut sketches = BTreeMap::<_, Sketch>::new();
    for row in &written.rows {
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        sketches.entry(row.service()).or_default().add((row.value * 1000) as f64);
    }
    let number = |value: &Value| {
        value.as_f64().or_else(|| value.as_str().and_then(|text| text.parse().ok()))
    };
    let told: Vec<_> = answers[5].iter().map(|row| (row[0].as_str(), number(&row[1]))).collect();
    let said = sketches.iter().map(|(name, sketch)| (Some(*name), sketch.quantile(0.99)));
    for ((service, told), expected) in told.iter().zip(said.clone()) {
        assert_eq!(*service, expected.0);
        let (told, expected) = (told.unwrap(), expected.1.unwrap());
        assert!((told / expected - 1.0).abs() < 1e-12, "{service:?}: {told} is not {expected}");
    }
    assert_eq!(told.len(), said.count());
    for (answer, sql) in answers[own..].iter().zip(&document) {
        assert!(!answer.is_empty(), "the document's statement has no answer: {sql}");
    }
}

/// The document's blocks of `fence`, for a folder that lies elsewhere.
fn statements(fence: &str, dir: &Path) -> Vec<String> {
    let text = fs::read_to_string(DOCUMENT).unwrap();
    let blocks = text.split("```").skip(1).step_by(2);
    let blocks = blocks.filter_map(|block| block.strip_prefix(fence)?.strip_prefix('\n'));
    let dir = dir.display().to_string();
    blocks.map(|sql| sql.replace("/var/lib/undine", &dir).replace("NODE", "node-1")).collect()
}

#[test]
fn duckdb_reads_the_views_and_runs_the_documents_sql() {
    views_and_document_are_read_by("duckdb", Dialect::DuckDb, "sql duckdb");
}

#[test]
fn clickhouse_reads_the_views_and_runs_the_documents_sql() {
    views_and_document_are_read_by("chdb", Dialect::ClickHouse, "sql clickhouse");
}

/// `echo DIR | cargo test --release -p undine-store --test it -- --ignored --exact
/// it::interop::a_folder_for_other_engines` leaves such a folder.
#[test]
#[ignore = "is for a person with other engines at hand"]
fn a_folder_for_other_engines() {
    let mut dir = String::new();
    std::io::stdin().read_line(&mut dir).unwrap();
    let written = written(104);
    let folder = Folder::open(written.dir.path()).unwrap();
    let restored = Runtime::new().unwrap().block_on(folder.restore(Path::new(dir.trim()))).unwrap();
    println!("{} rows, {} files", written.rows.len(), restored.files);
}
