//! A server of HTTP/2 with files, and what it tells of its streams.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::scene::Scene;
use crate::server::Server;

/// Where it listens, in the network of its place.
pub const PORT: u16 = 8080;

/// A running nghttpd; it is ended when this is dropped.
#[derive(Debug)]
pub struct Nghttpd {
    server: Server,
    files: PathBuf,
    log: PathBuf,
}

impl Nghttpd {
    /// Starts one of `files`, names and sizes, with more arguments, and waits until it listens.
    pub fn start(scene: &Scene<'_>, files: &[(&str, usize)], args: &[&str]) -> Result<Self> {
        let (folder, log) = (scene.path("files"), scene.path("nghttpd.log"));
        fs::create_dir(&folder)?;
        for (name, bytes) in files {
            fs::write(folder.join(name), vec![b'.'; *bytes])?;
        }
        let mut command = scene.command("nghttpd");
        command.arg("--address=127.0.0.1").args(args).arg("--htdocs").arg(&folder);
        command.arg(PORT.to_string());
        if scene.is_tls() {
            command.args([scene.key(), scene.certificate()]);
        } else {
            command.arg("--no-tls");
        }
        let server = Server::logging(&mut command, &log)?;
        scene.place.wait_until_listening(PORT)?;
        Ok(Self { server, files: folder, log })
    }

    /// The path of one of its files.
    pub fn file(&self, name: &str) -> String {
        self.files.join(name).display().to_string()
    }

    /// What it has told so far: of its streams, where one of the arguments is `--verbose`.
    pub fn told(&self) -> Result<String> {
        fs::read_to_string(&self.log).with_context(|| format!("cannot read {}", self.log.display()))
    }

    /// Ends it; what it told.
    pub fn stop(self) -> Result<String> {
        let Self { server, log, .. } = self;
        drop(server);
        Ok(fs::read_to_string(log)?)
    }
}
