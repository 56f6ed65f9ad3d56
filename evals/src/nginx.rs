//! A real nginx in a cgroup of ours, with a log of its own that tells the truth.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use undine_collector::Cgroup;

use crate::client::FILE_SIZES;

/// A running nginx; it is ended when this is dropped.
#[derive(Debug)]
pub(crate) struct Nginx {
    process: Child,
    log: PathBuf,
    pub(crate) address: SocketAddr,
}

/// What the server itself recorded of one request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Logged {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) status: i64,
    pub(crate) req_body_size: i64,
    pub(crate) resp_body_size: i64,
}

impl Nginx {
    /// Starts nginx inside `cgroup` with its files in `dir` and waits until it answers.
    pub(crate) fn start(cgroup: &Cgroup, dir: &Path, sendfile: bool) -> Result<Self> {
        let address = free_address()?;
        let log = dir.join("access.log");
        fs::create_dir_all(dir.join("www/file"))?;
        for size in FILE_SIZES {
            fs::write(dir.join(format!("www/file/{size}")), vec![b'f'; size])?;
        }
        fs::write(dir.join("www/chunk.txt"), vec![b'c'; CHUNKED_BODY_SIZE])?;
        let sendfile = if sendfile { "on" } else { "off" };
        let conf = dir.join("nginx.conf");
        fs::write(&conf, config(dir, address, sendfile))?;
        let process = cgroup
            .command(&program()?)
            .arg("-c")
            .arg(&conf)
            .arg("-p")
            .arg(dir)
            .stdin(Stdio::null())
            .spawn()
            .context("cannot start nginx")?;
        let mut nginx = Self { process, log, address };
        nginx.wait_until_it_listens()?;
        Ok(nginx)
    }

    fn wait_until_it_listens(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(self.address).is_err() {
            if let Some(status) = self.process.try_wait()? {
                bail!("nginx ended at once with {status}");
            }
            ensure!(Instant::now() < deadline, "nginx does not listen on {}", self.address);
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Ends nginx after it has answered what it had accepted, and reads its log by request id.
    pub(crate) fn stop(mut self) -> Result<BTreeMap<u32, Logged>> {
        let quit = Command::new("kill").args(["-QUIT", &self.process.id().to_string()]).status()?;
        ensure!(quit.success(), "cannot tell nginx to stop");
        self.process.wait()?;
        let text = fs::read_to_string(&self.log).context("cannot read nginx's log")?;
        text.lines()
            .map(|line| parse(line).with_context(|| format!("nginx logged '{line}'")))
            .collect()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let killed = self.process.kill().and_then(|()| self.process.wait());
        drop(killed);
    }
}

fn parse(line: &str) -> Result<(u32, Logged)> {
    let fields: Vec<_> = line.split('\t').collect();
    let [id, method, path, status, body_sent, request_body] = fields[..] else {
        bail!("{} fields", fields.len());
    };
    let logged = Logged {
        method: method.to_owned(),
        path: path.to_owned(),
        status: status.parse()?,
        req_body_size: if request_body == "-" { 0 } else { request_body.parse()? },
        resp_body_size: body_sent.parse()?,
    };
    Ok((id.parse()?, logged))
}

fn program() -> Result<PathBuf> {
    ["/usr/sbin/nginx", "/usr/local/sbin/nginx", "/usr/bin/nginx"]
        .iter()
        .map(PathBuf::from)
        .find(|path| path.exists())
        .context("nginx is not installed; install it with: apt-get install nginx-light")
}

/// An address on loopback that nothing listens on at this moment.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn config(dir: &Path, address: SocketAddr, sendfile: &str) -> String {
    let dir = dir.display();
    // What nginx calls $body_bytes_sent counts the bytes of chunk framing too, so the one chunked
    // location has a body of a known size and is logged with it.
    format!(
        r#"daemon off; master_process off; pid {dir}/nginx.pid; error_log {dir}/error.log;
user root;
events {{ worker_connections 1024; }}
http {{
  types {{ }} default_type text/plain;
  map $request_uri $body_size {{ default $body_bytes_sent; ~^/chunked {CHUNKED_BODY_SIZE}; }}
  log_format truth '$http_x_request_id\t$request_method\t$request_uri\t$status\t$body_size\t$content_length';
  access_log {dir}/access.log truth;
  keepalive_requests 1000000; sendfile {sendfile};
  client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
  client_body_in_single_buffer on;
  add_header X-Request-Id $http_x_request_id always;
  server {{
    listen {address} backlog=1024; root {dir}/www;
    location = /echo {{ return 201 "$request_method took $content_length bytes\n"; }}
    location = /empty {{ return 204; }}
    location = /chunked {{ ssi on; ssi_types text/plain; try_files /chunk.txt =500; }}
  }}
}}
"#
    )
}

/// Size of the body at `/chunked`.
pub(crate) const CHUNKED_BODY_SIZE: usize = 4096;
