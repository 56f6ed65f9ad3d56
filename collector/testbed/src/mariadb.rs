//! A MariaDB server, its clients, and what its general log says.

use std::fs;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::scene::Scene;
use crate::server::{Server, succeed};
use crate::wait::wait_until;

/// The programs that are needed.
pub const PROGRAMS: [&str; 6] =
    ["mariadbd", "mariadb-install-db", "mariadb", "mariadb-admin", "sysbench", "nsenter"];

/// Where it listens.
pub const PORT: &str = "13306";
/// What MariaDB's own clients have to be told.
const CLIENT: [&str; 5] = ["--no-defaults", "-h127.0.0.1", "-P", PORT, "-uroot"];
/// What the general log calls the commands that it logs, with their command bytes.
pub const LOGGED: [(&str, &str); 7] = [
    ("Quit", "1"),
    ("Init DB", "2"),
    ("Query", "3"),
    ("Statistics", "9"),
    ("Prepare", "22"),
    ("Execute", "23"),
    ("Close stmt", "25"),
];

/// Which of the statements that are sent the server is to refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failing {
    /// None.
    None,
    /// Some; the others are sent all the same.
    Some,
}

/// A server that runs.
#[derive(Debug)]
pub struct Mariadb<'s> {
    /// Where.
    pub scene: Scene<'s>,
    _server: Server,
}

impl<'s> Mariadb<'s> {
    /// Starts one with more arguments and waits until it answers.
    pub fn start(scene: Scene<'s>, args: &[&str]) -> Result<Self> {
        let at = |option: &str, file: &str| format!("--{option}={}", scene.text(file));
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
            .args(["--max-allowed-packet=64M", "--innodb-buffer-pool-size=32M"])
            .args(args);
        if scene.is_tls() {
            // It asks for the certificate that sysbench has, so it has to know who signed that.
            let files =
                [("ssl-key", "key"), ("ssl-cert", "certificate"), ("ssl-ca", "certificate")];
            server.args(files.map(|(option, file)| at(option, &format!("{file}.pem"))));
            // Where sysbench looks for its own.
            for (name, file) in [("client-key", "key"), ("client-cert", "certificate")] {
                fs::copy(scene.path(&format!("{file}.pem")), scene.path(&format!("{name}.pem")))?;
            }
            fs::copy(scene.certificate(), scene.path("cacert.pem"))?;
        }
        let server = Self { scene, _server: Server::start(&mut server)? };
        let ping = [&CLIENT[..], &["--skip-ssl", "ping"]].concat();
        scene.place.wait_for("mariadb-admin", &ping)?;
        server.forget()?;
        Ok(server)
    }

    /// A command in which one of MariaDB's own clients talks to it.
    pub fn client(&self, program: &str, args: &[&str]) -> Command {
        let mut command = self.scene.command(program);
        command.args(CLIENT).arg(if self.scene.is_tls() { "--ssl" } else { "--skip-ssl" });
        command.args(args);
        command
    }

    /// Makes the database in which [`Self::send`] and [`Self::sysbench`] work.
    pub fn create_database(&self) -> Result<()> {
        succeed(&mut self.client("mariadb", &["-e", "create database it"])).map(drop)
    }

    /// Sends statements through `mariadb`, on so many connections at a time.
    pub fn send(&self, connections: u32, sql: &str, failing: Failing) -> Result<()> {
        let file = self.scene.path("statements.sql");
        fs::write(&file, sql)?;
        let mut running: Vec<Child> = Vec::new();
        for _ in 0..connections {
            let mut client = self.client("mariadb", &["--max-allowed-packet=64M", "it"]);
            client.stdin(fs::File::open(&file)?).stdout(Stdio::null());
            if failing == Failing::Some {
                client.arg("--force").stderr(Stdio::null());
            }
            running.push(client.spawn()?);
        }
        for mut client in running {
            let status = client.wait()?;
            ensure!(failing == Failing::Some || status.success(), "mariadb ended with {status}");
        }
        Ok(())
    }

    /// A load of prepared statements.
    pub fn sysbench(&self, script: &str, args: &[&str]) -> Command {
        let mut command = self.scene.command("sysbench");
        let ssl = if self.scene.is_tls() { "--mysql-ssl=on" } else { "--mysql-ssl=off" };
        command
            .current_dir(self.scene.folder)
            .args([script, "--db-driver=mysql", "--mysql-host=127.0.0.1", "--mysql-user=root"])
            .args([&format!("--mysql-port={PORT}"), "--mysql-db=it", ssl])
            .args(["--tables=2", "--table-size=1000"])
            .args(args);
        command
    }

    /// The general log, once it says of every connection that it ended.
    pub fn log(&self) -> Result<String> {
        wait_until("the end of every connection", || {
            let log = self.log_so_far()?;
            let count = |command| {
                log.lines().filter_map(entry).filter(|(_, name, _)| *name == command).count()
            };
            Ok(count("Connect") == count("Quit"))
        })?;
        self.log_so_far()
    }

    /// The general log as far as it is written.
    pub fn log_so_far(&self) -> Result<String> {
        let log = fs::read(self.scene.path("general.log"))?;
        Ok(String::from_utf8_lossy(&log).into_owned())
    }

    /// Ends all connections and empties the general log.
    pub fn forget(&self) -> Result<()> {
        self.log()?;
        Ok(fs::write(self.scene.path("general.log"), "")?)
    }
}

/// So many queries, each of which says how many rows it wants.
pub fn numbered_queries(count: u32) -> String {
    let queries = (0..count).map(|at| format!("{NUMBERED}{};", at * 7 % 300 + 1));
    queries.collect::<Vec<_>>().join("\n")
}

/// How such a query begins, before the number of its rows.
pub const NUMBERED: &str = "select seq from seq_1_to_";

/// Thread, command and text of each entry of a general log.
pub fn entries(log: &str) -> Vec<(u32, &str, String)> {
    let mut entries: Vec<(u32, &str, String)> = Vec::new();
    for line in log.lines() {
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
    entries
}

/// The same of a line, unless it continues a text.
fn entry(line: &str) -> Option<(u32, &str, &str)> {
    let (time, rest) = line.split_once('\t')?;
    let is_time = time.chars().all(|c| c.is_ascii_digit() || c == ' ' || c == ':');
    let (id, rest) = rest.trim_start_matches('\t').trim_start_matches(' ').split_once(' ')?;
    let (command, text) = rest.split_once('\t')?;
    is_time.then_some((id.parse().ok()?, command, text))
}

/// A text as far as the server keeps it.
pub fn trimmed(text: &str) -> &str {
    text.trim_end_matches(|c: char| c.is_whitespace() || c == ';')
}

/// The text of an execution, which a row has, as the server logs it: its values in their places.
pub fn executed(text: &str) -> Result<String> {
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
