//! CPU profiles of programs whose use of the CPU is known.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use undine_collector::{Cgroup, Stats, profiler};
use undine_testbed::Program;
use undine_testbed::spin::{self, FRAME_POINTERS, NO_FRAME_POINTERS, Shares, Stacks};

use super::kernel::{alone, config, may_load};
use super::memory::Memory;
use super::place::are_installed;

/// Ten times what is usual, so that a few seconds give enough samples; no divisor of anything that
/// the programs do.
const FREQUENCY_HZ: u32 = 499;

/// A compiled program in a folder of its own.
struct Built {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl Built {
    fn with(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = spin::build(flags, folder.path()).unwrap();
        Self { _folder: folder, path }
    }
}

/// What a profiled program was seen to do.
struct Profile {
    /// Samples by process and folded stack.
    rows: Vec<(u32, String, u64)>,
    stats: Stats,
    losses: Vec<Vec<String>>,
    errors: Vec<Vec<String>>,
    /// Services and nodes of all rows.
    places: BTreeSet<Vec<String>>,
}

impl Profile {
    /// All samples of a process.
    fn samples(&self, pid: u32) -> u64 {
        self.of(pid).values().sum()
    }

    /// Samples of a process by stack.
    fn of(&self, pid: u32) -> Stacks {
        let mut stacks = Stacks::new();
        for (_, stack, count) in self.rows.iter().filter(|row| row.0 == pid) {
            *stacks.entry(stack.clone()).or_default() += count;
        }
        stacks
    }

    /// The share of a process's samples in which a frame is called `name`.
    fn share(&self, pid: u32, name: &str) -> f64 {
        spin::share(&self.of(pid), name)
    }

    fn check_sums(&self) {
        let profile = &self.stats.profile;
        let kernel = &profile.kernel;
        assert_eq!(kernel.taken, kernel.counted + kernel.copied + kernel.map_full, "{kernel:?}");
        assert_eq!(profile.samples, kernel.taken - kernel.map_full, "{profile:?}");
        let in_rows: u64 = self.rows.iter().map(|row| row.2).sum();
        assert_eq!(in_rows, profile.samples, "every sample is in a row");
    }
}

#[expect(clippy::cast_precision_loss, reason = "some thousand samples")]
fn exact(count: u64) -> f64 {
    count as f64
}

/// Profiles what `act` starts in a cgroup.
async fn profiled<T>(
    kernel_stacks_max: Option<u32>,
    act: impl FnOnce(&Cgroup) -> T,
) -> (Profile, T) {
    profiled_at(FREQUENCY_HZ, kernel_stacks_max, act).await
}

/// As [`profiled`], at another frequency.
async fn profiled_at<T>(
    frequency_hz: u32,
    kernel_stacks_max: Option<u32>,
    act: impl FnOnce(&Cgroup) -> T,
) -> (Profile, T) {
    let cgroup = Cgroup::create("undine-profile").unwrap();
    let memory = Arc::new(Memory::default());
    let mut config = config(&cgroup, 1 << 20, None);
    let interval = Duration::from_secs(1);
    config.profiler = Some(profiler::Config { frequency_hz, interval, kernel_stacks_max });
    let append = Arc::clone(&memory);
    let collector = config.build(append).unwrap();
    let handle = collector.handle();
    let shutdown = CancellationToken::new();
    let running = JoinSet::from_iter([Box::pin(collector.run(shutdown.clone()))]);
    let said = tokio::task::block_in_place(|| act(&cgroup));
    let stats = handle.drain().await.unwrap();
    assert!(stats.drained, "{stats:?}");
    let columns = ["upid", "stack_trace", "count"];
    let rows = memory.rows("stack_traces.beta", &columns).into_iter().map(|row| {
        let pid = u32::from_str_radix(&row[0].replace('-', "")[8..16], 16).unwrap();
        (pid, row[1].clone(), row[2].parse().unwrap())
    });
    let rows = rows.collect();
    let losses = memory.rows("data_loss", &["source_table", "reason", "rows_max"]);
    let errors = memory.rows("collector_errors", &["source_connector", "status"]);
    let places = memory.rows("stack_traces.beta", &["service", "node"]).into_iter().collect();
    shutdown.cancel();
    running.join_all().await.into_iter().collect::<Result<(), _>>().unwrap();
    (Profile { rows, stats, losses, errors, places }, said)
}

fn start(command: &mut Command, arguments: &[&str]) -> Program {
    Program::start(command.args(arguments)).unwrap()
}

/// Waits for the end of a program; gives its pid and what it said.
fn finish(program: Program) -> (u32, String) {
    (program.id(), program.finish().unwrap())
}

fn check_shares(profile: &Profile, pid: u32, said: &str) {
    let truth = Shares::read(said).unwrap();
    for finding in truth.judge(&profile.of(pid), FREQUENCY_HZ) {
        println!("{finding:?}");
        assert!(finding.is_right, "{finding:?} {:#?}", profile.of(pid));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn functions_have_the_shares_of_the_cpu_that_they_had() {
    let _alone = alone().await;
    if !may_load() || !are_installed(&["cc"]) {
        return;
    }
    let built = Built::with(&FRAME_POINTERS);
    let (profile, (pid, said, other)) = profiled(None, |cgroup| {
        let outside = start(&mut Command::new(&built.path), &["shares", "2"]);
        let inside = start(&mut cgroup.command(&built.path), &["shares", "4"]);
        let (pid, said) = finish(inside);
        (pid, said, finish(outside).0)
    })
    .await;
    profile.check_sums();
    check_shares(&profile, pid, &said);
    assert!(profile.places.contains(&["spin", "knot"].map(str::to_owned)[..]));
    assert_eq!(profile.samples(other), 0, "what is not in the cgroup is not sampled");
    assert!(profile.stats.profile.kernel.out_of_scope > 0);
    assert_eq!(profile.losses, Vec::<Vec<String>>::new());
    assert!(profile.share(pid, "main") > 0.95, "{:#?}", profile.of(pid));
    let seen = &profile.stats.profile;
    println!("{seen:?}");
    assert!(seen.frame_pointer_processes >= 1, "its frame pointers are found to be good");
    assert!(seen.kernel.counted > seen.kernel.copied, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_without_frame_pointers_have_them_too() {
    let _alone = alone().await;
    if !may_load() || !are_installed(&["cc"]) {
        return;
    }
    let built = Built::with(&NO_FRAME_POINTERS);
    let (profile, (pid, said, deep)) = profiled(None, |cgroup| {
        let inside = start(&mut cgroup.command(&built.path), &["shares", "4"]);
        let (pid, said) = finish(inside);
        let deep = start(&mut cgroup.command(&built.path), &["deep", "1"]);
        (pid, said, finish(deep).0)
    })
    .await;
    profile.check_sums();
    check_shares(&profile, pid, &said);
    let whole = profile.share(pid, "main");
    println!("{:?}: {whole:.4} up to main", profile.stats.profile);
    // Not of the shell that it was started from.
    assert!(whole > 0.95, "{:#?}", profile.of(pid));
    assert!(profile.stats.profile.kernel.copied > 1000);
    let stacks = profile.of(deep);
    let is_deep = |stack: &str| stack.matches(";descend").count() == 41 && stack.contains("main;");
    let all: u64 = stacks.iter().filter(|(stack, _)| is_deep(stack)).map(|(_, count)| count).sum();
    assert!(exact(all) > 0.95 * exact(profile.samples(deep)), "{stacks:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_kernel_does_for_a_program_is_told_apart() {
    let _alone = alone().await;
    if !may_load() || !are_installed(&["cc"]) {
        return;
    }
    let built = Built::with(&FRAME_POINTERS);
    let (profile, pid) = profiled(None, |cgroup| {
        let inside = start(&mut cgroup.command(&built.path), &["kernel", "1"]);
        finish(inside).0
    })
    .await;
    profile.check_sums();
    let stacks = profile.of(pid);
    let in_kernel: u64 =
        stacks.iter().filter(|(stack, _)| stack.contains(";[k] ")).map(|(_, count)| count).sum();
    let share = exact(in_kernel) / exact(profile.samples(pid));
    println!("{share:.4} in the kernel");
    assert!(share > 0.8, "{stacks:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn samples_for_which_the_kernel_has_no_room_are_counted() {
    let _alone = alone().await;
    if !may_load() || !are_installed(&["cc"]) {
        return;
    }
    let built = Built::with(&FRAME_POINTERS);
    let (profile, _) = profiled(Some(1), |cgroup| {
        let inside = start(&mut cgroup.command(&built.path), &["shares", "3"]);
        finish(inside)
    })
    .await;
    profile.check_sums();
    let kernel = &profile.stats.profile.kernel;
    println!("{kernel:?}");
    assert!(kernel.map_full > 0 && kernel.counted > 0 && kernel.stacks_full > 0);
    let told: u64 = profile.losses.iter().map(|row| row[2].parse::<u64>().unwrap()).sum();
    assert_eq!(told, kernel.map_full, "{:?}", profile.losses);
    assert!(profile.losses.iter().all(|row| row[..2] == ["stack_traces.beta", "map_full"]));
    assert!(profile.errors.contains(&["profiler", "11"].map(str::to_owned).to_vec()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_stack_is_known_as_long_as_there_is_room() {
    let _alone = alone().await;
    if !may_load() || !are_installed(&["cc"]) {
        return;
    }
    let built = Built::with(&FRAME_POINTERS);
    // Forty and a few: in a table with one place for each, as the kernel's own, some would want the same.
    let (profile, (pid, _)) = profiled(Some(128), |cgroup| {
        finish(start(&mut cgroup.command(&built.path), &["depths", "3"]))
    })
    .await;
    profile.check_sums();
    let stacks = profile.of(pid);
    let lost: Vec<_> = stacks.keys().filter(|stack| stack.contains("[lost]")).collect();
    assert_eq!(lost, Vec::<&String>::new(), "{:?}", profile.stats.profile);
    let depth = |stack: &String| stack.split(';').filter(|frame| *frame == "descend").count();
    let depths: BTreeSet<_> = stacks.keys().map(depth).collect();
    assert!((1..=40).all(|depth| depths.contains(&depth)), "{depths:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn code_that_a_runtime_compiles_has_the_names_that_it_gives() {
    let _alone = alone().await;
    if !may_load() || !are_installed(&["node"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("burn.js");
    let text = "function burnSomeCpu(n) { let x = 1; for (let i = 0; i < n; i++) x = (x * 31 + i) % 65521; return x }
        const end = process.cpuUsage().user + 1.5e6; let sum = 0;
        while (process.cpuUsage().user < end) sum += burnSomeCpu(1e6);
        console.log(sum);";
    std::fs::write(&script, text).unwrap();
    let (profile, pid) = profiled(None, |cgroup| {
        let mut node = cgroup.command(Path::new("node"));
        // Where it also writes a log of its own.
        node.current_dir(folder.path());
        let node = start(node.arg("--perf-basic-prof").arg(&script), &[]);
        finish(node).0
    })
    .await;
    drop(std::fs::remove_file(format!("/tmp/perf-{pid}.map")));
    profile.check_sums();
    let stacks = profile.of(pid);
    let named = stacks.iter().filter(|(stack, _)| stack.contains("burnSomeCpu"));
    let named: u64 = named.map(|(_, count)| count).sum();
    let share = exact(named) / exact(profile.samples(pid));
    println!("{share:.4} of {} samples; {:?}", profile.samples(pid), profile.stats.profile);
    assert!(share > 0.5, "{stacks:#?}");
}

/// Runs a server in a network of its own, says its pid, and keeps it busy for two seconds.
const NATS_UNDER_LOAD: &str = r#"
ip link set lo up
nats-server -a 127.0.0.1 -p 4222 >/dev/null 2>&1 &
server=$!
python3 -c '
import socket, time
for _ in range(500):
    try:
        s = socket.create_connection(("127.0.0.1", 4222))
        break
    except OSError:
        time.sleep(0.02)
s.recv(4096)
s.sendall(b"CONNECT {\"verbose\":false}\r\n")
end = time.time() + 2
while time.time() < end:
    s.sendall(b"PUB a 5\r\nhello\r\n" * 1000)
'
kill $server
wait
echo $server
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn go_programs_have_names_although_they_were_stripped() {
    let _alone = alone().await;
    if !may_load() || !are_installed(&["nats-server", "python3", "ip", "unshare"]) {
        return;
    }
    let (profile, pid) = profiled(None, |cgroup| {
        let mut shell = cgroup.command(Path::new("unshare"));
        let (_, said) = finish(start(&mut shell, &["--net", "sh", "-c", NATS_UNDER_LOAD]));
        said.trim().parse().unwrap()
    })
    .await;
    profile.check_sums();
    let stacks = profile.of(pid);
    let named = stacks.iter().filter(|(stack, _)| stack.contains("nats-server/server.(*client)"));
    let named: u64 = named.map(|(_, count)| count).sum();
    let share = exact(named) / exact(profile.samples(pid));
    println!("{share:.4} of {} samples; {:?}", profile.samples(pid), profile.stats.profile);
    assert!(share > 0.5, "{stacks:#?}");
}

/// Nanoseconds of CPU time of this process's threads called `name`.
fn thread_cpu_ns(name: &str) -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let of = |task: std::fs::DirEntry| {
        let read = |file| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let is_it = read("comm").trim() == name;
        let ns = read("schedstat").split(' ').next().and_then(|ns| ns.parse::<u64>().ok());
        ns.filter(|_| is_it)
    };
    tasks.filter_map(Result::ok).filter_map(of).sum()
}

/// Runs and nanoseconds of this process's kernel programs on perf events; 0 unless the kernel
/// counts them (`kernel.bpf_stats_enabled`).
fn kernel_cost() -> (u64, u64) {
    let mut sum = (0, 0);
    for entry in std::fs::read_dir("/proc/self/fdinfo").unwrap().filter_map(Result::ok) {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let number = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
        };
        // BPF_PROG_TYPE_PERF_EVENT.
        if number("prog_type:") == 7 {
            sum = (sum.0 + number("run_cnt:"), sum.1 + number("run_time_ns:"));
        }
    }
    sum
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: prints what profiling costs at the usual frequency"]
async fn what_profiling_costs() {
    let _alone = alone().await;
    if !may_load() || !are_installed(&["cc"]) {
        return;
    }
    for flags in [&FRAME_POINTERS[..], &NO_FRAME_POINTERS[..]] {
        let built = Built::with(flags);
        let (profile, (cpu_ns, seconds, runs)) = profiled_at(49, None, |cgroup| {
            let began = std::time::Instant::now();
            let one = start(&mut cgroup.command(&built.path), &["shares", "8"]);
            let other = start(&mut cgroup.command(&built.path), &["deep", "8"]);
            finish(one);
            finish(other);
            (thread_cpu_ns("undine-profiler"), began.elapsed().as_secs_f64(), kernel_cost())
        })
        .await;
        profile.check_sums();
        println!("{flags:?}: {:?}", profile.stats.profile);
        println!("kernel: {} runs, {} µs", runs.0, runs.1 / 1000);
        println!("user space: {} ms of CPU in {seconds:.1} s", cpu_ns / 1_000_000);
    }
}
