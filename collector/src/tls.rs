//! What programs hand to TLS libraries and get from them.
//!
//! The libraries of the processes in scope are found in their maps, when Undine starts, when a
//! program starts, and when TLS is seen whose plaintext is not. A library is probed once, in its
//! file, for whoever maps it; the kernel programs send nothing about those that are not in scope.
//!
//! ```text
//! maps of a process ─► mappings ─► library (functions, objects) ─► placement ─► Control: uprobes
//!   ▲ finder: when to look again                                         │
//!   └── pipeline: Exec, TLS without plaintext         RING: Tls, Data, Close ─► unbound ─► pipeline
//! ```

pub mod unbound;
pub mod placement;
pub mod object_layout;
pub mod go_functions;
pub mod rustls_functions;
pub mod library;
pub(crate) mod mappings;
pub(crate) mod finder;

pub use finder::{LibraryReport, probe_watched};
pub use placement::Placing;
