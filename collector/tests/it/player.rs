//! A program that plays both ends of TCP connections as it is told, so that a test decides what has
//! happened before it watches.

use super::place::{Place, Program};

/// Starts `tcp.py` in `place`.
pub(crate) fn start(place: &Place) -> Program {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/tcp.py");
    Program::start(place.command("python3").arg(script))
}
