//! Every PxL script in a folder runs unmodified, and what it exports arrives at a real OTLP server.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use undine::appliance::question;
use undine::receiver::ReceiverProcess;
use undine_query::{Endpoint, PluginWindow, Request};
use undine_schema::tables::{HTTP_EVENTS, HttpEvent, HttpEvents};
use undine_schema::{Append, Clock, Frame, SystemClock, Upid};

use crate::report::Report;
use crate::stage::{self, RunningStore};

/// The scripts that come with this scenario.
const OWN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts");

pub(crate) fn run(folder: Option<&Path>) -> Result<Report> {
    let scripts = scripts(folder.unwrap_or(Path::new(OWN)))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let dir = tempfile::tempdir()?;
    runtime.block_on(scenario(&scripts, dir.path()))
}

async fn scenario(scripts: &[(PathBuf, String)], dir: &Path) -> Result<Report> {
    let mut report = Report::new("scripts");
    let running = RunningStore::open(&dir.join("data"), 64 << 20)?;
    let engine = stage::engine(&running.store)?;
    let (receiver, known) = ReceiverProcess::start(&undine_program()?, dir)?;
    let sink = undine::appliance::export_sink()?;
    append_some(&running.store)?;
    for (path, text) in scripts {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let now = SystemClock.now();
        let plugin = text
            .contains("px.plugin.")
            .then(|| PluginWindow { start: now.saturating_sub(Duration::from_secs(10)), end: now });
        let endpoint = Endpoint {
            url: known.otlp_listen.clone(),
            headers: Vec::new(),
            insecure: true,
            timeout: Duration::from_secs(5),
        };
        let plugin_endpoint = Some(endpoint.clone());
        let request = Request { plugin, plugin_endpoint, ..question(text) };
        let answer = match engine.run(request).await {
            Ok(answer) => answer,
            Err(error) => {
                report.check(format!("{name} runs"), error.to_string(), "no error", false);
                continue;
            }
        };
        let rows: usize = answer.tables.iter().map(undine_query::ResultTable::rows).sum();
        let points: u64 = answer.exports.iter().map(|export| export.metrics.len() as u64).sum();
        report.check(
            format!("{name} finds something"),
            rows as u64 + points,
            "> 0",
            rows as u64 + points > 0,
        );
        let before = receiver.record().otlp_points;
        for mut export in answer.exports {
            // A script may name a collector that is not here; what counts is that it is sent.
            export.endpoint = Some(endpoint.clone());
            sink.send(&export.into()).await.with_context(|| format!("{name} exports"))?;
        }
        report.same(
            format!("points of {name} that arrived"),
            receiver.record().otlp_points - before,
            points,
        );
    }
    report.count("scripts", scripts.len() as u64);
    drop(engine);
    running.close().await;
    Ok(report)
}

/// The binary beside this one.
fn undine_program() -> Result<PathBuf> {
    let program = std::env::current_exe()?.with_file_name("undine");
    ensure!(
        program.exists(),
        "{} is missing; build it with: cargo build --release",
        program.display()
    );
    Ok(program)
}

fn scripts(folder: &Path) -> Result<Vec<(PathBuf, String)>> {
    let mut scripts = Vec::new();
    for entry in
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?
    {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "pxl") {
            let text = fs::read_to_string(&path)?;
            scripts.push((path, text));
        }
    }
    ensure!(!scripts.is_empty(), "there is no .pxl file in {}", folder.display());
    scripts.sort();
    Ok(scripts)
}

/// A few requests within the last seconds, for scripts that look at those.
fn append_some(store: &undine_store::Store) -> Result<()> {
    let now = SystemClock.now();
    let mut batch = HttpEvents::new(100);
    for number in 0..100 {
        batch.push(&HttpEvent {
            time_: now.saturating_sub(Duration::from_millis(20 * number)),
            upid: Upid::new(1, 100, 7),
            remote_addr: "127.0.0.1",
            local_addr: "127.0.0.1",
            trace_role: 2,
            major_version: 1,
            minor_version: 1,
            req_method: "GET",
            req_path: if number % 2 == 0 { "/orders/7" } else { "/catalog" },
            req_path_template: if number % 2 == 0 { "/orders/*" } else { "/catalog" },
            req_headers: "{}",
            resp_headers: "{}",
            resp_status: if number % 10 == 0 { 500 } else { 200 },
            resp_message: "OK",
            latency: 1_000_000,
            service: "orders",
            node: "evals",
            ..HttpEvent::default()
        });
    }
    store.append(Frame::captured(&HTTP_EVENTS, batch.finish()))?;
    Ok(())
}
