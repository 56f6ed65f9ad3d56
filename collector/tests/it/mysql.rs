//! MySQL on the real kernel: a MariaDB server of the test's own, whose general log is the truth.

use std::collections::BTreeMap;
use std::sync::Arc;

use tempfile::TempDir;
use undine_collector::Collector;
use undine_testbed::mariadb::{self, Failing, LOGGED, Mariadb, NUMBERED, numbered_queries};
use undine_testbed::{Program, Scene, Server, Wire};

use super::kernel::{alone, config, may_load};
use super::memory::Memory;
use super::place::{Place, are_installed, succeed, wait_until};
use super::watch::running_while;

/// Bytes that are kept of a text.
const TEXT_BYTES_MAX: usize = 4096;

/// Where a server of the test's own is.
struct Home {
    place: Place,
    folder: TempDir,
}

impl Home {
    fn new() -> Self {
        Self { place: Place::new("undine-mysql"), folder: tempfile::tempdir().unwrap() }
    }

    fn start(&self) -> Mariadb<'_> {
        let (place, folder) = (&*self.place, self.folder.path());
        let scene = Scene { place, folder, wire: Wire::Plain };
        Mariadb::start(scene, &["--local-infile=1"]).unwrap()
    }
}

/// How often each command was logged, by command byte and text.
fn logged(server: &Mariadb<'_>) -> BTreeMap<(String, String), u64> {
    let mut counts = BTreeMap::new();
    for (_, command, text) in mariadb::entries(&server.log().unwrap()) {
        if let Some((_, code)) = LOGGED.iter().find(|(name, _)| *name == command) {
            *counts.entry(((*code).to_owned(), shortened(&text))).or_default() += 1;
        }
    }
    counts
}

/// A text as far as rows keep it, and as far as the server does not trim it.
fn shortened(text: &str) -> String {
    mariadb::trimmed(&text[..text.floor_char_boundary(TEXT_BYTES_MAX)]).to_owned()
}

/// How often each command that is logged is a row of `role`.
fn rows(memory: &Memory, role: &str) -> BTreeMap<(String, String), u64> {
    let mut counts = BTreeMap::new();
    for row in memory.rows("mysql_events", &["trace_role", "req_cmd", "req_body"]) {
        let [of, code, text] = &row[..] else { unreachable!() };
        if of == role && LOGGED.iter().any(|(_, logged)| logged == code) {
            let text =
                if code == "23" { mariadb::executed(text).unwrap() } else { shortened(text) };
            *counts.entry((code.clone(), text)).or_default() += 1;
        }
    }
    counts
}

/// Checks that the rows of both ends are what the server logged.
fn check_against_log(server: &Mariadb<'_>, memory: &Memory) -> u64 {
    let logged = logged(server);
    for role in ["1", "2"] {
        let rows = rows(memory, role);
        for (command, count) in &logged {
            assert_eq!(rows.get(command), Some(count), "role {role}: {command:?}");
        }
        for (command, count) in &rows {
            assert_eq!(logged.get(command), Some(count), "role {role}: {command:?}");
        }
    }
    logged.values().sum()
}

/// Checks that queries for so many rows are paired with resultsets of so many rows.
fn check_pairs(memory: &Memory) -> u64 {
    let mut pairs = 0;
    for row in memory.rows("mysql_events", &["req_body", "resp_body", "resp_status"]) {
        if let Some(rows) = row[0].strip_prefix(NUMBERED) {
            assert_eq!(row[1..], [format!("Resultset rows = {rows}"), "2".to_owned()], "{row:?}");
            pairs += 1;
        }
    }
    pairs
}

/// A collector of what a server and its clients say.
fn watch(server: &Mariadb<'_>, ring_bytes: u32) -> (Arc<Memory>, Collector) {
    let memory = Arc::new(Memory::default());
    let append = Arc::clone(&memory);
    let mut config = config(&server.scene.place.cgroup, ring_bytes, None);
    config.body_bytes_max = TEXT_BYTES_MAX;
    (memory, config.build(append).unwrap())
}

/// Statements of all kinds that the client sends as they are.
const STATEMENTS: &str = "\
select 1;
select * from nope;
selec 1;
delimiter //
select 1; select 2; select * from nope//
create procedure p() begin select 1; select 2 union select 3; end//
delimiter ;
call p();
create table t (a int, b varchar(20));
insert into t values (1, 'a
b'), (2, null), (3, 'grüße');
update t set b = 'c' where a > 1;
select * from t;
explain select * from t;
insert into t values (1, 2, 3);
select length(repeat('x', 17000000)), repeat('x', 17000000);
select 'after';
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_statement_in_the_servers_log_is_a_row_of_either_end() {
    let _alone = alone().await;
    if !may_load() || !are_installed(&mariadb::PROGRAMS) {
        return;
    }
    let home = Home::new();
    let server = home.start();
    let file = home.folder.path().join("file.csv");
    std::fs::write(&file, "1,x\n".repeat(20_000)).unwrap();
    // Room for all of it, however slowly it is read.
    let (memory, collector) = watch(&server, 64 << 20);
    let (stats, ()) = running_while(collector, || {
        server.create_database().unwrap();
        server.send(1, STATEMENTS, Failing::Some).unwrap();
        let load = format!("load data local infile '{}' into table t", file.display());
        succeed(&mut server.client("mariadb", &["--local-infile=1", "it", "-e", &load]));
        succeed(&mut server.client("mariadb-admin", &["ping", "status"]));
        server.send(8, &numbered_queries(300), Failing::None).unwrap();
        succeed(&mut server.sysbench("oltp_read_write", &["prepare"]));
        let load = ["--threads=4", "--events=200", "--time=60", "run"];
        succeed(&mut server.sysbench("oltp_read_write", &load));
    })
    .await;
    assert_eq!(stats.kernel.dropped, 0);
    let logged = check_against_log(&server, &memory);
    assert_eq!(check_pairs(&memory), 2 * 8 * 300);
    let failed = memory.rows("mysql_events", &["trace_role", "failed", "req_body", "resp_body"]);
    let failed: Vec<_> = failed
        .iter()
        .filter(|row| row[..2] == ["2", "1"])
        .map(|row| format!("{}: {}", row[2], row[3]))
        .collect();
    println!("{logged} commands in the log, of them failed: {failed:#?}");
    for expected in [
        "select * from nope: Table 'it.nope' doesn't exist",
        "insert into t values (1, 2, 3): Column count doesn't match value count at row 1",
    ] {
        assert!(failed.iter().any(|row| row == expected), "{expected}");
    }
    let results = memory.rows("mysql_events", &["trace_role", "req_body", "resp_body"]);
    for (sql, result) in [
        ("call p()", "Resultset rows = 1, Resultset rows = 2"),
        ("update t set b = 'c' where a > 1", "Affected rows = 2"),
        ("select * from t", "Resultset rows = 3"),
        ("select length(repeat('x', 17000000)), repeat('x', 17000000)", "Resultset rows = 1"),
    ] {
        for role in ["1", "2"] {
            let found = results.iter().any(|row| row[..] == [role, sql, result]);
            assert!(found, "role {role}: {sql}: {result}");
        }
    }
    assert!(
        results
            .iter()
            .any(|row| row[1].starts_with("load data") && row[2] == "Affected rows = 20000")
    );
    let losses = memory.rows("data_loss", &["reason", "rows_max", "bytes", "source_table"]);
    let rows_lost: Vec<_> = losses.iter().filter(|row| row[1] != "0").collect();
    assert!(rows_lost.is_empty(), "{losses:?}");
    assert_eq!(stats.missing_rows.max, 0, "{stats:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_ring_loses_statements_within_bounds_and_never_pairs_wrong() {
    let _alone = alone().await;
    if !may_load() || !are_installed(&mariadb::PROGRAMS) {
        return;
    }
    let home = Home::new();
    let server = home.start();
    server.create_database().unwrap();
    server.forget().unwrap();
    let (memory, collector) = watch(&server, 64 * 1024);
    // Nobody reads yet, so the ring fills.
    let load = || server.send(8, &numbered_queries(1000), Failing::None).unwrap();
    load();
    let (stats, ()) = running_while(collector, load).await;
    assert!(stats.kernel.dropped > 0);
    let pairs = check_pairs(&memory);
    let sent: u64 = logged(&server).values().sum();
    let rows = memory.rows("mysql_events", &["req_cmd"]).len() as u64;
    let missing = 2 * sent - rows;
    let (min, max) = (memory.sum("data_loss", "rows_min"), memory.sum("data_loss", "rows_max"));
    println!("{sent} commands, {pairs} pairs, missing {missing} in {min}..={max}");
    assert!(min <= missing && missing <= max, "{min} <= {missing} <= {max}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_was_there_before_is_joined_at_both_ends() {
    let _alone = alone().await;
    if !may_load() || !are_installed(&mariadb::PROGRAMS) {
        return;
    }
    let home = Home::new();
    let server = home.start();
    let unbuffered = ["--unbuffered", "--skip-column-names", "mysql"];
    let mut client = Program::start(&mut server.client("mariadb", &unbuffered)).unwrap();
    client.tell("select 'before';").unwrap();
    client.hear("before").unwrap();
    let (memory, collector) = watch(&server, 4 << 20);
    let act = || {
        client.tell("select 'trial';\nselect seq from seq_1_to_7;\nselect 'x';\nquit").unwrap();
        assert!(client.wait().unwrap().success());
    };
    running_while(collector, act).await;
    let columns = ["trace_role", "req_body", "resp_body", "quality"];
    let mut rows = memory.rows("mysql_events", &columns);
    // Of the end whose role is known from its port, the first statement is a row too.
    rows.retain(|row| !row[1].is_empty() && row[1] != "select 'trial'");
    rows.sort_unstable();
    let expected = ["1", "2"].map(|role| {
        [("select 'x'", 1), ("select seq from seq_1_to_7", 7)].map(|(sql, rows)| {
            [role, sql, &format!("Resultset rows = {rows}"), "2"].map(str::to_owned).to_vec()
        })
    });
    assert_eq!(rows, expected.concat());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_connection_is_joined_at_both_ends() {
    let _alone = alone().await;
    if !may_load() || !are_installed(&mariadb::PROGRAMS) {
        return;
    }
    let home = Home::new();
    let server = home.start();
    server.create_database().unwrap();
    succeed(&mut server.sysbench("oltp_read_only", &["prepare"]));
    let load = ["--threads=4", "--rate=150", "--time=600", "--db-ps-mode=disable", "run"];
    let load = Server::start(&mut server.sysbench("oltp_read_only", &load)).unwrap();
    let queries = || server.log_so_far().unwrap().matches("BETWEEN").count();
    let before = queries();
    wait_until("queries of every connection", || queries() > before + 100);
    let (memory, collector) = watch(&server, 32 << 20);
    let (stats, ()) = running_while(collector, || {
        let before = queries();
        wait_until("queries that are watched", || queries() > before + 3000);
        drop(load);
    })
    .await;
    let columns = ["trace_role", "local_port", "remote_port", "req_cmd", "resp_body", "req_body"];
    let mut rows_of_connection = BTreeMap::new();
    for row in memory.rows("mysql_events", &columns) {
        *rows_of_connection.entry(row[..3].to_vec()).or_insert(0_u64) += 1;
        if row[3] == "3" && row[5].contains("BETWEEN") && !row[5].contains("SUM(") {
            assert_ne!(row[4], "Resultset rows = 1", "{row:?}");
        }
    }
    println!("{rows_of_connection:?}, {} messages dropped", stats.kernel.dropped);
    assert!(rows_of_connection.values().all(|rows| *rows > 100));
    assert_eq!(rows_of_connection.len(), 8, "four connections with two ends: {stats:?}");
}
