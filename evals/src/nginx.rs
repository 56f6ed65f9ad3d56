//! A real nginx in a place of ours, with a log of its own that tells the truth.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::client::FILE_SIZES;
use undine_testbed::{Place, Scene, find, nginx};

/// Where it listens, in the network of its place.
pub(crate) const ADDRESS: &str = "127.0.0.1:18080";
pub(crate) const PORT: u16 = 18080;

/// How an nginx serves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Serving {
    /// `sendfile`, by which it does not see what it sends, or buffers.
    pub(crate) sendfile: Sendfile,
    /// Whether it logs what was asked.
    pub(crate) log: AccessLog,
}

/// Whether nginx has the kernel send files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sendfile {
    On,
    Off,
}

/// Whether nginx logs what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AccessLog {
    On,
    Off,
}

/// A running nginx; it is ended when this is dropped.
#[derive(Debug)]
pub(crate) struct Nginx(nginx::Nginx);

/// What the server itself recorded of one request, in the order of its log.
#[derive(Clone, Debug)]
pub(crate) struct Logged {
    /// The port of the client's end.
    pub(crate) port: String,
    pub(crate) id: u32,
    /// Method, path, status and the sizes of both bodies, as rows are shown too.
    pub(crate) what: String,
    pub(crate) latency: Duration,
}

/// A request as the log and the rows are compared.
pub(crate) fn shown(method: &str, path: &str, status: &str, sent: &str, size: &str) -> String {
    format!("{method} {path} {status} {sent} {size}")
}

impl Nginx {
    /// Starts nginx in `place` with its files in `dir` and waits until it listens.
    pub(crate) fn start(place: &Place, dir: &Path, serving: Serving) -> Result<Self> {
        Self::run(place.command(program()?), place, dir, serving, "")
    }

    /// The same for HTTP/1 and 2 inside TLS.
    pub(crate) fn start_tls(scene: &Scene<'_>, serving: Serving) -> Result<Self> {
        let tls = format!(
            "ssl http2; ssl_protocols TLSv1.2 TLSv1.3;
    ssl_certificate_key {}; ssl_certificate {}",
            scene.key(),
            scene.certificate()
        );
        Self::run(scene.command(program()?), scene.place, scene.folder, serving, &tls)
    }

    /// `tls` is what follows an address where it is for TLS.
    fn run(
        command: Command,
        place: &Place,
        dir: &Path,
        serving: Serving,
        tls: &str,
    ) -> Result<Self> {
        fs::create_dir_all(dir.join("www/file"))?;
        for size in FILE_SIZES {
            fs::write(dir.join(format!("www/file/{size}")), vec![b'f'; size])?;
        }
        fs::write(dir.join("www/chunk.txt"), vec![b'c'; CHUNKED_BODY_SIZE])?;
        let log = (serving.log == AccessLog::On).then_some(LOG_LINE);
        let http = http(dir, serving.sendfile, tls);
        let config = nginx::Config { port: PORT, workers: 0, log, http: &http };
        Ok(Self(nginx::Nginx::start(command, place, dir, config)?))
    }

    /// Its process, the only one.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Ends nginx after it has answered what it had accepted, and reads its log.
    pub(crate) fn stop(self) -> Result<Vec<Logged>> {
        let log = self.0.stop()?;
        log.lines()
            .map(|line| parse(line).with_context(|| format!("nginx logged '{line}'")))
            .collect()
    }
}

fn parse(line: &str) -> Result<Logged> {
    let fields: Vec<_> = line.split('\t').collect();
    let [port, id, method, path, status, body_sent, request_body, seconds] = fields[..] else {
        bail!("{} fields", fields.len());
    };
    let request_body = if request_body == "-" { "0" } else { request_body };
    Ok(Logged {
        port: port.to_owned(),
        id: id.parse()?,
        what: shown(method, path, status, request_body, body_sent),
        latency: Duration::from_secs_f64(seconds.parse()?),
    })
}

fn program() -> Result<PathBuf> {
    find("nginx").context("nginx is not installed; install it with: apt-get install nginx-light")
}

/// A line of its log.
const LOG_LINE: &str = r"$remote_port\t$http_x_request_id\t$request_method\t$request_uri\t$status\t$body_size\t$content_length\t$request_time";

/// What it serves; `tls` is what follows an address where it is for TLS.
fn http(dir: &Path, sendfile: Sendfile, tls: &str) -> String {
    let dir = dir.display();
    let sendfile = if sendfile == Sendfile::On { "on" } else { "off" };
    // Over HTTP/2 an answer may be whole before the body came, which then is none of what was
    // exchanged; who passes a request on waits for its body. A Unix socket is not watched.
    let (echo, behind) = if tls.is_empty() {
        (ECHO.to_owned(), String::new())
    } else {
        let passed = format!("proxy_pass http://unix:{dir}/echo:; proxy_hide_header X-Request-Id;");
        (passed, format!("server {{ listen unix:{dir}/echo; access_log off; {ECHO} }}"))
    };
    // What nginx calls $body_bytes_sent counts the bytes of chunk framing too, so the one chunked
    // location has a body of a known size and is logged with it.
    format!(
        r"map $request_uri $body_size {{ default $body_bytes_sent; ~^/chunked {CHUNKED_BODY_SIZE}; }}
  sendfile {sendfile}; client_body_in_single_buffer on;
  add_header X-Request-Id $http_x_request_id always;
  server {{
    listen {ADDRESS} backlog=1024 {tls}; root {dir}/www;
    location = /echo {{ {echo} }}
    location = /empty {{ return 204; }}
    location = /chunked {{ ssi on; ssi_types text/plain; try_files /chunk.txt =500; }}
  }}
  {behind}"
    )
}

/// What answers a request with what was sent.
const ECHO: &str = r#"return 201 "$request_method took $content_length bytes\n";"#;

/// Size of the body at `/chunked`.
pub(crate) const CHUNKED_BODY_SIZE: usize = 4096;
