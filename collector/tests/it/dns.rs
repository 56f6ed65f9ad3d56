//! Every query that a real DNS server logged is a row at its end, and one at the client's.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use undine_collector::collector::Stats;
use undine_collector::{Config, Hooks, SourceConfig};
use undine_testbed::Server;
use undine_testbed::dnsmasq::{self, Dnsmasq, READY};

use super::kernel::{alone, config, may_load};
use super::memory::Memory;
use super::place::{Place, Program, are_installed, wait_until};
use super::replay::replay;
use super::watch::{running_while, seen_while};

/// How often each question was asked.
type Questions = BTreeMap<(String, String), u64>;

const COLUMNS: [&str; 8] = [
    "trace_role",
    "query_name",
    "query_type",
    "rcode",
    "resp_body",
    "remote_addr",
    "remote_port",
    "quality",
];

/// What `quality` says of a query without a response.
const UNANSWERED: &str = "4";

/// The queries that a server logged.
fn logged(log: &str) -> Questions {
    let mut questions = Questions::new();
    for line in log.lines() {
        let Some((_, query)) = line.split_once("query[") else { continue };
        let (kind, rest) = query.split_once("] ").unwrap();
        let name = rest.split(' ').next().unwrap().to_lowercase();
        *questions.entry((name, kind.to_owned())).or_default() += 1;
    }
    questions
}

/// Asks with `dig`.
fn dig(place: &Place, args: &[&str]) -> String {
    let always = ["@127.0.0.1", "+tries=1", "+time=5"];
    place.run("dig", &[always.as_slice(), args].concat())
}

/// What the C library finds, which asks for both kinds of addresses at once.
fn getaddrinfo(place: &Place, dir: &Path, name: &str) -> String {
    let file = dir.join("resolv.conf");
    std::fs::write(&file, "nameserver 127.0.0.1\n").unwrap();
    let script = "mount --bind \"$0\" /etc/resolv.conf && exec getent ahosts \"$1\"";
    place.run("unshare", &["--mount", "sh", "-c", script, file.to_str().unwrap(), name])
}

/// What was seen while some work was done.
struct Seen {
    memory: Arc<Memory>,
    logged: Questions,
    stats: Stats,
}

impl Seen {
    /// The questions in the rows of one end.
    fn asked(&self, role: &str) -> Questions {
        let mut questions = Questions::new();
        for row in self.memory.rows("dns_events", &COLUMNS) {
            // What was asked before the server was there.
            let is_early = row[1] == READY && row[3] == "-1";
            if row[0] == role && !is_early {
                *questions.entry((row[1].clone(), row[2].clone())).or_default() += 1;
            }
        }
        questions
    }

    fn check(&self) {
        assert!(self.stats.drained, "{:?}", self.stats);
        assert_eq!(self.stats.kernel.dropped, 0);
        assert_eq!(self.stats.missing_rows.max, 0, "{:?}", self.stats);
        assert_eq!(self.asked("2"), self.logged, "the server's end");
        assert_eq!(self.asked("1"), self.logged, "the client's end");
        assert_eq!(self.memory.rows("data_loss", &["reason"]), Vec::<Vec<String>>::new());
        for row in self.memory.rows("dns_events", &COLUMNS) {
            assert_eq!(row[5], "127.0.0.1", "{row:?}");
            assert!(row[7] == "0" || row[1] == READY, "{row:?}");
            assert!(row[0] == "2" || row[6] == "53", "{row:?}");
        }
    }
}

/// So many questions for `dnsperf`, of all kinds.
fn questions(dir: &Path, count: usize) -> String {
    let file = dir.join("queries");
    let lines: String = (0..count)
        .map(|number| match number % 4 {
            0 => format!("n{number}.dyn.test A\n"),
            1 => "shop.test AAAA\n".to_owned(),
            2 => format!("n{number}.test A\n"),
            _ => "www.test A\n".to_owned(),
        })
        .collect();
    std::fs::write(&file, lines).unwrap();
    file.to_str().unwrap().to_owned()
}

/// Asks every question once, and expects `dnsperf` to get every response.
fn dnsperf(place: &Place, questions: &str, count: usize) {
    let said = place
        .run("dnsperf", &["-s", "127.0.0.1", "-n", "1", "-c", "4", "-q", "50", "-d", questions]);
    let line = |start| said.lines().find(|line| line.contains(start)).unwrap_or_default();
    println!("{} {}", line("Queries completed"), line("Queries per second"));
    assert!(said.contains(&format!("{count} (100.00%)")), "{said}");
}

async fn watch(config: Config, place: &Place, work: impl FnOnce(&Place, &Path)) -> Seen {
    Box::pin(watch_after(|_, _| (), config, place, work)).await
}

/// The same, where nobody reads the ring while the work of `unread` is done.
async fn watch_after(
    unread: impl FnOnce(&Place, &Path),
    config: Config,
    place: &Place,
    work: impl FnOnce(&Place, &Path),
) -> Seen {
    let dir = tempfile::tempdir().unwrap();
    let memory = Arc::new(Memory::default());
    let append = Arc::clone(&memory);
    let collector = config.build(append).unwrap();
    let server = tokio::task::block_in_place(|| {
        let server = Dnsmasq::start(place, dir.path()).unwrap();
        unread(place, dir.path());
        server
    });
    let (stats, ()) = running_while(collector, || work(place, dir.path())).await;
    let logged = logged(&server.stop().unwrap());
    Seen { memory, logged, stats }
}

fn ask_in_every_way(place: &Place, dir: &Path) {
    for kind in ["A", "AAAA", "TXT", "MX", "ANY"] {
        assert!(dig(place, &["shop.test", kind]).contains("NOERROR"));
        assert!(dig(place, &["+tcp", "shop.test", kind]).contains("NOERROR"));
    }
    assert!(dig(place, &["www.test"]).contains("10.1.2.3"));
    assert!(dig(place, &["_http._tcp.test", "SRV"]).contains("shop.test"));
    assert!(dig(place, &["gone.test"]).contains("NXDOMAIN"));
    assert!(dig(place, &["other.example"]).contains("REFUSED"));
    assert!(dig(place, &["+keepopen", "+tcp", "a.dyn.test", "b.dyn.test"]).contains("10.9.9.9"));
    assert!(getaddrinfo(place, dir, "shop.test").contains("fd00::7"));
    assert!(getaddrinfo(place, dir, "www.test").contains("10.1.2.3"));
}

fn check_answers(seen: &Seen) {
    let rows = seen.memory.rows("dns_events", &COLUMNS);
    for (name, kind, rcode, body) in [
        ("shop.test", "A", "0", r#"{"name":"shop.test","type":"A","addr":"10.1.2.3"}"#),
        ("shop.test", "AAAA", "0", r#"{"name":"shop.test","type":"AAAA","addr":"fd00::7"}"#),
        ("shop.test", "TXT", "0", r#"{"name":"shop.test","type":"TXT"}"#),
        ("shop.test", "MX", "0", r#"{"name":"shop.test","type":"MX","target":"mail.test"}"#),
        ("www.test", "A", "0", r#"{"name":"www.test","type":"CNAME","cname":"shop.test"}"#),
        ("gone.test", "A", "3", r#"{"answers":[]}"#),
        ("other.example", "A", "5", r#"{"answers":[]}"#),
    ] {
        for role in ["1", "2"] {
            let mut of = rows.iter().filter(|row| row[..3] == [role, name, kind]).peekable();
            assert!(of.peek().is_some(), "{role} {name} {kind}");
            for row in of {
                assert!(row[3] == rcode && row[4].contains(body), "{row:?}");
            }
        }
    }
}

async fn every_way(hooks: Hooks) {
    let _alone = alone().await;
    if !may_load() || !are_installed(&["dnsmasq", "dig"]) {
        return;
    }
    let place = Place::new("undine-dns");
    let mut config = config(&place.cgroup, 16 << 20, None);
    if let SourceConfig::Kernel { hooks: wanted, .. } = &mut config.source {
        *wanted = Some(hooks);
    }
    let seen = Box::pin(watch(config, &place, ask_in_every_way)).await;
    println!("{} queries, {:?}", seen.logged.values().sum::<u64>(), seen.stats);
    seen.check();
    check_answers(&seen);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_dig_and_the_c_library_ask_is_what_dnsmasq_logged() {
    Box::pin(every_way(Hooks::SocketLength)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sys_exit_sees_the_same_queries() {
    Box::pin(every_way(Hooks::SysExit)).await;
}

/// A server at a port that is not watched asks another one, from sockets that are not connected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_forwarder_asks_is_seen_and_what_it_is_asked_at_another_port_is_not() {
    let _alone = alone().await;
    if !may_load() || !are_installed(&["dnsmasq", "dig"]) {
        return;
    }
    let place = Place::new("undine-dns-forward");
    let work = |place: &Place, _dir: &Path| {
        let mut forwarder = dnsmasq::command(place);
        forwarder.args(["--port=5300", "--no-resolv", "--no-hosts"]);
        let _forwarder =
            Server::start(forwarder.args(["--server=127.0.0.1", "--cache-size=0"])).unwrap();
        let ask = ["@127.0.0.1", "-p", "5300", "+tries=1", "+time=1"];
        place.wait_for("dig", &[ask.as_slice(), &[READY]].concat());
        for number in 0..50 {
            let name = format!("f{number}.dyn.test");
            let said = place.run("dig", &[ask.as_slice(), &[&name]].concat());
            assert!(said.contains("10.9.9.9"), "{said}");
        }
    };
    let seen = Box::pin(watch(config(&place.cgroup, 16 << 20, None), &place, work)).await;
    let rows = seen.memory.rows("dns_events", &COLUMNS);
    for number in 0..50 {
        let name = format!("f{number}.dyn.test");
        let of: Vec<_> = rows.iter().filter(|row| row[1] == name).collect();
        let roles: String = of.iter().map(|row| row[0].as_str()).collect();
        assert!(roles == "21" || roles == "12", "{name}: {roles}");
        assert!(of.iter().all(|row| row[3] == "0" && row[4].contains("10.9.9.9")), "{of:?}");
    }
    seen.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_query_of_dnsperf_is_a_row_at_both_ends_and_in_a_recording() {
    let _alone = alone().await;
    if !may_load() || !are_installed(&["dnsmasq", "dig", "dnsperf"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let recording = dir.path().join("dns.undine");
    let place = Place::new("undine-dnsperf");
    let config = config(&place.cgroup, 32 << 20, Some(recording.clone()));
    let work = |place: &Place, dir: &Path| {
        dnsperf(place, &questions(dir, 2000), 2000);
    };
    let seen = Box::pin(watch(config, &place, work)).await;
    println!("{:?}", seen.stats);
    seen.check();
    assert!(seen.asked("1").values().sum::<u64>() > 2000);
    let rows = |memory: &Memory| {
        let mut rows = memory.rows("dns_events", &[COLUMNS.as_slice(), &["latency"]].concat());
        rows.sort();
        rows
    };
    let replayed = Box::pin(replay(&recording)).await;
    assert_eq!(rows(&replayed), rows(&seen.memory));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_small_ring_loses_is_within_the_bounds() {
    const COUNT: usize = 10_000;
    let _alone = alone().await;
    if !may_load() || !are_installed(&["dnsmasq", "dig", "dnsperf"]) {
        return;
    }
    let place = Place::new("undine-dns-ring");
    let work = |place: &Place, dir: &Path| dnsperf(place, &questions(dir, COUNT), COUNT);
    let config = config(&place.cgroup, 64 * 1024, None);
    let seen = Box::pin(watch_after(work, config, &place, work)).await;
    let Stats { kernel, pipeline, missing_rows, .. } = seen.stats;
    println!("{:?}", seen.stats);
    assert!(kernel.dropped_datagrams > 0);
    assert_eq!(kernel.operations, pipeline.operations + kernel.dropped_operations);
    assert_eq!(kernel.operation_bytes, pipeline.bytes + kernel.dropped_bytes);
    let asked = 2 * seen.logged.values().sum::<u64>();
    let rows = seen.stats.rows.dns_events;
    assert!((rows + missing_rows.min..=rows + missing_rows.max).contains(&asked), "{asked}");
    // What is paired is right: whatever exists has its address, whatever does not its code.
    for row in seen.memory.rows("dns_events", &COLUMNS) {
        if row[3] == "-1" {
            continue;
        }
        let exists = row[1].ends_with(".dyn.test") || ["shop.test", "www.test"].contains(&&*row[1]);
        assert_eq!((row[3].as_str(), row[7].as_str()), (if exists { "0" } else { "3" }, "0"));
        let address = if row[2] == "AAAA" { "fd00::7" } else { "10." };
        assert_eq!(row[4].contains(address), exists, "{row:?}");
    }
}

/// Says `ready` once it holds the port of DNS, reads what it is asked, and never answers.
const MUTE: &str = "
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(('127.0.0.1', 53))
print('ready', flush=True)
while True:
    server.recv(4096)
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_that_nobody_answers_is_a_row_at_both_ends_while_its_client_still_waits() {
    let _alone = alone().await;
    if !may_load() || !are_installed(&["dig", "python3"]) {
        return;
    }
    let place = Place::new("undine-dns-mute");
    let _server = Program::start(place.command("python3").args(["-c", MUTE]));
    let config = config(&place.cgroup, 4 << 20, None);
    let (memory, stats, is_waiting) = seen_while(config, |memory| {
        let mut dig = place.command("dig");
        dig.args(["@127.0.0.1", "+tries=1", "+time=60", "nobody.test", "A"]);
        let mut dig = dig.stdout(Stdio::null()).spawn().unwrap();
        wait_until("both ends' rows", || memory.rows("dns_events", &["rcode"]).len() == 2);
        let is_waiting = dig.try_wait().unwrap().is_none();
        dig.kill().unwrap();
        dig.wait().unwrap();
        is_waiting
    })
    .await;
    assert!(is_waiting, "rows came of the client's end, not of the time that it had waited");
    let columns = [COLUMNS.as_slice(), &["latency"]].concat();
    let mut rows = memory.rows("dns_events", &columns);
    rows.sort();
    let row = |role, address, port| {
        let row = [role, "nobody.test", "A", "-1", "{}", address, port, UNANSWERED, "0"];
        row.map(str::to_owned).to_vec()
    };
    // A server learns who its clients are when it answers them.
    assert_eq!(rows, [row("1", "127.0.0.1", "53"), row("2", "-", "0")]);
    assert_eq!((stats.kernel.dropped, stats.missing_rows.max), (0, 0), "{stats:?}");
}
