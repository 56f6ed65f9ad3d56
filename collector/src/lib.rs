//! Collector.

pub mod event;
pub mod data_stream;
pub mod protocol;
pub mod path_template;
pub mod redaction;
