//! Where programs speak TLS with private copies of its libraries, so that no other program of this machine
//! can meet a probe, and what all tests of TLS look at.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use tempfile::TempDir;
use undine_collector::{Cgroup, Config, Hooks, Placing, SourceConfig, Stats, Tls};
use undine_testbed::nginx::{self, Nginx};
use undine_testbed::{Server, Wire};

use super::kernel::{config, may_load};
use super::memory::Memory;
use super::place::{Place, are_installed, wait_until};
use super::watch::seen_while;

/// Every test has a network of its own, so it may have any port.
pub(crate) const PORT: &str = "8443";
/// More than any of these tests has in the ring at a time.
pub(crate) const RING_BYTES: u32 = 32 << 20;

/// A place, private libraries, a key and its certificate.
pub(crate) struct Scene {
    pub(crate) place: Place,
    folder: TempDir,
}

impl Scene {
    pub(crate) fn new(name: &str) -> Self {
        let scene = Self { place: Place::new(name), folder: tempfile::tempdir().unwrap() };
        scene.bed().prepare().unwrap();
        scene
    }

    /// As servers of the test bed want it.
    pub(crate) fn bed(&self) -> undine_testbed::Scene<'_> {
        let folder = self.folder.path();
        undine_testbed::Scene { place: &self.place, folder, wire: Wire::Tls }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// A command whose libraries are the private ones.
    pub(crate) fn command(&self, program: &str) -> Command {
        self.bed().command(program)
    }

    /// Runs a command to its successful end.
    pub(crate) fn run(&self, program: &str, args: &[&str]) -> String {
        self.bed().run(program, args).unwrap()
    }

    /// Starts a server of the test's own, which is told where its certificate and its key are, where
    /// it is to log and at which port to listen, and waits until it does.
    pub(crate) fn serve(&self, command: &mut Command) -> Server {
        let bed = self.bed();
        command.args([bed.certificate(), bed.key(), self.text("access"), PORT.to_owned()]);
        self.place.serve(command, PORT.parse().unwrap())
    }

    /// What such a server says that it was asked, and how often: it logs a request before it answers.
    pub(crate) fn access_log(&self) -> BTreeMap<String, usize> {
        count_lines(&fs::read_to_string(self.path("access")).unwrap())
    }

    /// Starts nginx with TLS.
    pub(crate) fn nginx(&self) -> Nginx {
        self.nginx_in(&self.place.cgroup)
    }

    /// As [`Self::nginx`], in another cgroup.
    pub(crate) fn nginx_in(&self, cgroup: &Cgroup) -> Nginx {
        self.nginx_at(cgroup, PORT)
    }

    /// As [`Self::nginx`], in a cgroup and at a port.
    pub(crate) fn nginx_at(&self, cgroup: &Cgroup, port: &str) -> Nginx {
        self.nginx_by(self.bed().command_in(cgroup, "nginx"), port)
    }

    /// As [`Self::nginx`], started by a command, at a port.
    pub(crate) fn nginx_by(&self, command: Command, port: &str) -> Nginx {
        let (bed, folder) = (self.bed(), self.folder.path());
        let http = format!(
            "server {{
               listen 127.0.0.1:{port} ssl http2;
               ssl_certificate {certificate}; ssl_certificate_key {key};
               root {folder}/files;
               location /of/ {{ return 200 'you asked for $request_uri'; }}
               location /gone {{ return 410 'gone'; }}
             }}",
            folder = folder.display(),
            certificate = bed.certificate(),
            key = bed.key(),
        );
        fs::create_dir(self.path("files")).unwrap();
        for bytes in [0_usize, 20_000, 400_000] {
            let file = self.path("files").join(format!("{bytes}"));
            fs::write(file, "0123456789".repeat(bytes / 10)).unwrap();
        }
        let log = Some("$request_method $request_uri $status $body_bytes_sent");
        let config = nginx::Config { port: port.parse().unwrap(), workers: 2, log, http: &http };
        Nginx::start(command, bed.place, folder, config).unwrap()
    }

    pub(crate) fn url(path: &str) -> String {
        format!("https://127.0.0.1:{PORT}{path}")
    }

    /// A collector that reads TLS here, through certain hooks.
    pub(crate) fn config(&self, wanted: Option<Hooks>, ring_bytes: u32) -> Config {
        let mut config = config(&self.place.cgroup, ring_bytes, None);
        if let SourceConfig::Kernel { tls, hooks, .. } = &mut config.source {
            (*tls, *hooks) = (Tls::Read(Placing::Best), wanted);
        }
        config
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
        let config = self.config(wanted, ring_bytes);
        let (memory, stats, said) = seen_while(config, |memory| act(self, memory)).await;
        for row in memory.rows("probe_status", &["source_connector", "tracepoint", "error", "info"])
        {
            if row[0] == "tls" {
                println!("{row:?}");
            }
        }
        println!("{stats:?}");
        println!(
            "lost: {:?}",
            memory.rows("data_loss", &["reason", "rows_max", "bytes", "detail"])
        );
        (memory, stats, said)
    }
}

pub(crate) fn count_lines(text: &str) -> BTreeMap<String, usize> {
    count(text.lines().map(str::to_owned))
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
    may_load() && are_installed(&["openssl", "nsenter"]) && are_installed(programs)
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
