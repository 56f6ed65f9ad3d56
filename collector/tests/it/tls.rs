//! What programs say inside TLS, against the servers' own records.
//!
//! The programs map private copies of the TLS libraries, so that no other program of this machine
//! can meet a probe.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use undine_collector::{Config, SourceConfig, Stats, Tls};

use super::kernel::{alone, config, may_load};
use super::memory::Memory;
use super::place::{Place, Server, are_installed};

/// Every test has a network of its own, so it may have any port.
const PORT: &str = "8443";
/// More than any of these tests has in the ring at a time.
const RING_BYTES: u32 = 32 << 20;
/// Libraries that are copied, where they are.
const LIBRARIES: [&str; 3] = ["libssl.so.3", "libcrypto.so.3", "libgnutls.so.30"];
const LIBRARY_FOLDERS: [&str; 3] =
    ["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/lib/x86_64-linux-gnu"];

/// A place, private libraries, a key and its certificate.
struct Scene {
    place: Place,
    folder: TempDir,
}

impl Scene {
    fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let libraries = folder.path().join("lib");
        fs::create_dir(&libraries).unwrap();
        for library in LIBRARIES {
            let found = LIBRARY_FOLDERS.iter().map(|folder| Path::new(folder).join(library));
            if let Some(found) = found.into_iter().find(|path| path.exists()) {
                fs::copy(found, libraries.join(library)).unwrap();
            }
        }
        let status = Command::new("openssl")
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

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// A command whose libraries are the private ones.
    fn command(&self, program: &str) -> Command {
        let mut command = self.place.command(program);
        command.env("LD_LIBRARY_PATH", self.path("lib"));
        command
    }

    /// Runs a command to its successful end.
    fn run(&self, program: &str, args: &[&str]) -> String {
        let output = self.command(program).args(args).stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {args:?} ended with {}: {said}", output.status);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Starts nginx with TLS and waits until it answers; its access log is `access`.
    fn nginx(&self) -> Server {
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
        let mut command = self.command("nginx");
        let server = Server::start(command.arg("-c").arg(self.path("nginx.conf")));
        // Its log starts with what curl asks here.
        self.place.wait_for("bash", &["-c", &format!("</dev/tcp/127.0.0.1/{PORT}")]);
        server
    }

    /// What nginx says that it was asked, and how often.
    fn access_log(&self) -> BTreeMap<String, usize> {
        count(fs::read_to_string(self.path("access")).unwrap().lines().map(str::to_owned))
    }

    fn url(path: &str) -> String {
        format!("https://127.0.0.1:{PORT}{path}")
    }

    /// Builds a collector that reads TLS and runs `act` while it does.
    async fn watch<T>(
        &self,
        ring_bytes: u32,
        act: impl FnOnce(&Self) -> T,
    ) -> (Arc<Memory>, Stats, T) {
        let memory = Arc::new(Memory::default());
        let append = Arc::clone(&memory);
        let mut config =
            Config { body_bytes_max: 64, ..config(&self.place.cgroup, ring_bytes, None) };
        if let SourceConfig::Kernel { tls, .. } = &mut config.source {
            *tls = Tls::Read;
        }
        let collector = config.build(append).unwrap();
        let handle = collector.handle();
        let shutdown = CancellationToken::new();
        let running = JoinSet::from_iter([Box::pin(collector.run(shutdown.clone()))]);
        let said = tokio::task::block_in_place(|| act(self));
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

fn count(texts: impl Iterator<Item = String>) -> BTreeMap<String, usize> {
    let mut counted = BTreeMap::new();
    for text in texts {
        *counted.entry(text).or_default() += 1;
    }
    counted
}

/// Rows of HTTP as the server's log has them, after checking what all have in common.
fn http_rows(memory: &Memory) -> BTreeMap<String, usize> {
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
        assert_eq!(row[..3], ["true", "2", "0"], "{row:?}");
        row[3..].join(" ")
    }))
}

fn check_nothing_is_lost(memory: &Memory, stats: &Stats) {
    assert_eq!((stats.kernel.dropped, stats.missing_rows.max), (0, 0), "{stats:?}");
    assert_eq!(stats.pipeline.tls_unbound, 0, "{stats:?}");
    let lost = memory.rows("data_loss", &["reason", "rows_max", "bytes", "detail"]);
    assert_eq!(lost, Vec::<Vec<String>>::new());
}

/// The programs that all tests here need.
fn can_run(programs: &[&str]) -> bool {
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
        .watch(RING_BYTES, |scene| {
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
    // The client's ends were seen too, and each row is kept once.
    assert_eq!(stats.pipeline.rows_of_other_end, 458);
}
