//! Calls of functions as rows of tables that scripts make, with programs whose calls are known.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use arrow::util::display::array_value_to_string;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use undine_collector::collector::Handle;
use undine_collector::{Cgroup, Mode};
use undine_schema::Upid;
use undine_schema::trace::{
    TraceOutput, TraceState, TraceSubject, TraceTarget, TraceValue, TracedFunction, Tracepoint,
    Tracer,
};
use undine_testbed::compile;

use super::kernel::{alone, config, may_load};
use super::memory::Memory;
use super::place::{Program, are_installed, wait_until};

/// A compiled program in a folder of its own, so that nobody else has its file mapped.
pub(super) struct Built(tempfile::TempDir);

impl Built {
    pub(super) fn with(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        compile("traced", &[&["-O2"], flags].concat(), folder.path()).unwrap();
        Self(folder)
    }

    pub(super) fn path(&self) -> PathBuf {
        self.0.path().join("traced")
    }
}

/// A running program that calls functions when it is told to.
pub(super) struct Running(Program);

impl Running {
    pub(super) fn start(command: &mut Command) -> Self {
        Self(Program::start(command))
    }

    pub(super) fn call(&mut self, what: &str, times: usize) {
        self.0.ask(&format!("{what} {times}"));
    }

    pub(super) fn id(&self) -> u32 {
        self.0.id()
    }

    fn upid(&self) -> Upid {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        let start = stat.rsplit(')').next().unwrap().split_ascii_whitespace().nth(19).unwrap();
        Upid::new(1, self.0.id(), start.parse().unwrap())
    }

    pub(super) fn target(&self) -> TraceTarget {
        TraceTarget::Process(self.upid())
    }
}

/// A collector over a cgroup.
pub(super) struct Scene {
    pub(super) cgroup: Cgroup,
    pub(super) handle: Handle,
    pub(super) tracer: Arc<dyn Tracer>,
    pub(super) memory: Arc<Memory>,
    shutdown: CancellationToken,
    running: JoinSet<Result<(), undine_collector::RunError>>,
}

impl Scene {
    pub(super) fn new(mode: Mode) -> Self {
        let cgroup = Cgroup::create("undine-trace").unwrap();
        let memory = Arc::new(Memory::default());
        let append = Arc::clone(&memory);
        let mut config = config(&cgroup, 4 << 20, None);
        config.redaction.bodies = mode;
        let collector = config.build(append).unwrap();
        let handle = collector.handle();
        let shutdown = CancellationToken::new();
        let running = JoinSet::from_iter([collector.run(shutdown.clone())]);
        let tracer = handle.tracer().unwrap();
        Self { cgroup, handle, tracer, memory, shutdown, running }
    }

    pub(super) fn start(&self, built: &Built) -> Running {
        Running::start(&mut self.cgroup.command(&built.path()))
    }

    /// The rows of a dynamic table without time and process, each cell as text.
    async fn rows(&self, table: &str) -> Vec<Vec<String>> {
        assert!(self.handle.drain().await.unwrap().drained);
        let table = self.tracer.table(table).unwrap();
        let mut rows = Vec::new();
        for batch in &table.batches {
            for row in 0..batch.num_rows() {
                let cells = batch.columns()[2..].iter();
                rows.push(cells.map(|cell| array_value_to_string(cell, row).unwrap()).collect());
            }
        }
        rows
    }

    pub(super) async fn end(mut self) {
        self.shutdown.cancel();
        while let Some(ended) = self.running.join_next().await {
            ended.unwrap().unwrap();
        }
    }
}

pub(super) fn argument(column: &str, expression: &str) -> TraceOutput {
    TraceOutput { column: column.to_owned(), value: TraceValue::Argument(expression.to_owned()) }
}

pub(super) fn returned(column: &str, expression: &str) -> TraceOutput {
    TraceOutput { column: column.to_owned(), value: TraceValue::Returned(expression.to_owned()) }
}

fn latency(column: &str) -> TraceOutput {
    TraceOutput { column: column.to_owned(), value: TraceValue::Latency }
}

pub(super) fn tracepoint(
    target: TraceTarget,
    function: &str,
    outputs: Vec<TraceOutput>,
) -> Tracepoint {
    Tracepoint {
        name: function.to_owned(),
        table: format!("{function}_calls"),
        subject: TraceSubject::Function(TracedFunction {
            target,
            function: function.to_owned(),
            outputs,
        }),
        ttl: Duration::from_mins(5),
    }
}

fn can_run() -> bool {
    may_load() && are_installed(&["cc"])
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_are_named_with_debug_information() {
    let _alone = alone().await;
    if !can_run() {
        return;
    }
    let scene = Scene::new(Mode::Full);
    let built = Built::with(&["-g"]);
    let mut program = scene.start(&built);
    let mut other = scene.start(&built);
    let outputs = vec![
        argument("number", "number"),
        argument("name", "name"),
        argument("small", "small"),
        argument("id", "request.id"),
        argument("path", "request.path"),
        argument("size", "request.body.size"),
        argument("kind", "request.body.kind"),
        argument("next", "request.next.id"),
        argument("weight", "request.weight"),
        argument("colour", "colour"),
        argument("sixth", "sixth"),
        argument("seventh", "seventh"),
        returned("result", "$0"),
        latency("took"),
    ];
    scene.tracer.upsert(tracepoint(program.target(), "handle", outputs)).unwrap();
    program.call("handle", 3);
    other.call("handle", 5);
    let rows = scene.rows("handle_calls").await;
    assert_eq!(rows.len(), 3, "only the target's calls: {rows:?}");
    for (at, row) in rows.iter().enumerate() {
        let expected = [
            format!("{at}"),
            format!("name-{at}"),
            format!("{}", 255 - at),
            format!("{}", 100 + at),
            format!("/path/{at}"),
            format!("{}", (1_u64 << 40) + at as u64),
            "json".to_owned(),
            "-7".to_owned(),
            format!("{at}.25"),
            "1".to_owned(),
            format!("{}", 6 * at),
            format!("{}", -(i64::try_from(at).unwrap())),
            format!("{}", -2 * i64::try_from(at).unwrap()),
        ];
        assert_eq!(row[..13], expected);
        assert!(row[13].parse::<u64>().unwrap() > 0, "{row:?}");
    }
    let table = scene.tracer.table("handle_calls").unwrap();
    let names: Vec<_> = table.columns.iter().map(|column| &*column.name).collect();
    assert_eq!(names[..3], ["time_", "upid", "number"]);
    let upid = array_value_to_string(table.batches[0].column(1), 0).unwrap();
    assert_eq!(upid, program.upid().to_string().replace('-', ""));
    let status = &scene.tracer.statuses()[0];
    assert_eq!((status.counts.calls, status.counts.rows), (3, 3), "{status:?}");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_are_read_by_place_without_debug_information() {
    let _alone = alone().await;
    if !can_run() {
        return;
    }
    let scene = Scene::new(Mode::Redacted);
    let built = Built::with(&[]);
    let mut program = scene.start(&built);
    let outputs = vec![
        argument("number", "$arg1:s32"),
        argument("name", "$arg2:string"),
        argument("small", "$arg3:u8"),
        argument("id", "+0($arg4):s32"),
        argument("path", "+8($arg4):string"),
        argument("seventh", "$arg7:s16"),
        returned("result", "$0"),
    ];
    scene.tracer.upsert(tracepoint(program.target(), "handle", outputs)).unwrap();
    program.call("handle", 2);
    program.call("long", 1);
    let rows = scene.rows("handle_calls").await;
    let [first, second, long] = &rows[..] else { panic!("{rows:?}") };
    let redacted = "[redacted 6 bytes]";
    let path = "[redacted 7 bytes]";
    assert_eq!(first[..], ["0", redacted, "255", "100", path, "0", "0"].map(str::to_owned));
    assert_eq!(second[..], ["1", redacted, "254", "101", path, "-1", "-2"].map(str::to_owned));
    assert_eq!(long[4], "[redacted 255 bytes]", "a text is cut");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_return_is_paired_with_its_own_call() {
    let _alone = alone().await;
    if !can_run() {
        return;
    }
    let scene = Scene::new(Mode::Full);
    let built = Built::with(&["-g", "-fno-optimize-sibling-calls"]);
    let mut program = scene.start(&built);
    let outputs = vec![argument("height", "height"), returned("above", "$0")];
    scene.tracer.upsert(tracepoint(program.target(), "climb", outputs)).unwrap();
    program.call("climb", 2);
    let rows = scene.rows("climb_calls").await;
    let pairs: Vec<_> = rows.iter().map(|row| (row[0].as_str(), row[1].as_str())).collect();
    let once = [("0", "0"), ("1", "1"), ("2", "2"), ("3", "3")];
    assert_eq!(pairs, [once, once].concat(), "inner calls return first");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tracepoint_ends_with_its_time_and_its_table_with_it() {
    let _alone = alone().await;
    if !can_run() {
        return;
    }
    let scene = Scene::new(Mode::Full);
    let built = Built::with(&["-g"]);
    let mut program = scene.start(&built);
    let wanted = tracepoint(program.target(), "handle", vec![argument("number", "number")]);
    let short = Tracepoint { ttl: Duration::from_secs(1), ..wanted.clone() };
    scene.tracer.upsert(short).unwrap();
    // Asking again makes it live longer and keeps its rows.
    program.call("handle", 1);
    scene.tracer.upsert(Tracepoint { ttl: Duration::from_secs(2), ..wanted.clone() }).unwrap();
    assert_eq!(scene.rows("handle_calls").await.len(), 1);
    let other = tracepoint(program.target(), "handle", vec![argument("n", "number")]);
    let refused = scene.tracer.upsert(other).unwrap_err();
    assert_eq!(refused.reason, "there is another tracepoint `handle`");
    wait_until("the end of the tracepoint", || scene.tracer.tables().is_empty());
    assert!(scene.tracer.table("handle_calls").is_none());
    program.call("handle", 4);
    let statuses = scene.tracer.statuses();
    let ended = statuses.iter().find(|status| status.state == TraceState::Terminated).unwrap();
    assert_eq!((ended.reason.as_str(), ended.counts.calls), ("its time is over", 1));
    // It can be deployed anew, and deleted.
    scene.tracer.upsert(wanted).unwrap();
    program.call("handle", 2);
    assert_eq!(scene.rows("handle_calls").await.len(), 2);
    scene.tracer.delete("handle").unwrap();
    assert!(scene.tracer.tables().is_empty() && scene.tracer.delete("handle").is_err());
    wait_until("its states in probe_status", || {
        let rows = scene.memory.rows("probe_status", &["source_connector", "info"]);
        let told = rows.iter().filter(|row| row[0] == "dynamic_trace");
        told.filter(|row| row[1].contains("terminated")).count() == 2
    });
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_while_the_kernel_takes_probes_away() {
    let _alone = alone().await;
    if !can_run() {
        return;
    }
    let scene = Scene::new(Mode::Full);
    let built = Built::with(&["-g"]);
    let mut program = scene.start(&built);
    let numbered = |at: usize, ttl| Tracepoint {
        name: format!("t{at}"),
        table: format!("t{at}"),
        ttl,
        ..tracepoint(program.target(), "handle", vec![argument("number", "number")])
    };
    for at in 0..10 {
        scene.tracer.upsert(numbered(at, Duration::from_mins(1))).unwrap();
    }
    // At once, so that they end at once.
    for at in 1..10 {
        scene.tracer.upsert(numbered(at, Duration::from_secs(1))).unwrap();
    }
    let removes = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        let mut names =
            tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
        names.any(|name| name == "undine-untrace\n")
    };
    // They are gone for everyone before the kernel is done with them, which takes it a second.
    wait_until("the end of the tracepoints", || scene.tracer.tables().len() == 1);
    assert!(removes());
    program.call("handle", 3);
    assert_eq!(scene.rows("t0").await.len(), 3);
    wait_until("the end of their probes", || !removes());
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_beyond_the_limit_are_counted_and_not_told() {
    let _alone = alone().await;
    if !can_run() {
        return;
    }
    let scene = Scene::new(Mode::Full);
    let built = Built::with(&["-g"]);
    let mut program = scene.start(&built);
    scene
        .tracer
        .upsert(tracepoint(program.target(), "nothing", vec![argument("wrong", "$arg1:u64")]))
        .unwrap();
    program.call("nothing", 50_000);
    let rows = scene.rows("nothing_calls").await.len() as u64;
    let counts = scene.tracer.statuses()[0].counts;
    assert_eq!(counts.calls, 50_000, "{counts:?}");
    assert_eq!(counts.rows + counts.limited + counts.dropped, 50_000, "{counts:?}");
    assert_eq!(counts.rows, rows);
    assert!(rows >= 10_000, "{counts:?}");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_an_empty_cell_and_counted() {
    let _alone = alone().await;
    if !can_run() {
        return;
    }
    let scene = Scene::new(Mode::Full);
    let built = Built::with(&["-g"]);
    let mut program = scene.start(&built);
    let outputs = vec![argument("text", "wrong"), argument("far", "+8(+0($arg1)):u32")];
    scene.tracer.upsert(tracepoint(program.target(), "nothing", outputs)).unwrap();
    program.call("nothing", 2);
    let rows = scene.rows("nothing_calls").await;
    assert_eq!(rows, vec![vec![String::new(), "0".to_owned()]; 2]);
    assert_eq!(scene.tracer.statuses()[0].counts.unreadable, 4);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_library_is_traced_for_the_target_only() {
    let _alone = alone().await;
    if !can_run() {
        return;
    }
    let scene = Scene::new(Mode::Full);
    let built = Built::with(&["-g"]);
    let mut program = scene.start(&built);
    let target = TraceTarget::SharedObject { name: "libc.so".to_owned(), upid: program.upid() };
    let outputs = vec![argument("text", "$arg1:string")];
    scene.tracer.upsert(tracepoint(target, "puts", outputs)).unwrap();
    program.call("handle", 1);
    program.call("handle", 1);
    let rows = scene.rows("puts_calls").await;
    assert_eq!(rows, vec![vec!["done".to_owned()]; 2]);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_traced_is_refused_with_its_reason() {
    let _alone = alone().await;
    if !can_run() {
        return;
    }
    let scene = Scene::new(Mode::Full);
    let (built, plain) = (Built::with(&["-g"]), Built::with(&[]));
    let stripped = Built::with(&["-s"]);
    let (program, plain, stripped) =
        (scene.start(&built), scene.start(&plain), scene.start(&stripped));
    let outside = Running::start(&mut Command::new(built.path()));
    let number = || vec![argument("number", "number")];
    let refused = |target: TraceTarget, function: &str, outputs: Vec<TraceOutput>| {
        let refused = scene.tracer.upsert(tracepoint(target, function, outputs)).unwrap_err();
        (refused.reason, refused.help)
    };
    let (reason, help) = refused(program.target(), "handl", number());
    assert!(reason.ends_with("has no function `handl`"), "{reason}");
    assert_eq!(help, "there are handle");
    let (reason, _) = refused(stripped.target(), "handle", number());
    assert!(reason.ends_with("names no functions: it was stripped of its symbols"), "{reason}");
    let (reason, help) = refused(plain.target(), "handle", number());
    let why = "column `number`: nothing is known of `number` of `handle`: the file has no debug \
               information";
    assert_eq!(reason, why);
    assert!(help.contains("`$arg1:u32`"), "{help}");
    let (reason, help) = refused(program.target(), "handle", vec![argument("n", "nombre")]);
    assert_eq!(reason, "column `n`: `handle` has no parameter `nombre`");
    assert!(help.starts_with("its parameters are number, name, small"), "{help}");
    let (reason, help) = refused(program.target(), "handle", vec![argument("n", "request.body")]);
    assert_eq!(reason, "column `n`: it is the record `body` and no single value");
    assert_eq!(help, "name a member; they are size, kind");
    let (reason, _) = refused(program.target(), "weigh", vec![argument("w", "weight")]);
    assert!(reason.contains("floating-point register"), "{reason}");
    let (reason, _) = refused(program.target(), "nothing", vec![returned("r", "$0")]);
    assert_eq!(reason, "column `r`: `nothing` gives nothing back");
    let (reason, _) = refused(outside.target(), "handle", number());
    assert_eq!(reason, format!("process {} is not watched", outside.0.id()));
    let gone = Upid::new(1, program.0.id(), program.upid().start_ticks() + 1);
    let (reason, _) = refused(TraceTarget::Process(gone), "handle", number());
    assert_eq!(reason, format!("there is no process {gone} any more"));
    let many = (0..17).map(|at| argument(&format!("c{at}"), "number")).collect();
    let (reason, _) = refused(program.target(), "handle", many);
    assert_eq!(reason, "a tracepoint with 17 columns is not possible");
    let texts = (0..5).map(|at| argument(&format!("c{at}"), "name")).collect();
    let (reason, _) = refused(program.target(), "handle", texts);
    assert_eq!(reason, "column `c4`: a call has at most 4 texts");
    let own = Tracepoint {
        table: "http_events".to_owned(),
        ..tracepoint(program.target(), "handle", number())
    };
    let refused = scene.tracer.upsert(own).unwrap_err();
    assert_eq!(refused.reason, "the table `http_events` is one of Undine's own");
    let statuses = scene.tracer.statuses();
    assert!(statuses.iter().all(|status| status.state == TraceState::Failed), "{statuses:?}");
    assert!(scene.tracer.tables().is_empty());
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_only_so_many_tracepoints() {
    let _alone = alone().await;
    if !can_run() {
        return;
    }
    let scene = Scene::new(Mode::Full);
    let built = Built::with(&["-g"]);
    let program = scene.start(&built);
    let numbered = |at: usize| Tracepoint {
        name: format!("t{at}"),
        table: format!("t{at}"),
        ..tracepoint(program.target(), "handle", vec![argument("number", "number")])
    };
    for at in 0..16 {
        scene.tracer.upsert(numbered(at)).unwrap();
    }
    let refused = scene.tracer.upsert(numbered(16)).unwrap_err();
    assert_eq!(refused.reason, "there are 16 tracepoints already");
    scene.tracer.delete("t3").unwrap();
    scene.tracer.upsert(numbered(16)).unwrap();
    scene.end().await;
}
