//! A client that calls a service at a steady rate and counts what it sent.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::cli::DemoLoad;
use crate::record;

/// Requests that may be under way at a time; beyond, the client waits and falls behind its rate.
const IN_FLIGHT_MAX: usize = 64;

/// What the client knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LoadRecord {
    /// Requests for which it got an answer, of whatever status.
    pub answered: u64,
    /// Requests for which it got none.
    pub failed: u64,
}

/// Sends until it is terminated, then waits for what is under way.
///
/// # Errors
/// Where it cannot write its record.
pub(crate) async fn send(args: DemoLoad) -> Result<()> {
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build()?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut ticks = interval(Duration::from_secs(1) / args.rate.max(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut under_way = JoinSet::new();
    let mut seen = LoadRecord::default();
    let mut written = Instant::now();
    for number in 0_u64.. {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = ticks.tick() => {}
        }
        while under_way.len() >= IN_FLIGHT_MAX {
            let Some(done) = under_way.join_next().await else { break };
            count(&mut seen, &done);
        }
        while let Some(done) = under_way.try_join_next() {
            count(&mut seen, &done);
        }
        let url = format!("http://{}{}", args.gateway, path(number));
        let client = client.clone();
        under_way.spawn(async move {
            match client.get(url).send().await {
                Ok(response) => response.bytes().await.is_ok(),
                Err(_unreachable) => false,
            }
        });
        if written.elapsed() > Duration::from_millis(500) {
            write_record(seen, &args.record)?;
            written = Instant::now();
        }
    }
    while let Some(done) = under_way.join_next().await {
        count(&mut seen, &done);
    }
    write_record(seen, &args.record)
}

fn count(seen: &mut LoadRecord, done: &Result<bool, tokio::task::JoinError>) {
    match done {
        Ok(true) => seen.answered += 1,
        Ok(false) | Err(_) => seen.failed += 1,
    }
}

fn path(number: u64) -> String {
    match number % 3 {
        0 => format!("/orders/{}", 1000 + number % 500),
        1 => format!("/orders/{}/items?page={}", 1000 + number % 500, number % 4),
        _ => "/catalog".to_owned(),
    }
}

fn write_record(seen: LoadRecord, path: &Path) -> Result<()> {
    record::replace(path, &serde_json::to_string(&seen)?)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// What the client at `path` has recorded.
pub(crate) fn read_record(path: &Path) -> Option<LoadRecord> {
    serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()
}
