//! Every command that a real Redis server counted is a row.

use std::collections::BTreeMap;

use undine_testbed::{Scene, Wire, redis};

use super::kernel::{alone, may_load};
use super::place::are_installed;
use super::watch::watched;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_that_redis_counted_is_a_row() {
    let _alone = alone().await;
    if !may_load() || !are_installed(&["redis-server", "redis-cli", "redis-benchmark"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (memory, calls) = watched("undine-redis", 64, |place| {
        let scene = Scene { place, folder: dir.path(), wire: Wire::Plain };
        let _server = redis::start(&scene, &[]).unwrap();
        let run = |program, args: &[&str]| redis::run(&scene, program, args).unwrap();
        run("redis-cli", &["ping"]);
        run("redis-cli", &["set", "greeting", "hello \"you\""]);
        run("redis-cli", &["get", "greeting"]);
        run("redis-cli", &["incr", "greeting"]);
        let load = ["-q", "-n", "5000", "-c", "16", "-t", "set,get,incr,lpush,mset"];
        run("redis-benchmark", &load);
        run("redis-benchmark", &["-q", "-n", "20000", "-c", "8", "-P", "16", "-t", "set,get"]);
        redis::counted(&scene).unwrap()
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
