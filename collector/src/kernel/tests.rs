//! On the real kernel: a child process in a cgroup and a network namespace of its own is the only
//! one in scope, and says itself what it sent and received.
#![expect(unsafe_code, reason = "every flavour of socket call is made as the C library has it")]

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write as _},
    os::unix::process::ExitStatusExt as _,
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use undine_ebpf::{
    ConnInfo, ConnTotals, Direction, EGRESS, FLAG_BYPASSED, FLAG_CONTINUED, FLAG_TRUNCATED, Header,
    INGRESS, Kind, PAYLOAD_BYTES_MAX, TcpEvent, TcpEventKind,
};

use aya::util::KernelVersion;

use super::{
    BuildError, Cgroup, Config, Counters, Hooks, KernelSource, Object, Outcome, Scope,
    ScopeDefault, ScopeError, ScopeGuard, Target, Tls, Verdict, check_host,
    doctor::SOCKET_LENGTH_SINCE, object, programs::try_all, socket_functions, tls_probes,
};

mod datagrams;
mod flavours;
mod killed;
mod missed_ends;
mod pressure;
mod returns;

/// Kernel tests run one at a time.
static ALONE: Mutex<()> = Mutex::new(());

const WAIT: Duration = Duration::from_millis(2);

/// Waits for its turn, or says why the test cannot run here.
fn turn() -> Option<MutexGuard<'static, ()>> {
    let guard = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let missing: Vec<_> = check_host().into_iter().filter(|check| !check.ok).collect();
    if missing.is_empty() {
        return Some(guard);
    }
    undine_testbed::skip(&format!("{missing:?}"));
    None
}

/// A cgroup of the test's own.
fn own_cgroup(name: &str) -> Cgroup {
    Cgroup::create(&format!("undine-test-{name}")).unwrap()
}

/// Puts a program that waits to be told what to do into `cgroup`.
fn take(cgroup: &Cgroup, program: &Program) {
    fs::write(cgroup.path().join("cgroup.procs"), program.child.id().to_string()).unwrap();
}

/// This test program again, as a child that plays a part when it is told to.
struct Program {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Program {
    fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kernel::tests::plays_a_part", "--ignored", "--nocapture"])
            .args(["--test-threads", "1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut program = Self { child, output };
        program.hear("ready");
        program
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Waits for a line that begins with `word` and gives the numbers after it.
    fn hear(&mut self, word: &str) -> Vec<u64> {
        loop {
            let mut line = String::new();
            assert_ne!(
                self.output.read_line(&mut line).unwrap(),
                0,
                "the child ended before {word}"
            );
            // The test harness may have begun the line.
            if let Some((_, numbers)) = line.split_once(&format!("#{word}")) {
                return numbers.split_whitespace().map(|number| number.parse().unwrap()).collect();
            }
        }
    }

    fn end(mut self) {
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// What the children do; not a test of its own.
#[test]
#[ignore = "the part of a child process"]
fn plays_a_part() {
    flavours::enter_network();
    println!("#ready");
    let mut waiting = None;
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let numbers = match line.split(' ').collect::<Vec<_>>()[..] {
            ["flavours", uring] => flavours::all(uring == "uring"),
            ["many", count, bytes] => {
                flavours::many(count.parse().unwrap(), bytes.parse().unwrap())
            }
            ["own", count, bytes] => flavours::own(count.parse().unwrap(), bytes.parse().unwrap()),
            ["datagrams"] => datagrams::all(),
            ["wait"] => {
                waiting = Some(flavours::Waiting::begin());
                Vec::new()
            }
            ["go"] => vec![waiting.take().unwrap().end()],
            ["spawn"] => {
                let status = Command::new("/bin/true").status().unwrap();
                vec![u64::from(status.success())]
            }
            _ => panic!("no part is called {line}"),
        };
        let numbers: Vec<_> = numbers.iter().map(u64::to_string).collect();
        println!("#done {}", numbers.join(" "));
    }
}

/// A message of the ring, kept.
struct Message {
    header: Header,
    body: Vec<u8>,
}

impl Message {
    fn of(bytes: &[u8]) -> Self {
        // SAFETY: a header is plain numbers, and the length is checked.
        let header = unsafe {
            assert!(bytes.len() >= size_of::<Header>());
            bytes.as_ptr().cast::<Header>().read_unaligned()
        };
        Self { header, body: bytes[size_of::<Header>()..].to_vec() }
    }

    fn kind(&self) -> Kind {
        Kind::from_raw(self.header.kind).unwrap()
    }

    fn read<T: Copy>(&self) -> T {
        assert!(self.body.len() >= size_of::<T>());
        // SAFETY: bodies are plain numbers, and the length is checked.
        unsafe { self.body.as_ptr().cast::<T>().read_unaligned() }
    }
}

fn only(include: Vec<Target>, hooks: Option<Hooks>, ring_bytes: u32) -> Config {
    let scope = Scope { default: ScopeDefault::TargetsOnly, include, exclude: Vec::new() };
    let (guard, connections_max, object) = (ScopeGuard::Required, 1024, Object::Fitting);
    let (profile, tls) = (None, Tls::Leave);
    Config { scope, guard, ring_bytes, connections_max, hooks, object, profile, tls }
}

/// Whether the kernel lists a function on which it lets programs stand.
fn programs_may_stand_on_functions() -> bool {
    let listed = fs::read_to_string("/sys/kernel/tracing/available_filter_functions");
    listed.unwrap_or_default().lines().any(|function| function == socket_functions::SENDS)
}

/// Whether this kernel has what `hooks` and `object` need; says what it lacks.
fn can_use(hooks: Hooks, object: &Object) -> bool {
    let version = KernelVersion::current().unwrap();
    if hooks == Hooks::SocketLength && version < SOCKET_LENGTH_SINCE {
        println!("skipped: Linux {version} has no tracepoint sock_send_length");
        return false;
    }
    if hooks == Hooks::SocketFunctions && !programs_may_stand_on_functions() {
        println!("skipped: Linux {version} lets no program stand on its functions");
        return false;
    }
    if *object == Object::Usual && !object::has_loop() {
        println!("skipped: Linux {version} has no bpf_loop");
        return false;
    }
    true
}

/// Reads until every message that was emitted has been read.
fn drain(kernel: &mut KernelSource, into: &mut Vec<Message>) -> Counters {
    loop {
        let counters = kernel.control().counters().unwrap();
        kernel.poll(WAIT, &mut |bytes| into.push(Message::of(bytes)));
        if kernel.consumed() >= counters.emitted() {
            return counters;
        }
    }
}

/// All messages but those about how TCP fares, of which there may be any number.
fn of_traffic(messages: &[Message]) -> Vec<&Message> {
    messages.iter().filter(|message| message.kind() != Kind::Tcp).collect()
}

/// The connections in `messages`: how they began, their data, and how they ended.
#[derive(Default)]
struct Seen<'a> {
    open: Option<ConnInfo>,
    data: [Vec<&'a Message>; 2],
    close: Option<ConnTotals>,
}

fn connections(messages: &[Message]) -> BTreeMap<u64, Seen<'_>> {
    let mut all = BTreeMap::<u64, Seen<'_>>::new();
    for message in messages {
        let seen = match message.kind() {
            Kind::Data | Kind::Open | Kind::Close => all.entry(message.header.conn).or_default(),
            _ => continue,
        };
        match message.kind() {
            Kind::Open => seen.open = Some(message.read()),
            Kind::Close => seen.close = Some(message.read()),
            _ => seen.data[usize::from(message.header.direction)].push(message),
        }
    }
    all
}

/// Checks that messages follow each other without a gap and hold what the child sent.
fn check_stream(messages: &[&Message]) -> Direction {
    let mut sum = Direction::default();
    for message in messages {
        let header = &message.header;
        assert_eq!(header.pos, sum.bytes, "{header:?}");
        if header.flags & FLAG_CONTINUED == 0 {
            sum.operations += 1;
        }
        let payload = &message.body[..header.captured as usize];
        for (at, byte) in (header.pos..).zip(payload) {
            assert_eq!(*byte, flavours::byte_at(at), "at {at} of {header:?}");
        }
        let missing = u64::from(header.len - header.captured);
        sum.bytes += u64::from(header.len);
        sum.captured_bytes += u64::from(header.captured);
        if header.flags & FLAG_BYPASSED != 0 {
            sum.bypassed_bytes += missing;
        } else {
            assert_eq!(missing != 0, header.flags & FLAG_TRUNCATED != 0);
            sum.truncated_bytes += missing;
        }
    }
    sum
}

fn run_flavours(hooks: Hooks, object: Object) -> Option<(Vec<u64>, [Direction; 2])> {
    let _alone = turn()?;
    if !can_use(hooks, &object) {
        return None;
    }
    let cgroup = own_cgroup("flavours");
    let mut program = Program::start();
    take(&cgroup, &program);
    let targets = vec![Target::Cgroup(cgroup.path().to_path_buf())];
    let mut kernel = Config { object, ..only(targets, Some(hooks), 8 << 20) }.build().unwrap();
    assert_eq!(kernel.control().hooks(), hooks);
    program.tell(if hooks == Hooks::SysExit { "flavours plain" } else { "flavours uring" });
    let said = program.hear("done");
    let mut messages = Vec::new();
    drain(&mut kernel, &mut messages);
    let pid = program.child.id();
    program.end();
    let counters = drain(&mut kernel, &mut messages);
    assert_eq!((counters.dropped, counters.faults), (0, 0));
    assert!(
        of_traffic(&messages).iter().all(|message| message.header.tgid == pid),
        "only the child is in scope"
    );

    let all = connections(&messages);
    assert_eq!(all.len(), 2, "two ends of one connection");
    let end = |role: u8| {
        all.values().find(|seen| seen.open.is_some_and(|open| open.role == role)).unwrap()
    };
    let (client, server) = (end(1), end(2));
    let (c, s) = (client.open.unwrap(), server.open.unwrap());
    assert_eq!((c.local_port, c.remote_port), (s.remote_port, s.local_port));
    assert_eq!((c.family, c.protocol, c.local_addr[..4].to_vec()), (2, 6, vec![127, 0, 0, 1]));
    assert_eq!(c.netns, s.netns);
    let sent = check_stream(&client.data[usize::from(EGRESS)]);
    let received = check_stream(&server.data[usize::from(INGRESS)]);
    // Both directions were checked against the messages; the kernel's own totals agree.
    assert_eq!(client.close.unwrap().directions[usize::from(EGRESS)], sent);
    assert_eq!(server.close.unwrap().directions[usize::from(INGRESS)], received);
    assert_eq!(counters.operations, sent.operations + received.operations);
    assert_eq!(counters.operation_bytes, sent.bytes + received.bytes);
    assert!(kernel.control().connections().unwrap().is_empty());
    Some((said, [received, sent]))
}

fn every_flavour_is_seen(hooks: Hooks, object: Object) {
    let Some((said, [received, sent])) = run_flavours(hooks, object) else { return };
    let [bytes, operations_out, operations_in, bypassed_out, bypassed_in, beyond] = said[..] else {
        panic!("{said:?}")
    };
    assert_eq!((sent.bytes, received.bytes), (bytes, bytes));
    assert_eq!((sent.operations, received.operations), (operations_out, operations_in));
    assert_eq!((sent.bypassed_bytes, received.bypassed_bytes), (bypassed_out, bypassed_in));
    assert_eq!(sent.truncated_bytes, beyond);
}

#[test]
fn every_flavour_of_socket_call_is_seen_to_the_last_byte() {
    every_flavour_is_seen(Hooks::SocketLength, Object::Usual);
}

#[test]
fn functions_of_sockets_tell_every_flavour_too() {
    every_flavour_is_seen(Hooks::SocketFunctions, Object::Usual);
}

#[test]
fn functions_of_sockets_tell_every_flavour_where_bpf_loop_is_missing_too() {
    every_flavour_is_seen(Hooks::SocketFunctions, Object::Before5_17);
}

fn sys_exit_sees_the_same_bytes(object: Object) {
    let Some((said, [received, sent])) = run_flavours(Hooks::SysExit, object) else { return };
    let [bytes, .., beyond] = said[..] else { panic!("{said:?}") };
    assert_eq!((sent.bytes, received.bytes), (bytes, bytes));
    assert_eq!(sent.truncated_bytes, beyond);
}

#[test]
fn sys_exit_sees_the_same_bytes_where_the_tracepoints_are_missing() {
    sys_exit_sees_the_same_bytes(Object::Usual);
}

#[test]
fn sys_exit_sees_the_same_bytes_where_bpf_loop_is_missing_too() {
    sys_exit_sees_the_same_bytes(Object::Before5_17);
}

/// A program that stands on a function has to be there until whoever is in the function has left it.
#[test]
fn who_waits_in_a_function_is_not_harmed_when_the_programs_on_it_go() {
    let Some(_alone) = turn() else { return };
    let hooks = Hooks::SocketFunctions;
    if !can_use(hooks, &Object::Fitting) {
        return;
    }
    let cgroup = own_cgroup("waiting");
    let mut program = Program::start();
    take(&cgroup, &program);
    let targets = || vec![Target::Cgroup(cgroup.path().to_path_buf())];
    let mut kernel = only(targets(), Some(hooks), 1 << 20).build().unwrap();
    program.tell("wait");
    program.hear("done");
    // Others come and go meanwhile.
    drop(only(targets(), Some(hooks), 1 << 20).build().unwrap());
    let before = drain(&mut kernel, &mut Vec::new());
    kernel.control().detach();
    program.tell("go");
    assert_eq!(program.hear("done"), [10]);
    assert_eq!(drain(&mut kernel, &mut Vec::new()).operations, before.operations);
    program.end();
}

#[test]
fn a_full_ring_loses_messages_but_never_count_of_them() {
    let Some(_alone) = turn() else { return };
    let cgroup = own_cgroup("ring");
    let mut program = Program::start();
    take(&cgroup, &program);
    let targets = vec![Target::Cgroup(cgroup.path().to_path_buf())];
    let mut kernel = only(targets, None, 64 * 1024).build().unwrap();
    let mut messages = Vec::new();
    // Nobody reads during the first round, so the ring is full when the connection ends.
    program.tell("many 5000 300");
    program.hear("done");
    let closed = kernel.control().take_closed().unwrap();
    assert!(kernel.control().take_closed().unwrap().is_empty(), "an end is told once");
    drain(&mut kernel, &mut messages);
    // What is left of the ring may hold one of them.
    let told = messages.iter().filter(|message| message.kind() == Kind::Close).count();
    assert_eq!(closed.len() + told, 2);
    assert!(!closed.is_empty());
    program.tell("many 20000 300");
    let said = program.hear("done");
    program.end();
    let counters = drain(&mut kernel, &mut messages);
    println!("{counters:?}");
    assert!(counters.dropped > 0);
    assert_eq!(counters.emitted(), messages.len() as u64);
    for cpu in kernel.control().counters_per_cpu().unwrap() {
        assert!(cpu.dropped <= cpu.attempts);
    }
    assert_eq!(counters.operations, 2 * 5000 + said[1] + said[2]);
    let data: Vec<_> = messages.iter().filter(|message| message.kind() == Kind::Data).collect();
    assert_eq!(counters.operations, data.len() as u64 + counters.dropped_operations);
    let covered: u64 = data.iter().map(|message| u64::from(message.header.len)).sum();
    assert_eq!(counters.operation_bytes, covered + counters.dropped_bytes);
    // Per connection, too.
    let told = connections(&messages);
    let mut ends: BTreeMap<u64, ConnTotals> =
        told.iter().filter_map(|(conn, seen)| Some((*conn, seen.close?))).collect();
    ends.extend(closed.iter().map(|state| (state.conn, state.totals)));
    let late = kernel.control().take_closed().unwrap();
    ends.extend(late.iter().map(|state| (state.conn, state.totals)));
    assert!(ends.len() >= 2);
    for (conn, totals) in &ends {
        for (direction, totals) in totals.directions.iter().enumerate() {
            let whole = totals.captured_bytes
                + totals.truncated_bytes
                + totals.dropped_bytes
                + totals.bypassed_bytes;
            assert_eq!(totals.bytes, whole, "{conn} {totals:?}");
            let seen = told.get(conn).map_or(0, |seen| seen.data[direction].len() as u64);
            assert_eq!(totals.operations, seen + totals.dropped_messages);
        }
    }
}

#[test]
fn statistics_of_a_connection_are_told_while_it_is_used_and_when_it_ends() {
    let Some(_alone) = turn() else { return };
    let cgroup = own_cgroup("stats");
    let mut program = Program::start();
    take(&cgroup, &program);
    let targets = vec![Target::Cgroup(cgroup.path().to_path_buf())];
    let mut kernel = only(targets, None, 64 << 20).build().unwrap();
    program.tell("many 3000 300");
    let said = program.hear("done");
    let mut messages = Vec::new();
    drain(&mut kernel, &mut messages);
    let client = connections(&messages)
        .into_iter()
        .find_map(|(conn, seen)| (seen.open?.role == 1).then_some(conn))
        .unwrap();
    let told: Vec<TcpEvent> = messages
        .iter()
        .filter(|message| message.kind() == Kind::Tcp && message.header.conn == client)
        .map(Message::read)
        .filter(|event: &TcpEvent| event.event == TcpEventKind::Stats as u8)
        .collect();
    assert!(told.len() >= 2, "{told:?}");
    assert!(told.is_sorted_by_key(|event| event.stats.bytes_sent), "{told:?}");
    let last = told.last().unwrap();
    assert_eq!(told.iter().filter(|event| event.last != 0).count(), 1);
    assert_eq!((last.last, last.stats.bytes_sent), (1, said[0]), "{last:?}");
    assert!(last.info.local_port != 0 && last.stats.srtt_us > 0 && last.stats.cwnd > 0, "{last:?}");
}

#[test]
fn who_is_not_in_scope_is_not_seen() {
    let Some(_alone) = turn() else { return };
    let cgroup = own_cgroup("scope");
    let (mut inside, mut outside) = (Program::start(), Program::start());
    take(&cgroup, &inside);
    let targets = vec![Target::Cgroup(cgroup.path().to_path_buf())];
    let mut kernel = only(targets, None, 1 << 20).build().unwrap();
    let control = kernel.control();
    let mut messages = Vec::new();
    let mut round = |kernel: &mut KernelSource, inside: &mut Program, outside: &mut Program| {
        for program in [&mut *inside, &mut *outside] {
            program.tell("many 10 10");
            program.hear("done");
        }
        messages.clear();
        drain(kernel, &mut messages);
        let seen = of_traffic(&messages);
        let of = |program: &Program| {
            seen.iter().filter(|message| message.header.tgid == program.child.id()).count()
        };
        (of(inside), of(outside), seen.len())
    };
    // Two ends, each with an Open, ten Data and a Close.
    assert_eq!(round(&mut kernel, &mut inside, &mut outside), (24, 0, 24));
    let other = Target::Pid(outside.child.id());
    control.add_target(&other, Verdict::Include).unwrap();
    assert_eq!(round(&mut kernel, &mut inside, &mut outside), (24, 24, 48));
    // What is excluded is not watched, whatever includes it.
    let own = Target::Pid(inside.child.id());
    control.add_target(&own, Verdict::Exclude).unwrap();
    assert_eq!(round(&mut kernel, &mut inside, &mut outside), (0, 24, 24));
    control.remove_target(&own).unwrap();
    control.remove_target(&other).unwrap();
    assert_eq!(round(&mut kernel, &mut inside, &mut outside), (24, 0, 24));
    let unknown = control.add_target(&Target::Comm("sh".to_owned()), Verdict::Include);
    assert!(unknown.is_err(), "the guard holds for a running scope too");
}

#[test]
fn a_network_namespace_is_a_target() {
    let Some(_alone) = turn() else { return };
    let mut program = Program::start();
    let pid = program.child.id();
    // The part is played on a thread of its own, which alone is in the namespace.
    let namespace = fs::read_dir(format!("/proc/{pid}/task"))
        .unwrap()
        .map(|entry| entry.unwrap().path().join("ns/net"))
        .find(|path| fs::read_link(path).unwrap() != fs::read_link("/proc/self/ns/net").unwrap())
        .unwrap();
    let mut kernel = only(vec![Target::Netns(namespace)], None, 1 << 20).build().unwrap();
    program.tell("many 10 10");
    program.hear("done");
    let mut messages = Vec::new();
    drain(&mut kernel, &mut messages);
    let messages = of_traffic(&messages);
    assert_eq!(messages.len(), 24);
    assert!(messages.iter().all(|message| message.header.tgid == pid));
}

#[test]
fn children_of_a_target_are_in_scope_from_birth_to_end() {
    let Some(_alone) = turn() else { return };
    let mut program = Program::start();
    let pid = program.child.id();
    let mut kernel = only(vec![Target::Pid(pid)], None, 1 << 20).build().unwrap();
    program.tell("spawn");
    assert_eq!(program.hear("done"), [1]);
    let mut messages = Vec::new();
    drain(&mut kernel, &mut messages);
    let of_child: Vec<_> =
        messages.iter().filter(|message| message.header.tgid != pid).map(Message::kind).collect();
    assert_eq!(of_child, [Kind::Fork, Kind::Exec, Kind::Exit]);
    let info: undine_ebpf::ProcessInfo =
        messages.iter().find(|message| message.kind() == Kind::Exec).map(Message::read).unwrap();
    assert_eq!(info.parent_tgid, pid);
    assert_eq!(info.comm[..5], *b"true\0");
    assert!(messages.iter().all(|message| message.header.process_start_ns > 0));
}

#[test]
fn what_is_in_a_cgroup_ends_with_it() {
    let Some(_alone) = turn() else { return };
    let cgroup = own_cgroup("end");
    let path = cgroup.path().to_path_buf();
    let mut sleeper = cgroup.command(std::path::Path::new("sleep")).arg("600").spawn().unwrap();
    while fs::read_to_string(path.join("cgroup.procs")).unwrap().is_empty() {
        std::thread::yield_now();
    }
    drop(cgroup);
    assert_eq!(sleeper.wait().unwrap().signal(), Some(libc::SIGKILL));
    assert!(!path.exists());
}

#[test]
fn a_scope_that_is_too_wide_loads_nothing() {
    let mut config = only(Vec::new(), None, 1 << 20);
    config.scope.default = ScopeDefault::WholeHost;
    assert!(matches!(config.build(), Err(BuildError::Scope(ScopeError::WholeHost))));
    let nobody = only(Vec::new(), None, 1 << 20).build();
    assert!(matches!(nobody, Err(BuildError::Scope(ScopeError::NoTarget))));
    let own = vec![Target::Pid(std::process::id())];
    assert!(matches!(only(own, None, 100_000).build(), Err(BuildError::RingBytes(100_000))));
}

fn in_words(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Attached => "loads and attaches".to_owned(),
        Outcome::Standby => "loads".to_owned(),
        Outcome::Missing(why) => format!("missing: {why}"),
        Outcome::Denied(why) => format!("denied: {why}"),
        Outcome::Refused(why) => format!("refused: {why}"),
    }
}

/// Most instructions that a verifier may go through for one of the programs, with every repetition:
/// half of what any takes (`BPF_COMPLEXITY_LIMIT_INSNS`), since another kernel's needs more of them.
const VERIFIED_MAX: u32 = 500_000;

#[test]
fn every_probe_runs_or_says_why_not() {
    let Some(_alone) = turn() else { return };
    let (programs, reports) = try_all(Object::Fitting).unwrap();
    let verified = programs.verified_instructions();
    // Up to 6.4 there is one function more.
    let functions = reports.iter().filter(|of| of.attach_point.starts_with("fexit:")).count();
    assert!(reports.len() == 24 + functions && (2..=5).contains(&functions), "{reports:?}");
    let may_stand = programs_may_stand_on_functions();
    let has_lengths = can_use(Hooks::SocketLength, &Object::Fitting);
    let is_old = !object::has_loop();
    let mut of_functions = reports.iter().filter(|of| of.attach_point.starts_with("fexit:"));
    let has_functions = of_functions.all(|of| of.outcome == Outcome::Standby);
    for report in reports {
        let runs = matches!(report.outcome, Outcome::Attached | Outcome::Standby);
        assert_eq!(runs, report.remedy.is_empty(), "{report:?}");
        // As `cargo xtask kernels` reads it.
        let effort = verified.get(report.probe).copied();
        let counted = effort.map(|count| format!(", {count} instructions verified"));
        let outcome = in_words(&report.outcome);
        println!("\nprobe {} {outcome}{}", report.probe, counted.unwrap_or_default());
        assert!(effort.unwrap_or_default() < VERIFIED_MAX, "{}: {effort:?}", report.probe);
        let is_on_function = report.attach_point.starts_with("fexit:");
        let of_sockets = report.probe.ends_with("_length");
        let of_tls = tls_probes::names().any(|name| name == report.probe);
        // They call what the kernel has since 5.11, 5.15 and 5.17.
        let needs_new = of_tls
            || ["kfree_skb", "cpu_sample", "trace_enter", "trace_exit"].contains(&report.probe);
        if is_on_function && (is_old || !may_stand) {
            assert!(!runs, "{report:?}");
        } else if of_sockets && !has_lengths || needs_new && is_old {
            assert!(matches!(report.outcome, Outcome::Missing(_)), "{report:?}");
        } else if of_tls && !has_lengths && !has_functions {
            // What is said to a TLS library is bound to its socket by one or the other.
            assert!(matches!(report.outcome, Outcome::Refused(_)), "{report:?}");
        } else {
            assert!(runs, "{report:?}");
        }
    }
}

#[test]
fn a_message_has_room_for_what_one_may_carry() {
    assert_eq!(PAYLOAD_BYTES_MAX, 16 * 1024);
    for object in [object::usual(), object::before_5_17()] {
        names_no_machine(object);
    }
}

fn names_no_machine(object: &[u8]) {
    assert_eq!(object.as_ptr() as usize % 64, 0);
    for place in ["/home/", "/root/", "/work", ".cargo"] {
        let inside = object.windows(place.len()).any(|window| window == place.as_bytes());
        assert!(!inside, "the kernel object holds a path of the machine that built it: {place}");
    }
}

#[test]
fn what_the_programs_cost_is_measured_now_and_then() {
    let Some(_alone) = turn() else { return };
    let cgroup = own_cgroup("cost");
    let mut program = Program::start();
    take(&cgroup, &program);
    let targets = vec![Target::Cgroup(cgroup.path().to_path_buf())];
    let kernel = only(targets, None, 8 << 20).build().unwrap();
    let control = kernel.control();
    let sends = match control.hooks() {
        Hooks::SocketLength => "sock_send_length",
        Hooks::SocketFunctions => socket_functions::SENDS,
        Hooks::SysExit => "sys_exit",
    };
    let mut meter = super::CostMeter::default();
    assert_eq!(meter.tick(&control), None);
    program.tell("many 100 10");
    program.hear("done");
    let sample = meter.tick(&control).unwrap();
    let cost = sample.programs[sends];
    println!("{cost:?} over {:?}", sample.over);
    assert!(cost.runs >= 100 && !cost.time.is_zero(), "{sample:?}");
    assert!(cost.time < sample.over * 64, "{sample:?}");
    if KernelVersion::current().unwrap() >= KernelVersion::new(5, 12, 0) {
        assert_eq!(control.skipped_runs().get(sends), Some(&0), "no interrupt leads there");
    }
    let idle = std::iter::from_fn(|| Some(meter.tick(&control))).take(29);
    assert!(idle.into_iter().all(|sample| sample.is_none()));
    assert_eq!(meter.tick(&control), None, "the next begins");
    assert!(meter.tick(&control).is_some());
    program.end();
}
