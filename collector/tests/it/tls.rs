//! What programs say inside TLS, against the servers' own records.
//!
//! The programs map private copies of the TLS libraries, so that no other program of this machine
//! can meet a probe.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use undine_collector::{Config, Hooks, SourceConfig, Stats, Tls};

use super::kernel::{alone, config, may_load};
use super::memory::Memory;
use super::place::{Place, Server, are_installed, skip, wait_until};

/// Every test has a network of its own, so it may have any port.
pub(crate) const PORT: &str = "8443";
/// More than any of these tests has in the ring at a time.
pub(crate) const RING_BYTES: u32 = 32 << 20;
/// What a certificate is made by; without extensions it would be one of version 1, which rustls refuses.
const CERTIFICATE: &str = "[req]
distinguished_name = name
x509_extensions = extensions
[name]
[extensions]
basicConstraints = CA:FALSE
subjectAltName = DNS:localhost, IP:127.0.0.1
";
/// Libraries that are copied, where they are.
const LIBRARIES: [&str; 3] = ["libssl.so.3", "libcrypto.so.3", "libgnutls.so.30"];
const LIBRARY_FOLDERS: [&str; 3] =
    ["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/lib/x86_64-linux-gnu"];

/// A place, private libraries, a key and its certificate.
pub(crate) struct Scene {
    pub(crate) place: Place,
    folder: TempDir,
}

impl Scene {
    pub(crate) fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Some servers give up the rights of root.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let libraries = folder.path().join("lib");
        fs::create_dir(&libraries).unwrap();
        for library in LIBRARIES {
            let found = LIBRARY_FOLDERS.iter().map(|folder| Path::new(folder).join(library));
            if let Some(found) = found.into_iter().find(|path| path.exists()) {
                fs::copy(found, libraries.join(library)).unwrap();
            }
        }
        // Where OpenSSL is a program and nothing else, it has no settings of its own.
        let settings = folder.path().join("openssl.cnf");
        fs::write(&settings, CERTIFICATE).unwrap();
        let status = Command::new("openssl")
            .env("OPENSSL_CONF", settings)
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
            .args(["-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout"])
            .arg(folder.path().join("key"))
            .arg("-out")
            .arg(folder.path().join("certificate"))
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "openssl made no certificate: {status}");
        Self { place: Place::new(name), folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// A command whose libraries are the private ones.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = self.place.command(program);
        command.env("LD_LIBRARY_PATH", self.path("lib"));
        command
    }

    /// Runs a command to its successful end.
    pub(crate) fn run(&self, program: &str, args: &[&str]) -> String {
        let output = self.command(program).args(args).stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {args:?} ended with {}: {said}", output.status);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Starts nginx with TLS and waits until it answers; its access log is `access`.
    pub(crate) fn nginx(&self) -> Server {
        self.nginx_by(self.command("nginx"))
    }

    /// As [`Self::nginx`], by a command that runs it.
    pub(crate) fn nginx_by(&self, mut command: Command) -> Server {
        let settings = format!(
            "daemon off; worker_processes 2; user root; pid {pid}; error_log {error};
             events {{ worker_connections 512; }}
             http {{
               log_format truth '$request_method $request_uri $status $body_bytes_sent';
               access_log {access} truth; keepalive_requests 100000;
               client_body_temp_path {folder}; proxy_temp_path {folder};
               fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
               server {{
                 listen 127.0.0.1:{PORT} ssl http2;
                 ssl_certificate {certificate}; ssl_certificate_key {key};
                 root {folder}/files;
                 location /of/ {{ return 200 'you asked for $request_uri'; }}
                 location /gone {{ return 410 'gone'; }}
               }}
             }}",
            pid = self.text("pid"),
            error = self.text("error"),
            access = self.text("access"),
            folder = self.folder.path().display(),
            certificate = self.text("certificate"),
            key = self.text("key"),
        );
        fs::write(self.path("nginx.conf"), settings).unwrap();
        fs::create_dir(self.path("files")).unwrap();
        for bytes in [0_usize, 20_000, 400_000] {
            let file = self.path("files").join(format!("{bytes}"));
            fs::write(file, "0123456789".repeat(bytes / 10)).unwrap();
        }
        let server = Server::start(command.arg("-c").arg(self.path("nginx.conf")));
        // Its log starts with what curl asks here.
        self.place.wait_until_listening(PORT.parse().unwrap());
        server
    }

    /// What nginx says that it was asked, and how often.
    pub(crate) fn access_log(&self) -> BTreeMap<String, usize> {
        count(fs::read_to_string(self.path("access")).unwrap().lines().map(str::to_owned))
    }

    pub(crate) fn url(path: &str) -> String {
        format!("https://127.0.0.1:{PORT}{path}")
    }

    /// Builds a collector that reads TLS and runs `act` while it does.
    pub(crate) async fn watch<T>(
        &self,
        ring_bytes: u32,
        act: impl FnOnce(&Self, &Memory) -> T,
    ) -> (Arc<Memory>, Stats, T) {
        self.watch_through(None, ring_bytes, act).await
    }

    /// As [`Self::watch`], through certain hooks.
    pub(crate) async fn watch_through<T>(
        &self,
        wanted: Option<Hooks>,
        ring_bytes: u32,
        act: impl FnOnce(&Self, &Memory) -> T,
    ) -> (Arc<Memory>, Stats, T) {
        let memory = Arc::new(Memory::default());
        let append = Arc::clone(&memory);
        let mut config =
            Config { body_bytes_max: 64, ..config(&self.place.cgroup, ring_bytes, None) };
        if let SourceConfig::Kernel { tls, hooks, .. } = &mut config.source {
            (*tls, *hooks) = (Tls::Read, wanted);
        }
        let collector = config.build(append).unwrap();
        let handle = collector.handle();
        let shutdown = CancellationToken::new();
        let running = JoinSet::from_iter([Box::pin(collector.run(shutdown.clone()))]);
        let said = tokio::task::block_in_place(|| act(self, &memory));
        let stats = handle.drain().await.unwrap();
        assert!(stats.drained, "{stats:?}");
        assert_eq!(stats.consumed, stats.emitted(), "{stats:?}");
        shutdown.cancel();
        running.join_all().await.into_iter().collect::<Result<(), _>>().unwrap();
        for row in memory.rows("probe_status", &["source_connector", "tracepoint", "error", "info"])
        {
            if row[0] == "tls" {
                println!("{row:?}");
            }
        }
        println!("{stats:?}");
        (memory, stats, said)
    }
}

pub(crate) fn count(texts: impl Iterator<Item = String>) -> BTreeMap<String, usize> {
    let mut counted = BTreeMap::new();
    for text in texts {
        *counted.entry(text).or_default() += 1;
    }
    counted
}

/// Rows of HTTP as the server's log has them, after checking what all have in common.
pub(crate) fn http_rows(memory: &Memory) -> BTreeMap<String, usize> {
    http_rows_of("2", &["0"], memory)
}

/// As [`http_rows`], of one end and some qualities.
pub(crate) fn http_rows_of(
    role: &str,
    qualities: &[&str],
    memory: &Memory,
) -> BTreeMap<String, usize> {
    let columns = [
        "encrypted",
        "trace_role",
        "quality",
        "req_method",
        "req_path",
        "resp_status",
        "resp_body_size",
    ];
    let rows = memory.rows("http_events", &columns);
    count(rows.iter().map(|row| {
        assert_eq!(row[..2], ["true", role], "{row:?}");
        assert!(qualities.contains(&row[2].as_str()), "{row:?}");
        row[3..].join(" ")
    }))
}

pub(crate) fn check_nothing_is_lost(memory: &Memory, stats: &Stats) {
    assert_eq!((stats.kernel.dropped, stats.missing_rows.max), (0, 0), "{stats:?}");
    assert_eq!(stats.pipeline.tls_unbound, 0, "{stats:?}");
    let lost = memory.rows("data_loss", &["reason", "rows_max", "bytes", "detail"]);
    assert_eq!(lost, Vec::<Vec<String>>::new());
}

/// The programs that all tests here need.
pub(crate) fn can_run(programs: &[&str]) -> bool {
    may_load() && are_installed(&["openssl", "nsenter", "bash"]) && are_installed(programs)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_that_nginx_logged_is_a_row_also_inside_tls() {
    let _alone = alone().await;
    if !can_run(&["nginx", "curl"]) {
        return;
    }
    let scene = Scene::new("undine-tls-nginx");
    // Before the collector; its clients come after.
    let _nginx = scene.nginx();
    let (memory, stats, truth) = scene
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
            scene.access_log()
        })
        .await;
    let rows = http_rows(&memory);
    assert_eq!(rows, truth);
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ring_that_is_too_small_loses_rows_of_tls_within_bounds() {
    let _alone = alone().await;
    if !can_run(&["nginx", "h2load"]) {
        return;
    }
    let scene = Scene::new("undine-tls-starved");
    let _nginx = scene.nginx();
    let (memory, stats, truth) = scene
        .watch(64 * 1024, |scene, _| {
            let load = ["--h1", "-n", "6000", "-c", "32", "-t", "1"];
            scene.run("h2load", &[&load[..], &[&Scene::url("/of/much")]].concat());
            scene.access_log().values().sum::<usize>() as u64
        })
        .await;
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
        self.wfile.write(body)
        print(self.command, self.path, 200, len(body), file=record)
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
    command.args(["-c", PYTHON_SERVER]).arg(scene.path("certificate")).arg(scene.path("key"));
    let _server = Server::start(command.arg(scene.path("access")).arg(PORT));
    scene.place.wait_for("bash", &["-c", &format!("</dev/tcp/127.0.0.1/{PORT}")]);
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

/// Waits until a private library or program is probed.
pub(crate) fn wait_for_probe(memory: &Memory, name: &str) {
    wait_until(&format!("{name} to be probed"), || {
        let probes = memory.rows("probe_status", &["source_connector", "tracepoint", "error"]);
        probes.iter().any(|row| row[0] == "tls" && row[1].ends_with(name) && row[2].is_empty())
    });
}

/// Starts a program, waits until `name` of it is probed, and lets it do what it is for, which it
/// begins when it has read a line. Waits for its successful end.
pub(crate) fn run_probed(command: &mut Command, memory: &Memory, name: &str) {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    wait_for_probe(memory, name);
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    let status = child.wait().unwrap();
    assert!(status.success(), "{command:?} ended with {status}");
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
            let mut command = scene.command("redis-server");
            command.args(["--port", "0", "--tls-port", PORT, "--tls-auth-clients", "no"]);
            command.args(["--save", "", "--dir"]).arg(scene.folder.path());
            command.arg("--tls-cert-file").arg(scene.path("certificate"));
            command.arg("--tls-ca-cert-file").arg(scene.path("certificate"));
            let _server = Server::start(command.arg("--tls-key-file").arg(scene.path("key")));
            scene.place.wait_for("bash", &["-c", &format!("</dev/tcp/127.0.0.1/{PORT}")]);
            wait_for_probe(memory, "libssl.so.3");
            let cli = ["-p", PORT, "--tls", "--insecure"];
            scene.run("redis-cli", &[&cli[..], &["set", "greeting", "hello"]].concat());
            scene.run("redis-cli", &[&cli[..], &["get", "greeting"]].concat());
            let load = ["-q", "-n", "2000", "-c", "8", "-t", "set,get,incr"];
            scene.run("redis-benchmark", &[&cli[..], &load].concat());
            let pipelined = ["-q", "-n", "4000", "-c", "4", "-P", "16", "-t", "set"];
            scene.run("redis-benchmark", &[&cli[..], &pipelined].concat());
            let said = scene.run("redis-cli", &[&cli[..], &["info", "commandstats"]].concat());
            let counted = said.lines().filter_map(|line| line.strip_prefix("cmdstat_"));
            let calls = counted.map(|line| {
                let (name, rest) = line.split_once(":calls=").unwrap();
                let calls: usize = rest.split(',').next().unwrap().parse().unwrap();
                (name.split('|').next().unwrap().to_uppercase(), calls)
            });
            let mut truth = BTreeMap::from([("INFO".to_owned(), 1)]);
            calls.for_each(|(name, calls)| *truth.entry(name).or_default() += calls);
            truth
        })
        .await;
    let rows = memory.rows("redis_events", &["encrypted", "trace_role", "req_cmd"]);
    let rows = count(rows.iter().map(|row| {
        assert_eq!(row[..2], ["true", "2"], "{row:?}");
        row[2].clone()
    }));
    assert_eq!(rows, truth);
    assert_eq!((stats.kernel.dropped, stats.missing_rows.max), (0, 0), "{stats:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql_that_goes_on_inside_tls_is_read_from_the_login_on() {
    let _alone = alone().await;
    if !can_run(&["mariadbd", "mariadb-install-db", "mariadb"]) {
        return;
    }
    let scene = Scene::new("undine-tls-mysql");
    let data = format!("--datadir={}", scene.text("data"));
    let own = ["--no-defaults", "--user=root", "--innodb-use-native-aio=0", &data];
    let install = ["--skip-test-db", "--auth-root-authentication-method=normal"];
    scene.place.run("mariadb-install-db", &[&own[..], &install].concat());
    let mut command = scene.command("mariadbd");
    let option = |name: &str, file: &str| format!("--{name}={}", scene.text(file));
    command.args(own).args(["--bind-address=127.0.0.1", "--port", PORT, "--general-log=1"]);
    command.args([option("socket", "socket"), option("pid-file", "pid")]);
    command.args([option("general-log-file", "access"), option("ssl-cert", "certificate")]);
    command.args([option("ssl-key", "key"), "--innodb-buffer-pool-size=32M".to_owned()]);
    let _server = Server::start(&mut command);
    scene.place.wait_for("bash", &["-c", &format!("</dev/tcp/127.0.0.1/{PORT}")]);
    let (memory, stats, ()) = scene
        .watch(RING_BYTES, |scene, _| {
            let client = ["--no-defaults", "--ssl", "-h127.0.0.1", "-P", PORT, "-uroot", "-N"];
            for number in 0..5 {
                let sql = format!("select {number}; select repeat('x', 30000); select 'done'");
                scene.run("mariadb", &[&client[..], &["-e", &sql]].concat());
            }
        })
        .await;
    let log = fs::read(scene.path("access")).unwrap();
    let log = String::from_utf8_lossy(&log);
    let truth = count(
        log.lines().filter_map(|line| line.split_once("Query\t").map(|(_, sql)| sql.to_owned())),
    );
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
    let Some(programs) = super::postgres::Postgres::installed() else { return };
    let scene = Scene::new("undine-tls-pgsql");
    let program = |name: &str| programs.join(name).display().to_string();
    let own = |path: &Path| {
        let owned = Command::new("chown").arg("-R").arg("postgres:").arg(path).status().unwrap();
        assert!(owned.success());
    };
    fs::create_dir(scene.path("pg")).unwrap();
    own(&scene.path("pg"));
    own(&scene.path("key"));
    let data = scene.text("pg/data");
    let user = ["--reuid=postgres", "--regid=postgres", "--clear-groups"];
    let init = ["-N", "-A", "trust", "-U", "me", "-D", &data];
    scene.place.run("setpriv", &[&user[..], &[&program("initdb")], &init].concat());
    let mut command = scene.command("setpriv");
    command.args(user).arg(program("postgres")).args(["-D", &data, "-p", PORT]);
    for setting in [
        "listen_addresses=127.0.0.1",
        "unix_socket_directories=",
        "fsync=off",
        "shared_buffers=16MB",
        "ssl=on",
        &format!("ssl_cert_file={}", scene.text("certificate")),
        &format!("ssl_key_file={}", scene.text("key")),
        "logging_collector=on",
        "log_filename=all.log",
        "log_statement=all",
    ] {
        command.args(["-c", setting]);
    }
    let _server = Server::start(&mut command);
    scene.place.wait_for("bash", &["-c", &format!("</dev/tcp/127.0.0.1/{PORT}")]);
    let (memory, stats, ()) = scene
        .watch(RING_BYTES, |scene, _| {
            let conninfo =
                format!("host=127.0.0.1 port={PORT} user=me dbname=postgres sslmode=require");
            for number in 0..5 {
                let sql = format!("select {number}");
                let queries = ["-c", &sql, "-c", "select repeat('x', 30000)"];
                let args = [&["--no-psqlrc", "-q", &conninfo][..], &queries].concat();
                scene.run(&program("psql"), &args);
            }
        })
        .await;
    let log = fs::read_to_string(scene.path("pg/data/log/all.log")).unwrap();
    let truth = count(
        log.lines()
            .filter_map(|line| line.split_once("statement: ").map(|(_, sql)| sql.to_owned())),
    );
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
    let _nginx = scene.nginx();
    let requests = |scene: &Scene| scene.access_log().values().sum::<usize>() as u64;
    let mut command = scene.command("h2load");
    command.args(["--h1", "-n", "100000000", "-c", "4", "-t", "1"]).arg(Scene::url("/of/much"));
    let mut load = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("requests", || requests(&scene) > 100);
    let before = requests(&scene);
    let (memory, stats, after) = scene
        .watch(RING_BYTES, |scene, _| {
            let after = requests(scene);
            wait_until("more requests", || requests(scene) > after + 2000);
            load.kill().unwrap();
            load.wait().unwrap();
            after
        })
        .await;
    let (truth, rows) = (requests(&scene), http_rows_at_either_end(&memory));
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
    let _nginx = scene.nginx();
    let (memory, stats, truth) = scene
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
            scene.access_log()
        })
        .await;
    assert_eq!(http_rows(&memory), truth);
    // Its rows are those of the server's end, which reads OpenSSL.
    assert!(stats.pipeline.rows_of_other_end >= 11, "{stats:?}");
    assert_eq!((stats.kernel.dropped, stats.missing_rows.max), (0, 0), "{stats:?}");
}

/// How many rows there are, after checking that each is right.
fn http_rows_at_either_end(memory: &Memory) -> u64 {
    let columns = ["encrypted", "trace_role", "req_path", "resp_status", "resp_body_size"];
    let rows = memory.rows("http_events", &columns);
    for row in &rows {
        assert_eq!(row[..], ["true", "2", "/of/much", "200", "22"], "{row:?}");
    }
    rows.len() as u64
}

/// Nanoseconds that nginx' workers have run.
fn cpu_ns(nginx: &Server) -> u64 {
    let id = nginx.id();
    let workers = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
    let ran = |pid| fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    workers
        .split_whitespace()
        .map(|pid| ran(pid).split(' ').next().unwrap().parse::<u64>().unwrap())
        .sum()
}

/// What a request costs nginx with and without capture, taken in turns.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn what_reading_tls_costs_a_request() {
    let _alone = alone().await;
    if !can_run(&["nginx", "h2load"]) {
        return;
    }
    let scene = Scene::new("undine-tls-cost");
    let nginx = scene.nginx();
    let load = |scene: &Scene| {
        let before = cpu_ns(&nginx);
        scene.run("h2load", &["--h1", "-n", "8000", "-c", "8", "-t", "1", &Scene::url("/of/much")]);
        (cpu_ns(&nginx) - before) / 8000
    };
    let least = |scene: &Scene| (0..4).map(|_| load(scene)).min().unwrap();
    for _ in 0..4 {
        let without = least(&scene);
        let (memory, stats, with) = scene.watch(RING_BYTES, |scene, _| least(scene)).await;
        println!("{without} ns without, {with} ns with, {} dropped", stats.kernel.dropped);
        let columns = ["source_connector", "tracepoint", "status", "info"];
        for row in memory.rows("probe_status", &columns) {
            if row[0] != "tls" && ["tls_", "sock_"].iter().any(|part| row[1].contains(part)) {
                println!("{row:?}");
            }
        }
    }
}
