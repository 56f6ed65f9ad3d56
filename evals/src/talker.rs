//! A client that keeps its connections, sends on those that it is told to, and is told when.
//!
//! The process reads a line `FIRST COUNT REQUESTS` for each round: on the connections from `FIRST`
//! on it sends so many requests each, one after the other, and says `done`. A connection is made when
//! it is first used. `close FIRST COUNT` closes some, and the end of the input all.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};

use crate::client::{connect, exchange};
use crate::nginx::ADDRESS;
use undine_testbed::{Place, Program};

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
pub(crate) struct Talker(Program);

impl Talker {
    /// Starts one in `place`, for nginx.
    pub(crate) fn start(place: &Place) -> Result<Self> {
        let mut command = place.command(std::env::current_exe()?);
        Ok(Self(Program::start(command.args(["talker", "--server", ADDRESS]))?))
    }

    /// Sends so many requests on each of `count` connections from `first` on.
    pub(crate) fn send(&mut self, first: usize, count: usize, requests: usize) -> Result<()> {
        self.0.ask(&format!("{first} {count} {requests}")).map(drop)
    }

    /// Closes `count` connections from `first` on.
    pub(crate) fn close(&mut self, first: usize, count: usize) -> Result<()> {
        self.0.ask(&format!("close {first} {count}")).map(drop)
    }
}
