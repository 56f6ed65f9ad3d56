//! Programs of bpftrace that are limited to what is watched, with the real bpftrace.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use arrow::util::display::array_value_to_string;
use undine_collector::{Mode, Target};
use undine_schema::trace::{
    KernelVersion, TraceCounts, TraceProgram, TraceState, TraceSubject, TraceTable, Tracepoint,
};
use undine_schema::{Clock, SystemClock};

use super::kernel::{alone, may_load};
use super::place::{are_installed, skip, succeed, wait_until};
use super::trace::{Built, Running, Scene};

fn can_run() -> bool {
    may_load() && are_installed(&["cc", "bpftrace"])
}

fn tracepoint(name: &str, text: &str) -> Tracepoint {
    let program = TraceProgram {
        text: text.to_owned(),
        kernel_min: KernelVersion::FIRST,
        kernel_max: KernelVersion::LAST,
        host: String::new(),
    };
    Tracepoint {
        name: name.to_owned(),
        table: format!("{name}_rows"),
        subject: TraceSubject::Programs(vec![program]),
        ttl: Duration::from_mins(5),
    }
}

/// The cells of a table without the time, as texts.
fn cells(table: &TraceTable) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for batch in &table.batches {
        for row in 0..batch.num_rows() {
            let cells = batch.columns()[1..].iter();
            rows.push(cells.map(|cell| array_value_to_string(cell, row).unwrap()).collect());
        }
    }
    rows
}

impl Scene {
    fn counts(&self, name: &str) -> TraceCounts {
        let statuses = self.tracer.statuses();
        statuses.iter().find(|status| status.name == name).unwrap().counts
    }

    /// The cells of a program's table, when there are as many rows as are expected.
    fn cells(&self, name: &str, count: u64) -> Vec<Vec<String>> {
        wait_until("the rows of a program", || self.counts(name).rows >= count);
        cells(&self.tracer.table(&format!("{name}_rows")).unwrap())
    }
}

/// A cgroup below another, for as long as this is there.
struct Below(PathBuf);

impl Below {
    fn new(cgroup: &Path) -> Self {
        let path = cgroup.join("below");
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn start(&self, built: &Built) -> Running {
        let mut command = Command::new("sh");
        command.args(["-c", "echo 0 > \"$0\" && exec \"$1\""]);
        Running::start(command.arg(self.0.join("cgroup.procs")).arg(built.path()))
    }
}

impl Drop for Below {
    fn drop(&mut self) {
        wait_until("the end of a cgroup", || std::fs::remove_dir(&self.0).is_ok());
    }
}

/// The processes named bpftrace that this test has started.
fn children() -> Vec<u32> {
    let own = format!("PPid:\t{}", std::process::id());
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.starts_with("Name:\tbpftrace\n") && status.lines().any(|line| line == own)
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_sees_the_targets_and_nobody_else() {
    let _alone = alone().await;
    if !can_run() {
        return;
    }
    let scene = Scene::new(Mode::Full);
    let built = Built::with(&[]);
    let below = Below::new(scene.cgroup.path());
    let (mut inside, mut deeper) = (scene.start(&built), below.start(&built));
    let mut outside = Running::start(&mut Command::new(built.path()));
    let path = built.path();
    let text = format!(
        "uprobe:{}:handle /arg0 != 3/ {{\n  @calls = count();\n  \
         printf(\"time_:%llu pid:%d number:%-4d name:%s comm:%s\", nsecs, pid, (int32)arg0, str(arg1), comm);\n}}",
        path.display()
    );
    scene.tracer.upsert(tracepoint("calls", &text)).unwrap();
    for program in [&mut outside, &mut inside, &mut deeper] {
        program.call("handle", 50);
    }
    let rows = scene.cells("calls", 98);
    let expected = |program: &Running| {
        let rows = (0..50).filter(|number| *number != 3);
        let pid = program.id().to_string();
        rows.map(move |n| {
            vec![pid.clone(), format!("{n}"), format!("name-{n}"), "traced".to_owned()]
        })
        .collect::<Vec<_>>()
    };
    let of = |program: &Running| {
        let pid = program.id().to_string();
        rows.iter().filter(|row| row[0] == pid).cloned().collect::<Vec<_>>()
    };
    assert_eq!(of(&inside), expected(&inside));
    assert_eq!(of(&deeper), expected(&deeper));
    assert_eq!(rows.len(), 98, "nobody else's");
    let counts = scene.counts("calls");
    assert_eq!((counts.calls, counts.unreadable, counts.dropped), (98, 0, 0), "{counts:?}");
    let columns = scene.tracer.table("calls_rows").unwrap().columns;
    let names: Vec<_> = columns.iter().map(|column| &*column.name).collect();
    assert_eq!(names, ["time_", "pid", "number", "name", "comm"]);
    drop(deeper);
    drop(below);
    scene.end().await;
    assert!(children().is_empty(), "the program ends with the collector");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_of_a_row_is_that_of_its_event() {
    let _alone = alone().await;
    if !can_run() {
        return;
    }
    let scene = Scene::new(Mode::Redacted);
    let built = Built::with(&[]);
    let mut program = scene.start(&built);
    let text = format!(
        "uprobe:{}:handle {{ printf(\"number:%d name:%s comm:%s\", arg0, str(arg1), comm); }}",
        built.path().display()
    );
    scene.tracer.upsert(tracepoint("calls", &text)).unwrap();
    let now = || SystemClock.now().get();
    let before = now();
    program.call("handle", 1);
    let after = now();
    // What was read is redacted as bodies are, what bpftrace makes is not.
    assert_eq!(scene.cells("calls", 1), [["0", "[redacted 6 bytes]", "traced"]]);
    let table = scene.tracer.table("calls_rows").unwrap();
    let times = table.batches[0].column(0);
    let times = arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(times);
    let millisecond = 1_000_000;
    let time = times.value(0);
    assert!((before - millisecond..after + millisecond).contains(&time), "{before} {time} {after}");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_has_room_for_its_texts_and_types_beside_the_condition() {
    let _alone = alone().await;
    if !can_run() {
        return;
    }
    let scene = Scene::new(Mode::Full);
    let built = Built::with(&[]);
    let mut program = scene.start(&built);
    // The kernel has a type of this name too, and the condition uses one that points to it.
    let text = format!(
        "struct nameidata {{ int id; }};\n\
         uprobe:{}:handle {{\n  $a = str(arg1); $b = str(arg1); $c = str(arg1);\n  \
         printf(\"op:%s id:%d a:%s b:%s c:%s\", \"call\", ((struct nameidata *)arg3)->id, $a, $b, $c);\n}}",
        built.path().display()
    );
    scene.tracer.upsert(tracepoint("calls", &text)).unwrap();
    program.call("handle", 1);
    let name = "name-0";
    assert_eq!(scene.cells("calls", 1), [["call", "100", name, name, name]]);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tracepoint_of_the_kernel_is_limited_too() {
    let _alone = alone().await;
    if !can_run() {
        return;
    }
    if !Path::new("/sys/kernel/tracing/events").exists() {
        return skip("tracefs is not mounted at /sys/kernel/tracing");
    }
    let scene = Scene::new(Mode::Full);
    let text = "tracepoint:sched:sched_process_exec { printf(\"file:%s\", str(args->filename)); }";
    scene.tracer.upsert(tracepoint("execs", text)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let link = |name: &str| {
        let path = folder.path().join(name);
        std::os::unix::fs::symlink("/bin/true", &path).unwrap();
        path
    };
    let (inside, outside) = (link("inside"), link("outside"));
    succeed(&mut Command::new(&outside));
    succeed(&mut scene.cgroup.command(&inside));
    let rows = scene.cells("execs", 1);
    let own = inside.display().to_string();
    assert!(rows.iter().any(|row| row[0] == own), "{rows:?}");
    let other = outside.display().to_string();
    assert!(rows.iter().all(|row| row[0] != other), "{rows:?}");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_program_is_gone() {
    let _alone = alone().await;
    if !can_run() {
        return;
    }
    let scene = Scene::new(Mode::Full);
    let built = Built::with(&[]);
    let mut program = scene.start(&built);
    let text = format!("uprobe:{}:handle {{ printf(\"n:%d\", arg0); }}", built.path().display());
    let wanted = tracepoint("calls", &text);
    scene.tracer.upsert(wanted.clone()).unwrap();
    assert_eq!(children().len(), 1);
    // Asking again only makes it live longer.
    scene.tracer.upsert(wanted.clone()).unwrap();
    assert_eq!(children().len(), 1);
    program.call("handle", 2);
    assert_eq!(scene.cells("calls", 2), [["0"], ["1"]]);
    scene.tracer.delete("calls").unwrap();
    assert!(children().is_empty());
    assert!(scene.tracer.table("calls_rows").is_none());
    let status = &scene.tracer.statuses()[0];
    assert_eq!((status.state, status.reason.as_str()), (TraceState::Terminated, "it was deleted"));
    assert_eq!(status.counts.rows, 2);
    // Its time may be over, too.
    let short = Tracepoint { ttl: Duration::from_secs(1), ..wanted };
    scene.tracer.upsert(short).unwrap();
    wait_until("the end of the program", || children().is_empty());
    assert!(scene.tracer.tables().is_empty());
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_ends_leaves_its_rows_and_can_run_again() {
    let _alone = alone().await;
    if !can_run() {
        return;
    }
    let scene = Scene::new(Mode::Full);
    let built = Built::with(&[]);
    let mut program = scene.start(&built);
    let text = format!(
        "uprobe:{}:handle {{ printf(\"n:%d\", arg0); if (arg0 == 1) {{ exit(); }} }}",
        built.path().display()
    );
    for _ in 0..2 {
        scene.tracer.upsert(tracepoint("calls", &text)).unwrap();
        program.call("handle", 2);
        wait_until("the end of the program", || {
            scene.tracer.statuses()[0].state == TraceState::Terminated
        });
        assert_eq!(scene.tracer.statuses()[0].reason, "the program ended by itself");
        assert_eq!(scene.cells("calls", 2), [["0"], ["1"]]);
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_cannot_run_again_leaves_the_rows_of_the_one_that_ended() {
    let _alone = alone().await;
    if !can_run() {
        return;
    }
    let scene = Scene::new(Mode::Full);
    let built = Built::with(&[]);
    let mut program = scene.start(&built);
    let path = built.path().display().to_string();
    let text = format!("uprobe:{path}:handle {{ printf(\"n:%d\", arg0); exit(); }}");
    scene.tracer.upsert(tracepoint("calls", &text)).unwrap();
    program.call("handle", 1);
    let ended = || scene.tracer.statuses()[0].state == TraceState::Terminated;
    wait_until("the end of the program", ended);
    let wrong = format!("uprobe:{path}:no_function {{ printf(\"n:%d\", arg0); }}");
    scene.tracer.upsert(tracepoint("calls", &wrong)).unwrap_err();
    assert_eq!(scene.cells("calls", 1), [["0"]]);
    let states: Vec<_> = scene.tracer.statuses().iter().map(|status| status.state).collect();
    assert_eq!(states, [TraceState::Terminated, TraceState::Failed]);
    // One that runs takes its place.
    let again = format!("uprobe:{path}:handle {{ printf(\"m:%d\", arg0 + 7); }}");
    scene.tracer.upsert(tracepoint("calls", &again)).unwrap();
    program.call("handle", 1);
    assert_eq!(scene.cells("calls", 1), [["7"]]);
    assert_eq!(scene.tracer.tables().len(), 1);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_ends_when_other_processes_are_to_be_watched() {
    let _alone = alone().await;
    if !can_run() {
        return;
    }
    let scene = Scene::new(Mode::Full);
    let built = Built::with(&[]);
    let below = Below::new(scene.cgroup.path());
    let (mut inside, mut deeper) = (scene.start(&built), below.start(&built));
    let text = format!("uprobe:{}:handle {{ printf(\"pid:%d\", pid); }}", built.path().display());
    scene.tracer.upsert(tracepoint("calls", &text)).unwrap();
    scene.handle.exclude_target(&Target::Cgroup(below.0.clone())).unwrap();
    wait_until("the end of the program", || children().is_empty());
    let status = &scene.tracer.statuses()[0];
    assert_eq!(status.reason, "what Undine watches is not what it was deployed for");
    // Deployed again it knows whom to leave out.
    scene.tracer.upsert(tracepoint("calls", &text)).unwrap();
    deeper.call("handle", 3);
    inside.call("handle", 1);
    assert_eq!(scene.cells("calls", 1), [[inside.id().to_string()]]);
    drop(deeper);
    drop(below);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_beyond_the_limit_and_losses_add_up() {
    let _alone = alone().await;
    if !can_run() {
        return;
    }
    let scene = Scene::new(Mode::Full);
    let built = Built::with(&[]);
    let mut program = scene.start(&built);
    let text = format!(
        "uprobe:{}:nothing {{ printf(\"wrong:%d text:%s\", arg0, str(arg0)); }}",
        built.path().display()
    );
    scene.tracer.upsert(tracepoint("calls", &text)).unwrap();
    program.call("nothing", 50_000);
    let calls = || scene.counts("calls").calls;
    wait_until("all calls", || calls() >= 50_000);
    let counts = scene.counts("calls");
    assert_eq!(counts.calls, counts.rows + counts.limited + counts.dropped, "{counts:?}");
    assert_eq!(counts.calls, 50_000, "{counts:?}");
    assert!(counts.rows >= 10_000 && counts.rows < 50_000, "{counts:?}");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_bpftrace_or_the_scope_refuses_is_refused_with_its_reason() {
    let _alone = alone().await;
    if !can_run() {
        return;
    }
    let scene = Scene::new(Mode::Full);
    let built = Built::with(&[]);
    let refused = |text: &str| {
        let text = text.replace("PATH", &built.path().display().to_string());
        scene.tracer.upsert(tracepoint("calls", &text)).unwrap_err()
    };
    let error = refused("uprobe:PATH:handle { if printf(\"n:%d\", 1); }");
    assert!(
        error.reason.starts_with("bpftrace does not run the program: syntax error"),
        "{error:?}"
    );
    let error = refused("uprobe:PATH:handle { printf(\"n:%d\", @never); }");
    assert!(error.reason.contains("Undefined map: @never"), "{error:?}");
    let error = refused("uprobe:PATH:no_function { printf(\"n:%d\", 1); }");
    let none = "bpftrace does not run the program: none of its probes' places is there";
    assert_eq!(error.reason, none);
    let error = refused("uprobe:PATH:handle { system(\"true\"); printf(\"n:%d\", 1); }");
    assert_eq!(
        error.reason,
        "line 1 of the program: `system` does more than to look, so it is refused"
    );
    let error = refused("tracepoint:skb:kfree_skb { printf(\"n:%d\", 1); }");
    assert!(error.reason.contains("cannot be limited to the targets"), "{error:?}");
    let statuses = scene.tracer.statuses();
    assert!(statuses.iter().all(|status| status.state == TraceState::Failed), "{statuses:?}");
    assert!(children().is_empty() && scene.tracer.tables().is_empty());
    // There are only so many at a time.
    let text = format!("uprobe:{}:handle {{ printf(\"n:%d\", arg0); }}", built.path().display());
    for at in 0..4 {
        scene.tracer.upsert(tracepoint(&format!("t{at}"), &text)).unwrap();
    }
    let error = scene.tracer.upsert(tracepoint("t4", &text)).unwrap_err();
    assert_eq!(error.reason, "4 programs of bpftrace run already");
    scene.end().await;
    assert!(children().is_empty());
}
