//! Every command that a client and a real NATS server exchanged is a row.

use std::collections::BTreeMap;

use undine_testbed::brokers::{self, NATS_PORT};

use super::kernel::{alone, may_load};
use super::place::are_installed;
use super::watch::watched;

const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/nats.py");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_of_a_nats_client_and_its_server_is_a_row() {
    let _alone = alone().await;
    if !may_load() || !are_installed(&["nats-server", "python3"]) {
        return;
    }
    let (memory, said) = watched("undine-nats", 64, |place| {
        let _server = brokers::nats(place).unwrap();
        place.run("python3", &[CLIENT, &NATS_PORT.to_string()])
    })
    .await;
    let counted = |line: &str| {
        let (command, count) = line.split_once(' ').unwrap();
        (command.to_owned(), count.parse::<u64>().unwrap())
    };
    let commands: BTreeMap<_, _> = said.lines().map(counted).collect();
    let mut rows = BTreeMap::new();
    for row in memory.rows("nats_events.beta", &["cmd", "trace_role"]) {
        assert_eq!(row[1], "2");
        *rows.entry(row[0].clone()).or_default() += 1;
    }
    println!("rows {rows:?}");
    assert_eq!(rows, commands);
    let texts = memory.rows("nats_events.beta", &["cmd", "body", "resp", "req_size", "failed"]);
    for expected in [
        ["PUB", r#"{"subject":"load.0","payload":"xxxxxxx"}"#, "", "23", "0"],
        [
            "HPUB",
            r#"{"subject":"load.headers","headers":{"Trace-Id":"7"},"payload":"hi"}"#,
            "",
            "54",
            "0",
        ],
        ["SUB", r#"{"subject":"loud","queue_group":"q","sid":"9"}"#, "OK", "14", "0"],
        ["PUB", r#"{"subject":"loud","payload":"abc"}"#, "OK", "17", "0"],
        ["PUB", r#"{"subject":"a..b","payload":"x"}"#, "ERR 'Invalid Publish Subject'", "15", "1"],
        ["UNSUB", r#"{"sid":"9"}"#, "OK", "9", "0"],
        ["PING", "", "PONG", "6", "0"],
    ] {
        assert!(texts.iter().any(|row| *row == expected), "{expected:?}");
    }
    assert!(!texts.iter().any(|row| row[1].contains("hunter2")));
}
