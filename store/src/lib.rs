//! Keeps tables: the newest rows in memory, older ones as summaries and files.
//!
//! ```text
//! append ──► hot tables ──────────────► snapshot, feed
//!       └──► log (one per node)              ▲
//!                 │ synced up to S           │
//!                 ▼                          │
//!               seal: all rows ≤ S ──► Parquet, one Delta log per (table, tier, node)
//! ```
//!
//! A row gets its place ([`Seq`](undine_schema::Seq)) when it is appended, is visible at once, is
//! durable after the next sync of the log, and is sealed no earlier. One atomic pointer per table
//! holds its hot rows and the versions of its tiers, so that a reader sees each row once.

mod config;
mod store;
mod open;
mod recover;
mod snapshot;
mod hot_tables;
mod hot;
mod feed;
mod lives;
mod allocated;
mod retry_keys;
mod log;
mod seal;
mod tidy;
mod state;
mod segment_file;
mod delta;
mod folder;
mod loss;
mod stats;
pub mod sketch;
mod durable;
mod disk;
#[cfg(test)]
mod power_loss;
#[cfg(test)]
#[path = "../tests/it/fixture.rs"]
#[expect(dead_code, reason = "the other half is for the tests that see the store from outside")]
mod fixture;

#[cfg(test)]
extern crate self as undine_store;

pub use config::{BuildError, Config, OnDamage};
pub use delta::DeltaError;
pub use seal::{SealError, SealReport};
pub use snapshot::{Segment, Snapshot, TierView};
pub use state::{raw_schema, summary_schema};
pub use stats::{Stats, TableStats};
pub use store::Store;
pub use tidy::TidyReport;
