//! Every command that a client and a real MongoDB server exchanged is a row.

use std::collections::BTreeMap;

use undine_testbed::mongodb;

use super::kernel::{alone, may_load};
use super::place::{are_installed, python_with};
use super::watch::watched;

const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/mongo.py");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_of_a_mongodb_client_is_a_row_with_its_status() {
    let _alone = alone().await;
    let Some(python) = python_with(&["pymongo"]) else { return };
    if !may_load() || !are_installed(&[mongodb::PROGRAM]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (memory, said) = watched("undine-mongo", 64, |place| {
        let _server = mongodb::start(place, dir.path()).unwrap();
        place.run(&python, &[CLIENT, &mongodb::PORT.to_string()])
    })
    .await;
    let mut commands = BTreeMap::new();
    for line in said.lines() {
        let (command, count) = line.rsplit_once(' ').unwrap();
        commands.insert(command.to_owned(), count.parse::<u64>().unwrap());
    }
    let mut rows = BTreeMap::new();
    let columns = ["req_cmd", "resp_status", "trace_role", "latency", "req_size", "quality"];
    for row in memory.rows("mongodb_events", &columns) {
        let [command, status, role, latency, size, quality] = &row[..] else { unreachable!() };
        assert_eq!(role, "2");
        assert_eq!(latency == "0", status.is_empty(), "{row:?}");
        assert!(size.parse::<u64>().unwrap() > 26);
        assert!(quality == "0" || command == "hello", "{row:?}");
        // The driver takes what wants no reply for a success.
        let status = if status.is_empty() { "ok" } else { status };
        *rows.entry(format!("{command} {status}")).or_default() += 1;
    }
    println!("rows {rows:?}");
    // Of its greetings the driver does not tell.
    rows.retain(|command, _| !command.starts_with("hello") && !command.starts_with("ismaster"));
    assert_eq!(rows, commands);
    let texts = memory.rows("mongodb_events", &["req_cmd", "req_body", "resp_body", "resp_size"]);
    for row in &texts {
        for text in &row[1..3] {
            let is_json = serde_json::from_str::<serde_json::Value>(text).is_ok();
            assert!(is_json || text.is_empty(), "{row:?}");
        }
    }
}
