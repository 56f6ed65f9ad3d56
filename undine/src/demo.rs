//! `undine demo`: real services, a real fault, and what Undine saw of it.
//!
//! ```text
//! shopper ─► nginx ─► storefront ─► catalog
//!                              └──► orders ─► inventory   ◄── the fault
//! ```
//!
//! All of them run in a cgroup of their own, and nothing else is watched. The receiver of webhooks
//! and OTLP is a process of its own outside it, and what is printed about deliveries is what *it*
//! recorded; what is printed about requests is compared with what the services recorded.

mod children;
mod load;
mod report;
mod script;
mod service;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use undine_schema::Seq;

use crate::appliance::{Appliance, Handles};
use crate::cli::Demo;
use crate::config::RawConfig;
use crate::receiver::{ReceiverProcess, ReceiverRecord};
use crate::workload::Cgroup;
use children::{Children, FAULTY, Stage};
use report::{Capture, Report};
use script::{Incident, Seen};

pub(crate) use load::send;
pub(crate) use service::serve;

/// Requests a second that the shopper sends; each becomes one at every service behind nginx.
const RATE: u32 = 40;
/// Live rows have less room than the demo makes, so that its answers need Parquet too.
const HOT_SIZE_MAX: &str = "4MiB";
/// How long the model may take to catch up after the load has stopped.
const CATCH_UP_MAX: Duration = Duration::from_secs(10);

/// Below this length there is no time to learn, to fail and to recover.
const SECONDS_WITH_FAULT_MIN: u64 = 100;

/// When what happens, from the start of the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Schedule {
    /// When the fault begins and ends; none in a run that is too short or a control run.
    fault: Option<(Duration, Duration)>,
    stop: Duration,
}

impl Schedule {
    /// The model learns for a bit less than half of the time, the fault lasts a fifth of it, and
    /// the rest is for recovery.
    fn of(args: &Demo) -> Self {
        let stop = Duration::from_secs(args.seconds);
        let has_fault = !args.control && args.seconds >= SECONDS_WITH_FAULT_MIN;
        Self { fault: has_fault.then_some((stop * 45 / 100, stop * 65 / 100)), stop }
    }
}

/// What the demo notices while it runs; times are since the start of the load.
#[derive(Debug, Default)]
struct Story {
    first_row: Option<Duration>,
    injected: Option<Duration>,
    lifted: Option<Duration>,
    /// Every change of an incident, with the time at which it was noticed.
    incidents: Vec<(Duration, Incident)>,
    incident_cursor: Seq,
    webhook: Option<Duration>,
    webhooks_told: usize,
    interrupted: bool,
}

impl Story {
    fn opened(&self) -> impl Iterator<Item = (Duration, &Incident)> {
        self.incidents
            .iter()
            .filter(|(_, incident)| incident.state == "open")
            .map(|(at, i)| (*at, i))
    }

    /// Whether an incident that was noticed then can be due to the fault.
    fn is_after_fault(&self, at: Duration) -> bool {
        self.injected.is_some_and(|injected| at >= injected)
    }

    /// When the first incident after the fault was noticed.
    fn first_incident(&self) -> Option<Duration> {
        self.opened().map(|(at, _)| at).find(|at| self.is_after_fault(*at))
    }

    /// Services that incidents after the fault blame, each once.
    fn blamed(&self) -> Vec<String> {
        let after = self.opened().filter(|(at, _)| self.is_after_fault(*at));
        after
            .map(|(_, incident)| incident.service.clone())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
    }

    /// Incidents that opened although there was no fault.
    fn unfounded(&self) -> u64 {
        self.opened().filter(|(at, _)| !self.is_after_fault(*at)).count() as u64
    }

    /// Whether every incident that opened was resolved, and at least one opened.
    fn all_resolved(&self) -> bool {
        let is_resolved = |id: &str| {
            self.incidents
                .iter()
                .any(|(_, incident)| incident.id == id && incident.state == "resolved")
        };
        self.opened().next().is_some()
            && self.opened().all(|(_, incident)| is_resolved(&incident.id))
    }
}

/// Runs the demo.
///
/// # Errors
/// Where something that it needs cannot be started.
pub(crate) async fn run(args: Demo) -> Result<ExitCode> {
    let dir = tempfile::Builder::new().prefix("undine-demo-").tempdir()?;
    let cgroup = match Cgroup::create("undine-demo") {
        Ok(cgroup) => cgroup,
        Err(error) => return without_ebpf(&args, &anyhow::Error::new(error)),
    };
    let (receiver, known) = ReceiverProcess::start(Path::new("/proc/self/exe"), dir.path())?;
    let config = config(&args, dir.path(), &cgroup, &known)?;
    let appliance = match Appliance::build(config).await {
        Ok(appliance) => appliance,
        Err(error) => return without_ebpf(&args, &error),
    };
    let handles = appliance.handles();
    let shutdown = CancellationToken::new();
    let running = tokio::task::JoinSet::from_iter([Box::pin(appliance.run(shutdown.clone()))]);

    say(format!("page     http://{}/", handles.http));
    let stage = Stage { dir: dir.path(), cgroup: Some(&cgroup) };
    let children = stage.load(stage.services()?, RATE)?;
    say(format!(
        "watching {}",
        children.hops.iter().map(|hop| hop.name.as_str()).collect::<Vec<_>>().join(" → ")
    ));
    say(format!("try      undine run undine/http_stats --addr http://{}", handles.http));

    let schedule = Schedule::of(&args);
    let mut watch =
        Watch { args: &args, handles: &handles, children, receiver, story: Story::default() };
    watch.until_the_end(schedule).await?;
    let report = watch.conclude().await?;
    shutdown.cancel();
    running.join_all().await.into_iter().collect::<Result<()>>()?;
    tell(&report, &args)?;
    Ok(if report.agreed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Says that nothing can be captured, and how it could.
fn without_ebpf(args: &Demo, why: &anyhow::Error) -> Result<ExitCode> {
    say(format!("eBPF cannot be used: {why:#}"));
    say("this gives the rights:\n    sudo ./target/release/undine demo");
    if args.require_ebpf {
        bail!("--require-ebpf was given");
    }
    bail!("a replay of a recording is not part of this version yet")
}

fn config(
    args: &Demo,
    dir: &Path,
    cgroup: &Cgroup,
    receiver: &ReceiverRecord,
) -> Result<RawConfig> {
    let script = dir.join("export.pxl");
    std::fs::write(&script, script::EXPORT)?;
    let listen = args.listen.map_or_else(|| "127.0.0.1:0".to_owned(), |listen| listen.to_string());
    let text = toml::toml! {
        [[webhook]]
        name = "demo"
        url = "to be set"
        format = "alertmanager"

        [[export]]
        name = "http throughput"
        script = "to be set"
        frequency = "10s"
        endpoint = "to be set"
        insecure = true
    };
    let mut webhook = text["webhook"].clone();
    webhook[0]["url"] = format!("http://{}/hook", receiver.webhook_listen).into();
    let mut export = text["export"].clone();
    export[0]["script"] = script.display().to_string().into();
    export[0]["endpoint"] = receiver.otlp_listen.clone().into();
    let flags = vec![
        ("node", "demo".into()),
        ("data_dir", dir.join("data").display().to_string().into()),
        ("server.listen", listen.into()),
        ("otlp.listen", "127.0.0.1:0".into()),
        ("capture.targets", vec![format!("cgroup:{}", cgroup.path().display())].into()),
        ("capture.conn_stats_interval", "1s".into()),
        ("store.hot_size_max", HOT_SIZE_MAX.into()),
        ("store.seal_interval", "2s".into()),
        ("model.window", "2s".into()),
        ("webhook", webhook),
        ("export", export),
    ];
    Ok(crate::config::load(None, flags)?)
}

/// Looks at everything once a second and acts when it is time.
struct Watch<'a> {
    args: &'a Demo,
    handles: &'a Handles,
    children: Children,
    receiver: ReceiverProcess,
    story: Story,
}

impl Watch<'_> {
    async fn until_the_end(&mut self, schedule: Schedule) -> Result<()> {
        let start = Instant::now();
        let mut ticks = interval(Duration::from_millis(100));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut next_line = Duration::from_secs(10);
        loop {
            tokio::select! {
                _ = interrupt.recv() => {
                    self.story.interrupted = true;
                    return Ok(());
                }
                _ = ticks.tick() => {}
            }
            let now = start.elapsed();
            self.act(schedule, now)?;
            self.look(now)?;
            if now >= next_line {
                next_line += Duration::from_secs(10);
                self.status_line(now).await?;
            }
            if now >= schedule.stop {
                return Ok(());
            }
        }
    }

    fn act(&mut self, schedule: Schedule, now: Duration) -> Result<()> {
        let Some((inject, lift)) = schedule.fault else { return Ok(()) };
        if self.story.injected.is_none() && now >= inject {
            self.children.inject()?;
            self.story.injected = Some(now);
            say(format!(
                "{:>5.1}s   fault: {FAULTY} becomes slow and fails every third request",
                now.as_secs_f64()
            ));
        }
        if self.story.injected.is_some() && self.story.lifted.is_none() && now >= lift {
            self.children.lift()?;
            self.story.lifted = Some(now);
            say(format!("{:>5.1}s   fault lifted", now.as_secs_f64()));
        }
        Ok(())
    }

    fn look(&mut self, now: Duration) -> Result<()> {
        if self.story.first_row.is_none() && self.handles.table("http_events").appended_rows > 0 {
            self.story.first_row = Some(now);
            say(format!("{:>5.1}s   first row", now.as_secs_f64()));
        }
        for incident in script::incidents(&self.handles.store, &mut self.story.incident_cursor)? {
            say(format!(
                "{:>5.1}s   incident {}: {}",
                now.as_secs_f64(),
                incident.state,
                incident.summary
            ));
            self.story.incidents.push((now, incident));
        }
        let received = self.receiver.record().webhooks;
        for (_, webhook) in &received[self.story.webhooks_told.min(received.len())..] {
            let status = webhook["status"].as_str().unwrap_or("?");
            let alert = webhook["alerts"][0]["labels"]["service"].as_str().unwrap_or("?");
            say(format!(
                "{:>5.1}s   the receiver got a webhook: {status}, {alert}",
                now.as_secs_f64()
            ));
            if self.story.is_after_fault(now) && self.story.webhook.is_none() {
                self.story.webhook = Some(now);
            }
        }
        self.story.webhooks_told = received.len();
        Ok(())
    }

    async fn status_line(&self, now: Duration) -> Result<()> {
        let seen = script::last_ten_seconds(&self.handles.engine).await?;
        let services: Vec<_> = seen.iter().map(Seen::to_string).collect();
        say(format!("{:>5.1}s   {}", now.as_secs_f64(), services.join("   ")));
        Ok(())
    }

    /// Stops the load, lets everything arrive, and compares.
    async fn conclude(mut self) -> Result<Report> {
        self.children.stop_load()?;
        self.children.stop_services()?;
        self.handles.drain().await?;
        self.catch_up().await?;
        self.handles.store.seal().await.context("cannot seal")?;
        let requests_sent: BTreeMap<_, _> =
            self.children.hops.iter().map(|hop| (hop.name.clone(), hop.requests())).collect();
        let counted = script::requests(&self.handles.engine).await?;
        let story = &self.story;
        let tiers_agree = counted.used_summaries.then(|| counted.by_service == requests_sent);
        let missing = script::missing_rows(&self.handles.store)?;
        let received = self.receiver.record();
        let rows = self.handles.table("http_events");
        let recovered = story.lifted.filter(|_| !story.interrupted);
        let seconds = |span: Duration| span.as_secs_f64();
        let report = Report {
            capture: Capture::Ebpf,
            requests_sent,
            rows_captured: counted.by_service,
            ops_lost: self.handles.operations_lost(),
            rows_missing_min: missing.0,
            rows_missing_max: missing.1,
            rows_seen_by_model: self.handles.rows_seen_by_model(),
            hot_rows: rows.hot_rows,
            sealed_rows: rows.sealed_rows,
            first_row_after_s: story.first_row.map(seconds),
            incidents_before_fault: (story.injected.is_some() || self.args.control)
                .then(|| story.unfounded()),
            incident_after_s: story
                .injected
                .zip(story.first_incident())
                .map(|(from, to)| seconds(to.saturating_sub(from))),
            webhook_after_s: story
                .first_incident()
                .zip(story.webhook)
                .map(|(from, to)| seconds(to.saturating_sub(from))),
            blamed: story.lifted.map(|_| story.blamed()),
            resolved: recovered.map(|_| story.all_resolved()),
            webhooks_received: received.webhooks.len() as u64,
            otlp_points_received: received.otlp_points,
            tiers_agree,
            control: self.args.control,
            agreed: false,
            disagreements: Vec::new(),
        };
        Ok(report.conclude(FAULTY))
    }

    /// Waits until the model has read what was captured.
    async fn catch_up(&self) -> Result<()> {
        let deadline = Instant::now() + CATCH_UP_MAX;
        while self.handles.rows_seen_by_model() < self.handles.table("http_events").appended_rows {
            if Instant::now() > deadline {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

fn tell(report: &Report, args: &Demo) -> Result<()> {
    say("");
    for (service, sent) in &report.requests_sent {
        let rows = report.rows_captured.get(service).copied().unwrap_or(0);
        say(format!("{service:<12} {sent:>7} requests by its own record, {rows:>7} rows"));
    }
    say(format!(
        "operations lost {}, rows seen by the model {}, live {}, sealed {}",
        report.ops_lost, report.rows_seen_by_model, report.hot_rows, report.sealed_rows
    ));
    say(format!(
        "the receiver got {} webhooks and {} OTLP points",
        report.webhooks_received, report.otlp_points_received
    ));
    for disagreement in &report.disagreements {
        say(format!("DISAGREES: {disagreement}"));
    }
    say(if report.agreed { "everything agrees" } else { "not everything agrees" });
    if args.json {
        say(serde_json::to_string(report)?);
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the demo is there to be read")]
fn say(text: impl AsRef<str>) {
    println!("{}", text.as_ref());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demo(seconds: u64, control: bool) -> Demo {
        Demo { seconds, json: false, control, require_ebpf: false, listen: None }
    }

    #[test]
    fn a_demo_has_its_steps_in_order_or_leaves_the_fault_out() {
        for seconds in [SECONDS_WITH_FAULT_MIN, 180, 3600] {
            let schedule = Schedule::of(&demo(seconds, false));
            let (inject, lift) = schedule.fault.unwrap();
            assert!(Duration::ZERO < inject && inject < lift && lift < schedule.stop);
        }
        assert_eq!(Schedule::of(&demo(SECONDS_WITH_FAULT_MIN - 1, false)).fault, None);
        assert_eq!(Schedule::of(&demo(180, true)).fault, None);
    }
}
