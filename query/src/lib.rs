//! Answers `PxL` scripts and SQL over everything that the store holds.
//!
//! ```text
//! text ─► ast ─► evaluation on symbols ─► relations ─► plans ─► rows ─► tables, OTLP messages
//!                                             │          ▲
//!                                             └ rewrite ─┘  summaries of old rows,
//!                                                           merged with states of new ones
//! ```
//!
//! A script is read by [`parse`], evaluated by [`eval`] without touching any row, and becomes
//! [`relation`]s. [`rewrite`] finds the aggregates that summaries can answer; [`plan`] makes
//! `DataFusion` plans of the rest and of those, over one snapshot of each table per run. What a
//! script exports is built by [`otel`] and sent by others.
//!
//! Nothing here writes, opens a socket or asks a name server.

mod diagnostics;
mod ast;
mod parse;
mod pragma;
mod scalar;
mod time_text;
mod expr;
mod functions;
mod relation;
mod eval;
mod listing;
mod rewrite;
mod histogram;
mod grouping;
mod quantiles;
mod footers;
mod span;
mod hot;
mod hot_service;
mod segments;
mod provider;
mod evolve;
mod plan;
mod otel;
mod answer;
mod engine;
mod sql;
mod scripts;
mod vis;

pub use answer::{Answer, Note, ResultTable, SourceUse, Tier};
pub use diagnostics::{Diagnostic, Diagnostics, Placed, Range};
pub(crate) use engine::answer_schema;
pub use engine::{BuildError, Config, Engine, Error, Request};
pub use eval::{FunctionCall, PluginWindow};
pub use otel::{Endpoint, Export};
pub use scripts::BuiltIn;
pub use vis::{Vis, VisError};
