//! Watches connections through the kernel and turns what goes over them into rows.
//!
//! ```text
//! kernel ─► reader ─► event ─┬► conn_tracker ─► protocol ─┬► rows ─► writer ─► Append
//!            │    replay      │   └ data_stream            │   └ redaction
//!            └► recording     └► datagrams ───► protocol ──┘
//! /proc, cgroups ─► host (of those that the kernel side watches) ───────► writer ─► Append
//! kernel ─► profiler, on a thread of its own ─► reader
//! scripts ─► trace ─► kernel ─► reader ─► tables of their own
//! ```
//!
//! [`pipeline`] is what leads events along this way, without clock, thread or I/O; it knows the ends
//! of connections ([`endpoints`], [`peers`]), who serves them ([`process`], [`service_name`]), and
//! keeps the books ([`conn_stats`], [`loss`]). [`collector`] puts both around it.

pub mod kernel;
pub mod event;
pub mod id_map;
pub mod tls;
pub mod data_stream;
pub mod protocol;
pub mod datagrams;
pub mod endpoints;
pub mod peers;
pub mod conn_tracker;
pub mod conn_stats;
pub mod tcp_health;
pub mod process;
pub mod service_name;
pub mod redaction;
pub mod loss;
pub mod error_log;
pub mod rows;
mod exits;
mod stack_rows;
pub mod profiler;
pub mod trace;
pub mod pipeline;
mod mask;
pub mod recording;
pub mod replay;
mod writer;
mod profile_link;
mod reader;
pub mod collector;
pub mod host;

pub use collector::{
    BuildError, Collector, Config, Handle, RunError, SourceConfig, Stats, Stopped,
};
pub use kernel::{
    Cgroup, CgroupError, Hooks, Object, Scope, ScopeDefault, ScopeGuard, Target, Tls, Verdict,
};
pub use redaction::{Mode, Redaction};
pub use replay::Pace;
pub use service_name::ServiceRule;
pub use tls::Placing;
pub use trace::bpftrace::Programs;
