//! A session of Mux as another implementation writes it, between two processes.

use undine_testbed::mux;

use super::kernel::{alone, may_load};
use super::place::are_installed;
use super::watch::watched;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_exchange_of_twenty_sessions_is_a_row_of_the_server() {
    let _alone = alone().await;
    if !may_load() || !are_installed(&["python3"]) {
        return;
    }
    let (memory, ()) = watched("undine-mux", 64, |place| {
        let _server = mux::listen(place).unwrap();
        mux::talk(place, 20).unwrap();
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
