//! A name server with a few records that logs every query and what it answered.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::place::Place;
use crate::server::Server;

/// What is asked until the server answers; it may have been asked before it was there.
pub const READY: &str = "ready.dyn.test";

/// A running dnsmasq; it is ended when this is dropped.
#[derive(Debug)]
pub struct Dnsmasq {
    server: Server,
    log: PathBuf,
}

impl Dnsmasq {
    /// Starts one at the usual port and waits until it answers.
    pub fn start(place: &Place, folder: &Path) -> Result<Self> {
        let log = folder.join("dnsmasq.log");
        let mut server = command(place);
        server
            .args(["--no-resolv", "--no-hosts", "--local=/test/", "--log-queries=extra"])
            .arg(format!("--log-facility={}", log.display()))
            .args(["--host-record=shop.test,10.1.2.3,fd00::7", "--cname=www.test,shop.test"])
            .args(["--txt-record=shop.test,hello", "--address=/dyn.test/10.9.9.9"])
            .args(["--mx-host=shop.test,mail.test,10", "--srv-host=_http._tcp.test,shop.test,80"]);
        let server = Server::start(&mut server)?;
        place.wait_for("dig", &["@127.0.0.1", "+tries=1", "+time=1", READY])?;
        Ok(Self { server, log })
    }

    /// Ends it; what it logged.
    pub fn stop(mut self) -> Result<String> {
        self.server.stop("TERM")?;
        fs::read_to_string(&self.log).context("cannot read dnsmasq's log")
    }
}

/// A dnsmasq that has no settings but its arguments.
pub fn command(place: &Place) -> Command {
    let mut command = place.command("dnsmasq");
    command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--pid-file"]);
    command
}
