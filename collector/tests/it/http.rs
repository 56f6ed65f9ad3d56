//! A server and a client in processes of their own: this binary, started again.
//!
//! Undine never watches itself, so traffic has to come from other processes. They do nothing until
//! they are told on their standard input, so that they can be watched from their first byte.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use undine_testbed::http::Response;

use super::place::{Place, Program};

/// Starts it in `place`.
pub(crate) fn start(place: &Place) -> Program {
    let exe = std::env::current_exe().unwrap();
    Program::start_test(place.command(exe), "it::http::program")
}

/// What a started program runs: `serve`, `load PORT CONNECTIONS REQUESTS` any number of times,
/// `mumble PORT` for what is no request, `refuse` for a connection to where nobody listens, `abort`
/// for one that is reset because bytes are left unread, or `hammer PORT CONNECTIONS`, which after `end REQUESTS`
/// sends so many more and ends.
#[test]
#[ignore = "a program that other tests start"]
fn program() {
    println!("\nready");
    let left = Arc::new(AtomicUsize::new(usize::MAX));
    let start = |port: &str, connections: &str, requests: usize| -> Vec<_> {
        let port: u16 = port.parse().unwrap();
        (0..connections.parse().unwrap())
            .map(|connection| {
                let left = Arc::clone(&left);
                std::thread::spawn(move || load(port, connection, requests, &left))
            })
            .collect()
    };
    let mut hammering = Vec::new();
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["serve"] => {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                println!("\nport {}", listener.local_addr().unwrap().port());
                std::thread::spawn(move || {
                    for (number, stream) in listener.incoming().enumerate() {
                        let stream = stream.unwrap();
                        if number == 0 {
                            println!("\nfirst");
                        }
                        std::thread::spawn(move || serve(stream));
                    }
                });
            }
            ["load", port, connections, requests] => {
                join(start(port, connections, requests.parse().unwrap()));
            }
            ["mumble", port] => {
                let port: u16 = port.parse().unwrap();
                let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
                stream.write_all(&[0; 40]).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                // The server has read it when it closes.
                assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
                println!("\nmumbled");
            }
            ["refuse"] => {
                TcpStream::connect(("127.0.0.1", 9)).unwrap_err();
                println!("\nrefused");
            }
            ["abort"] => {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                let (mut server, _) = listener.accept().unwrap();
                server.write_all(b"hello").unwrap();
                assert!(client.peek(&mut [0; 5]).unwrap() > 0);
                drop(client);
                server.read(&mut [0; 1]).unwrap_err();
                println!("\naborted");
            }
            ["hammer", port, connections] => {
                hammering.extend(start(port, connections, usize::MAX));
            }
            ["end", requests] => {
                left.store(requests.parse().unwrap(), Ordering::Relaxed);
                join(std::mem::take(&mut hammering));
            }
            _ => return,
        }
    }
}

/// Waits until all that was to be sent is answered.
fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        thread.join().unwrap();
    }
    println!("\nloaded");
}

/// Answers with the path in a header, a status that the path names, and as many bytes as it names.
fn serve(mut stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    let mut buffer = Vec::new();
    let mut chunk = [0; 16 * 1024];
    loop {
        let end = loop {
            if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            match stream.read(&mut chunk).unwrap() {
                0 => return,
                read => buffer.extend_from_slice(&chunk[..read]),
            }
        };
        let head = String::from_utf8(buffer[..end].to_vec()).unwrap();
        let length = head
            .split("Content-Length: ")
            .nth(1)
            .map_or(0, |rest| rest.split("\r\n").next().unwrap().parse::<usize>().unwrap());
        while buffer.len() < end + length {
            match stream.read(&mut chunk).unwrap() {
                0 => return,
                read => buffer.extend_from_slice(&chunk[..read]),
            }
        }
        buffer.drain(..end + length);
        let path = head.split(' ').nth(1).unwrap();
        let bytes: usize = path.rsplit('/').next().unwrap().parse().unwrap();
        let status = if bytes % 5 == 4 { "404 Not Found" } else { "200 OK" };
        let mut answer =
            format!("HTTP/1.1 {status}\r\nX-Path: {path}\r\nContent-Length: {bytes}\r\n\r\n")
                .into_bytes();
        answer.resize(answer.len() + bytes, b'.');
        stream.write_all(&answer).unwrap();
    }
}

/// Sends requests one after the other while all connections together have some left; every third
/// has a body.
fn load(port: u16, connection: usize, requests: usize, left: &AtomicUsize) {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut stream = BufReader::new(stream);
    let take = || {
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    };
    for request in (0..requests).take_while(|_| take()) {
        let bytes = request * 7 % 300;
        let path = format!("/of/{connection}/{request}/{bytes}");
        let text = if request % 3 == 2 {
            format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello")
        } else {
            format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n")
        };
        stream.get_mut().write_all(text.as_bytes()).unwrap();
        Response::read(&mut stream, "GET").unwrap();
    }
}
