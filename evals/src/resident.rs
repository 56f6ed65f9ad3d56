//! What the appliance keeps resident while everything that is on by default watches servers under load: sockets,
//! TLS, CPU profiles, host metrics; with the store, the model and the API that it has in life.
//!
//! What of it are rows in memory the store says itself; their budget is the user's to choose, so the limit is for
//! all the rest of the process. The same appliance that captures nothing stands beside it: what it keeps is not
//! the collector's.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::client::FILE_SIZES;
use crate::memory::memory_of;
use crate::nginx::{ADDRESS, AccessLog, Nginx, Sendfile, Serving};
use crate::report::Report;
use crate::require_scope;
use undine_collector::Cgroup;
use undine_testbed::{Place, Scene, Server, Wire, find, succeed};

/// What the process may keep beside rows in memory.
const REST_MIB_MAX: u64 = 250;
/// Where it says how it is, in a network of its own.
const STATUS: &str = "http://127.0.0.1:7117/metrics";
/// Connections, and requests of each in a second.
const LOAD: [&str; 4] = ["-c", "8", "--rps", "500"];
/// How often it is asked.
const LOOK: Duration = Duration::from_millis(500);

/// Everything by default, but a small budget for rows, so that they do not hide the rest.
const CONFIG: &str =
    "node = \"evals\"\n[store]\nhot_size_max = \"64MiB\"\nhot_pinned_size_max = \"16MiB\"\n";

pub(crate) fn run(seconds: u32) -> Result<Report> {
    require_scope()?;
    for program in ["h2load", "openssl", "curl"] {
        find(program).with_context(|| format!("{program} is not installed"))?;
    }
    let mut report = Report::new("resident");
    // It ends before the other begins.
    let idle = Appliance::start("[capture]\nenabled = false\n")?
        .most_while(|| Ok(()), Duration::from_secs(5))?;
    report.count("idle_resident_mib_at_most", idle.resident >> 20);
    let most = under_load(seconds, &mut report)?;
    report.count("resident_mib_at_most", most.resident >> 20);
    report.count("hot_rows_mib_at_most", most.hot >> 20);
    report.count("idle_rest_mib_at_most", idle.rest >> 20);
    report.count("rest_more_than_idle_mib", most.rest.saturating_sub(idle.rest) >> 20);
    let rest = most.rest >> 20;
    report.check(
        "resident at most, without rows in memory",
        format!("{rest} MiB"),
        format!("<= {REST_MIB_MAX} MiB"),
        rest <= REST_MIB_MAX,
    );
    Ok(report)
}

/// Watches nginx, plain and inside TLS, for so many seconds of load.
fn under_load(seconds: u32, report: &mut Report) -> Result<Most> {
    let places = [Place::new("undine-evals-plain")?, Place::new("undine-evals-tls")?];
    let folders = [tempfile::tempdir()?, tempfile::tempdir()?];
    let scene = |at: usize, wire| Scene { place: &places[at], folder: folders[at].path(), wire };
    let scenes = [scene(0, Wire::Plain), scene(1, Wire::Tls)];
    scenes.iter().try_for_each(Scene::prepare)?;
    let serving = Serving { sendfile: Sendfile::Off, log: AccessLog::Off };
    let _plain = Nginx::start(scenes[0].place, scenes[0].folder, serving)?;
    let _tls = Nginx::start_tls(&scenes[1], serving)?;
    let target = |cgroup: &Cgroup| format!("\"cgroup:{}\"", cgroup.path().display());
    let targets = [target(&places[0].cgroup), target(&places[1].cgroup)].join(", ");
    let appliance = Appliance::start(&format!("[capture]\ntargets = [{targets}]\n"))?;
    let load = || {
        let running = scenes.map(|scene| {
            let mut client = scene.command("h2load");
            client.args(LOAD).args(["-t", "1", "-D", &seconds.to_string()]).args(asked(scene.wire));
            std::thread::spawn(move || succeed(&mut client))
        });
        for client in running {
            let said = client.join().map_err(|_panic| anyhow::anyhow!("a client panicked"))??;
            ensure!(said.contains(" 0 failed"), "h2load says {said}");
        }
        Ok(())
    };
    let most = appliance.most_while(load, Duration::from_secs(u64::from(seconds)))?;
    for table in ["http_events", "stack_traces.beta", "process_stats", "network_stats"] {
        let rows = appliance.metric("undine_store_appended_rows_total", table)?;
        report.count(format!("{table}_rows"), rows);
        report.check(format!("{table} has rows"), rows, "> 0", rows > 0);
    }
    Ok(most)
}

/// What a client of nginx asks for.
fn asked(wire: Wire) -> Vec<String> {
    let path = format!("/file/{}", FILE_SIZES[2]);
    match wire {
        Wire::Plain => vec!["--h1".to_owned(), format!("http://{ADDRESS}{path}")],
        Wire::Tls => vec![format!("https://{ADDRESS}{path}")],
    }
}

/// An appliance of its own process, in a network and a cgroup that nobody watches.
struct Appliance {
    server: Server,
    place: Place,
    _folder: tempfile::TempDir,
}

/// What it kept at most, in bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Most {
    /// Memory that was not swapped out, as the kernel knows it.
    resident: u64,
    /// Of the rows in memory.
    hot: u64,
    /// Memory without the rows that were in it at the same time.
    rest: u64,
}

impl Appliance {
    /// Starts one by these settings and waits until it answers.
    fn start(settings: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let place = Place::new("undine-evals-appliance")?;
        let config = folder.path().join("undine.toml");
        let data = folder.path().join("data");
        fs::write(&config, format!("data_dir = \"{}\"\n{CONFIG}{settings}", data.display()))?;
        let program = std::env::current_exe()?.with_file_name("undine");
        ensure!(program.exists(), "{} is not built", program.display());
        let mut command = place.command(program);
        command.args(["up", "--config"]).arg(&config);
        let server = Server::logging(&mut command, &folder.path().join("log"))?;
        place.wait_for("curl", &["--silent", "--fail", STATUS])?;
        Ok(Self { server, place, _folder: folder })
    }

    /// What it keeps at most while `act` runs and until so long after the beginning.
    fn most_while(&self, act: impl FnOnce() -> Result<()> + Send, least: Duration) -> Result<Most> {
        let began = Instant::now();
        std::thread::scope(|threads| {
            let acting = threads.spawn(act);
            let mut most = Most::default();
            while began.elapsed() < least || !acting.is_finished() {
                self.look(&mut most)?;
                // The period of the samples: nothing is waited for here.
                std::thread::sleep(LOOK);
            }
            acting.join().map_err(|_panic| anyhow::anyhow!("the load panicked"))??;
            Ok(most)
        })
    }

    fn look(&self, most: &mut Most) -> Result<()> {
        let hot = self.metric("undine_store_hot_bytes", "")?;
        let process = self.server.id().to_string();
        most.resident = memory_of(&process, "VmHWM:")?;
        most.hot = hot.max(most.hot);
        most.rest = memory_of(&process, "VmRSS:")?.saturating_sub(hot).max(most.rest);
        Ok(())
    }

    /// A number that it tells, of `table` unless that is empty.
    fn metric(&self, name: &str, table: &str) -> Result<u64> {
        let said = self.place.run("curl", &["--silent", "--fail", STATUS])?;
        let is_it = |line: &&str| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with([' ', '{']) && rest.contains(table))
        };
        let line = said.lines().find(is_it);
        let line = line.with_context(|| format!("{STATUS} has no {name} of {table}"))?;
        Ok(line.rsplit(' ').next().unwrap_or_default().parse()?)
    }
}
