//! A Redis server, how its clients reach it, and what it counted.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use crate::scene::{Scene, Wire};
use crate::server::Server;

/// Where it listens.
pub const PORT: u16 = 16379;

/// Starts one with more arguments and waits until it listens.
pub fn start(scene: &Scene<'_>, args: &[&str]) -> Result<Server> {
    let mut server = scene.command("redis-server");
    let port = PORT.to_string();
    server.args(["--save", "", "--dir"]).arg(scene.folder);
    if scene.is_tls() {
        server.args(["--port", "0", "--tls-port", &port, "--tls-auth-clients", "no"]);
        server.args(["--tls-key-file", &scene.key(), "--tls-cert-file", &scene.certificate()]);
        server.args(["--tls-ca-cert-file", &scene.certificate()]);
    } else {
        server.args(["--port", &port]);
    }
    scene.place.serve(server.args(args), PORT)
}

/// Runs one of its clients to its successful end; what it says.
pub fn run(scene: &Scene<'_>, program: &str, args: &[&str]) -> Result<String> {
    scene.run(program, &[client(scene.wire), args].concat())
}

/// What a client is told of the server.
pub fn client(wire: Wire) -> &'static [&'static str] {
    match wire {
        Wire::Plain => &["-p", "16379"],
        Wire::Tls => &["-p", "16379", "--tls", "--insecure"],
    }
}

/// Calls by command, as the server itself counted them.
pub fn counted(scene: &Scene<'_>) -> Result<BTreeMap<String, u64>> {
    let stats = run(scene, "redis-cli", &["info", "commandstats"])?;
    // The question itself is counted after it was answered.
    let mut calls = BTreeMap::from([("INFO".to_owned(), 1)]);
    for line in stats.lines().filter_map(|line| line.strip_prefix("cmdstat_")) {
        let (name, rest) = line.split_once(":calls=").context("a command without calls")?;
        let number: u64 = rest.split(',').next().context("no number")?.parse()?;
        // A container command counts under the names of its parts.
        let name = name.split('|').next().unwrap_or(name).to_uppercase();
        *calls.entry(name).or_default() += number;
    }
    Ok(calls)
}
