//! MySQL on the real kernel: a MariaDB server of the test's own, whose general log is the truth.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use undine_collector::{Collector, Stats};

use super::kernel::{alone, config, may_load};
use super::memory::Memory;
use super::place::{Place, Server, are_installed, succeed, wait_until};

const PORT: &str = "13306";
/// Bytes that are kept of a text.
const TEXT_BYTES_MAX: usize = 4096;
/// What MariaDB's own clients have to be told.
const CLIENT: [&str; 6] = ["--no-defaults", "--skip-ssl", "-h127.0.0.1", "-P", PORT, "-uroot"];
/// What the server's log calls the commands that it logs, with their command bytes.
const LOGGED: [(&str, &str); 7] = [
    ("Quit", "1"),
    ("Init DB", "2"),
    ("Query", "3"),
    ("Statistics", "9"),
    ("Prepare", "22"),
    ("Execute", "23"),
    ("Close stmt", "25"),
];

/// Programs that the tests start.
pub(crate) const PROGRAMS: [&str; 6] =
    ["mariadbd", "mariadb-install-db", "mariadb", "mariadb-admin", "sysbench", "nsenter"];

/// A MariaDB server in a place of its own.
pub(crate) struct MariaDb {
    _server: Server,
    place: Place,
    folder: TempDir,
}

impl MariaDb {
    /// Starts one.
    fn start() -> Self {
        Self::start_in(Place::new("undine-mysql"), tempfile::tempdir().unwrap(), &[])
    }

    /// Starts one in a place, with more arguments.
    pub(crate) fn start_in(place: Place, folder: TempDir, args: &[&str]) -> Self {
        let at =
            |option: &str, file: &str| format!("--{option}={}", folder.path().join(file).display());
        let data = at("datadir", "data");
        let own = ["--no-defaults", "--user=root", "--innodb-use-native-aio=0", &data];
        let install = ["--skip-test-db", "--auth-root-authentication-method=normal"];
        succeed(place.command("mariadb-install-db").args(own).args(install));
        let mut command = place.command("mariadbd");
        command
            .args(own)
            .args([
                "--bind-address=127.0.0.1",
                &format!("--port={PORT}"),
                &at("socket", "socket"),
                &at("pid-file", "pid"),
            ])
            .args([&at("general-log-file", "general.log"), "--general-log=1"])
            .args(["--max-allowed-packet=64M", "--innodb-buffer-pool-size=32M", "--local-infile=1"])
            .args(args);
        let server = Self { _server: Server::start(&mut command), place, folder };
        server.place.wait_for("mariadb-admin", &[&CLIENT[..], &["ping"]].concat());
        server.clear_log();
        server
    }

    /// The general log, once it says of every connection that it ended.
    fn log(&self) -> String {
        let count = |log: &str, command| {
            log.lines().filter_map(entry).filter(|entry| entry.0 == command).count()
        };
        wait_until("the end of every connection", || {
            let log = self.log_so_far();
            count(&log, "Connect") == count(&log, "Quit")
        });
        self.log_so_far()
    }

    fn log_so_far(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_path()).unwrap()).into_owned()
    }

    fn clear_log(&self) {
        self.log();
        std::fs::write(self.log_path(), "").unwrap();
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("general.log")
    }

    /// One of MariaDB's own clients.
    pub(crate) fn client(&self, program: &str, args: &[&str]) -> Command {
        let mut command = self.place.command(program);
        command.args(CLIENT).args(args);
        command
    }

    /// A load of prepared statements.
    fn sysbench(&self, script: &str, args: &[&str]) -> Command {
        let mut command = self.place.command("sysbench");
        command
            .args([script, "--db-driver=mysql", "--mysql-host=127.0.0.1", "--mysql-user=root"])
            .args([&format!("--mysql-port={PORT}"), "--mysql-db=it", "--mysql-ssl=off"])
            .args(["--tables=2", "--table-size=1000"])
            .args(args)
            .stdout(Stdio::null());
        command
    }

    /// Sends statements through `mariadb`, on so many connections at a time.
    fn send(&self, connections: usize, sql: &str) {
        let mut clients: Vec<Child> = Vec::new();
        for _ in 0..connections {
            let mut command =
                self.client("mariadb", &["--force", "--max-allowed-packet=64M", "it"]);
            let mut client = command
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let mut stdin = client.stdin.take().unwrap();
            let sql = sql.to_owned();
            std::thread::spawn(move || stdin.write_all(sql.as_bytes()).unwrap());
            clients.push(client);
        }
        for mut client in clients {
            client.wait().unwrap();
        }
    }

    /// How often each command was logged since the start, by command byte and text.
    fn logged(&self) -> BTreeMap<(String, String), u64> {
        let log = self.log();
        let mut entries: Vec<(&str, String)> = Vec::new();
        for line in log.lines() {
            match entry(line) {
                Some((command, text)) => entries.push((command, text.to_owned())),
                None => {
                    if let Some((_, text)) = entries.last_mut() {
                        text.push('\n');
                        text.push_str(line);
                    }
                }
            }
        }
        let mut counts = BTreeMap::new();
        for (command, text) in &entries {
            if let Some((_, code)) = LOGGED.iter().find(|(name, _)| name == command) {
                *counts.entry(((*code).to_owned(), shortened(text))).or_default() += 1;
            }
        }
        counts
    }
}

/// The command and the text of a line of the general log, unless it continues a text.
fn entry(line: &str) -> Option<(&str, &str)> {
    let (time, rest) = line.split_once('\t')?;
    let is_time = time.chars().all(|c| c.is_ascii_digit() || c == ' ' || c == ':');
    let (id, rest) = rest.trim_start_matches('\t').trim_start_matches(' ').split_once(' ')?;
    let (command, text) = rest.split_once('\t')?;
    (is_time && id.parse::<u32>().is_ok()).then_some((command, text))
}

/// A text as far as rows keep it, and as far as the server does not trim it.
fn shortened(text: &str) -> String {
    let kept = &text[..text.floor_char_boundary(TEXT_BYTES_MAX)];
    kept.trim_end_matches(|c: char| c.is_whitespace() || c == ';').to_owned()
}

/// The text of an execution as the server logs it: its values in their places.
fn executed(text: &str) -> String {
    let rest = text.strip_prefix("query=[").unwrap();
    let (sql, values) = rest.strip_suffix(']').unwrap().split_once("] params=[").unwrap();
    let mut values = values.split(", ");
    let mut shown = String::new();
    for part in sql.split_inclusive('?') {
        let Some(part) = part.strip_suffix('?') else {
            shown.push_str(part);
            continue;
        };
        let value = values.next().unwrap();
        shown.push_str(part);
        match value.parse::<i64>() {
            Ok(number) => shown.push_str(&number.to_string()),
            Err(_) => shown.push_str(&format!("'{value}'")),
        }
    }
    shown
}

/// How often each command that is logged is a row of `role`.
fn rows(memory: &Memory, role: &str) -> BTreeMap<(String, String), u64> {
    let mut counts = BTreeMap::new();
    for row in memory.rows("mysql_events", &["trace_role", "req_cmd", "req_body"]) {
        let [of, code, text] = &row[..] else { unreachable!() };
        if of == role && LOGGED.iter().any(|(_, logged)| logged == code) {
            let text = if code == "23" { executed(text) } else { shortened(text) };
            *counts.entry((code.clone(), text)).or_default() += 1;
        }
    }
    counts
}

/// Checks that the rows of both ends are what the server logged.
fn check_against_log(server: &MariaDb, memory: &Memory) -> u64 {
    let logged = server.logged();
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
        if let Some(rows) = row[0].strip_prefix("select seq from seq_1_to_") {
            assert_eq!(row[1..], [format!("Resultset rows = {rows}"), "2".to_owned()], "{row:?}");
            pairs += 1;
        }
    }
    pairs
}

fn numbered_queries(count: usize) -> String {
    let queries = (0..count).map(|at| format!("select seq from seq_1_to_{};", at * 7 % 300 + 1));
    queries.collect::<Vec<_>>().join("\n")
}

fn watch(server: &MariaDb, ring_bytes: u32) -> (Arc<Memory>, Collector) {
    let memory = Arc::new(Memory::default());
    let append = Arc::clone(&memory);
    let mut config = config(&server.place.cgroup, ring_bytes, None);
    config.body_bytes_max = TEXT_BYTES_MAX;
    (memory, config.build(append).unwrap())
}

/// Runs a collector while `act` does something.
fn watched(collector: Collector, act: impl FnOnce()) -> Pin<Box<impl Future<Output = Stats>>> {
    Box::pin(watch_while(collector, act))
}

async fn watch_while(collector: Collector, act: impl FnOnce()) -> Stats {
    let handle = collector.handle();
    let shutdown = CancellationToken::new();
    let running = Box::pin(collector.run(shutdown.clone()));
    let test = async {
        tokio::task::block_in_place(act);
        let stats = handle.drain().await.unwrap();
        shutdown.cancel();
        stats
    };
    let (result, stats) = tokio::join!(running, Box::pin(test));
    result.unwrap();
    assert!(stats.drained, "{stats:?}");
    assert_eq!(stats.consumed, stats.emitted());
    stats
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
    if !may_load() || !are_installed(&PROGRAMS) {
        return;
    }
    let server = MariaDb::start();
    let file = server.folder.path().join("file.csv");
    std::fs::write(&file, "1,x\n".repeat(20_000)).unwrap();
    // Room for all of it, however slowly it is read.
    let (memory, collector) = watch(&server, 64 << 20);
    let stats = watched(collector, || {
        succeed(&mut server.client("mariadb", &["-e", "create database it"]));
        server.send(1, STATEMENTS);
        let load = format!("load data local infile '{}' into table t", file.display());
        succeed(&mut server.client("mariadb", &["--local-infile=1", "it", "-e", &load]));
        succeed(&mut server.client("mariadb-admin", &["ping", "status"]));
        server.send(8, &numbered_queries(300));
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
    if !may_load() || !are_installed(&PROGRAMS) {
        return;
    }
    let server = MariaDb::start();
    succeed(&mut server.client("mariadb", &["-e", "create database it"]));
    server.clear_log();
    let (memory, collector) = watch(&server, 64 * 1024);
    // Nobody reads yet, so the ring fills.
    server.send(8, &numbered_queries(1000));
    let stats = watched(collector, || server.send(8, &numbered_queries(1000))).await;
    assert!(stats.kernel.dropped > 0);
    let pairs = check_pairs(&memory);
    let sent: u64 = server.logged().values().sum();
    let rows = memory.rows("mysql_events", &["req_cmd"]).len() as u64;
    let missing = 2 * sent - rows;
    let (min, max) = (memory.sum("data_loss", "rows_min"), memory.sum("data_loss", "rows_max"));
    println!("{sent} commands, {pairs} pairs, missing {missing} in {min}..={max}");
    assert!(min <= missing && missing <= max, "{min} <= {missing} <= {max}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_was_there_before_is_joined_at_both_ends() {
    let _alone = alone().await;
    if !may_load() || !are_installed(&PROGRAMS) {
        return;
    }
    let server = MariaDb::start();
    let mut client = server
        .client("mariadb", &["--unbuffered", "--skip-column-names", "mysql"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = client.stdin.take().unwrap();
    writeln!(stdin, "select 'before';").unwrap();
    let mut stdout = std::io::BufReader::new(client.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
    assert_eq!(line, "before\n");
    let (memory, collector) = watch(&server, 4 << 20);
    watched(collector, || {
        stdin.write_all(b"select 'trial';\nselect seq from seq_1_to_7;\nselect 'x';\n").unwrap();
        drop(stdin);
        assert!(client.wait().unwrap().success());
    })
    .await;
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
    if !may_load() || !are_installed(&PROGRAMS) {
        return;
    }
    let server = MariaDb::start();
    succeed(&mut server.client("mariadb", &["-e", "create database it"]));
    succeed(&mut server.sysbench("oltp_read_only", &["prepare"]));
    let load = ["--threads=4", "--rate=150", "--time=600", "--db-ps-mode=disable", "run"];
    let mut load = server.sysbench("oltp_read_only", &load).spawn().unwrap();
    let queries = || server.log_so_far().matches("BETWEEN").count();
    let before = queries();
    wait_until("queries of every connection", || queries() > before + 100);
    let (memory, collector) = watch(&server, 32 << 20);
    let stats = watched(collector, || {
        let before = queries();
        wait_until("queries that are watched", || queries() > before + 3000);
        load.kill().unwrap();
        load.wait().unwrap();
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
