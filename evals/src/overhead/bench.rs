//! A server, and windows of its work that are watched in one way or another.

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use undine_collector::kernel::{self, Floor, FloorWork, Outcome};
use undine_collector::tls::probe_watched;
use undine_collector::{Cgroup, Hooks, Object, Scope, ScopeDefault, ScopeGuard, Target, Tls};
use undine_testbed::{Place, Scene, Wire, succeed};

use super::cpu::Cpu;
use super::window::Window;
use crate::nginx::{ADDRESS, AccessLog, Nginx, Sendfile, Serving};
use crate::stage::RunningStore;
use crate::watch::Watch;

/// Connections of the client, which sends on each at once.
const CONNECTIONS: u32 = 16;
/// The ring's size unless the user says otherwise.
const RING_BYTES: u32 = 16 << 20;
/// A ring that holds twice a window's messages.
const UNREAD_RING_BYTES: u32 = 128 << 20;
/// How long a reader that parses nothing waits for messages at a time.
const READ_WAIT: Duration = Duration::from_millis(2);
/// What is asked for where a request's cost is measured: a small file.
const FILE: &str = "/file/600";
/// The same where a rate is: what costs the server least, so that the rate is not its own.
const EMPTY: &str = "/empty";

/// What a client asks for in a window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) requests: u32,
    /// Requests that are on the way on a connection.
    pub(super) pipelined: u32,
}

/// What becomes of the programs' messages in a window without a collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Messages {
    /// They stay in the ring.
    Unread,
    /// They are read and thrown away.
    Discarded,
}

/// A server, and somewhere that is never watched.
#[derive(Debug)]
pub(super) struct Bench {
    nginx: Nginx,
    place: Place,
    outside: Cgroup,
    wire: Wire,
    dir: tempfile::TempDir,
}

impl Bench {
    /// Starts a server to which clients talk over `wire`. Inside TLS it has a library of its own, so
    /// that neither its clients nor anything else on this machine meets a probe.
    pub(super) fn set(wire: Wire) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let place = Place::new("undine-evals")?;
        let outside = Cgroup::create("undine-evals-outside")?;
        let serving = Serving { sendfile: Sendfile::Off, log: AccessLog::Off };
        let nginx = match wire {
            Wire::Plain => Nginx::start(&place, dir.path(), serving)?,
            Wire::Tls => {
                let scene = Scene { place: &place, folder: dir.path(), wire };
                scene.prepare()?;
                Nginx::start_tls(&scene, serving)?
            }
        };
        let bench = Self { nginx, place, outside, wire, dir };
        // So that the first window has no page cache or connection table to fill.
        bench.send(Load { requests: 1000, pipelined: 1 })?;
        Ok(bench)
    }

    /// Sends so many requests; how long that took.
    fn send(&self, load: Load) -> Result<Duration> {
        let Load { requests, pipelined } = load;
        // The client is not watched, so that only the server's end is paid for.
        let mut client = self.place.command_in(&self.outside, "h2load");
        let scheme = if self.wire == Wire::Tls { "https" } else { "http" };
        let path = if pipelined == 1 { FILE } else { EMPTY };
        client.args(["--h1", "-t1", "-n", &requests.to_string(), "-c", &CONNECTIONS.to_string()]);
        client.args(["-m", &pipelined.to_string(), &format!("{scheme}://{ADDRESS}{path}")]);
        let start = Instant::now();
        let told = succeed(&mut client)?;
        ensure!(told.contains(&format!(" {requests} succeeded")), "h2load says {told}");
        // It says itself how long it sent, without its own start and end.
        let seconds = told.lines().find_map(|line| {
            let took = line.strip_prefix("finished in ")?.split_once(',')?.0;
            let (number, unit) = took.split_at(took.find(|c: char| c.is_ascii_alphabetic())?);
            let scale = match unit {
                "s" => 1.0,
                "ms" => 1e-3,
                "us" => 1e-6,
                _ => return None,
            };
            Some(number.parse::<f64>().ok()? * scale)
        });
        Ok(seconds.map_or_else(|| start.elapsed(), Duration::from_secs_f64))
    }

    /// A window that nothing watches.
    pub(super) fn unwatched(&self, load: Load) -> Result<Window> {
        let window = self.measure(load)?;
        Ok(Window { exchange_ns: self.exchange_ns()?, ..window })
    }

    /// A window that a collector watches.
    pub(super) fn watched(&self, hooks: Hooks, tls: Tls, load: Load) -> Result<Window> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let data = tempfile::tempdir_in(self.dir.path())?;
        let running = {
            let _entered = runtime.enter();
            RunningStore::open(data.path(), 1 << 30)?
        };
        // As it is by default: in a ring that is larger than the caches, each message costs more.
        let watch = Watch { hooks: Some(hooks), ring_bytes: RING_BYTES, tls, ..Watch::roomy() };
        let append = std::sync::Arc::new(running.store.clone());
        let collector = watch.config(&self.place.cgroup).build(append)?;
        let handle = collector.handle();
        let shutdown = CancellationToken::new();
        let mut capture = JoinSet::new();
        capture.spawn_on(collector.run(shutdown.clone()), runtime.handle());
        let before = runtime.block_on(handle.drain())?;
        let cpu = Cpu::of_thread("undine-collector")?;
        let measured = self.measure(load);
        let stats = runtime.block_on(handle.drain())?;
        let collector_us = cpu.used()?.as_secs_f64() * 1e6 / f64::from(load.requests);
        shutdown.cancel();
        runtime.block_on(capture.join_next()).context("the collector was not run")???;
        runtime.block_on(running.close());
        ensure!(stats.drained, "the collector could not read everything");
        Ok(Window {
            collector_us,
            rows: stats.rows.http_events - before.rows.http_events,
            lost: stats.kernel.dropped,
            unbound: stats.pipeline.tls_unbound,
            ..measured?
        })
    }

    /// A window in which messages are not parsed.
    pub(super) fn uncollected(&self, messages: Messages, tls: Tls, load: Load) -> Result<Window> {
        let unread = messages == Messages::Unread;
        let scope = Scope {
            default: ScopeDefault::TargetsOnly,
            include: vec![Target::Cgroup(self.place.cgroup.path().to_path_buf())],
            exclude: Vec::new(),
        };
        let config = kernel::Config {
            scope,
            guard: ScopeGuard::Required,
            // Unread, it has to hold everything.
            ring_bytes: if unread { UNREAD_RING_BYTES } else { RING_BYTES },
            connections_max: 128 * 1024,
            hooks: Some(Hooks::SocketLength),
            object: Object::Fitting,
            profile: None,
            tls,
        };
        let mut source = config.build()?;
        let control = source.control();
        if let Tls::Read(placing) = tls {
            for library in probe_watched(&control, placing) {
                let Outcome::Attached = library.outcome else {
                    bail!("{} is not probed: {:?}", library.name, library.outcome);
                };
            }
        }
        let ended = AtomicBool::new(false);
        let window = std::thread::scope(|scope| {
            if !unread {
                scope.spawn(|| {
                    while !ended.load(Ordering::Relaxed) {
                        source.poll(READ_WAIT, &mut |_| {});
                    }
                });
            }
            let measured = self.measure(load);
            let exchange_ns = self.exchange_ns();
            // Once more for the programs' own time, since counting it costs them some.
            let counted = control.cost_during(|| self.send(load));
            ended.store(true, Ordering::Relaxed);
            let (cost, loaded) = counted?;
            loaded?;
            let measured = Window { exchange_ns: exchange_ns?, ..measured? };
            anyhow::Ok(measured.with_cost(&cost, load.requests))
        })?;
        let dropped = control.counters()?.dropped;
        ensure!(dropped == 0, "{dropped} messages found no room; take fewer requests");
        Ok(window)
    }

    /// A window with programs that do the least.
    pub(super) fn floor(&self, work: FloorWork, load: Load) -> Result<Window> {
        let mut floor = Floor::build(work, &self.place.cgroup, UNREAD_RING_BYTES)?;
        let measured = self.measure(load)?;
        let copies = floor.take_copies();
        let exchange_ns = self.exchange_ns()?;
        floor.take_copies();
        let (cost, loaded) = floor.cost_during(|| self.send(load))?;
        loaded?;
        let expected = if work == FloorWork::Copy { 2 * u64::from(load.requests) } else { 0 };
        ensure!(copies >= expected, "of {expected} operations {copies} were copied");
        Ok(Window { exchange_ns, ..measured }.with_cost(&cost, load.requests))
    }

    /// A window with programs that do nothing where calls of the server's TLS library begin and return.
    pub(super) fn floor_of_calls(&self, load: Load) -> Result<Window> {
        let library = self.dir.path().join("lib/libssl.so.3");
        let floor = Floor::of_calls(&library, &self.place.cgroup)?;
        let measured = self.measure(load)?;
        let (cost, loaded) = floor.cost_during(|| self.send(load))?;
        loaded?;
        let window = measured.with_cost(&cost, load.requests);
        ensure!(window.runs >= 2.0, "{:.1} runs for a request", window.runs);
        Ok(window)
    }

    fn measure(&self, load: Load) -> Result<Window> {
        let cpu = Cpu::of_process(self.nginx.id())?;
        let took = self.send(load)?;
        let server = cpu.used()?;
        Ok(Window {
            server_us: server.as_secs_f64() * 1e6 / f64::from(load.requests),
            requests_per_s: f64::from(load.requests) / took.as_secs_f64(),
            call_outside_ns: self.call_ns(&self.outside)?,
            call_inside_ns: self.call_ns(&self.place.cgroup)?,
            requests: load.requests.into(),
            ..Window::default()
        })
    }

    /// What an exchange costs a process that is watched.
    fn exchange_ns(&self) -> Result<f64> {
        let mut command = self.place.command(std::env::current_exe()?);
        Ok(succeed(command.arg("exchange").stdin(Stdio::null()))?.trim().parse()?)
    }

    /// What a call that is none of a socket costs a process in `cgroup`.
    fn call_ns(&self, cgroup: &Cgroup) -> Result<f64> {
        let mut command = self.place.command_in(cgroup, std::env::current_exe()?);
        Ok(succeed(command.arg("calls").stdin(Stdio::null()))?.trim().parse()?)
    }
}
