//! A program that the kernel refuses costs its own feature and nothing else, of those that run where
//! something asks for them: OpenSSL, Go and rustls speak inside TLS, a program is profiled, and calls of
//! its functions are traced.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use undine_collector::{Cgroup, SourceConfig, profiler};
use undine_schema::trace::{TraceOutput, Tracer};
use undine_testbed::Server;
use undine_testbed::nginx::Nginx;

use super::kernel::alone;
use super::memory::Memory;
use super::place::{Program, succeed};
use super::refusals::{Scene as Of, accepted, check_refusal, object_without};
use super::tls_scene::{PORT, RING_BYTES, Scene, can_run};
use super::watch::running_while;
use super::{tls_go, tls_rustls, trace};

const PORT_OF_NGINX: &str = "8444";
const PORT_OF_GO: &str = "8445";
/// So often that a second of CPU time cannot be missed.
const FREQUENCY_HZ: u32 = 499;

/// Servers with each kind of library, and a program whose functions are traced. They outlive the
/// collectors.
struct Stage {
    scene: Scene,
    /// For clients, of which nothing is seen.
    elsewhere: Cgroup,
    traced: trace::Running,
    _built: trace::Built,
    _nginx: Nginx,
    _go: Server,
    _rustls: Program,
}

impl Stage {
    fn set() -> Self {
        let scene = Scene::new("undine-refusals-tls");
        let nginx = scene.nginx_at(&scene.place.cgroup, PORT_OF_NGINX);
        let program = tls_go::build(&scene, "go-server", tls_go::SERVER, &[]);
        let mut command = scene.command(&program);
        let bed = scene.bed();
        command.args([bed.certificate(), bed.key(), scene.text("go"), PORT_OF_GO.to_owned()]);
        let go = scene.place.serve(&mut command, PORT_OF_GO.parse().unwrap());
        let rustls = tls_rustls::start_server(&scene);
        let built = trace::Built::with(&["-g"]);
        let traced = trace::Running::start(&mut scene.place.command(built.path()));
        let elsewhere = Cgroup::create("undine-refusals-clients").unwrap();
        Self { scene, elsewhere, traced, _built: built, _nginx: nginx, _go: go, _rustls: rustls }
    }

    /// Has everything done that a program is for, five or three times each.
    fn act(&mut self, tracer: &dyn Tracer) {
        let functions = [
            ("nothing", trace::argument("wrong", "$arg1:u64")),
            ("handle", trace::returned("result", "$0")),
        ];
        for (function, output) in functions {
            // What the kernel refuses has no table, which is looked at later.
            self.trace(tracer, function, output);
        }
        for (word, port) in [("c", PORT_OF_NGINX), ("go", PORT_OF_GO), ("rustls", PORT)] {
            let mut curl = self.scene.place.command_in(&self.elsewhere, "curl");
            let url = format!("https://127.0.0.1:{port}/of/{word}/[1-5]");
            succeed(curl.args(["-sk", "--http1.1", &url]));
        }
        self.traced.call("nothing", 5);
        self.traced.call("handle", 3);
        // About a second.
        self.traced.call("climb", 2_000_000);
    }

    fn trace(&self, tracer: &dyn Tracer, function: &str, output: TraceOutput) {
        let tracepoint = trace::tracepoint(self.traced.target(), function, vec![output]);
        if let Err(error) = tracer.upsert(tracepoint) {
            println!("{function}: {}", error.reason);
        }
    }

    /// Watches what is done without `broken`.
    async fn seen_without(&mut self, broken: &[&str]) -> (Arc<Memory>, Seen) {
        let mut config = self.scene.config(None, RING_BYTES);
        if let SourceConfig::Kernel { object, .. } = &mut config.source {
            *object = object_without(broken);
        }
        let interval = Duration::from_secs(1);
        config.profiler = Some(profiler::Config {
            frequency_hz: FREQUENCY_HZ,
            interval,
            kernel_stacks_max: None,
        });
        let memory = Arc::new(Memory::default());
        let append = Arc::clone(&memory);
        let collector = config.build(append).unwrap();
        let tracer = collector.handle().tracer().unwrap();
        let (stats, ()) = running_while(collector, || self.act(&*tracer)).await;
        assert_eq!(stats.kernel.dropped, 0, "{stats:?}");
        let seen = Seen::of(&memory, &*tracer);
        (memory, seen)
    }
}

/// What was seen.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    /// Requests inside TLS of a server with OpenSSL, one in Go and one with rustls.
    requests: [usize; 3],
    /// Handshakes, which are not encrypted.
    handshakes: usize,
    /// Whether there are samples of what used the CPU.
    profile: bool,
    /// Calls of a function of which nothing is wanted but its argument.
    calls: usize,
    /// Calls of a function whose result is wanted.
    returns: usize,
}

const EVERYTHING: Seen =
    Seen { requests: [5; 3], handshakes: 3, profile: true, calls: 5, returns: 3 };

impl Seen {
    fn of(memory: &Memory, tracer: &dyn Tracer) -> Self {
        let rows = memory.rows("http_events", &["req_path", "encrypted", "trace_role", "quality"]);
        for row in &rows {
            assert_eq!(row[1..], ["true", "2", "0"], "{row:?}");
        }
        let of = |word: &str| {
            let start = format!("/of/{word}/");
            rows.iter().filter(|row| row[0].starts_with(&start)).count()
        };
        let calls = |table: &str| {
            let table = tracer.table(table);
            let batches = table.iter().flat_map(|table| &table.batches);
            batches.map(arrow::array::RecordBatch::num_rows).sum()
        };
        Self {
            requests: ["c", "go", "rustls"].map(of),
            handshakes: memory.rows("tls_events", &["time_"]).len(),
            profile: !memory.rows("stack_traces.beta", &["count"]).is_empty(),
            calls: calls("nothing_calls"),
            returns: calls("handle_calls"),
        }
    }

    /// What is left without `program`, as its remedy tells, and whose libraries are not read then.
    fn left_without(program: &str) -> (Self, Option<&'static str>) {
        match program {
            "tls_enter" | "tls_exit" | "tls_free" => {
                let requests = [0, 5, 5];
                (Self { requests, ..EVERYTHING }, Some("OpenSSL, BoringSSL and GnuTLS"))
            }
            "go_tls_enter" | "go_tls_exit" => {
                (Self { requests: [5, 0, 5], ..EVERYTHING }, Some("Go's crypto/tls"))
            }
            "rustls_send_enter" | "rustls_send_exit" | "rustls_receive" | "rustls_carry" => {
                (Self { requests: [5, 5, 0], ..EVERYTHING }, Some("rustls"))
            }
            "cpu_sample" => (Self { profile: false, ..EVERYTHING }, None),
            "trace_enter" => (Self { calls: 0, returns: 0, ..EVERYTHING }, None),
            "trace_exit" => (Self { returns: 0, ..EVERYTHING }, None),
            other => panic!("nobody says what {other} is for"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_program_that_runs_on_demand_costs_its_own_feature_only() {
    let _alone = alone().await;
    if !can_run(&["nginx", "curl", "go", "gcc", "cc"]) {
        return;
    }
    let mut stage = Stage::set();
    let (memory, seen) = Box::pin(stage.seen_without(&[])).await;
    assert_eq!(seen, EVERYTHING);
    assert_eq!(refused(&memory), BTreeSet::new());
    for report in &accepted(Of::OnDemand) {
        let (memory, seen) = Box::pin(stage.seen_without(&[report.probe])).await;
        println!("without {}: {seen:?}", report.probe);
        let (left, unread) = Seen::left_without(report.probe);
        assert_eq!(seen, left, "without {}", report.probe);
        let said = refused(&memory);
        let (own, libraries): (Vec<_>, Vec<_>) =
            said.iter().partition(|row| row[0] == report.attach_point);
        assert_eq!(own.len(), 1, "{said:?}");
        check_refusal(own[0], report);
        // The libraries that are not read because of it say so too, and no others.
        assert_eq!(libraries.is_empty(), unread.is_none(), "{said:?}");
        for row in libraries {
            let why = format!("the programs for {} are not loaded", unread.unwrap());
            assert!(row[2].starts_with(&why), "{row:?}");
        }
    }
}

/// What `probe_status` says is not there: what it is, its status, and why. A row comes again with each
/// measurement of costs.
fn refused(memory: &Memory) -> BTreeSet<Vec<String>> {
    let said = memory.rows("probe_status", &["tracepoint", "status", "error"]);
    // Hooks that are not needed are not of interest here, nor the tracepoints that then fail, whose names
    // have no colon.
    let is_refused =
        |row: &Vec<String>| row[1] != "0" && row[0].contains(':') && !row[0].starts_with("fexit:");
    said.into_iter().filter(is_refused).collect()
}
