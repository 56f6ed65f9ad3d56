//! An exchange of two messages over a connection of one thread with itself: as many bytes as a
//! request and its answer, in as many calls as nginx takes, without all that a server does besides.

use std::io::{IoSlice, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

/// Exchanges in a row, short enough to come between two turns of other processes.
const EXCHANGES: u32 = 150;
/// Rows of exchanges; the fastest counts.
const ROWS: u32 = 40;
/// Bytes of a request of the load.
const REQUEST: [u8; 120] = [b'q'; 120];
/// Head and body of an answer, which are sent with one call.
const HEAD: [u8; 250] = [b'h'; 250];
const BODY: [u8; 600] = [b'b'; 600];

/// Four operations on sockets, in nanoseconds: the best of many rows.
pub(super) fn best() -> Result<f64> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let (mut server, _) = listener.accept()?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let mut best = Duration::MAX;
    for _ in 0..ROWS {
        let start = Instant::now();
        for _ in 0..EXCHANGES {
            exchange(&mut client, &mut server)?;
        }
        best = best.min(start.elapsed());
    }
    Ok(best.as_secs_f64() * 1e9 / f64::from(EXCHANGES))
}

fn exchange(client: &mut TcpStream, server: &mut TcpStream) -> Result<()> {
    let mut received = [0; 1024];
    client.write_all(&REQUEST)?;
    server.read_exact(&mut received[..REQUEST.len()])?;
    let sent = server.write_vectored(&[IoSlice::new(&HEAD), IoSlice::new(&BODY)])?;
    ensure!(sent == HEAD.len() + BODY.len(), "only {sent} bytes were sent");
    client.read_exact(&mut received[..sent])?;
    Ok(())
}
