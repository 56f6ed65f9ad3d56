//! HTTP/2, plain and inside TLS: the streams that nghttpd tells of are the rows of `http_events`.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Asked;
use crate::report::Report;
use crate::truth::{self, Conversations, Latency, Resolution};
use undine_testbed::nghttpd::{Nghttpd, PORT};
use undine_testbed::{Scene, Wire, succeed, wait_until};

pub(super) const PROGRAMS: [&str; 3] = ["nghttpd", "nghttp", "h2load"];

/// The files that the server has, and their bytes.
const FILES: [(&str, usize); 5] =
    [("0", 0), ("1", 1), ("1234", 1234), ("16384", 16_384), ("50000", 50_000)];
/// Connections that `h2load` makes at a time.
const CONNECTIONS: u32 = 4;
/// What nghttpd's log rounds a time to, at the beginning and at the end of a stream.
const RESOLUTION: Resolution = Resolution(Duration::from_millis(1));

pub(super) fn run(wire: Wire, asked: &Asked, report: &mut Report) -> Result<()> {
    let (place, dir) = super::home()?;
    let scene = Scene { place: &place, folder: dir.path(), wire };
    scene.prepare()?;
    let nghttpd = Nghttpd::start(&scene, &FILES, &["--verbose"])?;
    let (seen, truth) = asked
        .watch(&super::subject("http2", wire), wire)
        .during(&place.cgroup, || load(&scene, nghttpd, asked.requests))?;
    let mut rows = Conversations::default();
    let columns = [
        "remote_port",
        "trace_role",
        "encrypted",
        "major_version",
        "req_method",
        "req_path",
        "req_body_size",
        "resp_status",
        "resp_body_size",
        "latency",
        "quality",
    ];
    for row in seen.rows("http_events", columns)? {
        let [port, role, encrypted, version, method, path, sent, status, size, latency, quality] =
            row;
        ensure!(role == "2", "a row of role {role}");
        ensure!(encrypted == super::encrypted(wire), "a row whose encrypted is {encrypted}");
        ensure!(version == "2" && quality == "0", "version {version}, quality {quality}");
        let latency = Latency::Server(Duration::from_nanos(latency.parse()?));
        rows.push(&port, format!("{method} {path} {sent} {status} {size}"), Some(latency));
    }
    let name = super::subject("http2", wire);
    truth::compare(report, &name, &truth.nameless(), &rows.nameless(), RESOLUTION);
    truth::nothing_lost(report, &name, &seen)
}

/// Asks for files; what the server logged.
fn load(scene: &Scene<'_>, nghttpd: Nghttpd, requests: u32) -> Result<Conversations> {
    let scheme = if scene.is_tls() { "https" } else { "http" };
    let url = |path: String| format!("{scheme}://127.0.0.1:{PORT}/{path}");
    // On each connection every request has a path of its own.
    let urls = (0..requests / CONNECTIONS / 2).map(|id| match FILES.get((id % 6) as usize) {
        Some((name, _)) => url(format!("{name}?id={id}\n")),
        None => url(format!("missing?id={id}\n")),
    });
    let list = scene.text("urls");
    fs::write(&list, urls.collect::<String>())?;
    let number = (requests / CONNECTIONS / 2 * CONNECTIONS).to_string();
    let mut asked = 0;
    for streams in ["1", "10"] {
        let mut load = scene.command("h2load");
        load.args(["-n", &number, "-c", &CONNECTIONS.to_string(), "-m", streams, "-i", &list]);
        let told = succeed(&mut load)?;
        ensure!(told.contains(&format!(" {number} done")), "h2load says {told}");
        asked += number.parse::<usize>()?;
    }
    for name in ["1", "16384", "50000"] {
        let body = nghttpd.file(name);
        scene.run("nghttp", &["-n", "-d", &body, &url(format!("1234?id={name}"))])?;
        asked += 1;
    }
    wait_until("nghttpd's log", || Ok(nghttpd.told()?.matches(" closed\n").count() >= asked))?;
    logged(&nghttpd.stop()?)
}

/// A stream as far as the log has told of it.
#[derive(Default)]
struct Stream {
    method: String,
    path: String,
    status: String,
    sent: usize,
    size: usize,
    began: Duration,
}

/// The streams of each connection in the order in which they were closed. A line about one begins
/// with `[id=CONNECTION] [SECONDS]`; what belongs to it is indented below.
fn logged(log: &str) -> Result<Conversations> {
    let mut truth = Conversations::default();
    let mut streams: BTreeMap<(String, u32), Stream> = BTreeMap::new();
    let mut current = None;
    for line in log.lines() {
        if let Some(status) = line.trim_start().strip_prefix(":status: ") {
            let stream = current.as_ref().and_then(|key| streams.get_mut(key));
            status.clone_into(&mut stream.context("a status of no stream")?.status);
            continue;
        }
        let Some((connection, rest)) =
            line.strip_prefix("[id=").and_then(|rest| rest.split_once("] ["))
        else {
            continue;
        };
        let Some((at, what)) = rest.split_once("] ") else { continue };
        let at = Duration::from_secs_f64(at.trim().parse()?);
        let Some(id) = number_after(what, "stream_id=").filter(|id| *id != 0) else { continue };
        let key = (connection.to_owned(), id);
        if what.ends_with(" closed") {
            let stream = streams.remove(&key).context("a stream closed that was not opened")?;
            let Stream { method, path, status, sent, size, began } = stream;
            let what = format!("{method} {path} {sent} {status} {size}");
            truth.push(connection, what, Some(Latency::Server(at.saturating_sub(began))));
            continue;
        }
        let stream =
            streams.entry(key.clone()).or_insert_with(|| Stream { began: at, ..Stream::default() });
        if let Some((_, path)) = what.split_once(":path: ") {
            path.clone_into(&mut stream.path);
        } else if let Some((_, method)) = what.split_once(":method: ") {
            method.clone_into(&mut stream.method);
        } else if what.starts_with("recv DATA") {
            stream.sent += number_after(what, "length=").unwrap_or_default() as usize;
        } else if what.starts_with("send DATA") {
            stream.size += number_after(what, "length=").unwrap_or_default() as usize;
        }
        current = Some(key);
    }
    Ok(truth)
}

/// The number that follows `name` in `text`.
fn number_after(text: &str, name: &str) -> Option<u32> {
    let (_, rest) = text.split_once(name)?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().ok()
}
