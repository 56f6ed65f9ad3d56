//! Every flavour of call that moves bytes over TCP, from the kernel to the table: what the program
//! says it moved is what `conn_stats` has.

use std::collections::BTreeMap;

use undine_collector::{Hooks, SourceConfig};
use undine_testbed::compile;

use super::kernel::{alone, config, may_load};
use super::place::{Place, are_installed};
use super::watch::seen_while;

/// Bytes sent and received by the end that connected, by its peer's port.
type Moved = BTreeMap<String, [String; 2]>;

/// A flavour's name and its way into the kernel, by its port.
type Names = BTreeMap<String, [String; 2]>;

/// Runs the program under `hooks`. Gives the flavours, what the program says of each, what was seen of
/// it, and all bytes that were seen.
async fn run(name: &str, hooks: Hooks) -> (Names, Moved, Moved, u64) {
    let dir = tempfile::tempdir().unwrap();
    let program = compile("flavours", &[], dir.path()).unwrap().display().to_string();
    let place = Place::new(name);
    let mut config = config(&place.cgroup, 32 << 20, None);
    if let SourceConfig::Kernel { hooks: wanted, .. } = &mut config.source {
        *wanted = Some(hooks);
    }
    let (memory, stats, said) = seen_while(config, |_| place.run(&program, &[])).await;
    assert_eq!(stats.kernel.dropped, 0, "{stats:?}");
    let (mut names, mut moved) = (Names::new(), Moved::new());
    for line in said.lines() {
        let [name, port, sent, received, way] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        names.insert(port.to_owned(), [name, way].map(str::to_owned));
        moved.insert(port.to_owned(), [sent, received].map(str::to_owned));
    }
    let mut seen = Moved::new();
    let columns = ["trace_role", "remote_port", "bytes_sent", "bytes_recv"];
    for row in memory.rows("conn_stats", &columns).into_iter().filter(|row| row[0] == "1") {
        let [_, port, sent, received] = <[String; 4]>::try_from(row).unwrap();
        // A counter only grows, so the last row has it all.
        seen.insert(port, [sent, received]);
    }
    assert_eq!(stats.kernel.operation_bytes, stats.pipeline.bytes);
    (names, moved, seen, stats.kernel.operation_bytes)
}

/// Checks every flavour under `hooks`, which do not see what is sent by the ways `unseen`.
async fn check(name: &str, hooks: Hooks, unseen: &[&str]) {
    let _alone = alone().await;
    if !may_load() || !are_installed(&["cc"]) {
        return;
    }
    let (names, moved, seen, total) = run(name, hooks).await;
    assert!(names.len() >= 31, "{names:?}");
    let mut all = 0;
    for (port, bytes) in moved {
        let [sent, received] = bytes.each_ref().map(|bytes| bytes.parse::<u64>().unwrap());
        all += 2 * (sent + received);
        let [name, way] = &names[&port];
        if sent > received && unseen.contains(&way.as_str()) {
            all -= sent;
            assert_ne!(seen.get(&port), Some(&bytes), "{name} is seen: say so");
        } else {
            assert_eq!(seen.get(&port), Some(&bytes), "{name}");
        }
    }
    // Both ends of all connections together.
    assert_eq!(total, all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_flavour_of_call_is_in_conn_stats_to_the_last_byte() {
    check("undine-flavours", Hooks::SocketLength, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_only_system_calls_are_seen_what_goes_around_them_is_missing() {
    check("undine-flavours2", Hooks::SysExit, &["uring", "aio", "compat"]).await;
}
