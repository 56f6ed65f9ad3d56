//! MySQL, plain and inside TLS: the commands in MariaDB's general log are the rows of `mysql_events` at
//! both ends, and its slow log knows how long they took.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::scene::{Scene, Wire};
use crate::report::Report;
use crate::truth::{self, Conversations, Latency, Resolution};
use crate::watch::Watch;
use undine_testbed::{Server, succeed, wait_until};

pub(super) const PROGRAMS: [&str; 5] =
    ["mariadbd", "mariadb-install-db", "mariadb", "mariadb-admin", "sysbench"];

const PORT: &str = "13306";
/// What MariaDB's own clients have to be told.
const CLIENT: [&str; 5] = ["--no-defaults", "-h127.0.0.1", "-P", PORT, "-uroot"];
/// What the general log calls the commands that it logs, with their command bytes.
const LOGGED: [(&str, &str); 7] = [
    ("Quit", "1"),
    ("Init DB", "2"),
    ("Query", "3"),
    ("Statistics", "9"),
    ("Prepare", "22"),
    ("Execute", "23"),
    ("Close stmt", "25"),
];
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

pub(super) fn run(wire: Wire, requests: u32, report: &mut Report) -> Result<()> {
    let scene = Scene::new(wire)?;
    let server = Mariadb::start(&scene)?;
    let watch = Watch { text_bytes_max: TEXT_BYTES_MAX, ..scene.watch() };
    let (seen, truth) = watch.during(&scene.place.cgroup, || server.load(requests))?;
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
        ensure!(encrypted == scene.encrypted(), "a row whose encrypted is {encrypted}");
        let Some((name, _)) = LOGGED.iter().find(|(_, logged)| *logged == code) else { continue };
        if let Some(rows) = body.strip_prefix("select seq from seq_1_to_") {
            wrong_pairs += usize::from(response != format!("Resultset rows = {rows}"));
        }
        let text = if code == "23" { executed(&body)? } else { trimmed(&body).to_owned() };
        let latency = Some(Latency::Server(Duration::from_nanos(latency.parse()?)));
        if role == "2" {
            servers.push(&remote, format!("{name} {text}"), latency);
        } else {
            clients.push(&local, format!("{name} {text}"), None);
        }
    }
    let (truth, resolution) = (truth.nameless(), Resolution(Duration::from_micros(1)));
    let name = scene.subject("mysql");
    truth::compare(report, &name, &truth, &servers.nameless(), resolution);
    let client_end = format!("{name}_client_end");
    truth::compare(report, &client_end, &truth, &clients.nameless(), resolution);
    report.same(format!("{name}: numbered queries paired with another's result"), wrong_pairs, 0);
    truth::nothing_lost(report, &name, &seen)
}

/// A server that runs. It writes both logs into its folder.
struct Mariadb<'a> {
    scene: &'a Scene,
    _server: Server,
}

impl<'a> Mariadb<'a> {
    fn start(scene: &'a Scene) -> Result<Self> {
        let at = |option: &str, file: &str| format!("--{option}={}", scene.file(file));
        let data = at("datadir", "data");
        let own = ["--no-defaults", "--user=root", "--innodb-use-native-aio=0", &data];
        let install = ["--skip-test-db", "--auth-root-authentication-method=normal"];
        succeed(scene.place.command("mariadb-install-db").args(own).args(install))?;
        let mut server = scene.command("mariadbd");
        server
            .args(own)
            .args(["--bind-address=127.0.0.1", &format!("--port={PORT}")])
            .args([at("socket", "socket"), at("pid-file", "pid")])
            .args([&at("general-log-file", "general.log"), "--general-log=1"])
            .args([&at("slow-query-log-file", "slow.log"), "--slow-query-log=1"])
            .args(["--long-query-time=0", "--max-allowed-packet=64M"])
            .arg("--innodb-buffer-pool-size=32M");
        if scene.is_tls() {
            // It asks for the certificate that sysbench has, so it has to know who signed that.
            let files =
                [("ssl-key", "key"), ("ssl-cert", "certificate"), ("ssl-ca", "certificate")];
            server.args(files.map(|(option, file)| at(option, &format!("{file}.pem"))));
            // Where sysbench looks for its own.
            for (name, file) in [("client-key", "key"), ("client-cert", "certificate")] {
                fs::copy(scene.file(&format!("{file}.pem")), scene.file(&format!("{name}.pem")))?;
            }
            fs::copy(scene.certificate(), scene.file("cacert.pem"))?;
        }
        let server = Self { scene, _server: Server::start(&mut server)? };
        scene.place.wait_for("mariadb-admin", &[&CLIENT[..], &["--skip-ssl", "ping"]].concat())?;
        succeed(server.client("mariadb", &["-e", "create database it"]).stdout(Stdio::null()))?;
        server.wait_for_ends()?;
        // What was said until here was not watched.
        for log in ["general.log", "slow.log"] {
            fs::write(scene.file(log), "")?;
        }
        Ok(server)
    }

    fn load(&self, requests: u32) -> Result<Conversations> {
        self.send(1, STATEMENTS)?;
        let each = requests / 2 / NUMBERING_CLIENTS;
        let queries = (0..each).map(|at| format!("select seq from seq_1_to_{};", at * 7 % 300 + 1));
        self.send(NUMBERING_CLIENTS, &queries.collect::<Vec<_>>().join("\n"))?;
        succeed(&mut self.sysbench(&["prepare"]))?;
        // A transaction has some twenty statements.
        let events = format!("--events={}", (requests / 2 / 20).max(1));
        succeed(&mut self.sysbench(&["--threads=4", "--time=60", &events, "run"]))?;
        self.wait_for_ends()?;
        let read = |log: &str| -> Result<String> {
            Ok(String::from_utf8_lossy(&fs::read(self.scene.file(log))?).into_owned())
        };
        logged(&read("general.log")?, slow(&read("slow.log")?))
    }

    /// Waits until the general log says of every connection that it ended.
    fn wait_for_ends(&self) -> Result<()> {
        wait_until("the end of every connection", || {
            let log = fs::read(self.scene.file("general.log"))?;
            let log = String::from_utf8_lossy(&log);
            let count = |command| {
                log.lines().filter_map(entry).filter(|(_, name, _)| *name == command).count()
            };
            Ok(count("Connect") == count("Quit"))
        })
    }

    fn client(&self, program: &str, args: &[&str]) -> Command {
        let mut command = self.scene.command(program);
        command.args(CLIENT).arg(if self.scene.is_tls() { "--ssl" } else { "--skip-ssl" });
        command.args(args);
        command
    }

    /// Sends statements through `mariadb`, on so many connections at a time.
    fn send(&self, clients: u32, sql: &str) -> Result<()> {
        let file = self.scene.file("statements.sql");
        fs::write(&file, sql)?;
        let mut running: Vec<Child> = Vec::new();
        for _ in 0..clients {
            let mut client = self.client("mariadb", &["--force", "--max-allowed-packet=64M", "it"]);
            client.stdin(fs::File::open(&file)?).stdout(Stdio::null()).stderr(Stdio::null());
            running.push(client.spawn()?);
        }
        for mut client in running {
            client.wait()?;
        }
        Ok(())
    }

    fn sysbench(&self, args: &[&str]) -> Command {
        let mut command = self.scene.command("sysbench");
        let ssl = if self.scene.is_tls() { "--mysql-ssl=on" } else { "--mysql-ssl=off" };
        command
            .current_dir(self.scene.dir())
            .args(["oltp_read_write", "--db-driver=mysql", "--mysql-host=127.0.0.1"])
            .args(["--mysql-user=root", &format!("--mysql-port={PORT}"), "--mysql-db=it"])
            .args([ssl, "--tables=2", "--table-size=1000"])
            .args(args);
        command
    }
}

/// Thread, command and text of a line of the general log, unless it continues a text.
fn entry(line: &str) -> Option<(u32, &str, &str)> {
    let (time, rest) = line.split_once('\t')?;
    let is_time = time.chars().all(|c| c.is_ascii_digit() || c == ' ' || c == ':');
    let (id, rest) = rest.trim_start_matches('\t').trim_start_matches(' ').split_once(' ')?;
    let (command, text) = rest.split_once('\t')?;
    is_time.then_some((id.parse().ok()?, command, text))
}

/// A text as far as the server keeps it.
fn trimmed(text: &str) -> &str {
    text.trim_end_matches(|c: char| c.is_whitespace() || c == ';')
}

/// The commands of each thread, with the time that the slow log says a statement took.
fn logged(
    general: &str,
    mut slow: BTreeMap<u32, VecDeque<(String, Duration)>>,
) -> Result<Conversations> {
    let mut entries: Vec<(u32, &str, String)> = Vec::new();
    for line in general.lines() {
        match entry(line) {
            Some((thread, command, text)) => entries.push((thread, command, text.to_owned())),
            None => {
                if let Some((_, _, text)) = entries.last_mut() {
                    text.push('\n');
                    text.push_str(line);
                }
            }
        }
    }
    let mut truth = Conversations::default();
    for (thread, command, text) in entries {
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

/// The text of an execution as the server logs it: its values in their places.
fn executed(text: &str) -> Result<String> {
    let inner = text.strip_prefix("query=[").and_then(|rest| rest.strip_suffix(']'));
    let (sql, values) = inner
        .and_then(|rest| rest.split_once("] params=["))
        .with_context(|| format!("an execution is {text}"))?;
    let mut values = values.split(", ");
    let mut shown = String::new();
    for part in sql.split_inclusive('?') {
        let Some(part) = part.strip_suffix('?') else {
            shown.push_str(part);
            continue;
        };
        let value = values.next().context("fewer values than places")?;
        shown.push_str(part);
        match value.parse::<i64>() {
            Ok(number) => shown.push_str(&number.to_string()),
            Err(_) => shown.push_str(&format!("'{value}'")),
        }
    }
    Ok(shown)
}
