//! What programs say inside TLS, against the servers' own records.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::sync::Arc;

use undine_collector::Cgroup;
use undine_testbed::mariadb::{self, Mariadb};
use undine_testbed::postgres::Postgres;
use undine_testbed::{Server, redis};

use super::kernel::alone;
use super::memory::Memory;
use super::place::{skip, succeed, wait_until};
use super::postgres::{logged, programs};
use super::tls_scene::{
    PORT, RING_BYTES, Scene, can_run, check_nothing_is_lost, count, count_lines, http_rows,
    wait_for_probe,
};
use super::watch::running_while;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_that_nginx_logged_is_a_row_also_inside_tls() {
    let _alone = alone().await;
    if !can_run(&["nginx", "curl"]) {
        return;
    }
    let scene = Scene::new("undine-tls-nginx");
    // Before the collector; its clients come after.
    let nginx = scene.nginx();
    let (memory, stats, ()) = scene
        .watch(RING_BYTES, |scene, _| {
            let one = ["-sk", "--http1.1", "-o", "/dev/null"];
            for path in ["/of/a", "/of/b?c=d", "/gone", "/0", "/20000", "/400000", "/nothing"] {
                scene.run("curl", &[&one[..], &[&Scene::url(path)]].concat());
            }
            scene.run("curl", &[&one[..], &["-d", "hello", &Scene::url("/of/post")]].concat());
            // Many on one connection, one after the other, and over HTTP/2 at once.
            let many = Scene::url("/of/many/[1-300]");
            scene.run("curl", &["-sk", "--http1.1", &many]);
            scene.run("curl", &["-sk", "--http2", &Scene::url("/of/h2/[1-50]")]);
            let parallel = ["-sk", "--http2", "--parallel", "--parallel-max", "8"];
            scene.run("curl", &[&parallel[..], &[&Scene::url("/of/parallel/[1-100]")]].concat());
        })
        .await;
    let rows = http_rows(&memory);
    assert_eq!(rows, count_lines(&nginx.stop().unwrap()));
    assert_eq!(rows.values().sum::<usize>(), 458);
    check_nothing_is_lost(&memory, &stats);
    // The client's ends were seen too, and each row is kept once, those of handshakes as well.
    assert_eq!(stats.pipeline.rows_of_other_end, 458 + stats.rows.tls_events);
    // Bytes on the wire are counted once, by connection, and say that they are TLS.
    let served = |row: &&Vec<String>| row[0] == "2" && row[1] != "0";
    let wire = memory.rows("conn_stats", &["trace_role", "protocol", "ssl", "conn_open"]);
    let wire: Vec<_> = wire.iter().filter(served).collect();
    assert!(!wire.is_empty() && wire.iter().all(|row| row[2] == "true"), "{wire:?}");
}

/// Mounts a container's file system over an image, and runs nginx with the libraries in it.
const IN_A_CONTAINER: &str = r#"
mount -t tmpfs none "$2" && mkdir "$2/upper" "$2/work" "$2/root" &&
mount -t overlay none -o lowerdir="$1",upperdir="$2/upper",workdir="$2/work" "$2/root" &&
export LD_LIBRARY_PATH="$2/root" && shift 2 && exec nginx "$@"
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_library_in_a_containers_overlay_is_read() {
    let _alone = alone().await;
    if !can_run(&["nginx", "curl", "unshare"]) {
        return;
    }
    let scene = Scene::new("undine-tls-overlay");
    let elsewhere = Cgroup::create("undine-tls-overlay-client").unwrap();
    let (image, mounted) = (scene.path("image"), scene.path("container"));
    fs::create_dir(&mounted).unwrap();
    // So that nothing else maps these files.
    succeed(Command::new("cp").arg("-r").arg(scene.path("lib")).arg(&image));
    let mut container = scene.place.command("unshare");
    container.args(["--mount", "sh", "-c", IN_A_CONTAINER, "sh"]).args([&image, &mounted]);
    let nginx = scene.nginx_by(container, PORT);
    let (memory, stats, ()) = scene
        .watch(RING_BYTES, |scene, _| {
            let mut curl = scene.bed().command_in(&elsewhere, "curl");
            curl.args(["-sk", "--http1.1", &Scene::url("/of/[1-20]")]);
            succeed(&mut curl);
        })
        .await;
    let rows = http_rows(&memory);
    assert_eq!(rows, count_lines(&nginx.stop().unwrap()));
    assert_eq!(rows.values().sum::<usize>(), 20);
    check_nothing_is_lost(&memory, &stats);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ring_that_is_too_small_loses_rows_of_tls_within_bounds() {
    let _alone = alone().await;
    if !can_run(&["nginx", "h2load"]) {
        return;
    }
    let scene = Scene::new("undine-tls-starved");
    let nginx = scene.nginx();
    let memory = Arc::new(Memory::default());
    let append = Arc::clone(&memory);
    let collector = scene.config(None, 64 * 1024).build(append).unwrap();
    let load = || {
        let load = ["--h1", "-n", "6000", "-c", "32", "-t", "1"];
        scene.run("h2load", &[&load[..], &[&Scene::url("/of/much")]].concat());
    };
    // Nobody reads yet, so the ring fills.
    load();
    let (stats, ()) = running_while(collector, load).await;
    let truth = nginx.stop().unwrap().lines().count() as u64;
    assert!(stats.kernel.dropped > 0, "{stats:?}");
    let rows = memory.rows("http_events", &["encrypted", "req_path", "resp_body_size"]);
    for row in &rows {
        assert_eq!(row[..], ["true", "/of/much", "22"], "{row:?}");
    }
    let missing = truth - rows.len() as u64;
    println!("missing {missing} of {truth}, {:?}", stats.missing_rows);
    assert!(stats.missing_rows.min <= missing && missing <= stats.missing_rows.max);
    // Plaintexts were cut before any was lost.
    let shed: u64 = stats.kernel.shed_operations.iter().sum();
    assert!(shed > 0, "{stats:?}");
    let (dropped, dropped_bytes) = (stats.kernel.dropped_operations, stats.kernel.dropped_bytes);
    assert_eq!(memory.sum("data_loss", "operations"), dropped + shed);
    assert_eq!(memory.sum("data_loss", "bytes"), dropped_bytes + stats.kernel.shed_bytes);
}

/// Serves TLS, writes what it answered to a file, and answers `/of/N` with N bytes.
const PYTHON_SERVER: &str = r#"
import http.server, ssl, sys
certificate, key, log, port = sys.argv[1:]
record = open(log, "w", buffering=1)
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = b"x" * int(self.path.rsplit("/", 1)[1])
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        print(self.command, self.path, 200, len(body), file=record)
        self.wfile.write(body)
    def log_message(self, *args):
        pass
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Handler)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"#;

/// Asks on three connections, of which each is used often.
const PYTHON_CLIENT: &str = r#"
import http.client, ssl, sys
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
for first in range(3):
    client = http.client.HTTPSConnection("127.0.0.1", int(sys.argv[1]), context=context)
    for number in range(50):
        client.request("GET", f"/of/{first}/{number * number * 40}")
        client.getresponse().read()
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_pythons_ssl_module_says_is_read_at_both_ends() {
    let _alone = alone().await;
    let python = "/usr/bin/python3";
    if !can_run(&[python]) {
        return;
    }
    if !Command::new(python).args(["-c", "import http.server, ssl"]).status().unwrap().success() {
        skip("Python has no module ssl");
        return;
    }
    let scene = Scene::new("undine-tls-python");
    let mut command = scene.command(python);
    let _server = scene.serve(command.args(["-c", PYTHON_SERVER]));
    let (memory, stats, truth) = scene
        .watch(RING_BYTES, |scene, _| {
            scene.run(python, &["-c", PYTHON_CLIENT, PORT]);
            scene.access_log()
        })
        .await;
    assert_eq!(http_rows(&memory), truth);
    assert_eq!(stats.pipeline.rows_of_other_end, 150 + stats.rows.tls_events);
    assert_eq!((stats.kernel.dropped, stats.missing_rows.max), (0, 0), "{stats:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_starts_later_is_read_to_the_last_command() {
    let _alone = alone().await;
    if !can_run(&["redis-server", "redis-cli", "redis-benchmark"]) {
        return;
    }
    let scene = Scene::new("undine-tls-redis");
    let (memory, stats, truth) = scene
        .watch(RING_BYTES, |scene, memory| {
            let bed = scene.bed();
            let _server = redis::start(&bed, &[]).unwrap();
            wait_for_probe(memory, "libssl.so.3");
            let run = |program, args: &[&str]| redis::run(&bed, program, args).unwrap();
            run("redis-cli", &["set", "greeting", "hello"]);
            run("redis-cli", &["get", "greeting"]);
            run("redis-benchmark", &["-q", "-n", "2000", "-c", "8", "-t", "set,get,incr"]);
            run("redis-benchmark", &["-q", "-n", "4000", "-c", "4", "-P", "16", "-t", "set"]);
            let counted = redis::counted(&bed).unwrap();
            // The server may still be in the call by which it sent the last reply, and then is ended.
            let calls: u64 = counted.values().sum();
            let rows = || memory.rows("redis_events", &["req_cmd"]).len() as u64;
            wait_until("the last reply to be a row", || rows() == calls);
            counted
        })
        .await;
    let rows = memory.rows("redis_events", &["encrypted", "trace_role", "req_cmd"]);
    let mut calls = BTreeMap::new();
    for row in rows {
        assert_eq!(row[..2], ["true", "2"], "{row:?}");
        *calls.entry(row[2].clone()).or_default() += 1;
    }
    assert_eq!(calls, truth);
    assert_eq!((stats.kernel.dropped, stats.missing_rows.max), (0, 0), "{stats:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql_that_goes_on_inside_tls_is_read_from_the_login_on() {
    let _alone = alone().await;
    if !can_run(&mariadb::PROGRAMS) {
        return;
    }
    let scene = Scene::new("undine-tls-mysql");
    let server = Mariadb::start(scene.bed(), &[]).unwrap();
    let (memory, stats, ()) = scene
        .watch(RING_BYTES, |_, _| {
            for number in 0..5 {
                let sql = format!("select {number}; select repeat('x', 30000); select 'done'");
                succeed(&mut server.client("mariadb", &["-N", "-e", &sql]));
            }
        })
        .await;
    let log = server.log().unwrap();
    let queries = mariadb::entries(&log).into_iter().filter(|(_, command, _)| *command == "Query");
    let truth = count(queries.map(|(_, _, sql)| sql));
    assert_eq!(truth.values().sum::<usize>(), 15);
    let rows = memory.rows("mysql_events", &["encrypted", "trace_role", "req_cmd", "req_body"]);
    for role in ["1", "2"] {
        let rows = rows.iter().filter(|row| row[1] == role && row[2] == "3");
        let rows = count(rows.map(|row| {
            assert_eq!(row[0], "true", "{row:?}");
            row[3].clone()
        }));
        assert_eq!(rows, truth, "role {role}");
    }
    assert_eq!((stats.kernel.dropped, stats.missing_rows.max), (0, 0), "{stats:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_behind_its_request_for_tls_is_read() {
    let _alone = alone().await;
    if !can_run(&["setpriv"]) {
        return;
    }
    let Some(programs) = programs() else { return };
    let scene = Scene::new("undine-tls-pgsql");
    let server = Postgres::start(scene.bed(), &programs, &["log_statement=all"]).unwrap();
    let (memory, stats, ()) = scene
        .watch(RING_BYTES, |_, _| {
            for number in 0..5 {
                let sql = format!("select {number}");
                let queries = ["-c", &sql, "-c", "select repeat('x', 30000)"];
                succeed(server.client("psql").args(["--no-psqlrc", "-q"]).args(queries));
            }
        })
        .await;
    let (statements, _) = logged(&server.stop().unwrap());
    let truth = count(statements.into_iter().map(|statement| statement.request));
    let rows = memory.rows("pgsql_events", &["encrypted", "trace_role", "req_cmd", "req"]);
    let rows = count(rows.iter().filter(|row| row[2] == "Query").map(|row| {
        assert_eq!(row[..2], ["true", "2"], "{row:?}");
        row[3].clone()
    }));
    assert_eq!(rows, truth);
    assert_eq!(rows.values().sum::<usize>(), 10);
    assert_eq!((stats.kernel.dropped, stats.missing_rows.max), (0, 0), "{stats:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_that_was_under_way_is_joined() {
    let _alone = alone().await;
    if !can_run(&["nginx", "h2load"]) {
        return;
    }
    let scene = Scene::new("undine-tls-midway");
    let nginx = scene.nginx();
    let requests = || nginx.logged_so_far().unwrap();
    let mut command = scene.command("h2load");
    command.args(["--h1", "-n", "100000000", "-c", "4", "-t", "1"]).arg(Scene::url("/of/much"));
    let load = Server::start(&mut command).unwrap();
    wait_until("requests", || requests() > 100);
    let before = requests();
    let (memory, stats, after) = scene
        .watch(RING_BYTES, |_, _| {
            let after = requests();
            wait_until("more requests", || requests() > after + 2000);
            drop(load);
            after
        })
        .await;
    let rows = served_rows(&memory);
    let truth = nginx.stop().unwrap().lines().count();
    println!("{before} {after} {truth} requests, {rows} rows, {:?}", stats.missing_rows);
    assert!(rows > 0 && rows <= truth - before, "{rows} rows of {truth} - {before}");
    // On each connection one was under way, one is not trusted, and one was given up.
    assert!(rows + 4 * 4 >= truth - after, "{rows} rows of {truth} - {after}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gnutls_is_read_at_the_clients_end() {
    let _alone = alone().await;
    if !can_run(&["nginx", "wget"]) {
        return;
    }
    let scene = Scene::new("undine-tls-gnutls");
    let nginx = scene.nginx();
    let (memory, stats, ()) = scene
        .watch(RING_BYTES, |scene, memory| {
            let ask = |path: &str| {
                let args = ["--no-check-certificate", "-q", "-O", "/dev/null", &Scene::url(path)];
                scene.run("wget", &args);
            };
            // The first ones may be over before their library is found.
            wait_until("libgnutls to be probed", || {
                ask("/of/first");
                let probes = memory.rows("probe_status", &["tracepoint", "error"]);
                probes.iter().any(|row| row[0].ends_with("libgnutls.so.30") && row[1].is_empty())
            });
            for number in 0..10 {
                ask(&format!("/of/{number}"));
            }
            ask("/400000");
        })
        .await;
    assert_eq!(http_rows(&memory), count_lines(&nginx.stop().unwrap()));
    // Those are of the server's end, where OpenSSL is read. Beside the handshakes, which anyone can read,
    // GnuTLS gives those again that were asked when it was probed.
    assert!(stats.pipeline.rows_of_other_end >= 11 + stats.rows.tls_events, "{stats:?}");
    assert_eq!((stats.kernel.dropped, stats.missing_rows.max), (0, 0), "{stats:?}");
}

/// How many rows there are, after checking that each is right.
fn served_rows(memory: &Memory) -> usize {
    let columns = ["encrypted", "trace_role", "req_path", "resp_status", "resp_body_size"];
    let rows = memory.rows("http_events", &columns);
    for row in &rows {
        assert_eq!(row[..], ["true", "2", "/of/much", "200", "22"], "{row:?}");
    }
    rows.len()
}
