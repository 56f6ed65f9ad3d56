//! Every command that a real Redis server counted is a row.

use std::collections::BTreeMap;

use super::kernel::{alone, may_load};
use super::place::{Place, Server, are_installed};
use super::watch::watched;

const PORT: &str = "16379";

/// Calls by command, as the server itself counted them.
fn counted(place: &Place) -> BTreeMap<String, u64> {
    let stats = place.run("redis-cli", &["-p", PORT, "info", "commandstats"]);
    let mut calls = BTreeMap::new();
    for line in stats.lines().filter_map(|line| line.strip_prefix("cmdstat_")) {
        let (name, rest) = line.split_once(":calls=").unwrap();
        let number: u64 = rest.split(',').next().unwrap().parse().unwrap();
        // A container command counts under the names of its parts.
        let name = name.split('|').next().unwrap().to_uppercase();
        *calls.entry(name).or_default() += number;
    }
    // The question itself is counted after it was answered.
    *calls.entry("INFO".to_owned()).or_default() += 1;
    calls
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_that_redis_counted_is_a_row() {
    let _alone = alone().await;
    if !may_load() || !are_installed(&["redis-server", "redis-cli", "redis-benchmark"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (memory, calls) = watched("undine-redis", 64, |place| {
        let mut server = place.command("redis-server");
        server.args(["--port", PORT, "--save", "", "--dir"]).arg(dir.path());
        let _server = Server::start(&mut server);
        place.wait_for("redis-cli", &["-p", PORT, "ping"]);
        place.run("redis-cli", &["-p", PORT, "set", "greeting", "hello \"you\""]);
        place.run("redis-cli", &["-p", PORT, "get", "greeting"]);
        place.run("redis-cli", &["-p", PORT, "incr", "greeting"]);
        let load = ["-p", PORT, "-q", "-n", "5000", "-c", "16", "-t", "set,get,incr,lpush,mset"];
        place.run("redis-benchmark", &load);
        let pipelined = ["-p", PORT, "-q", "-n", "20000", "-c", "8", "-P", "16", "-t", "set,get"];
        place.run("redis-benchmark", &pipelined);
        counted(place)
    })
    .await;
    let mut rows = BTreeMap::new();
    for row in memory.rows("redis_events", &["req_cmd", "trace_role"]) {
        assert_eq!(row[1], "2");
        *rows.entry(row[0].clone()).or_default() += 1;
    }
    println!("{} rows", rows.values().sum::<u64>());
    assert_eq!(rows, calls);
    let texts = memory.rows("redis_events", &["req_cmd", "req_args", "resp", "failed"]);
    for expected in [
        ["SET", r#"["greeting","hello \"you\""]"#, "OK", "0"],
        ["GET", r#"["greeting"]"#, "hello \"you\"", "0"],
        ["INCR", r#"["greeting"]"#, "-ERR value is not an integer or out of range", "1"],
    ] {
        assert!(texts.iter().any(|row| *row == expected), "{expected:?}");
    }
    assert_eq!(memory.rows("data_loss", &["reason"]), Vec::<Vec<String>>::new());
}
