//! What nodes have in a bucket, read from anywhere.
//!
//! Each node writes to logs of its own below the bucket's address, so they are read one by one, and
//! what they hold together is the fleet. A bucket has the sealed rows up to each node's last upload;
//! younger ones are on the nodes. Nothing is ever written here: the logs have one writer each, the
//! running node, which also deletes what no version needs any more.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::tables::{Failed, Place, Tables};
use super::verify::{Depth, Verification};
use super::views::{Dialect, Names};
use super::{InspectError, Inspection};
use crate::backend::{Address, Bucket, Service};

/// Nodes that a message names.
const NAMES_MAX: usize = 20;

const DUCKDB_S3: &str = "\
-- DuckDB reads S3 with its extension httpfs, and with credentials such as those of
-- CREATE SECRET (TYPE s3, PROVIDER credential_chain);
";
const DUCKDB_GOOGLE: &str = "\
-- DuckDB reads Google Cloud Storage with its extension httpfs, and with an HMAC key in
-- CREATE SECRET (TYPE gcs, KEY_ID '…', SECRET '…');
";
const DUCKDB_AZURE: &str = "\
-- DuckDB reads Azure with its extension azure, and with an account such as that of
-- CREATE SECRET (TYPE azure, PROVIDER credential_chain, ACCOUNT_NAME '…');
";
const CLICKHOUSE_S3: &str = "\
-- ClickHouse reads the bucket with the credentials of its own environment or configuration.
";

/// The nodes that write below one address.
#[derive(Debug)]
pub struct Fleet {
    bucket: Bucket,
    /// The only one that is looked at.
    node: Option<String>,
    pub(super) tables: Tables,
}

impl Fleet {
    /// Opens the bucket at `url`, of all nodes or of one; asks nothing of it yet. Region, endpoint and
    /// credentials come from the environment.
    ///
    /// # Errors
    /// Where the address is none, its client cannot be made, or a folder is not there.
    pub fn open(url: &str, node: Option<String>) -> Result<Self, InspectError> {
        let bucket = Bucket::open_to_read(url)?;
        let objects = Arc::clone(bucket.objects());
        let tables = Tables { objects, place: Place::Bucket };
        Ok(Self { bucket, node, tables })
    }

    /// The bucket's address.
    pub fn url(&self) -> &str {
        self.bucket.url()
    }

    /// Reads every catalog of every node; what is wrong with one is a finding, not a failure.
    ///
    /// # Errors
    /// Where the bucket cannot be listed, holds no tables, or nothing of the node that was named.
    pub async fn inspect(&self) -> Result<Inspection, InspectError> {
        let found = self.tables.read(self.node.as_deref()).await;
        let found = found.map_err(|failed| self.failed(failed))?;
        let url = || self.url().to_owned();
        if found.tiers.is_empty() && found.findings.is_empty() {
            return Err(match &self.node {
                Some(node) if !found.nodes.is_empty() => {
                    let (node, known) = (node.clone(), some_of(&found.nodes));
                    InspectError::NoNode { url: url(), node, known }
                }
                _ => InspectError::Empty { url: url() },
            });
        }
        Ok(Inspection { tiers: found.tiers, findings: found.findings, ..Inspection::default() })
    }

    /// Checks the logs of every node and the files that they name. Beside running nodes it sees one
    /// moment of each tier.
    ///
    /// # Errors
    /// As [`inspect`](Self::inspect).
    pub async fn verify(&self, depth: Depth) -> Result<Verification, InspectError> {
        let inspection = self.inspect().await?;
        let findings = inspection.findings.clone();
        let mut verified = Verification { inspection, findings, ..Verification::default() };
        let checked = self.tables.verify(&mut verified, depth).await;
        checked.map_err(|failed| self.failed(failed))?;
        Ok(verified)
    }

    /// Statements that make a view of each tier that `held` names, named as in Undine's own SQL:
    /// `http_events__10s` for a summary, `http_events` for the rows themselves. A view has the rows
    /// of all nodes, with the column `node` where the table has none of that name; and there are the
    /// functions that read sketches.
    ///
    /// # Errors
    /// Where the engine has no words for this kind of bucket.
    pub fn views(&self, held: &Inspection, dialect: Dialect) -> Result<String, InspectError> {
        Ok(self.names(dialect)?.views(held))
    }

    pub(super) fn failed(&self, failed: Failed) -> InspectError {
        self.bucket.unread(failed.source).into()
    }

    fn names(&self, dialect: Dialect) -> Result<Names, InspectError> {
        let url = self.url().to_owned();
        match (Address::parse(&url)?, dialect) {
            (Address::Disk(dir), _) => Ok(Names::on_disk(dialect, root_of(&dir))),
            (Address::Remote { service, .. }, Dialect::DuckDb) => {
                let needs = match service {
                    Service::S3 => DUCKDB_S3,
                    Service::Google => DUCKDB_GOOGLE,
                    Service::Azure => DUCKDB_AZURE,
                };
                Ok(Names { dialect, root: url, function: "read_parquet", needs })
            }
            (address, Dialect::ClickHouse) => {
                let root = address.http().ok_or(InspectError::Unnamable { url })?;
                Ok(Names { dialect, root, function: "s3", needs: CLICKHOUSE_S3 })
            }
        }
    }
}

/// Names of nodes, as many as a message takes.
pub(super) fn some_of<'a>(nodes: impl IntoIterator<Item = &'a String>) -> String {
    let mut nodes = nodes.into_iter().map(String::as_str);
    let mut names: Vec<_> = nodes.by_ref().take(NAMES_MAX).collect();
    names.extend(nodes.next().map(|_| "…"));
    names.join(", ")
}

fn root_of(dir: &Path) -> String {
    dir.components().collect::<PathBuf>().display().to_string()
}
