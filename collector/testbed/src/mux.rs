//! Two ends of sessions of Mux that another implementation wrote, since no server of it can be installed.

use anyhow::Result;

use crate::place::Place;
use crate::server::Server;

/// Exchanges of a session.
pub const EXCHANGES: u32 = 7;

/// What was written by the codec of the crate `mux` 0.1.1.
const SESSION: &str = include_str!("../../src/protocol/mux/tests/session.hex");
const PORT: u16 = 14040;
/// Says one end's part of the session, and reads the other's before it goes on.
const SPEAK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/mux.py");

/// Starts the end that listens.
pub fn listen(place: &Place) -> Result<Server> {
    let mut server = place.command("python3");
    place.serve(server.args([SPEAK, "server", &PORT.to_string(), SESSION]), PORT)
}

/// Has so many sessions with it; what the other end noted of each exchange, as lines of JSON.
pub fn talk(place: &Place, sessions: u32) -> Result<String> {
    let [port, sessions] = [PORT.to_string(), sessions.to_string()];
    place.run("python3", &[SPEAK, "client", &port, SESSION, &sessions])
}
