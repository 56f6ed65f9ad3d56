//! The recording that comes with Undine, for machines on which it may not capture.
//!
//! `recording/demo.undine.zst` holds what the kernel sent during a demo, `recording/demo.json` what
//! the services recorded of themselves. Both are made by `undine demo --save-recording DIR`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

const RECORDING: &[u8] = include_bytes!("../../recording/demo.undine.zst");
const TRUTH: &str = include_str!("../../recording/demo.json");
/// The strongest level that needs little memory to unpack.
const COMPRESSION_LEVEL: i32 = 19;

/// What the recorded services said of themselves, and when what happened to them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Truth {
    /// Length of the recording; as all times here, since its first message.
    seconds: f64,
    fault_injected_s: f64,
    fault_lifted_s: f64,
    /// Requests that each service answered, by its own record.
    pub(super) requests: BTreeMap<String, u64>,
}

impl Truth {
    pub(super) fn new(
        length: Duration,
        fault: (Duration, Duration),
        requests: BTreeMap<String, u64>,
    ) -> Self {
        Self {
            seconds: length.as_secs_f64(),
            fault_injected_s: fault.0.as_secs_f64(),
            fault_lifted_s: fault.1.as_secs_f64(),
            requests,
        }
    }

    /// That of the recording that comes with Undine.
    pub(super) fn of_recording() -> Result<Self> {
        serde_json::from_str(TRUTH).context("this binary's recording is damaged")
    }

    pub(super) fn length(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    pub(super) fn fault(&self) -> (Duration, Duration) {
        let span = Duration::from_secs_f64;
        (span(self.fault_injected_s), span(self.fault_lifted_s))
    }
}

/// Where a recording that is being made is kept in `dir`.
pub(super) fn raw_path(dir: &Path) -> PathBuf {
    dir.join("demo.undine")
}

/// Writes the recording that comes with Undine to `dir`; where it is then.
pub(super) fn unpack(dir: &Path) -> Result<PathBuf> {
    let path = raw_path(dir);
    let mut file = fs::File::create(&path)
        .with_context(|| format!("cannot write the recording to {}", path.display()))?;
    zstd::stream::copy_decode(RECORDING, &mut file)
        .with_context(|| format!("cannot write the recording to {}", path.display()))?;
    Ok(path)
}

/// Keeps what was recorded in `dir`, compressed, and the truth beside it.
pub(super) fn pack(dir: &Path, truth: &Truth) -> Result<()> {
    let raw = raw_path(dir);
    let packed = raw.with_extension("undine.zst");
    let source = fs::File::open(&raw).with_context(|| format!("cannot read {}", raw.display()))?;
    let target =
        fs::File::create(&packed).with_context(|| format!("cannot write {}", packed.display()))?;
    zstd::stream::copy_encode(source, target, COMPRESSION_LEVEL)
        .with_context(|| format!("cannot write {}", packed.display()))?;
    fs::remove_file(&raw).with_context(|| format!("cannot remove {}", raw.display()))?;
    let path = dir.join("demo.json");
    fs::write(&path, serde_json::to_string_pretty(truth)? + "\n")
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use arrow::array::AsArray;
    use tokio_util::sync::CancellationToken;
    use undine_collector::{Pace, SourceConfig};
    use undine_schema::{Append, AppendError, Frame, Pending};

    use super::*;
    use crate::appliance::bare_collector;

    /// Counts rows of `http_events` by service.
    #[derive(Debug, Default)]
    struct Tally(Mutex<BTreeMap<String, u64>>);

    impl Append for Tally {
        fn append(&self, frame: Frame) -> Result<Pending, AppendError> {
            let mut counts = self.0.lock().unwrap();
            for part in frame.parts.iter().filter(|part| part.table.name == "http_events") {
                let services = part.rows.column_by_name("service").unwrap().as_string::<i32>();
                for service in services.iter().flatten() {
                    *counts.entry(service.to_owned()).or_default() += 1;
                }
            }
            Ok(Pending::new(Vec::new(), std::future::ready(Ok(()))))
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_recording_holds_every_request_that_its_services_recorded() {
        let dir = tempfile::tempdir().unwrap();
        let source = SourceConfig::Replay { path: unpack(dir.path()).unwrap(), pace: Pace::Fast };
        let tally = Arc::new(Tally::default());
        let append: Arc<dyn Append> = Arc::clone(&tally) as _;
        let collector = bare_collector(source).build(append).unwrap();
        let handle = collector.handle();
        let shutdown = CancellationToken::new();
        let running = tokio::task::JoinSet::from_iter([collector.run(shutdown.clone())]);
        let stats = handle.drain().await.unwrap();
        shutdown.cancel();
        running.join_all().await.into_iter().collect::<Result<(), _>>().unwrap();
        let truth = Truth::of_recording().unwrap();
        assert!(stats.ended);
        assert_eq!(*tally.0.lock().unwrap(), truth.requests);
        assert!(truth.fault().0 < truth.fault().1 && truth.fault().1 < truth.length());
    }
}
