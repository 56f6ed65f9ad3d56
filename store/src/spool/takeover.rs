//! How a start comes to its bucket: that it is the folder's own, that it is safe, and what it holds of
//! this node already.
//!
//! A folder that is new takes that over, once; whoever wrote there before is fenced by a commit of the
//! new life.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use undine_schema::{Cube, Incarnation, TimeNs};

use super::{Figures, Lane, Lanes, Spool};
use crate::backend::{BucketConfig, BucketError, Folder, Thoroughness};
use crate::cache::Shelves;
use crate::config::BuildError;
use crate::delta::{Change, DeltaError};
use crate::durable;
use crate::seal::{Holds, TableTiers};

/// The file that says which bucket a folder belongs to.
const MARK: &str = "bucket.json";
/// Tiers whose logs are read at once.
const READERS: usize = 16;

impl Spool {
    /// Checks that the bucket is the folder's and is safe, and takes over what it holds of tiers that
    /// the folder has nothing of.
    pub(crate) fn open(
        config: &BucketConfig,
        dir: &Path,
        shelves: Arc<Shelves>,
        tiers: &mut [TableTiers],
        now: TimeNs,
    ) -> Result<Self, BuildError> {
        let mark = read_mark(dir)?;
        let url = config.bucket.url();
        if let Some(found) = mark.as_ref().filter(|found| *found != url) {
            let (dir, found, expected) = (dir.to_owned(), found.clone(), url.to_owned());
            return Err(BucketError::Other { dir, found, expected }.into());
        }
        let tables = dir.join("tables");
        let must_ask = mark.is_none() || tiers.iter().any(is_new);
        let thoroughness = if mark.is_none() { Thoroughness::Full } else { Thoroughness::Brief };
        let probed = match config.bucket.probe(thoroughness) {
            Ok(()) => true,
            Err(error @ BucketError::Away { .. }) if !must_ask => {
                tracing::warn!(%error, "the bucket is away; what is sealed is kept here for it");
                false
            }
            Err(error) => return Err(error.into()),
        };
        let mut all = lanes_of(config, tiers);
        adopt(&mut all, tiers, now)?;
        if mark.is_none() {
            write_mark(dir, url)?;
        }
        let mut figures = Figures::default();
        for tier in tiers.iter().flat_map(|table| &table.tiers) {
            for file in tier.log.files() {
                let key = format!("{}/{}", tier.prefix, file.name);
                if !tables.join(&key).exists() {
                    figures.shelved.insert(key);
                }
            }
        }
        Ok(Self {
            config: config.clone(),
            tables,
            shelves,
            lanes: Mutex::new(Lanes { probed, all, put: HashSet::new() }),
            figures: Mutex::new(figures),
            pressed: Notify::new(),
            stopping: AtomicBool::new(false),
        })
    }

    /// Makes the new life known in the logs that were taken over, so that whoever wrote them stops.
    pub(crate) fn begin(&self, life: Incarnation, now: TimeNs) -> Result<(), BuildError> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        for lane in &mut lanes.all {
            lane.log.write_as(life);
            if !lane.is_met {
                continue;
            }
            let claim = Change {
                operation: "CLAIM",
                sealed_to: None,
                complete_from: None,
                add: Vec::new(),
                remove: Vec::new(),
            };
            if let Err(error) = lane.log.commit(&claim, now) {
                tracing::error!(%error, table = lane.table, "the bucket's log cannot be taken over");
                let url = self.config.bucket.url().to_owned();
                return Err(match error {
                    DeltaError::Io { source, .. } if is_of_a_request(&source) => {
                        BucketError::Away { url, source }
                    }
                    _ => BucketError::Contested { url, table: lane.table },
                }
                .into());
            }
        }
        Ok(())
    }

    /// The highest life that the logs that were read know of.
    pub(crate) fn newest_life(&self) -> u16 {
        let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = lanes.all.iter().map(|lane| lane.log.last_epoch()).max().unwrap_or(0);
        u16::try_from(newest).unwrap_or(u16::MAX)
    }
}

/// Whether it is the bucket that failed, and not what it holds that is in the way.
fn is_of_a_request(error: &io::Error) -> bool {
    matches!(error.get_ref(), Some(cause) if cause.is::<object_store::Error>())
}

/// A lane for every tier, its log unread.
fn lanes_of(config: &BucketConfig, tiers: &[TableTiers]) -> Vec<Lane> {
    let root = Folder::in_bucket(Arc::clone(&config.bucket));
    let mut lanes = Vec::new();
    for (number, table) in tiers.iter().enumerate() {
        lanes.extend(table.tiers.iter().map(|tier| Lane {
            table: table.table.name,
            number,
            width: tier.width,
            holds: tier.holds,
            prefix: tier.prefix.clone(),
            log: tier.log.twin(root.sub(&tier.prefix)),
            is_met: false,
            known: HashSet::new(),
        }));
    }
    lanes
}

/// Whether the folder has nothing of a table. Its smaller summaries begin with its first rows, so they
/// say nothing.
fn is_new(table: &TableTiers) -> bool {
    let is_main = |holds| matches!(holds, Holds::States(Cube::Full) | Holds::Rows);
    table.tiers.iter().any(|tier| is_main(tier.holds) && tier.log.is_new())
}

/// Takes over what the bucket holds of tiers that the folder has nothing of.
fn adopt(lanes: &mut [Lane], tiers: &mut [TableTiers], now: TimeNs) -> Result<(), BuildError> {
    let local = tiers.iter_mut().flat_map(|table| {
        let asks = is_new(table);
        table.tiers.iter_mut().map(move |tier| (asks && tier.log.is_new(), tier))
    });
    let pairs = lanes.iter_mut().zip(local).filter(|(_, (asks, _))| *asks);
    let mut pairs: Vec<_> = pairs.map(|(lane, (_, tier))| (lane, tier)).collect();
    let share = pairs.len().div_ceil(READERS).max(1);
    std::thread::scope(|scope| {
        let readers: Vec<_> = pairs
            .chunks_mut(share)
            .map(|share| scope.spawn(|| share.iter_mut().try_for_each(|(lane, _)| lane.log.read())))
            .collect();
        readers.into_iter().try_for_each(|reader| {
            reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })?;
    for (lane, tier) in pairs {
        if let Some(stop) = lane.log.stopped() {
            return Err(stop.into());
        }
        if lane.log.is_new() {
            continue;
        }
        tier.log.adopt(&lane.log, now)?;
        lane.known = lane.log.files().iter().map(|file| file.name.clone()).collect();
        lane.is_met = true;
    }
    Ok(())
}

/// The bucket that the folder belongs to.
pub(crate) fn read_mark(dir: &Path) -> Result<Option<String>, BuildError> {
    let path = dir.join(MARK);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(BuildError::Io { action: "read", path, source }),
    };
    let mark: Result<BTreeMap<String, String>, _> = serde_json::from_slice(&text);
    match mark.map(|mut mark| mark.remove("url")) {
        Ok(Some(url)) => Ok(Some(url)),
        Ok(None) => Err(BuildError::Corrupt { path, what: "it names no url".to_owned() }),
        Err(error) => Err(BuildError::Corrupt { path, what: error.to_string() }),
    }
}

fn write_mark(dir: &Path, url: &str) -> Result<(), BuildError> {
    let path = dir.join(MARK);
    let text = serde_json::json!({ "url": url }).to_string();
    let written = durable::replace(&path, text.as_bytes());
    written.map_err(|source| BuildError::Io { action: "write", path, source })
}
