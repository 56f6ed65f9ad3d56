//! api

mod durable_file;
#[cfg(test)]
mod memory_store;

pub mod delivery;
pub mod export_scheduler;
pub mod otlp_export;
pub mod otlp_ingest;
pub mod webhook;
