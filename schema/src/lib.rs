//! What every part of Undine agrees on: the tables and the ports between components.
//!
//! A table is declared once, in [`tables`]; its Arrow schema, its row builder, its `PxL` types, its
//! summary and its documentation derive from that declaration. A component that produces rows
//! writes them through [`Append`]; one that follows them reads through [`Feed`]. Neither knows
//! which store stands behind, and the binary connects them.
//!
//! Nothing in this crate does I/O.

pub mod time;
pub mod upid;
pub mod seq;
pub mod column;
pub mod table;
pub mod cube;
pub mod path_template;
mod packet_table;
mod request_table;
pub mod tables;
pub mod append;
pub mod feed;
pub mod trace;

pub use append::{Append, AppendError, Durability, Frame, Part, Pending, RetryKey};
pub use column::{Column, ColumnDef, DataClass, Facet, Life, PxlType, Role, SemanticType};
pub use cube::Cube;
pub use feed::{Feed, FeedError, Progress, Slice};
pub use seq::{Incarnation, Seq, SeqRange};
pub use table::{TableDef, TableKind};
pub use time::{Clock, ManualClock, SystemClock, TimeNs};
pub use upid::Upid;
