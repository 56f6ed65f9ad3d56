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
mod hot_budget;
mod hot_memory;
mod hot_zones;
mod hot_dictionary;
mod hot_by_service;
mod packed;
mod recent_texts;
mod numbered_ints;
mod numbered_texts;
mod hot_slice;
mod interleaving;
mod feed;
mod lives;
mod allocated;
mod retry_keys;
mod log;
mod seal;
mod tidy;
mod background;
mod io_budget;
mod state;
mod evolve;
mod retention;
mod encoding;
mod segment_file;
mod dictionary_chunk;
mod delta;
mod backend;
mod cache;
mod spool;
mod folder;
mod loss;
mod stats;
mod storage_tables;
pub mod sketch;
mod durable;
mod disk;
pub mod inspect;
#[cfg(test)]
mod power_loss;
#[cfg(test)]
#[path = "../tests/it/fixture.rs"]
#[expect(dead_code, reason = "the other half is for the tests that see the store from outside")]
mod fixture;

#[cfg(test)]
extern crate self as undine_store;

pub use backend::{Bucket, BucketConfig, BucketError, Thoroughness};
pub use cache::CacheStats;
pub use config::{BuildError, Config, OnDamage};
pub use delta::DeltaError;
pub use hot_budget::{Eviction, HotBudget};
pub use hot_slice::{HotSlice, OfText, Stretch, Wanted};
pub use retention::Retention;
pub use seal::{SealError, SealReport};
pub use snapshot::{Segment, Snapshot, TierView};
pub use spool::{BucketStats, UploadError, UploadReport};
pub use state::{cube_schema, exemplar_schema, raw_schema, summary_schema};
pub use stats::{Stats, TableStats, Upkeep};
pub use store::Store;
pub use tidy::TidyReport;
