//! A server of MongoDB's protocol.

use std::path::Path;

use anyhow::Result;

use crate::place::Place;
use crate::server::Server;

/// The program.
pub const PROGRAM: &str = "secantusd-py";
/// Where it listens.
pub const PORT: u16 = 17017;

/// Starts one that keeps everything in `folder`, and waits until it listens.
pub fn start(place: &Place, folder: &Path) -> Result<Server> {
    let mut server = place.command(PROGRAM);
    server.args(["--host", "127.0.0.1", "--port", &PORT.to_string(), "--storage-path"]);
    place.serve(server.arg(folder), PORT)
}
