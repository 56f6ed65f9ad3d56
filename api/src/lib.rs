//! Everything through which the world talks to Undine.
//!
//! ```text
//! browser, curl ──► http ──► Engine          incidents ──► webhook ──► receivers
//! OTLP senders ──► otlp_ingest ──► Append     scripts ──► export_scheduler ──► otlp_export ──► OTLP
//! ```
//!
//! [`Config::build`] checks everything and binds every address; [`Api::run`] serves until told to
//! stop and drains.

mod api;
mod metrics;
mod ui;
mod durable_file;
#[cfg(test)]
mod memory_store;

pub mod http;
pub mod delivery;
pub mod export_scheduler;
pub mod otlp_export;
pub mod otlp_ingest;
pub mod webhook;

pub use api::{Api, BuildError, Config, Inputs, RunError};
