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
mod footage;
mod load;
mod report;
mod scene;
mod script;
mod service;
mod watch;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use undine_collector::{Cgroup, CgroupError};

use crate::appliance::Appliance;
use crate::cli::Demo;
use crate::config::RawConfig;
use crate::receiver::{ReceiverProcess, ReceiverRecord};
use children::Stage;
use footage::Truth;
use report::Report;
use scene::Scene;
use watch::{Story, Watch};

pub(crate) use load::send;
pub(crate) use service::serve;

/// Live rows have less room than the demo makes, so that its answers need Parquet too.
const HOT_SIZE_MAX: &str = "2MiB";

/// Below this length there is no time to learn, to fail and to recover.
const SECONDS_WITH_FAULT_MIN: u64 = 100;

/// When what happens, from the first moment of capture.
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

    /// That of the recording, as far as there is time for it.
    fn of_recording(args: &Demo, truth: &Truth) -> Self {
        let stop = Duration::from_secs(args.seconds).min(truth.length());
        Self { fault: Some(truth.fault()), stop }
    }
}

/// Runs the demo.
///
/// # Errors
/// Where something that it needs cannot be started.
pub(crate) async fn run(args: Demo) -> Result<ExitCode> {
    let dir = tempfile::Builder::new().prefix("undine-demo-").tempdir()?;
    let (receiver, known) = ReceiverProcess::start(Path::new("/proc/self/exe"), dir.path())?;
    let (appliance, cgroup) = build(&args, dir.path(), &known).await?;
    let handles = appliance.handles();
    let shutdown = CancellationToken::new();
    let began = Instant::now();
    let running = tokio::task::JoinSet::from_iter([Box::pin(appliance.run(shutdown.clone()))]);

    say(format!("page     http://{}/", handles.http));
    let (scene, schedule) = if let Some(cgroup) = &cgroup {
        let stage = Stage { dir: dir.path(), cgroup };
        let children = stage.load(stage.services()?, args.rate)?;
        say(format!("watching {}", children.names().join(" → ")));
        (Scene::Live(children), Schedule::of(&args))
    } else {
        let truth = Truth::of_recording()?;
        say(format!("replaying a recording of {:.0} s", truth.length().as_secs_f64()));
        let schedule = Schedule::of_recording(&args, &truth);
        (Scene::Recorded(truth), schedule)
    };
    say(format!("try      undine run undine/http_stats --addr http://{}", handles.http));

    let story = Story::default();
    let mut watch = Watch { args: &args, handles: &handles, scene, receiver, began, story };
    watch.until_the_end(schedule).await?;
    let report = watch.conclude().await?;
    shutdown.cancel();
    running.join_all().await.into_iter().collect::<Result<()>>()?;
    if let Some(dir) = &args.save_recording {
        footage::pack(dir, &watch.truth(&report)?)?;
    }
    tell(&report, &args)?;
    Ok(if report.agreed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// An appliance that watches a cgroup, or one that replays the recording where it may not.
async fn build(
    args: &Demo,
    dir: &Path,
    receiver: &ReceiverRecord,
) -> Result<(Appliance, Option<Cgroup>)> {
    if !args.replay {
        match build_live(args, dir, receiver).await {
            Ok((appliance, cgroup)) => return Ok((appliance, Some(cgroup))),
            Err(error) if is_about_capture(&error) => without_ebpf(args, &error)?,
            Err(error) => return Err(error),
        }
    }
    ensure!(!args.control, "--control needs eBPF, because the recording has a fault");
    ensure!(args.save_recording.is_none(), "--save-recording needs eBPF");
    let recording = footage::unpack(dir)?.display().to_string();
    let config = config(args, dir, receiver, vec![("capture.replay", recording.into())])?;
    Ok((Appliance::build(config).await?, None))
}

async fn build_live(
    args: &Demo,
    dir: &Path,
    receiver: &ReceiverRecord,
) -> Result<(Appliance, Cgroup)> {
    let cgroup = Cgroup::create("undine-demo")?;
    let target = format!("cgroup:{}", cgroup.path().display());
    let mut capture = vec![("capture.targets", vec![target].into())];
    if let Some(dir) = &args.save_recording {
        let path = footage::raw_path(dir).display().to_string();
        capture.push(("capture.recording", path.into()));
        capture.push(("capture.recording_content", "full".into()));
    }
    let appliance = Appliance::build(config(args, dir, receiver, capture)?).await?;
    Ok((appliance, cgroup))
}

/// Whether it is capture that failed, and not something that a replay needs too.
fn is_about_capture(error: &anyhow::Error) -> bool {
    let kernel = error.downcast_ref::<undine_collector::BuildError>();
    matches!(kernel, Some(undine_collector::BuildError::Kernel(_)))
        || error.downcast_ref::<CgroupError>().is_some()
}

/// Says that nothing can be captured, and how it could.
fn without_ebpf(args: &Demo, why: &anyhow::Error) -> Result<()> {
    say(format!("eBPF cannot be used: {why:#}"));
    say("this gives the rights:\n    sudo ./target/release/undine demo");
    ensure!(!args.require_ebpf, "--require-ebpf was given");
    Ok(())
}

fn config(
    args: &Demo,
    dir: &Path,
    receiver: &ReceiverRecord,
    capture: Vec<(&str, toml::Value)>,
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
    let mut flags = vec![
        ("node", "demo".into()),
        ("data_dir", dir.join("data").display().to_string().into()),
        ("server.listen", listen.into()),
        ("otlp.listen", "127.0.0.1:0".into()),
        ("capture.conn_stats_interval", "1s".into()),
        // Nothing here speaks TLS, and other programs use the same libraries.
        ("capture.tls", false.into()),
        ("store.hot_size_max", HOT_SIZE_MAX.into()),
        ("store.seal_interval", "2s".into()),
        ("model.window", "2s".into()),
        ("webhook", webhook),
        ("export", export),
    ];
    flags.extend(capture);
    Ok(crate::config::load(None, flags)?)
}

fn tell(report: &Report, args: &Demo) -> Result<()> {
    say("");
    for (service, rows) in &report.rows_captured {
        let sent = report.requests_sent.as_ref().and_then(|sent| sent.get(service));
        let sent = sent.map_or_else(|| "?".to_owned(), u64::to_string);
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
        Demo {
            seconds,
            rate: 40,
            json: false,
            control,
            require_ebpf: false,
            replay: false,
            save_recording: None,
            listen: None,
        }
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
