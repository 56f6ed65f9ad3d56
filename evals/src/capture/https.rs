//! HTTP inside TLS: the requests in nginx' access log are the rows of `http_events`, whatever program
//! the client is.
//!
//! Each client is given lists of requests with an id in each, which nginx echoes, and works through
//! each on a connection of its own.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Asked, http1};
use crate::client::request;
use crate::nginx::{ADDRESS, AccessLog, Nginx, Sendfile, Serving};
use crate::report::Report;
use crate::truth::{self, Conversations, Latency, Resolution};
use undine_testbed::{Scene, WITHOUT_C, Wire, compile_go, missing};

pub(super) const PROGRAMS: [&str; 2] = ["nginx", "curl"];

const CLIENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients");
/// Of those that may be installed, the one whose `ssl` uses the library that is copied.
const PYTHON: &str = "/usr/bin/python3";
/// Lists of requests, each of which is worked through on a connection of its own.
const LISTS: u32 = 4;
/// Programs that carry their TLS in themselves, so that it is probed only once they are there: their
/// own end is joined midway. `data_loss` says what that may cost, although the server's end is read
/// and nothing is missing.
const NEW: [&str; 2] = ["node", "go"];
/// nginx knows the time in milliseconds, as of when it last asked the kernel for events.
const RESOLUTION: Resolution = Resolution(Duration::from_millis(1));

/// A program that asks.
struct Client {
    name: &'static str,
    program: &'static str,
    version: Version,
    /// What asks for the requests of a list, and may say how long each took as `ID NANOSECONDS`.
    command: fn(&Scene<'_>, Version, list: &Path) -> Result<Command>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Http1,
    Http2,
}

impl Client {
    /// Whether it sends several requests at a time on a connection.
    fn has_many_streams(&self) -> bool {
        self.program == "h2load" && self.version == Version::Http2
    }
}

const fn client(
    name: &'static str,
    program: &'static str,
    version: Version,
    command: fn(&Scene<'_>, Version, list: &Path) -> Result<Command>,
) -> Client {
    Client { name, program, version, command }
}

static HTTP1: [Client; 5] = [
    client("https_curl", "curl", Version::Http1, curl),
    client("https_python", PYTHON, Version::Http1, |scene, _, list| Ok(python(scene, list))),
    client("https_h2load", "h2load", Version::Http1, h2load),
    client("https_node", "node", Version::Http1, |scene, _, list| {
        Ok(node(scene, "https.js", list))
    }),
    client("https_go", "go", Version::Http1, go),
];
static HTTP2: [Client; 4] = [
    client("http2s_curl", "curl", Version::Http2, curl),
    client("http2s_h2load", "h2load", Version::Http2, h2load),
    client("http2s_node", "node", Version::Http2, |scene, _, list| {
        Ok(node(scene, "http2s.js", list))
    }),
    client("http2s_go", "go", Version::Http2, go),
];

/// HTTP/1.1 by each client that is installed.
pub(super) fn run(asked: &Asked, report: &mut Report) -> Result<()> {
    HTTP1.iter().try_for_each(|client| observe(client, asked, report).context(client.name))
}

/// HTTP/2 by each client that is installed.
pub(super) fn run_http2(asked: &Asked, report: &mut Report) -> Result<()> {
    HTTP2.iter().try_for_each(|client| observe(client, asked, report).context(client.name))
}

fn observe(client: &Client, asked: &Asked, report: &mut Report) -> Result<()> {
    let name = client.name;
    if !missing(&[client.program]).is_empty() {
        report.skip(name, format!("{} not installed", client.program));
        return Ok(());
    }
    let (place, dir) = super::home()?;
    let scene = Scene { place: &place, folder: dir.path(), wire: Wire::Tls };
    scene.prepare()?;
    let lists = lists(&scene, asked.requests)?;
    let commands = lists.iter().map(|list| (client.command)(&scene, client.version, list));
    let commands = commands.collect::<Result<Vec<_>>>()?;
    let serving = Serving { sendfile: Sendfile::Off, log: AccessLog::On };
    let nginx = Nginx::start_tls(&scene, serving)?;
    let act = || {
        let took = all(commands)?;
        Ok((nginx.stop()?, took))
    };
    let (seen, (log, took)) = asked.watch(name, Wire::Tls).during(&place.cgroup, act)?;
    let mut truth = Conversations::default();
    for logged in log {
        let server = logged.latency;
        let latency = match took.get(&logged.id) {
            Some(client) => Some(Latency::Both { server, client: *client }),
            // nginx answers several streams between two looks at its clock.
            None if client.has_many_streams() => None,
            None => Some(Latency::Server(server)),
        };
        truth.push(&logged.port, logged.what, latency);
    }
    let version = if client.version == Version::Http1 { "1" } else { "2" };
    let unlike = seen.rows("http_events", ["major_version", "encrypted", "quality"])?;
    let unlike = unlike.iter().filter(|row| **row != [version, "true", "0"]).count();
    report.same(format!("{name}: rows of another version, not encrypted or not whole"), unlike, 0);
    truth::compare(report, name, &truth, &http1::rows(&seen)?, RESOLUTION);
    let wrong_pairs = http1::wrong_pairs(&seen)?;
    report.same(format!("{name}: responses paired with another request"), wrong_pairs, 0);
    // Where the client is read too, each row is seen twice and kept once; those of handshakes anyway.
    let twice = seen.stats.pipeline.rows_of_other_end;
    report.count(format!("{name}_rows_of_the_client_too"), twice);
    if !NEW.contains(&client.program) {
        let asked = truth.len() as u64 + seen.stats.rows.tls_events;
        let read = format!("{name}: rows and handshakes that the client's end gives too");
        report.check(read, twice, format!(">= {asked}"), twice >= asked);
        return truth::nothing_lost(report, name, &seen);
    }
    let missing = &seen.stats.missing_rows;
    report.count(format!("{name}_rows_that_may_be_missing"), missing.max);
    report.same(format!("{name}: rows that are missing for sure"), missing.min, 0);
    report.same(format!("{name}: messages lost"), seen.stats.kernel.dropped, 0);
    truth::accounted(report, name, &seen);
    Ok(())
}

/// Files whose lines are `ID METHOD PATH BODY_SIZE`.
fn lists(scene: &Scene<'_>, requests: u32) -> Result<Vec<std::path::PathBuf>> {
    (0..LISTS)
        .map(|list| {
            let ids = (0..requests).filter(|id| id % LISTS == list);
            let lines = ids.map(|id| {
                let (method, path, body) = request(id);
                format!("{id} {method} {path} {body}\n")
            });
            let file = scene.folder.join(format!("list{list}"));
            fs::write(&file, lines.collect::<String>())?;
            Ok(file)
        })
        .collect()
}

/// Runs all at once; how long each request took, of those whose client says so.
fn all(commands: Vec<Command>) -> Result<HashMap<u32, Duration>> {
    let start = |mut command: Command| {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        command.spawn().with_context(|| format!("cannot start {command:?}"))
    };
    let running = commands.into_iter().map(start).collect::<Result<Vec<Child>>>()?;
    let mut took = HashMap::new();
    for child in running {
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "a client ended with {}", output.status);
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            if let Some((id, nanoseconds)) = line.split_once(' ')
                && let (Ok(id), Ok(nanoseconds)) = (id.parse(), nanoseconds.parse())
            {
                took.insert(id, Duration::from_nanos(nanoseconds));
            }
        }
    }
    Ok(took)
}

/// What a list asks for, line by line.
fn asked(list: &Path) -> Result<Vec<(u32, String, String, usize)>> {
    let text = fs::read_to_string(list)?;
    let line = |line: &str| {
        let [id, method, path, body] = line.split(' ').collect::<Vec<_>>()[..] else {
            anyhow::bail!("the list says '{line}'");
        };
        Ok((id.parse()?, method.to_owned(), path.to_owned(), body.parse()?))
    };
    text.lines().map(line).collect()
}

fn curl(scene: &Scene<'_>, version: Version, list: &Path) -> Result<Command> {
    let version = if version == Version::Http1 { "http1.1" } else { "http2" };
    let mut config = String::new();
    for (id, method, path, body) in asked(list)? {
        config += &format!("url = \"https://{ADDRESS}{path}\"\nheader = \"X-Request-Id: {id}\"\n");
        config += &format!("{version}\ninsecure\nsilent\noutput = \"/dev/null\"\n");
        config += &match method.as_str() {
            "HEAD" => "head\nnext\n".to_owned(),
            "POST" => format!("data-raw = \"{}\"\nnext\n", "u".repeat(body)),
            _ => "next\n".to_owned(),
        };
    }
    let file = list.with_extension("curl");
    fs::write(&file, config.trim_end_matches("next\n"))?;
    let mut command = scene.command("curl");
    command.arg("--config").arg(file);
    Ok(command)
}

/// It sends one method and one id only, so it asks for what is there.
fn h2load(scene: &Scene<'_>, version: Version, list: &Path) -> Result<Command> {
    let is_get = |(_, method, _, _): &(u32, String, String, usize)| method == "GET";
    let paths = asked(list)?.into_iter().filter(is_get).map(|(_, _, path, _)| {
        let (path, _) = path.split_once("id=").unwrap_or((&path, ""));
        format!("https://{ADDRESS}{path}id=0\n")
    });
    let paths: Vec<_> = paths.collect();
    let file = list.with_extension("urls");
    fs::write(&file, paths.concat())?;
    let mut command = scene.command("h2load");
    if version == Version::Http1 {
        command.arg("--h1");
    } else {
        command.args(["-m", "8"]);
    }
    command.args(["-c", "2", "-t", "1", "-H", "X-Request-Id: 0", "-n", &paths.len().to_string()]);
    command.arg("-i").arg(file);
    Ok(command)
}

fn python(scene: &Scene<'_>, list: &Path) -> Command {
    let mut command = scene.command(PYTHON);
    command.arg(format!("{CLIENTS}/https.py")).arg(ADDRESS).arg(list);
    command
}

fn node(scene: &Scene<'_>, script: &str, list: &Path) -> Command {
    let mut command = scene.command("node");
    command.arg(format!("{CLIENTS}/{script}")).arg(ADDRESS).arg(list);
    command
}

fn go(scene: &Scene<'_>, version: Version, list: &Path) -> Result<Command> {
    let program = scene.folder.join("https_go");
    if !program.exists() {
        let source = fs::read_to_string(format!("{CLIENTS}/https.go"))?;
        compile_go(&source, &WITHOUT_C, &program)?;
    }
    let mut command = scene.command(program);
    command.arg(if version == Version::Http1 { "1" } else { "2" }).arg(ADDRESS).arg(list);
    Ok(command)
}
