//! Brokers of messages.

use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::place::Place;
use crate::server::Server;

/// Where the server of NATS listens.
pub const NATS_PORT: u16 = 14222;
/// Where RabbitMQ listens.
pub const RABBITMQ_PORT: u16 = 15672;
/// Where Debian keeps RabbitMQ.
pub const RABBITMQ: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

/// Starts a NATS server.
pub fn nats(place: &Place) -> Result<Server> {
    let mut server = place.command("nats-server");
    place.serve(server.args(["-a", "127.0.0.1", "-p", &NATS_PORT.to_string()]), NATS_PORT)
}

/// Starts RabbitMQ, which keeps everything in `folder`.
pub fn rabbitmq(place: &Place, folder: &Path) -> Result<Server> {
    let settings = folder.join("rabbitmq.conf");
    fs::write(&settings, format!("listeners.tcp.1 = 127.0.0.1:{RABBITMQ_PORT}\n"))?;
    let plugins = folder.join("plugins");
    fs::write(&plugins, "[].\n")?;
    let mut server = place.command(RABBITMQ);
    server
        .env("HOME", folder)
        .env("RABBITMQ_NODENAME", "undine@localhost")
        .env("RABBITMQ_MNESIA_BASE", folder.join("data"))
        .env("RABBITMQ_LOG_BASE", folder.join("log"))
        .env("RABBITMQ_CONFIG_FILE", settings)
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", plugins)
        .env("RABBITMQ_DIST_PORT", "15673")
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        .env("ERL_EPMD_PORT", "14369");
    place.serve(&mut server, RABBITMQ_PORT)
}
