//! A session of Mux as another implementation writes it, between two processes.

use undine_testbed::Server;

use super::kernel::{alone, may_load};
use super::place::{Place, are_installed};
use super::watch::watched;

const PORT: u16 = 14040;
/// What was written by the codec of the crate `mux` 0.1.1; there is no server of Mux to be installed.
const SESSION: &str = include_str!("../../src/protocol/mux/tests/session.hex");
/// Says one end's part of the session, and reads the other's before it goes on.
const SPEAK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/mux.py");

fn listen(place: &Place) -> Server {
    let mut server = place.command("python3");
    place.serve(server.args([SPEAK, "server", &PORT.to_string(), SESSION]), PORT)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_exchange_of_twenty_sessions_is_a_row_of_the_server() {
    let _alone = alone().await;
    if !may_load() || !are_installed(&["python3"]) {
        return;
    }
    let (memory, ()) = watched("undine-mux", 64, |place| {
        let _server = listen(place);
        place.run("python3", &[SPEAK, "client", &PORT.to_string(), SESSION]);
    })
    .await;
    let columns = ["req_type", "dest", "req_size", "resp_size", "failed", "quality", "trace_role"];
    let rows = memory.rows("mux_events", &columns);
    let expected = [
        ["68", "", "32", "32", "0"],
        ["1", "", "41", "13", "0"],
        ["2", "/s/carts", "322", "15", "1"],
        ["2", "/s/users/get", "172", "28", "0"],
        ["65", "", "8", "8", "0"],
        ["2", "/s/late", "21", "19", "1"],
        ["64", "", "8", "8", "0"],
    ];
    let expected = expected.map(|row| [&row[..], &["0", "2"]].concat());
    assert_eq!(rows.len(), 20 * expected.len());
    for session in rows.chunks(expected.len()) {
        assert_eq!(session, expected);
    }
}
