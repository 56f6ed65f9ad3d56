//! A client that keeps its connections, sends on those that it is told to, and is told when.
//!
//! The process reads a line `FIRST COUNT REQUESTS` for each round: on the connections from `FIRST`
//! on it sends so many requests each, one after the other, and says `done`. A connection is made when
//! it is first used. `close FIRST COUNT` closes some, and the end of the input all.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::client::exchange;
use crate::nginx::ADDRESS;
use undine_testbed::Place;

/// The talker's part of the command line.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The server.
    #[arg(long)]
    pub(crate) server: SocketAddr,
}

/// Does what it is told, line by line.
pub(crate) fn run(args: &Args) -> Result<()> {
    let next = AtomicU32::new(0);
    let mut open: BTreeMap<usize, BufReader<TcpStream>> = BTreeMap::new();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words = line.strip_prefix("close ").unwrap_or(&line);
        let numbers: Vec<usize> =
            words.split(' ').map(str::parse).collect::<Result<_, _>>().context(line.clone())?;
        match (line.starts_with("close "), &numbers[..]) {
            (true, [first, count]) => open.retain(|at, _| !(*first..first + count).contains(at)),
            (false, [first, count, requests]) => {
                for connection in *first..first + count {
                    if let std::collections::btree_map::Entry::Vacant(vacant) =
                        open.entry(connection)
                    {
                        vacant.insert(connect(args.server)?);
                    }
                }
                let chosen = open.range_mut(*first..first + count).map(|(_, stream)| stream);
                send(chosen, *requests, &next)?;
            }
            _ => bail!("cannot do '{line}'"),
        }
        say("done");
    }
    Ok(())
}

fn connect(server: SocketAddr) -> Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect(server).context("cannot connect")?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_mins(1)))?;
    Ok(BufReader::with_capacity(64 * 1024, stream))
}

fn send<'s>(
    streams: impl Iterator<Item = &'s mut BufReader<TcpStream>>,
    requests: usize,
    next: &AtomicU32,
) -> Result<()> {
    std::thread::scope(|scope| {
        let talks: Vec<_> = streams
            .map(|stream| {
                scope.spawn(move || {
                    (0..requests).try_for_each(|_| {
                        let id = next.fetch_add(1, Ordering::Relaxed);
                        exchange(stream, id).with_context(|| format!("request {id}"))
                    })
                })
            })
            .collect();
        for talk in talks {
            match talk.join() {
                Ok(result) => result?,
                Err(_panicked) => bail!("a connection's thread panicked"),
            }
        }
        Ok(())
    })
}

#[expect(clippy::print_stdout, reason = "this is how it answers")]
fn say(text: &str) {
    println!("{text}");
}

/// A running talker; it is ended when this is dropped.
#[derive(Debug)]
pub(crate) struct Talker {
    process: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Talker {
    /// Starts one in `place`, for nginx.
    pub(crate) fn start(place: &Place) -> Result<Self> {
        let mut command = place.command(std::env::current_exe()?);
        command.args(["talker", "--server", ADDRESS]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().context("cannot start the talker")?;
        let stdin = process.stdin.take().context("the talker has no input")?;
        let stdout = BufReader::new(process.stdout.take().context("the talker has no output")?);
        Ok(Self { process, stdin, stdout })
    }

    /// Sends so many requests on each of `count` connections from `first` on.
    pub(crate) fn send(&mut self, first: usize, count: usize, requests: usize) -> Result<()> {
        self.tell(&format!("{first} {count} {requests}"))
    }

    /// Closes `count` connections from `first` on.
    pub(crate) fn close(&mut self, first: usize, count: usize) -> Result<()> {
        self.tell(&format!("close {first} {count}"))
    }

    fn tell(&mut self, line: &str) -> Result<()> {
        writeln!(self.stdin, "{line}")?;
        let mut answer = String::new();
        self.stdout.read_line(&mut answer)?;
        ensure!(answer == "done\n", "the talker failed at '{line}'");
        Ok(())
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
