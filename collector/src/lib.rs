//! Watches connections through the kernel and turns what goes over them into rows.
//!
//! ```text
//! kernel ─► event ─┬► conn_tracker ─► protocol ─┬► pipeline ─► rows ─► Append
//!      (recording) │    │ data_stream            │    │
//!                  │    └ endpoints, peers       │    └ process, service_name, redaction
//!                  └► datagrams ─────────────────┘
//! ```

pub mod kernel;
pub mod event;
pub mod tls;
pub mod data_stream;
pub mod protocol;
pub mod datagrams;
pub mod endpoints;
pub mod peers;
pub mod conn_tracker;
pub mod conn_stats;
pub mod process;
pub mod service_name;
pub mod path_template;
pub mod redaction;
pub mod loss;
pub mod rows;
pub mod pipeline;
pub mod recording;
pub mod replay;
mod writer;
mod reader;
pub mod collector;

pub use collector::{
    BuildError, Collector, Config, Handle, RunError, SourceConfig, Stats, Stopped,
};
pub use kernel::{
    Cgroup, CgroupError, Hooks, Scope, ScopeDefault, ScopeGuard, Target, Tls, Verdict,
};
pub use redaction::{Mode, Redaction};
pub use replay::Pace;
pub use service_name::ServiceRule;
