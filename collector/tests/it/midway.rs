//! Connections that were under way when capture began, and bytes that go by without an operation: the
//! socket's own sequence numbers say so.

use std::collections::BTreeMap;
use std::sync::Arc;

use undine_collector::Stats;

use super::kernel::{alone, config, may_load};
use super::memory::Memory;
use super::place::{Place, are_installed};
use super::player;
use super::watch::seen_while;

/// What goes up and down through a proxy, and how much of what goes up it reads itself, in bytes.
const PLAYS: [(u64, u64, u64); 3] = [(100_000, 70_000, 0), (50_001, 3, 1), (77, 200_003, 76)];

/// Has `before` played, begins to watch, has `after` played, and gives what was seen.
async fn joined(name: &str, before: &[&str], after: &[&str]) -> (Arc<Memory>, Stats) {
    let place = Place::new(name);
    let mut player = player::start(&place);
    let mut play = |lines: &[&str]| lines.iter().for_each(|line| drop(player.ask(line)));
    tokio::task::block_in_place(|| play(before));
    let config = config(&place.cgroup, 8 << 20, None);
    let (memory, stats, ()) = seen_while(config, |_| play(after)).await;
    assert_eq!(stats.kernel.dropped, 0, "{stats:?}");
    (memory, stats)
}

/// The paths of all rows, each with its own response.
fn paths(memory: &Memory) -> Vec<(String, String)> {
    let rows = memory.rows("http_events", &["req_path", "resp_headers", "quality"]);
    let checked = rows.iter().map(|row| {
        let [path, headers, quality] = &row[..] else { unreachable!() };
        let own = format!("\"X-Path\":\"{path}\"");
        assert!(headers.contains(&own), "{path} is paired with {headers}");
        (path.clone(), quality.clone())
    });
    checked.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_pipelines_is_joined_midway_without_a_wrong_pair() {
    let _alone = alone().await;
    if !may_load() || !are_installed(&["python3"]) {
        return;
    }
    // The server is known to listen and has three requests to answer, and the first that is seen is
    // a fourth.
    let (before, after) = (["pipelined_before 3"], ["pipelined_after 20"]);
    let (memory, stats) = joined("undine-pipelined", &before, &after).await;
    let rows = paths(&memory);
    let missing = 1 + 3 * 20 - rows.len() as u64;
    assert!(stats.missing_rows.max >= missing, "{missing} {stats:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_nothing_has_used_yet_is_seen_from_its_beginning() {
    let _alone = alone().await;
    if !may_load() || !are_installed(&["python3"]) {
        return;
    }
    let (memory, stats) = joined("undine-idle", &["idle_before"], &["idle_after"]).await;
    let mut rows = paths(&memory);
    rows.sort();
    let all = (0..2)
        .flat_map(|conn| (0..3).map(move |turn| (format!("/idle/{conn}/{turn}"), "0".to_owned())));
    // Also where nobody listens any more, so that only the socket can tell.
    assert_eq!(rows, all.collect::<Vec<_>>());
    assert_eq!(stats.missing_rows.max, 0, "{stats:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_was_used_before_says_so_although_its_listener_is_known() {
    let _alone = alone().await;
    if !may_load() || !are_installed(&["python3"]) {
        return;
    }
    let (memory, _) = joined("undine-used", &["used_before"], &["used_after"]).await;
    let rows = paths(&memory);
    assert!(rows.iter().all(|(path, _)| path != "/used/before"), "{rows:?}");
    // The first is not trusted; those that are kept say that the connection was joined midway.
    assert!(rows.len() >= 2 && rows.iter().all(|(_, quality)| quality == "2"), "{rows:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_spliced_out_of_a_socket_are_counted_to_the_last() {
    let _alone = alone().await;
    if !may_load() || !are_installed(&["python3"]) {
        return;
    }
    let lines = PLAYS.map(|(up, down, read)| format!("proxied {up} {down} {read}"));
    let lines = lines.each_ref().map(String::as_str);
    let (memory, stats) = joined("undine-splice", &[], &lines).await;
    let up: u64 = PLAYS.iter().map(|play| play.0).sum();
    let down: u64 = PLAYS.iter().map(|play| play.1).sum();
    let both = up + down;
    // The client, and the proxy as the server's client, which only splices what comes down.
    let columns = ["trace_role", "remote_port", "bytes_sent", "bytes_recv"];
    let mut last = BTreeMap::new();
    for row in memory.rows("conn_stats", &columns).iter().filter(|row| row[0] == "1") {
        last.insert(row[1].clone(), [row[2].clone(), row[3].clone()]);
    }
    let moved = [up.to_string(), down.to_string()];
    let ports = ["4704", "4705"].map(str::to_owned);
    assert_eq!(last, BTreeMap::from(ports.map(|port| (port, moved.clone()))));
    let bypassed: u64 = memory
        .rows("data_loss", &["reason", "bytes"])
        .iter()
        .filter(|row| row[0] == "bypassed")
        .map(|row| row[1].parse::<u64>().unwrap())
        .sum();
    let read: u64 = PLAYS.iter().map(|play| play.2).sum();
    // Out of one socket and into another, but for what the proxy read and wrote.
    assert_eq!(bypassed, 2 * (both - read), "{stats:?}");
    // All four sockets.
    assert_eq!(stats.kernel.operation_bytes, 4 * both);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_of_a_read_that_a_close_ends_are_counted_once() {
    let _alone = alone().await;
    if !may_load() || !are_installed(&["python3"]) {
        return;
    }
    // The connection is closed while the read has taken them and goes on.
    let (memory, stats) = joined("undine-closed", &[], &["closed_meanwhile 1000"]).await;
    let lost = memory.rows("data_loss", &["reason", "bytes"]);
    assert!(lost.is_empty(), "{lost:?}");
    // What each of the two ends sent, at both.
    assert_eq!(stats.kernel.operation_bytes, 2 * (5 + 1000));
}
