//! HTTP/2, plain and inside TLS: the streams that nghttpd tells of are the rows of `http_events`.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::report::Report;
use crate::truth::{self, Conversations, Latency, Resolution};
use crate::watch::Watch;
use undine_testbed::{Scene, Server, Wire, succeed, wait_until};

pub(super) const PROGRAMS: [&str; 3] = ["nghttpd", "nghttp", "h2load"];

const PORT: u16 = 8080;
/// Sizes of the files that the server has.
const FILE_SIZES: [u32; 5] = [0, 1, 1234, 16_384, 50_000];
/// Connections that `h2load` makes at a time.
const CONNECTIONS: u32 = 4;
/// What nghttpd's log rounds a time to, at the beginning and at the end of a stream.
const RESOLUTION: Resolution = Resolution(Duration::from_millis(1));

pub(super) fn run(wire: Wire, requests: u32, report: &mut Report) -> Result<()> {
    let (place, dir) = super::home()?;
    let scene = Scene { place: &place, folder: dir.path(), wire };
    scene.prepare()?;
    let nghttpd = Nghttpd::start(scene)?;
    let (seen, truth) = Watch::over(wire).during(&place.cgroup, || nghttpd.load(requests))?;
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

/// A server that runs.
struct Nghttpd<'a> {
    scene: Scene<'a>,
    server: Server,
    /// What it tells.
    record: String,
}

impl<'a> Nghttpd<'a> {
    fn start(scene: Scene<'a>) -> Result<Self> {
        let (files, record) = (scene.text("files"), scene.text("nghttpd.log"));
        fs::create_dir(&files)?;
        for size in FILE_SIZES {
            fs::write(format!("{files}/{size}"), vec![b'.'; size as usize])?;
        }
        let mut server = scene.command("nghttpd");
        server.args(["--address=127.0.0.1", "--verbose", "--htdocs", &files]);
        server.arg(PORT.to_string());
        if scene.is_tls() {
            server.args([scene.key(), scene.certificate()]);
        } else {
            server.arg("--no-tls");
        }
        let server = Server::logging(&mut server, record.as_ref())?;
        scene.place.wait_until_listening(PORT)?;
        Ok(Self { scene, server, record })
    }

    fn load(self, requests: u32) -> Result<Conversations> {
        let scheme = if self.scene.is_tls() { "https" } else { "http" };
        let url = |path: String| format!("{scheme}://127.0.0.1:{PORT}/{path}");
        // On each connection every request has a path of its own.
        let urls = (0..requests / CONNECTIONS / 2).map(|id| match id % 6 {
            5 => url(format!("missing?id={id}\n")),
            at => url(format!("{}?id={id}\n", FILE_SIZES[at as usize])),
        });
        let list = self.scene.text("urls");
        fs::write(&list, urls.collect::<String>())?;
        let number = (requests / CONNECTIONS / 2 * CONNECTIONS).to_string();
        let mut asked = 0;
        for streams in ["1", "10"] {
            let mut load = self.scene.command("h2load");
            load.args(["-n", &number, "-c", &CONNECTIONS.to_string(), "-m", streams, "-i", &list]);
            let told = succeed(&mut load)?;
            ensure!(told.contains(&format!(" {number} done")), "h2load says {told}");
            asked += number.parse::<usize>()?;
        }
        for size in [1, 16_384, 50_000] {
            let body = self.scene.text(&format!("files/{size}"));
            self.scene.run("nghttp", &["-n", "-d", &body, &url(format!("1234?id={size}"))])?;
            asked += 1;
        }
        wait_until("nghttpd's log", || {
            Ok(fs::read_to_string(&self.record)?.matches(" closed\n").count() >= asked)
        })?;
        drop(self.server);
        logged(&fs::read_to_string(&self.record)?)
    }
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
