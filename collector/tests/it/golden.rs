//! Golden captures: what real servers and clients of every protocol said once gives the same rows ever after.
//!
//! `evals capture --record collector/tests/golden` makes captures anew. Where a change of the rows is
//! wanted, `UNDINE_KEEP_ROWS=1` with these tests keeps what the captures that there are give now.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;

use undine_collector::Config;
use undine_collector::endpoints::Tuple;
use undine_collector::event::{Body, Event};
use undine_collector::process::Facts;
use undine_collector::recording::{self, Content, Entry, FORMAT_VERSION, RecordingError, Replayer};
use undine_testbed::golden::{self, Golden};

use super::replay::{config, replay_as};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
/// The tables of each of which there is a capture.
const TABLES: [&str; 13] = [
    "amqp_events",
    "conn_stats",
    "cql_events",
    "dns_events",
    "http_events",
    "kafka_events.beta",
    "mongodb_events",
    "mux_events",
    "mysql_events",
    "nats_events.beta",
    "pgsql_events",
    "redis_events",
    "tls_events",
];

/// All golden captures.
pub(crate) fn all() -> Vec<Golden> {
    Golden::all(FOLDER.as_ref()).unwrap()
}

/// The rows that a recording gives, as text.
pub(crate) async fn rows(recording: &[u8]) -> String {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(recording).unwrap();
    let memory = Box::pin(replay_as(golden::replaying(file.path(), config(file.path())))).await;
    memory.with_tables(|table, batches| {
        if golden::is_kept(table, batches) {
            golden::rows_of(table, batches).unwrap()
        } else {
            Vec::new()
        }
    })
}

#[tokio::test]
async fn every_golden_capture_gives_the_rows_that_were_kept() {
    let mut failures = Vec::new();
    let mut tables = BTreeSet::new();
    for golden in all() {
        let rows = Box::pin(rows(&golden.recording().unwrap())).await;
        tables.extend(rows.lines().filter(|line| !line.starts_with(' ')).map(str::to_owned));
        if std::env::var_os("UNDINE_KEEP_ROWS").is_some() {
            golden.keep_rows(&rows).unwrap();
        }
        failures.extend(golden.require_rows(&rows).err().map(|error| format!("{error:#}")));
    }
    assert!(
        failures.is_empty(),
        "{}\nif the rows that a replay gives are right, UNDINE_KEEP_ROWS=1 keeps them",
        failures.join("\n")
    );
    for table in TABLES {
        assert!(tables.contains(table), "no capture has a row of {table}, only of {tables:?}");
    }
}

#[test]
fn a_capture_of_an_older_format_is_refused_by_its_version() {
    let golden = all().swap_remove(0);
    let mut recording = golden.recording().unwrap();
    recording[8..12].copy_from_slice(&(FORMAT_VERSION - 1).to_le_bytes());
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&recording).unwrap();
    let error = Replayer::open(Path::new(file.path())).unwrap_err();
    assert!(
        matches!(error, RecordingError::Version { what: "format", found, .. } if found == FORMAT_VERSION - 1),
        "{error}"
    );
}

/// Columns that say what people said, and who: of these a recording without contents gives others.
const CONTENT: [&str; 22] = [
    "body",
    "client_id",
    "dest",
    "query_name",
    "remote_service",
    "req",
    "req_args",
    "req_body",
    "req_headers",
    "req_msg",
    "req_path",
    "req_path_template",
    "resp",
    "resp_body",
    "resp_headers",
    "resp_message",
    "resp_msg",
    "server_name",
    "service",
    "remote_pod",
    "pod",
    "namespace",
];

/// What a recording becomes without its contents, as the collector records it.
async fn masked(recording: &[u8]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let [from, to] = ["from", "to"].map(|name| dir.path().join(name));
    std::fs::write(&from, recording).unwrap();
    let recording = recording::Config { path: to.clone(), content: Content::Masked };
    let config = golden::replaying(&from, config(&from));
    Box::pin(replay_as(Config { recording: Some(recording), ..config })).await;
    std::fs::read(to).unwrap()
}

/// Rows without what is content.
fn structure(rows: &str) -> String {
    let is_content = |line: &str| {
        let name = line.strip_prefix("  ").and_then(|line| line.split_once(':'));
        name.is_some_and(|(name, _)| CONTENT.contains(&name))
    };
    rows.lines().filter(|line| !is_content(line)).flat_map(|line| [line, "\n"]).collect()
}

#[tokio::test]
async fn without_contents_a_capture_gives_the_same_rows_but_for_what_was_said() {
    let mut failures = Vec::new();
    for golden in all() {
        let recording = golden.recording().unwrap();
        let before = structure(&Box::pin(rows(&recording)).await);
        let after = structure(&Box::pin(rows(&Box::pin(masked(&recording)).await)).await);
        let differences = golden::differences(&before, &after);
        if !differences.is_empty() {
            failures.push(format!("{}: {differences}", golden.name()));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Bytes of a word that would give something away.
const WORD_BYTES: usize = 8;
/// Captures in which names have labels or parts that are shorter; their masks have tests of their own.
const OF_SHORT_NAMES: [&str; 2] = ["dns", "mux"];
/// Such words that are structure, a line each: names of headers, and what is kept of their values; verbs,
/// names of elements, options and errors that are the protocol's own.
const STRUCTURE: &str = "structure.txt";

/// The words in texts by which it would be known where they come from, by how they begin.
fn words<'a>(texts: impl IntoIterator<Item = &'a str>) -> BTreeMap<[u8; WORD_BYTES], String> {
    let is_part = |c: char| !c.is_ascii_alphanumeric();
    let words = texts.into_iter().flat_map(|text| text.split(is_part));
    words.filter_map(|word| Some((*word.as_bytes().first_chunk()?, word.to_owned()))).collect()
}

/// What people said, as rows tell it.
fn contents(rows: &str) -> impl Iterator<Item = &str> {
    rows.lines().filter_map(|line| {
        let (name, value) = line.strip_prefix("  ")?.split_once(": ")?;
        CONTENT.contains(&name).then_some(value)
    })
}

/// What a recording says of processes.
fn processes(recording: &[u8]) -> Vec<Facts> {
    let mut all = Vec::new();
    each(recording, |entry| {
        if let Entry::Process(_, facts) = entry {
            all.push(facts);
        }
    });
    all
}

fn each(recording: &[u8], mut act: impl FnMut(Entry<'_>)) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(recording).unwrap();
    let mut replayer = Replayer::open(file.path()).unwrap();
    while let Some(entry) = replayer.next_entry().unwrap() {
        act(entry);
    }
}

#[tokio::test]
async fn without_contents_no_word_is_left_that_was_said() {
    let mut leaks = Vec::new();
    let structure = std::fs::read_to_string(Path::new(FOLDER).join(STRUCTURE)).unwrap();
    let is_structure = |word: &str| structure.lines().any(|known| known.eq_ignore_ascii_case(word));
    for golden in all() {
        let recording = golden.recording().unwrap();
        let rows = Box::pin(rows(&recording)).await;
        let processes = processes(&recording);
        let names = processes.iter().flat_map(|facts| [facts.comm.as_str(), facts.exe.as_str()]);
        let args = processes.iter().flat_map(|facts| facts.args.iter().map(String::as_str));
        let said = words(contents(&rows).chain(names).chain(args));
        let has_words = !OF_SHORT_NAMES.contains(&golden.name());
        assert_eq!(!said.is_empty(), has_words, "words of {}", golden.name());
        let masked = Box::pin(masked(&recording)).await;
        let left: BTreeSet<_> =
            masked.windows(WORD_BYTES).filter_map(|start| said.get(start)).collect();
        let left = left.into_iter().filter(|word| !is_structure(word));
        leaks.extend(left.map(|word| format!("{}: {word}", golden.name())));
    }
    assert!(leaks.is_empty(), "{}", leaks.join("\n"));
}

#[tokio::test]
async fn without_contents_no_address_is_left_but_those_of_every_network() {
    for golden in all() {
        let masked = Box::pin(masked(&golden.recording().unwrap())).await;
        each(&masked, |entry| {
            let Entry::Message(message) = entry else { return };
            let (Body::Open(info) | Body::Datagram { info, .. }) =
                Event::decode(message).unwrap().body
            else {
                return;
            };
            let tuple = Tuple::of(&info);
            for address in [tuple.local, tuple.remote] {
                assert!(
                    address.is_loopback() || address.is_unspecified(),
                    "{}: {address}",
                    golden.name()
                );
            }
        });
    }
}
