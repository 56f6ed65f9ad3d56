//! Every command that a client and a real NATS server exchanged is a row.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::kernel::{alone, config, may_load};
use super::memory::Memory;
use super::place::{Place, are_installed};

const PORT: &str = "14222";
const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/nats.py");
const READY: &str = "import socket; socket.create_connection(('127.0.0.1', 14222)).recv(1)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_of_a_nats_client_and_its_server_is_a_row() {
    let _alone = alone().await;
    if !may_load() || !are_installed(&["nats-server", "python3"]) {
        return;
    }
    let place = Place::new("undine-nats");
    let memory = Arc::new(Memory::default());
    let append = Arc::clone(&memory);
    let collector = config(&place.cgroup, 32 << 20, None).build(append).unwrap();
    let handle = collector.handle();
    let shutdown = CancellationToken::new();
    let running = JoinSet::from_iter([collector.run(shutdown.clone())]);
    let mut server = place
        .command("nats-server")
        .args(["-a", "127.0.0.1", "-p", PORT])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let said = tokio::task::block_in_place(|| {
        place.wait_for("python3", &["-c", READY]);
        place.run("python3", &[CLIENT, PORT])
    });
    let stats = handle.drain().await.unwrap();
    assert!(stats.drained, "{stats:?}");
    assert_eq!((stats.kernel.dropped, stats.missing_rows.max), (0, 0), "{stats:?}");
    let counted = |line: &str| {
        let (command, count) = line.split_once(' ').unwrap();
        (command.to_owned(), count.parse::<u64>().unwrap())
    };
    let mut commands: BTreeMap<_, _> = said.lines().map(counted).collect();
    // The first connection was made to see whether the server is there.
    *commands.entry("INFO".to_owned()).or_default() += 1;
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
    shutdown.cancel();
    running.join_all().await.into_iter().collect::<Result<(), _>>().unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
    // The long payload is cut by the kernel, which costs no row.
    let lost = memory.rows("data_loss", &["reason", "rows_min", "rows_max", "bytes"]);
    assert!(lost.iter().all(|row| row[2] == "0"), "{lost:?}");
}
