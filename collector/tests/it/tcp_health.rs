//! What is sent again, thrown away and reset, as the network namespace itself counts it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use undine_collector::{SourceConfig, Target};

use super::kernel::{alone, config, may_load};
use super::memory::Memory;
use super::place::{Place, Program, are_installed};
use super::player;
use super::watch::seen_while;

/// What goes over a connection that loses some of it.
const BYTES: u64 = 3_000_000;

/// The counters of `place`'s network that `nstat` knows, since it began.
fn counters(place: &Place) -> BTreeMap<String, u64> {
    let text = place.run("nstat", &["-asz"]);
    let counter = |line: &str| {
        let mut words = line.split_whitespace();
        Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
    };
    text.lines().filter_map(counter).collect()
}

/// Has `act` played in a place whose network is watched too, so that packets for which there is no
/// socket are. Gives what was seen and how the network's counters moved.
async fn watched(
    name: &str,
    act: impl FnOnce(&Place, &mut Program),
) -> (Arc<Memory>, impl Fn(&str) -> u64) {
    let place = Place::new(name);
    let mut player = player::start(&place);
    let mut config = config(&place.cgroup, 8 << 20, None);
    if let SourceConfig::Kernel { scope, .. } = &mut config.source {
        scope.include.push(Target::Netns(PathBuf::from(place.network())));
    }
    let (memory, stats, [before, after]) = seen_while(config, |_| {
        let before = counters(&place);
        act(&place, &mut player);
        [before, counters(&place)]
    })
    .await;
    assert_eq!(stats.kernel.dropped, 0, "{stats:?}");
    (memory, move |name: &str| after[name] - before[name])
}

/// The sum of `count` over the rows of `table`, by the values of `columns`.
fn sums(memory: &Memory, table: &str, columns: &[&str]) -> BTreeMap<Vec<String>, u64> {
    let mut sums = BTreeMap::new();
    for mut row in memory.rows(table, &[columns, &["count"]].concat()) {
        let count: u64 = row.pop().unwrap().parse().unwrap();
        *sums.entry(row).or_default() += count;
    }
    sums
}

fn texts(values: &[&str]) -> Vec<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_reset_is_a_row_or_in_the_count_of_one() {
    let _alone = alone().await;
    if !may_load() || !are_installed(&["python3", "nstat"]) {
        return;
    }
    // More than are told one by one.
    let (memory, counted) = watched("undine-resets", |_, player| {
        player.ask("refused 700");
        player.ask("aborted 300");
    })
    .await;
    let resets = sums(&memory, "tcp_resets", &["direction", "reason"]);
    let sent: u64 = resets.iter().filter(|(key, _)| key[0] == "sent").map(|(_, sum)| sum).sum();
    assert_eq!(sent, counted("TcpOutRsts"), "{resets:?}");
    assert_eq!(sent, 1000, "{resets:?}");
    // On the loopback whatever is sent is received.
    assert_eq!(resets[&texts(&["received", ""])], 1000, "{resets:?}");
    // Where the kernel says why (6.10 and later), it is said in its words.
    if resets.keys().any(|key| key[0] == "sent" && !key[1].is_empty()) {
        assert_eq!(resets[&texts(&["sent", "NO_SOCKET"])], 700, "{resets:?}");
    }
    let rows = memory.rows("tcp_resets", &["count"]).len();
    assert!(rows < 1700, "{rows} rows, of which some stand for several resets");
    // Those of sockets are their processes'.
    let refused = memory.rows("tcp_resets", &["direction", "dst_port", "service"]);
    let whose = |direction: &str, port: &str| {
        let of = |row: &&Vec<String>| row[0] == direction && row[1] == port;
        refused.iter().filter(of).map(|row| row[2].clone()).collect::<Vec<_>>()
    };
    let received = whose("received", "9");
    assert!(!received.is_empty() && received.iter().all(|name| name == "tcp"), "{received:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_again_is_as_much_as_the_network_counts() {
    let _alone = alone().await;
    if !may_load() || !are_installed(&["python3", "nstat", "nft"]) {
        return;
    }
    let (memory, counted) = watched("undine-loss", |place, player| {
        // One of eight data segments is lost when it arrives; but for the handshake, so that only what
        // is sent again for data is counted.
        place.run("nft", &["add table inet undine"]);
        place.run(
            "nft",
            &["add chain inet undine in { type filter hook input priority 0 ; policy accept ; }"],
        );
        place.run(
            "nft",
            &["add rule inet undine in tcp dport 4707 meta length > 500 numgen inc mod 8 0 \
               counter drop"],
        );
        player.ask(&format!("stream {BYTES}"));
    })
    .await;
    let again = counted("TcpRetransSegs");
    assert!(again > 0);
    let sum: u64 = sums(&memory, "tcp_retransmits", &[]).values().sum();
    assert_eq!(sum, again);
    let retransmits = sums(&memory, "tcp_retransmits", &["src_ip", "dst_port", "service"]);
    assert_eq!(retransmits.keys().collect::<Vec<_>>(), [&texts(&["127.0.0.1", "4707", "tcp"])]);
    // The socket's own statistics say the same.
    let columns = ["remote_port", "tx", "rx", "retransmits", "state"];
    let ends = memory.rows("tcp_stats_events", &columns);
    let last = ends.iter().rfind(|row| row[0] == "4707").unwrap();
    assert_eq!(last[1..4], texts(&[&BYTES.to_string(), "0", &again.to_string()]), "{ends:?}");
    let server = ends.iter().rfind(|row| row[0] != "4707").unwrap();
    assert_eq!(server[1..4], texts(&["0", &BYTES.to_string(), "0"]), "{ends:?}");
    // What the filter threw away is told with the reason, by the socket that did not get it.
    let drops = sums(&memory, "tcp_drops", &["reason", "src_port"]);
    assert!(drops[&texts(&["NETFILTER_DROP", "4707"])] > 0, "{drops:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_filter_throws_away_is_told_to_the_last_packet() {
    let _alone = alone().await;
    if !may_load() || !are_installed(&["python3", "nstat", "nft"]) {
        return;
    }
    let mut dropped = 0;
    let (memory, _) = watched("undine-drops", |place, player| {
        place.run("nft", &["add table inet undine"]);
        place.run(
            "nft",
            &["add chain inet undine in { type filter hook input priority 0 ; policy accept ; }"],
        );
        place.run(
            "nft",
            &["add rule inet undine in tcp dport 4707 meta length > 500 numgen inc mod 4 0 \
               counter drop"],
        );
        player.ask("stream 2000000");
        let rule = place.run("nft", &["list", "table", "inet", "undine"]);
        let packets = rule.split("counter packets ").nth(1).unwrap();
        dropped = packets.split(' ').next().unwrap().parse::<u64>().unwrap();
    })
    .await;
    assert!(dropped > 0);
    let drops = sums(&memory, "tcp_drops", &["reason"]);
    assert_eq!(drops[&texts(&["NETFILTER_DROP"])], dropped, "{drops:?}");
}
