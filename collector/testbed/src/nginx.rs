//! A real nginx in a place of ours, with a log of its own that tells the truth.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::place::Place;
use crate::server::Server;

/// How one serves.
#[derive(Clone, Copy, Debug)]
pub struct Config<'c> {
    /// Where it listens, in the network of its place.
    pub port: u16,
    /// Processes that serve beside the first; where there are none, the first does.
    pub workers: u32,
    /// A line of its access log, in nginx' words, unless it logs nothing.
    pub log: Option<&'c str>,
    /// What else there is in the `http` block of its settings.
    pub http: &'c str,
}

/// A running nginx; it is ended when this is dropped.
#[derive(Debug)]
pub struct Nginx {
    server: Server,
    log: PathBuf,
}

impl Nginx {
    /// Starts nginx, which `command` runs in `place`, with its files in `folder`, and waits until it
    /// listens.
    pub fn start(
        mut command: Command,
        place: &Place,
        folder: &Path,
        config: Config<'_>,
    ) -> Result<Self> {
        let settings = folder.join("nginx.conf");
        fs::write(&settings, config.text(folder))?;
        command.arg("-c").arg(&settings).arg("-p").arg(folder);
        let server = place.serve(&mut command, config.port)?;
        Ok(Self { server, log: folder.join("access.log") })
    }

    /// Its first process.
    pub fn id(&self) -> u32 {
        self.server.id()
    }

    /// Lines of its log, of which the last ones may not be there yet.
    pub fn logged_so_far(&self) -> Result<usize> {
        Ok(self.read_log()?.lines().count())
    }

    /// Ends it after it has answered what it had accepted; what it logged.
    pub fn stop(mut self) -> Result<String> {
        self.server.stop("QUIT")?;
        self.read_log()
    }

    fn read_log(&self) -> Result<String> {
        fs::read_to_string(&self.log).context("cannot read nginx' log")
    }
}

impl Config<'_> {
    fn text(&self, folder: &Path) -> String {
        let Self { workers, log, http, .. } = *self;
        let at = folder.display();
        let processes = match workers {
            0 => "master_process off".to_owned(),
            workers => format!("worker_processes {workers}"),
        };
        let log = match log {
            Some(line) => format!("log_format truth '{line}'; access_log {at}/access.log truth"),
            None => "access_log off".to_owned(),
        };
        format!(
            "daemon off; {processes}; user root; pid {at}/nginx.pid; error_log {at}/error.log;
events {{ worker_connections 1024; }}
http {{
  types {{ }} default_type text/plain; keepalive_requests 1000000; {log};
  client_body_temp_path {at}/b; proxy_temp_path {at}/p;
  fastcgi_temp_path {at}/f; uwsgi_temp_path {at}/u; scgi_temp_path {at}/s;
  {http}
}}
"
        )
    }
}
