//! Each way to see the bytes of sockets, with each build of the programs: every request is a row.

mod tls;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use undine_collector::collector::Stats;
use undine_collector::kernel::{Outcome, probe_report};
use undine_collector::{Config, Hooks, Object, SourceConfig};
use undine_testbed::http::Response;
use undine_testbed::nginx::{self, Nginx};

use super::http;
use super::kernel::{alone, check_pairs, config, may_load};
use super::memory::Memory;
use super::mmsg::{address_of, name_of};
use super::place::{Place, Program, are_installed};
use super::tls_scene::count;
use super::watch::seen_while;

/// A server and a client of our own, not told anything yet.
pub(crate) struct Pair {
    pub(crate) server: Program,
    pub(crate) client: Program,
}

/// Runs `act` on a server and a client in `place` while `config` watches, and gives what was seen
/// and counted.
pub(crate) async fn observed(
    place: &Place,
    config: Config,
    act: impl FnOnce(&mut Pair),
) -> (Arc<Memory>, Stats) {
    let mut pair = Pair { server: http::start(place), client: http::start(place) };
    all_seen_while(config, || act(&mut pair)).await
}

/// Runs `act` while `config` watches, and gives what was seen and counted, of which nothing is lost.
async fn all_seen_while(config: Config, act: impl FnOnce()) -> (Arc<Memory>, Stats) {
    let (memory, stats, ()) = seen_while(config, |_| act()).await;
    assert_eq!(stats.kernel.dropped, 0, "{stats:?}");
    (memory, stats)
}

/// What the kernel lists where programs may stand on its functions.
const FUNCTIONS: &str = "/sys/kernel/tracing/available_filter_functions";

/// Whether this kernel has what `hooks` need; says so where not.
pub(crate) fn has(hooks: Hooks) -> bool {
    match hooks {
        Hooks::SysExit => true,
        Hooks::SocketLength => {
            let reports = probe_report().unwrap();
            let missing = reports.iter().any(|report| {
                report.probe == "sock_send_length" && matches!(report.outcome, Outcome::Missing(_))
            });
            if missing {
                println!("skipped: this kernel has no tracepoint sock_send_length");
            }
            !missing
        }
        Hooks::SocketFunctions => {
            let listed = fs::read_to_string(FUNCTIONS).unwrap_or_default();
            let may_stand = listed.lines().any(|function| function == "inet_sendmsg");
            if !may_stand {
                println!("skipped: this kernel lets no program stand on its functions");
            }
            may_stand
        }
    }
}

/// A place, and how it is watched, where this kernel has what that needs.
fn scene(wanted: Hooks, build: Object) -> Option<(Place, Config)> {
    if !may_load() || !has(wanted) {
        return None;
    }
    let place = Place::new("undine-hooks");
    let mut config = config(&place.cgroup, 4 << 20, None);
    if let SourceConfig::Kernel { hooks, object, .. } = &mut config.source {
        (*hooks, *object) = (Some(wanted), build);
    }
    Some((place, config))
}

/// Checks that no row is missing, and that all bytes were read but those that `bypassed` every buffer.
fn nothing_is_missing(memory: &Memory, stats: &Stats, bypassed: usize) {
    assert_eq!(stats.missing_rows.max, 0, "{stats:?}");
    let losses = memory.rows("data_loss", &["reason", "rows_max", "bytes"]);
    assert!(losses.iter().all(|loss| loss[..2] == ["bypassed", "0"]), "{losses:?}");
    assert_eq!(memory.sum("data_loss", "bytes"), bypassed as u64, "{losses:?}");
}

async fn every_request_is_a_row(wanted: Hooks, build: Object) {
    let _alone = alone().await;
    let Some((place, config)) = scene(wanted, build) else { return };
    let (memory, stats) = observed(&place, config, |pair| {
        pair.server.tell("serve");
        let port = pair.server.hear("port");
        pair.client.tell(&format!("load {port} 4 50"));
        pair.client.hear("loaded");
    })
    .await;
    assert_eq!(check_pairs(&memory), 200, "{stats:?}");
    nothing_is_missing(&memory, &stats, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_is_a_row_through_the_sockets_tracepoints() {
    every_request_is_a_row(Hooks::SocketLength, Object::Fitting).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_is_a_row_through_the_sockets_functions() {
    every_request_is_a_row(Hooks::SocketFunctions, Object::Fitting).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_is_a_row_through_the_end_of_system_calls() {
    every_request_is_a_row(Hooks::SysExit, Object::Fitting).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_is_a_row_through_the_programs_for_older_kernels() {
    every_request_is_a_row(Hooks::SysExit, Object::Before5_17).await;
}

/// Where nginx listens, in a network of its own.
const PORT: u16 = 8080;
/// Bytes of a file that nginx sends without having them in a buffer.
const FILE_BYTES: usize = 10_000;
/// Connections to nginx, and requests on each.
const LOAD: (usize, usize) = (4, 50);

/// What a started program runs: `get CONNECTIONS REQUESTS` of nginx, every other one for the file.
#[test]
#[ignore = "a program that other tests start"]
fn program() {
    println!("\nready");
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let ["get", connections, requests] = line.split(' ').collect::<Vec<_>>()[..] else {
            return;
        };
        let requests = requests.parse().unwrap();
        let threads: Vec<_> = (0..connections.parse().unwrap())
            .map(|connection| std::thread::spawn(move || get(connection, requests)))
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        println!("\ngot");
    }
}

/// Makes requests on one connection, each after the last one's response.
fn get(connection: usize, requests: usize) {
    let stream = TcpStream::connect(("127.0.0.1", PORT)).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut stream = BufReader::with_capacity(16 * 1024, stream);
    for request in 0..requests {
        let path = if request % 2 == 0 {
            format!("/said/{connection}/{request}")
        } else {
            format!("/file?{connection}.{request}")
        };
        write!(stream.get_mut(), "GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        Response::read(&mut stream, "GET").unwrap();
    }
}

/// Starts nginx in `place`, with all that it needs and writes in `folder`.
fn start_nginx(place: &Place, folder: &Path) -> Nginx {
    // It gives up the rights of root.
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    let http = format!(
        "sendfile on; root {}; server {{
           listen 127.0.0.1:{PORT};
           location /said/ {{ return 200 'you asked for $request_uri'; }}
         }}",
        folder.display()
    );
    fs::write(folder.join("file"), "0123456789".repeat(FILE_BYTES / 10)).unwrap();
    let log = Some("$request_uri $status $body_bytes_sent");
    let config = nginx::Config { port: PORT, workers: 2, log, http: &http };
    Nginx::start(place.command("nginx"), place, folder, config).unwrap()
}

async fn what_nginx_logs_is_what_is_seen(wanted: Hooks) {
    let _alone = alone().await;
    if !are_installed(&["nginx"]) {
        return;
    }
    let Some((place, config)) = scene(wanted, Object::Fitting) else { return };
    let folder = tempfile::tempdir().unwrap();
    let exe = std::env::current_exe().unwrap();
    let mut client = Program::start_test(place.command(exe), "it::hooks::program");
    let server = start_nginx(&place, folder.path());
    let (connections, requests) = LOAD;
    let all = connections * requests;
    let (memory, stats) = all_seen_while(config, || {
        client.tell(&format!("get {connections} {requests}"));
        client.hear("got");
    })
    .await;
    drop(client);
    let logged = count(server.stop().unwrap().lines().map(str::to_owned));
    let rows = memory.rows("http_events", &["req_path", "resp_status", "resp_body_size"]);
    let seen = count(rows.iter().map(|row| row.join(" ")));
    println!("{} rows of {all} requests to nginx through {wanted}", rows.len());
    assert_eq!(seen, logged);
    assert_eq!(seen.values().sum::<usize>(), all);
    nothing_is_missing(&memory, &stats, all / 2 * FILE_BYTES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_to_nginx_is_a_row_through_the_sockets_tracepoints() {
    what_nginx_logs_is_what_is_seen(Hooks::SocketLength).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_to_nginx_is_a_row_through_the_sockets_functions() {
    what_nginx_logs_is_what_is_seen(Hooks::SocketFunctions).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_to_nginx_is_a_row_through_the_end_of_system_calls() {
    what_nginx_logs_is_what_is_seen(Hooks::SysExit).await;
}

/// Queries, and how many of them one call sends.
const QUERIES: (u16, u16) = (200, 8);

/// Later messages of a call take another way through the kernel than the first.
async fn every_message_of_a_call_is_seen(wanted: Hooks) {
    let _alone = alone().await;
    let Some((place, config)) = scene(wanted, Object::Fitting) else { return };
    let exe = std::env::current_exe().unwrap();
    let start = || Program::start_test(place.command(&exe), "it::mmsg::program");
    let (mut server, mut client) = (start(), start());
    let (queries, batch) = QUERIES;
    let (memory, stats) = all_seen_while(config, || {
        server.tell("answer");
        server.hear("answering");
        client.tell(&format!("ask {queries} {batch}"));
        client.hear("answered");
    })
    .await;
    drop((server, client));
    let columns = ["trace_role", "query_name", "rcode", "resp_body"];
    let mut rows = memory.rows("dns_events", &columns);
    rows.sort();
    println!("{} rows of {queries} queries at both ends through {wanted}", rows.len());
    let row = |role: &str, number: u16| {
        let (name, address) = (name_of(number), address_of(number));
        let body = format!(r#"{{"answers":[{{"name":"{name}","type":"A","addr":"{address}"}}]}}"#);
        vec![role.to_owned(), name, "0".to_owned(), body]
    };
    let mut expected: Vec<_> = ["1", "2"]
        .into_iter()
        .flat_map(|role| (0..queries).map(move |number| row(role, number)))
        .collect();
    expected.sort();
    assert_eq!(rows, expected);
    // A query and a response, each sent and received.
    assert_eq!(stats.kernel.operations, 4 * u64::from(queries), "{stats:?}");
    nothing_is_missing(&memory, &stats, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_message_of_a_call_is_seen_through_the_sockets_tracepoints() {
    every_message_of_a_call_is_seen(Hooks::SocketLength).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_message_of_a_call_is_seen_through_the_sockets_functions() {
    every_message_of_a_call_is_seen(Hooks::SocketFunctions).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_message_of_a_call_is_seen_through_the_end_of_system_calls() {
    every_message_of_a_call_is_seen(Hooks::SysExit).await;
}
