//! A program that the kernel refuses costs its own feature and nothing else.
//!
//! Each program in turn is broken in the object, so that the kernel itself refuses it, and a small
//! load shows what is missing. Here are those that always run and those that see the bytes of sockets;
//! the others, which run where something asks for them, are in [`super::refusals_on_demand`].

use std::process::Command;

use undine_collector::kernel::{BuildError, Outcome, ProbeReport, probe_report};
use undine_collector::{BuildError as CollectorError, Config, Hooks, Object, SourceConfig, Target};

use super::hooks::{has, observed};
use super::kernel::{alone, config, may_load};
use super::memory::Memory;
use super::place::{Place, Program};

/// The number at `at`, little endian, of `bytes` bytes.
fn number(elf: &[u8], at: usize, bytes: usize) -> usize {
    elf[at..at + bytes].iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

/// Where section `index` is in the file: its kind, its beginning, its length and its link.
fn section(elf: &[u8], index: usize) -> (usize, usize, usize, usize) {
    let header = number(elf, 0x28, 8) + index * number(elf, 0x3a, 2);
    let of = |at: usize, bytes: usize| number(elf, header + at, bytes);
    (of(4, 4), of(0x18, 8), of(0x20, 8), of(0x28, 4))
}

/// Makes the first instruction of `program` one that no kernel knows.
fn break_program(elf: &mut [u8], program: &str) {
    const SYMBOLS: usize = 2;
    const SYMBOL_BYTES: usize = 24;
    let (_, symbols, bytes, names) = (0..number(elf, 0x3c, 2))
        .map(|index| section(elf, index))
        .find(|(kind, ..)| *kind == SYMBOLS)
        .unwrap();
    let (_, names, ..) = section(elf, names);
    let is_it = |symbol: &usize| {
        let name = &elf[names + number(elf, *symbol, 4)..];
        name.starts_with(program.as_bytes()) && name[program.len()] == 0
    };
    let symbol = (symbols..symbols + bytes).step_by(SYMBOL_BYTES).find(is_it).unwrap();
    let (_, begin, ..) = section(elf, number(elf, symbol + 6, 2));
    elf[begin + number(elf, symbol + 8, 8)] = 0xff;
}

/// The programs, of which the kernel refuses `broken`.
pub(super) fn object_without(broken: &[&str]) -> Object {
    let mut elf = Object::Fitting.bytes().into_owned();
    for program in broken {
        break_program(&mut elf, program);
    }
    Object::Given(elf)
}

/// Starts a process that is a target by its number, and starts another when it is told to.
fn start_parent() -> Program {
    let script = "echo ready; read go; /bin/true; echo done; read end";
    Program::start(Command::new("sh").args(["-c", script]))
}

/// What was seen of the load.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    /// Requests of 200 on four connections, and of 8 more on a connection each.
    requests: usize,
    /// Requests that are known to be missing, at least and at most.
    missing: (u64, u64),
    /// Roles of the two ends of a conversation that says nothing of itself.
    roles: Vec<String>,
    /// Whether any end of a connection was seen.
    ends: bool,
    /// Whether the child was seen to begin, to run its program, and to end.
    child: [bool; 3],
    /// Whether a reset was told where it was sent, and where it came.
    resets: [bool; 2],
    /// Whether a packet was told that the kernel threw away.
    drops: bool,
    /// Whether the statistics of ended connections were told.
    statistics: bool,
}

const EVERYTHING: fn() -> Seen = || Seen {
    requests: 208,
    missing: (0, 0),
    roles: vec!["1".to_owned(), "2".to_owned()],
    ends: true,
    child: [true; 3],
    resets: [true; 2],
    drops: true,
    statistics: true,
};

fn configuration(place: &Place, parent: &Program, broken: &[&str]) -> Config {
    let mut config = config(&place.cgroup, 4 << 20, None);
    if let SourceConfig::Kernel { scope, object, .. } = &mut config.source {
        scope.include.push(Target::Pid(parent.id()));
        // For packets of which there is no socket.
        scope.include.push(Target::Netns(place.network().into()));
        *object = object_without(broken);
    }
    config
}

/// Puts the load on a place that is watched without `broken`.
async fn seen_without(broken: &[&str]) -> (std::sync::Arc<Memory>, Seen) {
    let place = Place::new("undine-refusals");
    let mut parent = start_parent();
    let config = configuration(&place, &parent, broken);
    let (memory, stats) = observed(&place, config, |pair| {
        pair.server.tell("serve");
        let port = pair.server.hear("port");
        for load in [format!("load {port} 4 50"), format!("load {port} 8 1")] {
            pair.client.tell(&load);
            pair.client.hear("loaded");
        }
        pair.client.tell(&format!("mumble {port}"));
        pair.client.hear("mumbled");
        pair.client.tell("refuse");
        pair.client.hear("refused");
        pair.client.tell("abort");
        pair.client.hear("aborted");
        parent.ask("go");
    })
    .await;
    let missing = (stats.missing_rows.min, stats.missing_rows.max);
    let seen = seen(&memory, missing, parent.id());
    (memory, seen)
}

fn seen(memory: &Memory, missing: (u64, u64), parent: u32) -> Seen {
    let rows = memory.rows("http_events", &["req_path", "resp_headers", "trace_role"]);
    for row in &rows {
        assert!(row[1].contains(&format!("\"X-Path\":\"{}\"", row[0])), "{row:?}");
        assert_eq!(row[2], "2");
    }
    let connections = memory.rows("conn_stats", &["trace_role", "protocol", "conn_close"]);
    let mut roles: Vec<_> =
        connections.iter().filter(|row| row[1] == "0").map(|row| row[0].clone()).collect();
    roles.sort();
    roles.dedup();
    let processes = memory.rows("processes", &["ppid", "comm", "stop_time"]);
    let of_child: Vec<_> = processes.iter().filter(|row| row[0] == parent.to_string()).collect();
    let resets = memory.rows("tcp_resets", &["direction"]);
    let is_told = |direction: &str| resets.iter().any(|row| row[0] == direction);
    Seen {
        requests: rows.len(),
        missing,
        roles,
        ends: connections.iter().any(|row| row[2] != "0"),
        child: [
            !of_child.is_empty(),
            of_child.iter().any(|row| row[1] == "true"),
            of_child.iter().any(|row| row[2] != "0"),
        ],
        resets: [is_told("sent"), is_told("received")],
        drops: !memory.rows("tcp_drops", &["reason"]).is_empty(),
        statistics: !memory.rows("tcp_stats_events", &["state"]).is_empty(),
    }
}

/// What is left without `program`, as its remedy tells.
fn left_without(program: &str) -> Seen {
    let everything = EVERYTHING();
    match program {
        "inet_sock_set_state" => {
            Seen { roles: vec!["4".to_owned()], statistics: false, ..everything }
        }
        "tcp_send_reset" => Seen { resets: [false, true], ..everything },
        "tcp_receive_reset" => Seen { resets: [true, false], ..everything },
        "kfree_skb" => Seen { drops: false, ..everything },
        "sched_process_fork" => Seen { child: [false; 3], ..everything },
        "sched_process_exec" => Seen { child: [true, false, true], ..everything },
        "sched_process_exit" => Seen { child: [true, true, false], ..everything },
        // Another one does the work of a hook on sockets, of `tcp_destroy_sock` and of
        // `tcp_retransmit_skb`; what else there is, does not concern these features.
        _ => everything,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_program_costs_its_own_feature_only() {
    let _alone = alone().await;
    if !may_load() {
        return;
    }
    let (_, seen) = seen_without(&[]).await;
    assert_eq!(seen, EVERYTHING());
    let running = accepted(Scene::Always);
    assert!(running.len() >= 6, "{running:?}");
    for report in &running {
        let (memory, seen) = seen_without(&[report.probe]).await;
        println!("without {}: {seen:?}", report.probe);
        assert_eq!(seen, left_without(report.probe), "without {}", report.probe);
        let said = memory.rows("probe_status", &["tracepoint", "status", "error"]);
        // Where a hook on sockets is refused, the next rung is tried, which may be too.
        let own = |row: &&Vec<String>| row[1] != "0" && !row[0].starts_with("fexit:");
        let refused: Vec<_> = said.iter().filter(own).collect();
        assert_eq!(refused.len(), 1, "{said:?}");
        check_refusal(refused[0], report);
    }
}

/// Checks what `probe_status` says of a program that the kernel refused: its place, its status and why.
pub(super) fn check_refusal(row: &[String], report: &ProbeReport) {
    assert_eq!(row[0], report.attach_point);
    assert_eq!(row[1], "12");
    assert!(row[2].contains("undine doctor"), "{row:?}");
    assert!(is_broken(&row[2]), "{row:?}");
}

/// Whether the kernel says that the first instruction makes no sense.
fn is_broken(why: &str) -> bool {
    // Where a program begins with a call, what it calls is missed first.
    ["unknown opcode ff", "number of funcs in func_info"].iter().any(|known| why.contains(known))
}

/// Where it is seen what a program is for; each belongs to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scene {
    /// It always runs.
    Always,
    /// It runs where something asks for it: a TLS library, a profile, a traced function.
    OnDemand,
    /// It sees the bytes of sockets, if it is chosen.
    Chosen,
}

impl Scene {
    fn of(report: &ProbeReport) -> Self {
        let chosen = [Hooks::SysExit, Hooks::SocketFunctions];
        match report.attach_point.split_once(':') {
            _ if chosen.iter().any(|hooks| hooks.include(report.probe)) => Self::Chosen,
            Some(("raw_tracepoint", _)) => Self::Always,
            Some(("uprobe" | "perf_event", _)) => Self::OnDemand,
            _ => panic!("no scene shows what {report:?} is for"),
        }
    }
}

/// The programs of a scene that this kernel takes.
pub(super) fn accepted(scene: Scene) -> Vec<ProbeReport> {
    let mut reports = probe_report().unwrap();
    reports.retain(|report| {
        Scene::of(report) == scene && matches!(report.outcome, Outcome::Attached | Outcome::Standby)
    });
    reports
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_a_chosen_hook_is_refused_nothing_runs_and_its_refusal_is_told() {
    let _alone = alone().await;
    if !may_load() {
        return;
    }
    let place = Place::new("undine-refusals");
    let parent = start_parent();
    let mut refused = 0;
    for hooks in [Hooks::SysExit, Hooks::SocketFunctions].into_iter().filter(|hooks| has(*hooks)) {
        // Also those that this kernel takes and Undine would not use.
        let all = probe_report().unwrap();
        for report in all.iter().filter(|report| hooks.include(report.probe)) {
            let mut config = configuration(&place, &parent, &[report.probe]);
            let SourceConfig::Kernel { hooks: wanted, .. } = &mut config.source else { panic!() };
            *wanted = Some(hooks);
            let error = config.build(std::sync::Arc::new(Memory::default())).unwrap_err();
            let CollectorError::Kernel(BuildError::NoHooks(reports)) = &error else {
                panic!("{error:?}");
            };
            let own = reports.iter().find(|own| own.probe == report.probe).unwrap();
            let Outcome::Refused(why) = &own.outcome else { panic!("{own:?}") };
            assert!(is_broken(why), "{own:?}");
            println!("without {}: {error}", report.probe);
            refused += 1;
        }
    }
    assert!(refused >= 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_hook_on_sockets_nothing_runs_and_each_refusal_is_told() {
    let _alone = alone().await;
    if !may_load() {
        return;
    }
    let place = Place::new("undine-refusals");
    let parent = start_parent();
    let hooks = ["sock_send_length", "sys_exit"];
    let config = configuration(&place, &parent, &hooks);
    let refused = config.build(std::sync::Arc::new(Memory::default())).unwrap_err();
    let CollectorError::Kernel(BuildError::NoHooks(reports)) = &refused else {
        panic!("{refused:?}");
    };
    for hook in hooks {
        let report = reports.iter().find(|report| report.probe == hook).unwrap();
        assert!(matches!(report.outcome, Outcome::Refused(_) | Outcome::Missing(_)), "{report:?}");
    }
    assert!(refused.to_string().contains("sys_exit: "), "{refused}");
}
