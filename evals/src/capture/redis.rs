//! Redis, plain and inside TLS: what `MONITOR` shows is what `redis_events` has, and `SLOWLOG` knows
//! how long it took.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Asked;
use crate::report::Report;
use crate::truth::{self, Conversations, Latency, Resolution};
use undine_testbed::{Scene, Server, Wire, python, redis, wait_until};

pub(super) const PROGRAMS: [&str; 3] = ["redis-server", "redis-cli", "redis-benchmark"];
/// What asks inside TLS too.
pub(super) const MODULE: &str = "redis";
const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/redis_tls.py");

/// The last command, by which the monitor's output is known to be whole.
const END: &str = "end-of-record";
/// Commands that `MONITOR` never shows.
const UNMONITORED: [&str; 2] = ["CONFIG", "SLOWLOG"];
/// Connections that send marked commands, one after the other.
const MARKED_CONNECTIONS: u32 = 4;

pub(super) fn run(wire: Wire, asked: &Asked, report: &mut Report) -> Result<()> {
    let (place, dir) = super::home()?;
    let scene = Scene { place: &place, folder: dir.path(), wire };
    scene.prepare()?;
    let redis = Redis::start(scene)?;
    let (seen, truth) = asked
        .watch(&super::subject("redis", wire), wire)
        .during(&place.cgroup, || redis.load(asked.requests))?;
    let mut rows = Conversations::default();
    let mut wrong_pairs = 0;
    let columns =
        ["remote_port", "trace_role", "encrypted", "req_cmd", "req_args", "resp", "latency"];
    for row in seen.rows("redis_events", columns)? {
        let [port, role, encrypted, command, args, response, latency] = row;
        ensure!(role == "2", "a row of role {role}");
        ensure!(encrypted == super::encrypted(wire), "a row whose encrypted is {encrypted}");
        if UNMONITORED.contains(&command.as_str()) {
            continue;
        }
        let args: Vec<String> = serde_json::from_str(&args)?;
        wrong_pairs += usize::from(command == "ECHO" && response != args.concat());
        let latency = Latency::Server(Duration::from_nanos(latency.parse()?));
        rows.push(&port, format!("{command} {args:?}"), Some(latency));
    }
    let name = super::subject("redis", wire);
    truth::compare(report, &name, &truth, &rows, Resolution(Duration::from_micros(1)));
    report.same(format!("{name}: markers paired with another's reply"), wrong_pairs, 0);
    truth::nothing_lost(report, &name, &seen)
}

/// A server that runs, and the command that shows what it is asked.
struct Redis<'a> {
    scene: Scene<'a>,
    /// By which it is asked what is not to be watched.
    socket: String,
    /// What the command shows.
    record: String,
    _programs: [Server; 2],
}

impl<'a> Redis<'a> {
    fn start(scene: Scene<'a>) -> Result<Self> {
        let (socket, record) = (scene.text("socket"), scene.text("monitor"));
        let slow = ["--slowlog-log-slower-than", "0", "--slowlog-max-len", "10000000"];
        let server = redis::start(&scene, &[&["--unixsocket", &socket], &slow[..]].concat())?;
        scene.place.wait_for("redis-cli", &["-s", &socket, "ping"])?;
        let mut monitor = scene.command("redis-cli");
        let monitor = monitor.args(["-s", &socket, "monitor"]);
        let monitor = Server::logging(monitor, record.as_ref())?;
        wait_until("MONITOR", || Ok(fs::read_to_string(&record)?.starts_with("OK")))?;
        Ok(Self { scene, socket, record, _programs: [server, monitor] })
    }

    fn load(&self, requests: u32) -> Result<Conversations> {
        self.mark(requests / MARKED_CONNECTIONS)?;
        let number = requests.to_string();
        let load = ["-q", "-n", &number, "-c", "8", "-r", "10000", "-t"];
        let load = [redis::client(self.scene.wire), &load].concat();
        let (run, socket) = (|program, args: &[&str]| self.scene.run(program, args), &*self.socket);
        run("redis-benchmark", &[&load[..], &["set,get,incr,lpush,mset"]].concat())?;
        if self.scene.is_tls() {
            self.scene.run(&python(), &[CLIENT, &redis::PORT.to_string(), &number])?;
        }
        let slow = run("redis-cli", &["-s", socket, "--json", "slowlog", "get", "-1"])?;
        run("redis-benchmark", &[&load[..], &["set,get", "-P", "16"]].concat())?;
        run("redis-cli", &["-s", socket, "echo", END])?;
        wait_until("the end of MONITOR", || Ok(fs::read_to_string(&self.record)?.contains(END)))?;
        let mut truth = monitored(&fs::read_to_string(&self.record)?)?;
        add_latencies(&mut truth, &slow)?;
        Ok(truth)
    }

    /// Sends numbered commands on several connections at a time.
    fn mark(&self, commands: u32) -> Result<()> {
        let mut clients: Vec<Child> = Vec::new();
        for client in 0..MARKED_CONNECTIONS {
            let lines = (0..commands).map(|at| match at % 4 {
                0 => format!("SET marker:{client} \"{at} \\\"quoted\\\" and more\"\n"),
                1 => format!("HSET markers:{client} field{at} {at}\n"),
                _ => format!("ECHO marker-{client}-{at}\n"),
            });
            let file = self.scene.text(&format!("commands{client}"));
            fs::write(&file, lines.collect::<String>())?;
            let mut command = self.scene.command("redis-cli");
            command
                .args(redis::client(self.scene.wire))
                .stdin(fs::File::open(&file)?)
                .stdout(Stdio::null());
            clients.push(command.spawn()?);
        }
        for mut client in clients {
            ensure!(client.wait()?.success(), "redis-cli failed");
        }
        Ok(())
    }
}

/// The commands of each client that has a port, as `TIME [DB ADDRESS:PORT] "COMMAND" "ARGUMENT" …`.
fn monitored(record: &str) -> Result<Conversations> {
    let mut truth = Conversations::default();
    for line in record.lines() {
        let Some((head, words)) = line.split_once("] ") else { continue };
        let Some(port) = head.rsplit_once("127.0.0.1:").map(|(_, port)| port) else { continue };
        let words = unquoted(words).with_context(|| format!("MONITOR said {line}"))?;
        let (command, args) = words.split_first().context("no command")?;
        truth.push(port, format!("{} {args:?}", command.to_uppercase()), None);
    }
    Ok(truth)
}

/// Words in quotation marks, in which Redis escapes what is special.
fn unquoted(mut text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    while let Some(rest) = text.trim_start().strip_prefix('"') {
        let mut word = String::new();
        let mut chars = rest.chars();
        loop {
            match chars.next()? {
                '"' => break,
                '\\' => match chars.next()? {
                    'n' => word.push('\n'),
                    'r' => word.push('\r'),
                    't' => word.push('\t'),
                    'x' => {
                        let code: String = chars.by_ref().take(2).collect();
                        word.push(char::from(u8::from_str_radix(&code, 16).ok()?));
                    }
                    other => word.push(other),
                },
                other => word.push(other),
            }
        }
        words.push(word);
        text = chars.as_str();
    }
    Some(words)
}

/// Adds what `SLOWLOG` says of how long commands took, for connections that did not pipeline.
fn add_latencies(truth: &mut Conversations, slow: &str) -> Result<()> {
    type Entry = (u64, u64, u64, Vec<String>, String, String);
    let mut entries: Vec<Entry> = serde_json::from_str(slow).context("SLOWLOG")?;
    entries.reverse();
    let mut took: BTreeMap<String, Vec<(String, Duration)>> = BTreeMap::new();
    for (_, _, micros, words, address, _) in entries {
        let name = words.first().context("SLOWLOG has no command")?.to_uppercase();
        if let Some((_, port)) = address.rsplit_once("127.0.0.1:")
            && !UNMONITORED.contains(&name.as_str())
        {
            took.entry(port.to_owned()).or_default().push((name, Duration::from_micros(micros)));
        }
    }
    for (port, took) in took {
        let exchanges = truth.of(&port);
        // A port that is used again later, when SLOWLOG has been read, has more.
        let (all, slow) = (exchanges.len(), took.len());
        ensure!(slow <= all, "SLOWLOG has {slow} commands of port {port}, MONITOR has {all}");
        for (exchange, (name, took)) in exchanges.iter_mut().zip(took) {
            let is_it = exchange.what.split(' ').next() == Some(&name);
            ensure!(is_it, "SLOWLOG has {name} for '{}' on port {port}", exchange.what);
            exchange.latency = Some(Latency::Server(took));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_monitor_escapes_is_read_back() {
        let words = unquoted(r#""SET" "a \"b\"" "\x01\\\n""#);
        assert_eq!(words.unwrap(), ["SET", "a \"b\"", "\u{1}\\\n"]);
        assert_eq!(unquoted("\"open"), None);
    }
}
