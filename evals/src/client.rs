//! Sends an exact number of HTTP/1.1 requests, each with an id of its own, and checks each answer.
//!
//! It speaks over plain sockets, so that what goes over the wire is known to the byte.

use std::io::{BufReader, BufWriter, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use undine_testbed::http::Response;

/// The client's part of the command line.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The server.
    #[arg(long)]
    pub(crate) server: SocketAddr,
    /// Id of the first request.
    #[arg(long, default_value_t = 0)]
    pub(crate) first: u32,
    /// Requests in all.
    #[arg(long)]
    pub(crate) requests: u32,
    /// Connections at a time.
    #[arg(long)]
    pub(crate) connections: u32,
    /// Requests on a connection before it is closed.
    #[arg(long)]
    pub(crate) per_connection: u32,
}

/// Sizes of the files that the server offers under `/file/SIZE`.
pub(crate) const FILE_SIZES: [usize; 5] = [0, 1, 600, 5_000, 70_000];

/// What request number `id` is: its method, its path and its body's size.
pub(crate) fn request(id: u32) -> (&'static str, String, usize) {
    let size = FILE_SIZES[id as usize % FILE_SIZES.len()];
    match id % 11 {
        0 => ("HEAD", format!("/file/{size}?id={id}"), 0),
        1 => ("GET", format!("/missing/{id}?id={id}"), 0),
        2 | 3 => ("POST", format!("/echo?id={id}"), 1 + id as usize % 3000),
        4 => ("GET", format!("/chunked?id={id}"), 0),
        5 => ("GET", format!("/empty?id={id}"), 0),
        _ => ("GET", format!("/file/{size}?id={id}"), 0),
    }
}

/// Sends all requests, and once all are answered prints for each its id and how many nanoseconds it
/// took, from before the call that sent it to after the one that received the last of its answer.
pub(crate) fn run(args: &Args) -> Result<()> {
    let next = AtomicU32::new(args.first);
    let took = std::thread::scope(|scope| {
        let workers: Vec<_> =
            (0..args.connections).map(|_| scope.spawn(|| work(args, &next))).collect();
        let mut took = Vec::new();
        for worker in workers {
            match worker.join() {
                Ok(result) => took.extend(result?),
                Err(_panicked) => bail!("a connection's thread panicked"),
            }
        }
        Ok(took)
    })?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    for (id, took) in took {
        writeln!(out, "{id} {}", took.as_nanos())?;
    }
    Ok(out.flush()?)
}

fn work(args: &Args, next: &AtomicU32) -> Result<Vec<(u32, Duration)>> {
    let mut took = Vec::new();
    loop {
        let mut connection = None;
        for _ in 0..args.per_connection {
            let id = next.fetch_add(1, Ordering::Relaxed);
            if id >= args.first + args.requests {
                return Ok(took);
            }
            let stream = match &mut connection {
                Some(stream) => stream,
                none => none.insert(connect(args.server)?),
            };
            let start = Instant::now();
            exchange(stream, id).with_context(|| format!("request {id}"))?;
            took.push((id, start.elapsed()));
        }
    }
}

/// A connection to `server`.
pub(crate) fn connect(server: SocketAddr) -> Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect(server).context("cannot connect")?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_mins(1)))?;
    Ok(BufReader::with_capacity(64 * 1024, stream))
}

/// Sends request number `id` and reads its answer, which must be for it.
pub(crate) fn exchange(stream: &mut BufReader<TcpStream>, id: u32) -> Result<()> {
    let (method, path, body) = request(id);
    let mut message =
        format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: {id}\r\n");
    if method == "POST" {
        message += &format!("Content-Type: text/plain\r\nContent-Length: {body}\r\n");
    }
    message += "\r\n";
    let mut bytes = message.into_bytes();
    bytes.resize(bytes.len() + body, b'u');
    stream.get_mut().write_all(&bytes)?;
    let answer = Response::read(stream, method)?;
    let echoed = answer.header("x-request-id");
    ensure!(echoed == Some(id.to_string().as_str()), "the answer is for {echoed:?}");
    Ok(())
}
