//! MySQL, plain and inside TLS: the commands in MariaDB's general log are the rows of `mysql_events` at
//! both ends, and its slow log knows how long they took.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::Asked;
use crate::report::Report;
use crate::truth::{self, Conversations, Latency, Resolution};
use crate::watch::Watch;
use undine_testbed::mariadb::{
    self, Failing, LOGGED, Mariadb, NUMBERED, numbered_queries, trimmed,
};
use undine_testbed::{Scene, Wire, python, succeed};

/// What asks inside TLS too.
pub(super) const MODULE: &str = "pymysql";
const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/mysql_tls.py");
/// In which the server says how long statements took.
const SLOW_LOG: &str = "slow.log";
/// More than any statement of the load has.
const TEXT_BYTES_MAX: usize = 1 << 20;
/// Clients that send numbered statements at a time.
const NUMBERING_CLIENTS: u32 = 4;
/// A session of all kinds of statements.
const STATEMENTS: &str = "\
select 1;
select * from nope;
create table t (a int, b varchar(20));
insert into t values (1, 'a'), (2, null), (3, 'c');
update t set b = 'd' where a > 1;
select * from t;
insert into t values (1, 2, 3);
select length(repeat('x', 2000000)), repeat('x', 2000000);
select sleep(0.05);
select sleep(0.2);
select 'after';
";

pub(super) fn run(wire: Wire, asked: &Asked, report: &mut Report) -> Result<()> {
    let (place, dir) = super::home()?;
    let scene = Scene { place: &place, folder: dir.path(), wire };
    scene.prepare()?;
    let server = start(scene)?;
    let watch = Watch {
        text_bytes_max: TEXT_BYTES_MAX,
        ..asked.watch(&super::subject("mysql", wire), wire)
    };
    let (seen, truth) = watch.during(&place.cgroup, || load(&server, asked.requests))?;
    let columns = [
        "trace_role",
        "encrypted",
        "local_port",
        "remote_port",
        "req_cmd",
        "req_body",
        "resp_body",
        "latency",
    ];
    let (mut clients, mut servers) = (Conversations::default(), Conversations::default());
    let mut wrong_pairs = 0;
    for [role, encrypted, local, remote, code, body, response, latency] in
        seen.rows("mysql_events", columns)?
    {
        ensure!(encrypted == super::encrypted(wire), "a row whose encrypted is {encrypted}");
        let Some((name, _)) = LOGGED.iter().find(|(_, logged)| *logged == code) else { continue };
        if let Some(rows) = body.strip_prefix(NUMBERED) {
            wrong_pairs += usize::from(response != format!("Resultset rows = {rows}"));
        }
        let text = if code == "23" { mariadb::executed(&body)? } else { trimmed(&body).to_owned() };
        let latency = Some(Latency::Server(Duration::from_nanos(latency.parse()?)));
        if role == "2" {
            servers.push(&remote, format!("{name} {text}"), latency);
        } else {
            clients.push(&local, format!("{name} {text}"), None);
        }
    }
    let (truth, resolution) = (truth.nameless(), Resolution(Duration::from_micros(1)));
    let name = super::subject("mysql", wire);
    truth::compare(report, &name, &truth, &servers.nameless(), resolution);
    let client_end = format!("{name}_client_end");
    truth::compare(report, &client_end, &truth, &clients.nameless(), resolution);
    report.same(format!("{name}: numbered queries paired with another's result"), wrong_pairs, 0);
    truth::nothing_lost(report, &name, &seen)
}

/// Starts a server that writes both logs, of which the watched part of its life is still to come.
fn start(scene: Scene<'_>) -> Result<Mariadb<'_>> {
    let slow = format!("--slow-query-log-file={}", scene.text(SLOW_LOG));
    let args = ["--slow-query-log=1", "--long-query-time=0", &slow];
    let server = Mariadb::start(scene, &args)?;
    server.create_database()?;
    server.forget()?;
    fs::write(scene.path(SLOW_LOG), "")?;
    Ok(server)
}

fn load(server: &Mariadb<'_>, requests: u32) -> Result<Conversations> {
    server.send(1, STATEMENTS, Failing::Some)?;
    let each = requests / 2 / NUMBERING_CLIENTS;
    server.send(NUMBERING_CLIENTS, &numbered_queries(each), Failing::None)?;
    succeed(&mut server.sysbench("oltp_read_write", &["prepare"]))?;
    // A transaction has some twenty statements.
    let events = format!("--events={}", (requests / 2 / 20).max(1));
    let args = ["--threads=4", "--time=60", &events, "run"];
    succeed(&mut server.sysbench("oltp_read_write", &args))?;
    if server.scene.is_tls() {
        server.scene.run(&python(), &[CLIENT, mariadb::PORT, &requests.to_string()])?;
    }
    let general = server.log()?;
    let slow_log = fs::read(server.scene.path(SLOW_LOG))?;
    logged(&general, slow(&String::from_utf8_lossy(&slow_log)))
}

/// The commands of each thread, with the time that the slow log says a statement took.
fn logged(
    general: &str,
    mut slow: BTreeMap<u32, VecDeque<(String, Duration)>>,
) -> Result<Conversations> {
    let mut truth = Conversations::default();
    for (thread, command, text) in mariadb::entries(general) {
        if !LOGGED.iter().any(|(name, _)| *name == command) {
            continue;
        }
        let text = trimmed(&text);
        let queue = slow.entry(thread).or_default();
        let is_statement = command == "Query" || command == "Execute";
        let is_next = queue.front().is_some_and(|(sql, _)| sql == text);
        let took = (is_statement && is_next).then(|| queue.pop_front()).flatten();
        truth.push(
            &thread.to_string(),
            format!("{command} {text}"),
            took.map(|(_, took)| Latency::Server(took)),
        );
    }
    let left: usize = slow.values().map(VecDeque::len).sum();
    ensure!(left == 0, "{left} statements are in the slow log but not in the general log");
    Ok(truth)
}

/// The statements of each thread with their times: an entry is lines of comments, then perhaps
/// `use DATABASE;`, `SET timestamp=NUMBER;` and the statement.
fn slow(log: &str) -> BTreeMap<u32, VecDeque<(String, Duration)>> {
    let mut statements: BTreeMap<u32, VecDeque<(String, Duration)>> = BTreeMap::new();
    let (mut thread, mut took) = (0, Duration::ZERO);
    let mut sql: Option<String> = None;
    for line in log.lines().chain(["# end"]) {
        if line.starts_with('#') {
            if let Some(sql) = sql.take().filter(|sql| !sql.starts_with("# administrator")) {
                let statement = (trimmed(&sql).to_owned(), took);
                statements.entry(thread).or_default().push_back(statement);
            }
            let field = |name: &str| line.split_once(name)?.1.split_whitespace().next();
            thread = field("Thread_id: ").and_then(|id| id.parse().ok()).unwrap_or(thread);
            let seconds = field("Query_time: ").and_then(|time| time.parse().ok());
            took = seconds.map_or(took, Duration::from_secs_f64);
        } else if line.starts_with("SET timestamp=") {
            sql = Some(String::new());
        } else if let Some(sql) = &mut sql {
            if !sql.is_empty() {
                sql.push('\n');
            }
            sql.push_str(line);
        }
    }
    statements
}
