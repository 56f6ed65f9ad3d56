//! What the tables of the host say, and what programs say of themselves.

use std::io::{BufRead, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use undine_collector::{Handle, Target, host};
use undine_schema::SystemClock;

use super::kernel::{alone, config, may_load};
use super::memory::Memory;
use super::place::{Place, Program, happen_to_be_installed, wait_until};

/// Steps in which the kernel tells CPU time.
const TICK_NS: i64 = 10_000_000;
const KIB: i64 = 1024;
const MIB: i64 = 1024 * KIB;

/// A collector of a place and the host's statistics, running.
struct Running {
    memory: Arc<Memory>,
    collector: Handle,
    host: host::Handle,
    /// The host's end comes first, since it asks the collector.
    ends: [(CancellationToken, JoinSet<()>); 2],
}

impl Running {
    fn start(place: &Place, processes_max: usize) -> Self {
        let memory = Arc::new(Memory::default());
        let append = Arc::clone(&memory);
        let collector = config(&place.cgroup, 4 << 20, None).build(append).unwrap();
        let append = Arc::clone(&memory);
        let host = host::Config {
            collector: collector.handle(),
            // Only when a test says so.
            interval: Duration::from_hours(1),
            processes_max,
            cgroups_max: 64,
            service_rules: Vec::new(),
            node: "knot".to_owned(),
            clock: Arc::new(SystemClock),
        };
        let host = host.build(append).unwrap();
        let handles = (collector.handle(), host.handle());
        let mut ends: [(CancellationToken, JoinSet<()>); 2] = Default::default();
        let stops = [ends[0].0.clone(), ends[1].0.clone()];
        let [stop_host, stop_collector] = stops;
        ends[0].1.spawn(async { Box::pin(host.run(stop_host)).await.unwrap() });
        ends[1].1.spawn(async { Box::pin(collector.run(stop_collector)).await.unwrap() });
        // The scan that it begins with would otherwise fall into another.
        tokio::task::block_in_place(|| {
            wait_until("the first scan", || handles.1.stats().scans > 0);
        });
        Self { memory, collector: handles.0, host: handles.1, ends }
    }

    /// Reads everything now; the rows of a table that this gave.
    async fn scan(&self, table: &str, columns: &[&str]) -> Vec<Vec<String>> {
        let before = self.memory.rows(table, columns).len();
        self.host.scan().await.unwrap();
        self.memory.rows(table, columns).split_off(before)
    }

    /// Reads everything now; the numbers of a process.
    async fn process(&self, pid: u32, columns: &[&str]) -> Option<Vec<i64>> {
        let columns: Vec<_> = ["upid"].iter().chain(columns).copied().collect();
        let mut rows = self.scan("process_stats", &columns).await;
        rows.retain(|row| pid_of(&row[0]) == pid);
        assert!(rows.len() <= 1, "{rows:?}");
        let row = rows.pop()?;
        Some(row[1..].iter().map(|number| number.parse().unwrap()).collect())
    }

    async fn stop(self) -> Arc<Memory> {
        self.collector.drain().await.unwrap();
        for (stop, tasks) in self.ends {
            stop.cancel();
            tasks.join_all().await;
        }
        self.memory
    }
}

/// The pid in the text of a upid.
fn pid_of(upid: &str) -> u32 {
    let parts: Vec<_> = upid.split('-').collect();
    u32::from_str_radix(&format!("{}{}", parts[1], parts[2]), 16).unwrap()
}

fn start(place: &Place) -> Program {
    let exe = std::env::current_exe().unwrap();
    Program::start_test(place.command(exe.display().to_string()), "it::host::program")
}

/// Lets a program do something and gives the numbers that it says of itself.
fn ask(program: &mut Program, line: &str) -> Vec<i64> {
    let word = line.split(' ').next().unwrap();
    program.tell(line);
    let said = tokio::task::block_in_place(|| program.hear(word));
    said.split_ascii_whitespace().map(|number| number.parse().unwrap()).collect()
}

fn length(text: &str) -> i64 {
    i64::try_from(text.len()).unwrap()
}

fn near(told: i64, truth: i64, by: i64, what: &str) {
    assert!((told - truth).abs() <= by, "{what}: the table says {told}, the program {truth}");
}

/// What a started program runs, on words: `burn MS`, `hold MIB`, `write BYTES PATH`, `loop BYTES`,
/// `usage`, `exit CODE`, `abort`.
#[test]
#[ignore = "a program that other tests start"]
fn program() {
    println!("\nready");
    let mut held = Vec::new();
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let number = |index: usize| words[index].parse::<usize>().unwrap();
        match words[0] {
            "burn" => {
                let until = cpu_us(&usage()) + 1000 * i64::try_from(number(1)).unwrap();
                while cpu_us(&usage()) < until {}
                println!("burn");
            }
            "hold" => {
                held.push(vec![1_u8; number(1) << 20]);
                println!("hold");
            }
            "write" => {
                let mut file = std::fs::File::create(words[2]).unwrap();
                file.write_all(&vec![7; number(1)]).unwrap();
                file.sync_all().unwrap();
                println!("write");
            }
            "loop" => {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                let (mut receiver, _) = listener.accept().unwrap();
                let bytes = number(1);
                let sending = std::thread::spawn(move || {
                    sender.write_all(&vec![1; bytes]).unwrap();
                });
                let mut received = Vec::new();
                receiver.read_to_end(&mut received).unwrap();
                sending.join().unwrap();
                assert_eq!(received.len(), bytes);
                println!("loop");
            }
            "usage" => {
                let usage = usage();
                let (user, system) = (us(usage.ru_utime), us(usage.ru_stime));
                let (minor, major) = (usage.ru_minflt, usage.ru_majflt);
                let own = |file: &str, name: &str| {
                    let text = std::fs::read_to_string(format!("/proc/self/{file}")).unwrap();
                    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
                    line.split_ascii_whitespace().next().unwrap().to_owned()
                };
                let (threads, resident) = (own("status", "Threads:"), own("status", "VmRSS:"));
                let (size, written) = (own("status", "VmSize:"), own("io", "write_bytes:"));
                println!(
                    "usage {user} {system} {minor} {major} {threads} {resident} {size} {written}"
                );
            }
            "abort" => std::process::abort(),
            #[expect(
                clippy::disallowed_methods,
                clippy::exit,
                reason = "the end of a program is what is tested"
            )]
            "exit" => std::process::exit(i32::try_from(number(1)).unwrap()),
            other => panic!("{other}"),
        }
    }
    drop(held);
}

fn usage() -> libc::rusage {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    #[expect(
        unsafe_code,
        reason = "what the kernel says of this program, by another way than /proc"
    )]
    // SAFETY: the call writes one `rusage`, of which all zeros are a value too.
    unsafe {
        assert_eq!(libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()), 0);
        usage.assume_init()
    }
}

fn us(time: libc::timeval) -> i64 {
    time.tv_sec * 1_000_000 + time.tv_usec
}

fn cpu_us(usage: &libc::rusage) -> i64 {
    us(usage.ru_utime) + us(usage.ru_stime)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_has_used_what_it_says_itself() {
    let _alone = alone().await;
    if !may_load() {
        return;
    }
    let place = Place::new("undine-host-use");
    let running = Running::start(&place, 64);
    let mut program = start(&place);
    let pid = program.id();
    ask(&mut program, "burn 300");
    let columns = [
        "cpu_utime_ns",
        "cpu_ktime_ns",
        "minor_faults",
        "major_faults",
        "num_threads",
        "rss_bytes",
        "vsize_bytes",
        "write_bytes",
    ];
    let said = ask(&mut program, "usage");
    let told = running.process(pid, &columns).await.unwrap();
    // A tick that had begun may have ended while the program said what it had used.
    near(told[0], said[0] * 1000, TICK_NS, "user time");
    near(told[1], said[1] * 1000, TICK_NS, "system time");
    assert!(told[0] + told[1] >= 300_000_000 - 2 * TICK_NS, "{told:?}");
    near(told[2], said[2], 64, "minor faults");
    near(told[3], said[3], 8, "major faults");
    assert_eq!(told[4], said[4], "threads");
    // The kernel keeps a part of the count on each CPU.
    near(told[5], said[5] * KIB, MIB, "resident memory");
    assert_eq!(told[6], said[6] * KIB, "address space");
    assert_eq!(told[7], said[7], "bytes to the disk");

    ask(&mut program, "hold 64");
    let held = running.process(pid, &["rss_bytes"]).await.unwrap()[0];
    near(held - told[5], 64 * MIB, MIB, "memory that was taken");

    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("host-write");
    let io = ["wchar_bytes", "rchar_bytes", "write_bytes"];
    let before = running.process(pid, &io).await.unwrap();
    let line = format!("write 300000 {}", path.display());
    ask(&mut program, &line);
    let after = running.process(pid, &io).await.unwrap();
    std::fs::remove_file(&path).unwrap();
    // It said a line, and was told one.
    assert_eq!(after[0] - before[0], 300_000 + length("write\n"));
    assert_eq!(after[1] - before[1], length(&line) + 1);
    let said = ask(&mut program, "usage");
    assert_eq!(after[2], said[7], "bytes to the disk");
    let service = running.scan("process_stats", &["upid", "service", "node", "pod"]).await;
    let own = service.iter().find(|row| pid_of(&row[0]) == pid).unwrap();
    assert!(own[1].starts_with("it-") && own[2] == "knot" && own[3].is_empty(), "{own:?}");
    drop(program);
    let memory = running.stop().await;
    assert_eq!(memory.rows("collector_errors", &["error"]), Vec::<Vec<String>>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_not_watched_is_not_in_any_table() {
    let _alone = alone().await;
    if !may_load() {
        return;
    }
    let place = Place::new("undine-host-scope");
    let elsewhere = Place::new("undine-host-else");
    let running = Running::start(&place, 64);
    let (inside, outside) = (start(&place), start(&elsewhere));
    assert!(running.process(inside.id(), &[]).await.is_some());
    assert!(running.process(outside.id(), &[]).await.is_none());
    assert!(running.process(std::process::id(), &[]).await.is_none());
    let cgroups = running.scan("cgroup_stats", &["cgroup"]).await;
    let name =
        |place: &Place| format!("/{}", place.cgroup.path().file_name().unwrap().to_str().unwrap());
    assert_eq!(cgroups, [[name(&place)]]);
    assert_eq!(running.scan("network_stats", &["netns"]).await.len(), 1);

    // Another target holds from the next scan on, and its cgroup, in which others are, does not.
    let target = Target::Pid(outside.id());
    running.collector.add_target(&target).unwrap();
    assert!(running.process(outside.id(), &[]).await.is_some());
    assert_eq!(running.scan("cgroup_stats", &["cgroup"]).await.len(), 1);
    assert_eq!(running.scan("network_stats", &["netns"]).await.len(), 2);
    running.collector.remove_target(&target).unwrap();
    assert!(running.process(outside.id(), &[]).await.is_none());
    // What excludes goes before what includes.
    let target = Target::Pid(inside.id());
    running.collector.exclude_target(&target).unwrap();
    assert!(running.process(inside.id(), &[]).await.is_none());
    let seen = running.memory.rows("processes", &["pid"]);
    running.stop().await;
    assert!(!seen.contains(&vec![std::process::id().to_string()]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_every_process_is_one_row_with_its_code_or_signal() {
    let _alone = alone().await;
    if !may_load() {
        return;
    }
    let place = Place::new("undine-host-exit");
    // One was there before, of which no other message comes.
    let mut before = start(&place);
    let running = Running::start(&place, 64);
    let mut ends = Vec::new();
    let mut end = |program: &mut Program, code: i32, signal: i32| {
        let status = program.wait();
        assert_eq!((status.code().unwrap_or(0), status.signal().unwrap_or(0)), (code, signal));
        ends.push(vec![program.id().to_string(), code.to_string(), signal.to_string()]);
    };
    before.tell("exit 7");
    end(&mut before, 7, 0);
    for (word, code, signal) in [("exit 0", 0, 0), ("exit 255", 255, 0), ("abort", 0, 6)] {
        let mut program = start(&place);
        // What it runs is looked up while it runs.
        running.collector.drain().await.unwrap();
        program.tell(word);
        end(&mut program, code, signal);
    }
    let mut killed = start(&place);
    running.collector.drain().await.unwrap();
    let pid = killed.id().to_string();
    assert!(Command::new("kill").args(["-KILL", &pid]).status().unwrap().success());
    end(&mut killed, 0, 9);
    let stats = running.collector.drain().await.unwrap();
    let mut rows = running.memory.rows("proc_exit_events", &["upid", "exit_code", "signal"]);
    assert_eq!(rows.len() as u64, stats.pipeline.processes_ended);
    for row in &mut rows {
        row[0] = pid_of(&row[0]).to_string();
    }
    // The shells that `Place` starts run other programs and end as these.
    assert_eq!(rows, ends);
    let names = running.memory.rows("proc_exit_events", &["comm", "service"]);
    let exe = std::env::current_exe().unwrap();
    let exe = exe.file_name().unwrap().to_str().unwrap();
    let expected = vec![exe[..15].to_owned(), exe.to_owned()];
    // A process that was there before has taken the path to its program with it.
    assert_eq!(names[0], [exe[..15].to_owned(), exe[..15].to_owned()]);
    assert!(names[1..].iter().all(|row| *row == expected), "{names:?}");
    let memory = running.stop().await;
    assert_eq!(memory.rows("data_loss", &["reason"]), Vec::<Vec<String>>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ends_of_processes_that_the_ring_had_no_room_for_are_within_the_bounds() {
    let _alone = alone().await;
    if !may_load() {
        return;
    }
    let place = Place::new("undine-host-lost");
    let memory = Arc::new(Memory::default());
    let append = Arc::clone(&memory);
    let collector = config(&place.cgroup, 64 * 1024, None).build(append).unwrap();
    // Nobody reads yet, so the ring fills.
    let script = "i=0; while [ $i -lt 1000 ]; do /bin/true; i=$((i+1)); done";
    tokio::task::block_in_place(|| place.run("sh", &["-c", script]));
    let ended = 1001;
    let handle = collector.handle();
    let shutdown = CancellationToken::new();
    let running = JoinSet::from_iter([Box::pin(collector.run(shutdown.clone()))]);
    let stats = handle.drain().await.unwrap();
    shutdown.cancel();
    running.join_all().await.into_iter().collect::<Result<(), _>>().unwrap();
    assert!(stats.drained && stats.kernel.dropped > 0, "{stats:?}");
    let rows = memory.rows("proc_exit_events", &["signal"]).len() as u64;
    let bounds = memory.rows("data_loss", &["source_table", "rows_min", "rows_max"]);
    let bounds: Vec<_> = bounds.iter().filter(|row| row[0] == "proc_exit_events").collect();
    let sum = |column: usize| bounds.iter().map(|row| row[column].parse::<u64>().unwrap()).sum();
    let (min, max): (u64, u64) = (sum(1), sum(2));
    println!("{rows} rows of {ended}, {min}..={max} missing");
    assert!(rows < ended && (min..=max).contains(&(ended - rows)), "{rows} rows, {min}..={max}");
    let errors = memory.rows("collector_errors", &["source_connector", "status", "context"]);
    let count = format!("{{\"count\":{}}}", stats.kernel.dropped);
    assert_eq!(errors, [["sockets", "11", &count]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loopback_has_moved_what_the_namespace_itself_says() {
    let _alone = alone().await;
    if !may_load() {
        return;
    }
    let place = Place::new("undine-host-net");
    let running = Running::start(&place, 64);
    let mut program = start(&place);
    ask(&mut program, "loop 5000000");
    let columns = ["loopback_bytes", "loopback_packets", "rx_bytes", "tx_bytes", "netns", "pod_id"];
    let said = || {
        let file = tokio::task::block_in_place(|| place.run("cat", &["/proc/net/dev"]));
        let line = file.lines().find_map(|line| line.trim().strip_prefix("lo:")).unwrap();
        let numbers = line.split_ascii_whitespace().map(|text| text.parse::<u64>().unwrap());
        numbers.collect::<Vec<_>>()
    };
    let before = said();
    let told = running.scan("network_stats", &columns).await;
    let after = said();
    let [told] = &told[..] else { panic!("{told:?}") };
    let number = |index: usize| told[index].parse::<u64>().unwrap();
    // The last acknowledgement may be under way.
    assert!((before[8]..=after[8]).contains(&number(0)), "{before:?} {told:?} {after:?}");
    assert!((before[9]..=after[9]).contains(&number(1)), "{before:?} {told:?} {after:?}");
    assert!(number(0) > 5_000_000 && after[8] - before[8] < 1000, "{before:?} {after:?}");
    let inode = std::fs::metadata(format!("/proc/{}/ns/net", program.id())).unwrap().ino();
    assert_eq!(told[2..], ["0", "0", &inode.to_string(), ""]);
    drop(program);
    running.stop().await;
}

/// A cgroup of version 1 with one process in it; gone with it.
struct MemoryCgroup(PathBuf);

impl MemoryCgroup {
    fn new(name: &str, pid: u32) -> Option<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mount = mounts.lines().find(|line| {
            line.split_once(" - cgroup ").is_some_and(|(_, rest)| {
                rest.split(' ').nth(1).unwrap().split(',').any(|option| option == "memory")
            })
        })?;
        let path = Path::new(mount.split(' ').nth(4).unwrap()).join(name);
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("cgroup.procs"), pid.to_string()).unwrap();
        Some(Self(path))
    }

    fn says(&self, file: &str) -> i64 {
        std::fs::read_to_string(self.0.join(file)).unwrap().trim().parse().unwrap()
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        wait_until("the end of a cgroup's process", || {
            std::fs::read_to_string(self.0.join("cgroup.procs")).unwrap().is_empty()
        });
        std::fs::remove_dir(&self.0).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cgroup_has_used_what_its_own_files_say() {
    let _alone = alone().await;
    if !may_load() {
        return;
    }
    let place = Place::new("undine-host-cg");
    let running = Running::start(&place, 64);
    let mut program = start(&place);
    ask(&mut program, "burn 200");
    let columns = ["cpu_usage_ns", "cpu_user_ns", "cpu_system_ns", "cpu_some_ns", "controllers"];
    let said = || {
        let read = |name: &str| std::fs::read_to_string(place.cgroup.path().join(name));
        let file = read("cpu.stat").unwrap();
        let [usage, user, system] = ["usage_usec ", "user_usec ", "system_usec "].map(|name| {
            let line = file.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.parse::<i64>().unwrap() * 1000
        });
        // A kernel without pressure has no such file.
        let pressure = read("cpu.pressure").unwrap_or_default();
        let waited = pressure.lines().next().and_then(|some| some.split_once("total="));
        let waited = waited.map_or(0, |(_, us)| us.parse::<i64>().unwrap() * 1000);
        [usage, user, system, waited]
    };
    let before = said();
    let told = running.scan("cgroup_stats", &columns).await;
    let after = said();
    let [told] = &told[..] else { panic!("{told:?}") };
    for (index, (before, after)) in before.into_iter().zip(after).enumerate() {
        let told: i64 = told[index].parse().unwrap();
        assert!((before..=after).contains(&told), "{index}: {before} {told} {after}");
    }
    // The program waits, or is about to.
    assert!(before[0] >= 200_000_000 && after[0] - before[0] < TICK_NS, "{before:?} {after:?}");
    assert!(told[4].starts_with("cpu"), "{told:?}");

    // One of version 1 is told too, since only a watched process is in it.
    let name = format!("undine-host-v1-{}", std::process::id());
    let Some(v1) = MemoryCgroup::new(&name, program.id()) else {
        println!("skipped: no memory cgroups of version 1 are mounted");
        return;
    };
    ask(&mut program, "hold 8");
    let columns = ["cgroup", "memory_bytes", "memory_peak_bytes", "memory_max_bytes", "service"];
    let before = v1.says("memory.usage_in_bytes");
    let told = running.scan("cgroup_stats", &columns).await;
    let row = told.iter().find(|row| row[0] == format!("/{name}")).unwrap();
    let after = v1.says("memory.usage_in_bytes");
    let used: i64 = row[1].parse().unwrap();
    assert!((before.min(after)..=before.max(after)).contains(&used), "{before} {used} {after}");
    assert!(used >= 8 * MIB && row[3] == "-1", "{row:?}");
    assert!(row[2].parse::<i64>().unwrap() <= v1.says("memory.max_usage_in_bytes"));
    assert!(row[4].starts_with("it-"), "{row:?}");
    drop(program);
    running.stop().await;
}

/// Runs `prepare` and then `script` as the first process of a pid namespace, the latter with a
/// `/tmp` of its own.
fn boxed(place: &Place, prepare: &str, script: &str) -> Command {
    let mut command = place.command("unshare");
    let script = format!("{prepare} && mount -t tmpfs none /tmp && {script}");
    command.args(["--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", &script]);
    command
}

const JAVA: &str = r#"
import java.lang.management.*;
public class Heap {
    public static void main(String[] arguments) throws Exception {
        byte[][] held = new byte[100][];
        for (int i = 0; i < 3000; i++) held[i % 100] = new byte[100000];
        System.gc();
        for (GarbageCollectorMXBean bean : ManagementFactory.getGarbageCollectorMXBeans())
            System.out.println(bean.getCollectionTime() + " " + bean.getCollectionCount());
        MemoryUsage heap = ManagementFactory.getMemoryMXBean().getHeapMemoryUsage();
        System.out.println(heap.getUsed() + " " + heap.getCommitted());
        System.out.println("ready");
        System.in.read();
        System.out.println(held.length);
    }
}
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_java_machine_in_a_box_has_the_heap_that_it_says_itself() {
    let _alone = alone().await;
    if !may_load() || !happen_to_be_installed(&["java", "javac"]) {
        return;
    }
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let source = dir.path().join("Heap.java");
    std::fs::write(&source, JAVA).unwrap();
    let class = dir.path().join("Heap.class");
    let compiled = Command::new("javac").arg("-d").arg(dir.path()).arg(&source).status().unwrap();
    assert!(compiled.success());
    let place = Place::new("undine-host-jvm");
    let running = Running::start(&place, 64);
    let columns = [
        "upid",
        "young_gc_time",
        "full_gc_time",
        "used_heap_size",
        "total_heap_size",
        "max_heap_size",
        "service",
    ];
    for collector in ["Serial", "G1"] {
        let script = format!("exec java -XX:+Use{collector}GC -Xmx64m -cp /mnt Heap");
        let prepare = format!("mount -t tmpfs none /mnt && cp {} /mnt", class.display());
        let mut command = boxed(&place, &prepare, &script);
        let (machine, said) = tokio::task::block_in_place(|| Program::starting(&mut command));
        let said: Vec<Vec<i64>> = said
            .iter()
            .map(|line| line.split(' ').map(|number| number.parse().unwrap()).collect())
            .collect();
        let told = running.scan("jvm_stats", &columns).await;
        let [told] = &told[..] else { panic!("{told:?}") };
        let number = |index: usize| told[index].parse::<i64>().unwrap();
        let [young, full, heap] = &said[..] else { panic!("{said:?}") };
        println!("{collector}: {told:?} {said:?}");
        // The machine rounds each of its collections to milliseconds.
        near(number(1) / 1_000_000, young[0], young[1] + 1, "young collections");
        near(number(2) / 1_000_000, full[0], full[1] + 1, "full collections");
        near(number(3), heap[0], 4 * MIB, "used");
        near(number(4), heap[1], 4 * MIB, "committed");
        near(number(5), 64 * MIB, 64, "at most");
        assert_eq!(told[6], "Heap");
        drop(machine);
        let pid = pid_of(&told[0]);
        wait_until("the end of the machine", || !Path::new(&format!("/proc/{pid}")).exists());
    }
    let memory = running.stop().await;
    assert_eq!(memory.rows("collector_errors", &["error"]), Vec::<Vec<String>>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_and_what_is_too_much_is_counted() {
    let _alone = alone().await;
    if !may_load() {
        return;
    }
    let place = Place::new("undine-host-err");
    let running = Running::start(&place, 2);
    let script = "mkdir /tmp/hsperfdata_root && echo not a machine >/tmp/hsperfdata_root/1 && \
                  echo ready && exec sleep 600";
    let mut command = boxed(&place, "true", script);
    let (odd, _) = tokio::task::block_in_place(|| Program::starting(&mut command));
    let all = std::fs::read_to_string(place.cgroup.path().join("cgroup.procs")).unwrap();
    let all = all.lines().count();
    let scanned = running.host.scan().await.unwrap();
    assert_eq!((scanned.processes, scanned.processes_omitted), (2, all as u64 - 2));
    let lost = ["source_table", "stage", "reason", "rows_min", "rows_max"];
    let lost = running.memory.rows("data_loss", &lost);
    let omitted = (all - 2).to_string();
    assert!(
        lost.iter().all(|row| row[..3] == ["process_stats", "collector", "processes_max"])
            && lost.iter().all(|row| row[3] == omitted && row[4] == omitted),
        "{lost:?}"
    );
    drop(running.stop().await);

    let running = Running::start(&place, 64);
    running.host.scan().await.unwrap();
    running.host.scan().await.unwrap();
    let host = running.host.clone();
    let memory = running.stop().await;
    let scans = i64::try_from(host.stats().scans).unwrap();
    let errors = memory.rows("collector_errors", &["source_connector", "status", "context"]);
    assert!(errors.iter().all(|row| row[..2] == ["jvm", "3"]), "{errors:?}");
    let count = |row: &Vec<String>| {
        let context: serde_json::Value = serde_json::from_str(&row[2]).unwrap();
        context["count"].as_i64().unwrap()
    };
    assert_eq!(errors.iter().map(count).sum::<i64>(), scans);
    drop(odd);
}

/// Prints what a scan costs; run it with `--ignored --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn what_a_scan_of_five_hundred_processes_costs() {
    let _alone = alone().await;
    assert!(may_load());
    let place = Place::new("undine-host-many");
    let running = Running::start(&place, 4096);
    let script = "for i in $(seq 500); do sleep 600 & done; echo ready; wait";
    let mut command = place.command("sh");
    let command = command.args(["-c", script]);
    let (many, _) = tokio::task::block_in_place(|| Program::starting(command));
    for _ in 0..5 {
        let stats = running.host.scan().await.unwrap();
        println!("{stats:?}");
        assert!(stats.processes >= 500);
    }
    drop(many);
    running.stop().await;
}
