//! The folders `TABLE/TIER/NODE`, on a disk or in a bucket: which there are and what their logs say.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};

use super::catalog::{Catalog, POINTER, version_of};
use super::{Finding, TierState};

/// Folders that are listed, and logs that are read, at once.
const READERS: usize = 16;

/// What to do about a damaged or missing file of a folder.
pub(super) const RESTORE: &str = "put the file back from a copy, or restore the whole folder from one \
                                  (`undine storage restore`); check the disk";
/// The same of a bucket.
const PUT_BACK: &str = "put the file back from the bucket's older versions or from a copy; the node \
                        that wrote it may still have it below `cache` in its data_dir";

/// Where tables are.
#[derive(Clone, Debug)]
pub(super) struct Tables {
    pub(super) objects: Arc<dyn ObjectStore>,
    pub(super) place: Place,
}

/// What is around tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Folder,
    Bucket,
}

/// What was found in them.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// By table, summaries first and finest first, then by node.
    pub(super) tiers: Vec<TierState>,
    pub(super) findings: Vec<Finding>,
    /// Every node that has a folder, read or not.
    pub(super) nodes: BTreeSet<String>,
}

/// A request that failed, which says nothing about what was asked for.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) path: String,
    pub(super) source: object_store::Error,
}

/// Why something was not read.
#[derive(Debug)]
pub(super) enum Unread {
    /// It is not as it should be.
    Damaged(Finding),
    Failed(Failed),
}

impl From<Finding> for Unread {
    fn from(finding: Finding) -> Self {
        Self::Damaged(finding)
    }
}

impl Tables {
    /// A path, below the folder or bucket that a person knows.
    pub(super) fn place(&self, path: &Path) -> String {
        match self.place {
            Place::Folder => format!("tables/{path}"),
            Place::Bucket => path.to_string(),
        }
    }

    pub(super) fn damaged(&self, path: &Path, what: impl Into<String>) -> Finding {
        let remedy = match self.place {
            Place::Folder => RESTORE,
            Place::Bucket => PUT_BACK,
        };
        Finding::error(self.place(path), what, remedy)
    }

    /// Why a file was not read: a disk that cannot read one has damaged it, a network has not.
    pub(super) fn unread(&self, path: &Path, source: object_store::Error) -> Unread {
        let is_gone = matches!(source, object_store::Error::NotFound { .. });
        if self.place == Place::Bucket && !is_gone {
            return Unread::Failed(Failed { path: path.to_string(), source });
        }
        self.damaged(path, format!("it cannot be read: {source}")).into()
    }

    pub(super) async fn get(&self, path: &Path) -> Result<Bytes, Unread> {
        let read = async { self.objects.get(path).await?.bytes().await };
        read.await.map_err(|error| self.unread(path, error))
    }

    /// Reads every log, or those of one node; what is wrong with one is a finding, not a failure.
    pub(super) async fn read(&self, node: Option<&str>) -> Result<Found, Failed> {
        let tiers = self.below(self.folders(None).await?).await?;
        let mut prefixes = self.below(tiers).await?;
        let mut found = Found::default();
        prefixes.retain(|prefix| {
            let name = name_of(prefix.filename().unwrap_or_default());
            let wanted = node.is_none_or(|node| node == name);
            found.nodes.insert(name);
            wanted
        });
        let mut tiers = stream::iter(prefixes).map(|prefix| self.tier(prefix)).buffered(READERS);
        while let Some((tier, findings)) = tiers.try_next().await? {
            found.tiers.extend(tier);
            found.findings.extend(findings);
        }
        drop(tiers);
        found.tiers.sort_by_cached_key(|tier| {
            let width = seconds_of(&tier.tier);
            (tier.table.clone(), width == 0, width, tier.tier.clone(), tier.node.clone())
        });
        Ok(found)
    }

    /// The files of a tier's log up to the version that `tier` describes, and the one that names the
    /// newest checkpoint.
    pub(super) async fn log_of(&self, tier: &TierState) -> Result<Vec<Path>, Failed> {
        let files = self.files(&tier.prefix.clone().join("_delta_log")).await?;
        let is_of = |file: &ObjectMeta| {
            let versions = [".json", ".checkpoint.parquet"].map(|end| version_of(file, end));
            versions.into_iter().flatten().any(|version| version <= tier.version)
                || file.location.filename() == Some(POINTER)
        };
        Ok(files.into_iter().filter(is_of).map(|file| file.location).collect())
    }

    /// The folders right below these.
    async fn below(&self, folders: Vec<Path>) -> Result<Vec<Path>, Failed> {
        let listed = stream::iter(folders)
            .map(async |folder| self.folders(Some(&folder)).await)
            .buffered(READERS);
        Ok(listed.try_collect::<Vec<_>>().await?.concat())
    }

    async fn tier(&self, prefix: Path) -> Result<(Option<TierState>, Vec<Finding>), Failed> {
        let commits = self.files(&prefix.clone().join("_delta_log")).await?;
        let files = self.files(&prefix).await?;
        let catalog = match Catalog::read(self, &commits).await {
            Ok(Some(catalog)) => catalog,
            Ok(None) => {
                let lost =
                    || self.damaged(&prefix, format!("{} files have no catalog", files.len()));
                return Ok((None, (!files.is_empty()).then(lost).into_iter().collect()));
            }
            Err(Unread::Damaged(finding)) => return Ok((None, vec![finding])),
            Err(Unread::Failed(failed)) => return Err(failed),
        };
        let mut parts = prefix.parts();
        let mut part = || parts.next().map(|part| name_of(part.as_ref())).unwrap_or_default();
        let (table, tier, node) = (part(), part(), part());
        let findings = catalog.findings.clone();
        Ok((Some(catalog.state(table, tier, node, prefix, &files, &commits)), findings))
    }

    /// The folders in one, except those that no table, tier or node can be called.
    async fn folders(&self, prefix: Option<&Path>) -> Result<Vec<Path>, Failed> {
        let listed = self.objects.list_with_delimiter(prefix).await;
        let mut folders = listed.map_err(failed(prefix))?.common_prefixes;
        folders.retain(|folder| !folder.filename().unwrap_or("_").starts_with(['_', '.']));
        folders.sort();
        Ok(folders)
    }

    async fn files(&self, prefix: &Path) -> Result<Vec<ObjectMeta>, Failed> {
        let listed = self.objects.list_with_delimiter(Some(prefix)).await;
        let mut files = listed.map_err(failed(Some(prefix)))?.objects;
        files.sort_by(|a, b| a.location.cmp(&b.location));
        Ok(files)
    }
}

fn failed(prefix: Option<&Path>) -> impl FnOnce(object_store::Error) -> Failed {
    let path = prefix.map_or_else(|| "tables".to_owned(), ToString::to_string);
    move |source| Failed { path, source }
}

/// What a folder's name stands for: `+5F` and its like are bytes.
fn name_of(folder: &str) -> String {
    let mut bytes = Vec::with_capacity(folder.len());
    let mut rest = folder.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..2).filter(|_| first == b'+');
        let code = code.and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(byte) = code.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            bytes.push(byte);
            rest = &after[2..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The width that a tier's name says, in seconds; 0 for raw.
fn seconds_of(tier: &str) -> u64 {
    let units = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)];
    let width = units.into_iter().find_map(|(unit, seconds)| {
        let number: u64 = tier.strip_suffix(unit)?.parse().ok()?;
        Some(number.saturating_mul(seconds))
    });
    width.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::folder::{folder_of, tier_name};

    #[test]
    fn a_folders_name_says_which_table_or_tier_it_holds() {
        for name in ["http_events", "stack_traces.beta", "_a", ".a", "a/b", "a+b", "..", "é"] {
            assert_eq!(name_of(&folder_of(name)), name);
        }
        for seconds in [0, 10, 60, 90, 3600, 86_400] {
            assert_eq!(seconds_of(&tier_name(Duration::from_secs(seconds))), seconds);
        }
    }
}
