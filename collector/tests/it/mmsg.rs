//! A name server and its client that move several datagrams with each call: `sendmmsg` and `recvmmsg`.
#![expect(unsafe_code, reason = "the standard library has no call for several datagrams")]

use std::io::BufRead;
use std::mem;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::ptr;

/// Most datagrams that one call moves here.
const BATCH_MAX: usize = 16;
/// Longest datagram of these.
const LEN_MAX: usize = 512;
/// What is watched, and needs the rights of root.
const PORT: u16 = 53;

/// The address that a query's number stands for.
pub(crate) fn address_of(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, 7, high, low)
}

/// The name that asks for a number.
pub(crate) fn name_of(number: u16) -> String {
    format!("n{number}.batch.test")
}

/// What a started program runs: `answer` for a server that is there until the program ends, or
/// `ask COUNT BATCH` for so many queries, so many with each call.
#[test]
#[ignore = "a program that other tests start"]
fn program() {
    println!("\nready");
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["answer"] => {
                let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, PORT)).unwrap();
                println!("\nanswering");
                std::thread::spawn(move || answer(&socket));
            }
            ["ask", count, batch] => {
                ask(count.parse().unwrap(), batch.parse().unwrap());
                println!("\nanswered");
            }
            _ => return,
        }
    }
}

/// Answers whatever comes, with as few calls as may be.
fn answer(socket: &UdpSocket) {
    loop {
        let questions = receive(socket);
        let answers: Vec<_> =
            questions.iter().map(|(question, from)| (response_to(question), *from)).collect();
        send(socket, &answers);
    }
}

/// Asks `count` times, `batch` queries to the same address with each call, and checks the answers.
fn ask(count: u16, batch: u16) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let server = SocketAddrV4::new(Ipv4Addr::LOCALHOST, PORT);
    for first in (0..count).step_by(batch.into()) {
        let numbers = first..count.min(first + batch);
        let queries: Vec<_> = numbers.clone().map(|number| (query(number), server)).collect();
        send(&socket, &queries);
        let mut answered = Vec::new();
        while answered.len() < queries.len() {
            for (response, _) in receive(&socket) {
                let number = u16::from_be_bytes([response[0], response[1]]);
                assert!(response.ends_with(&address_of(number).octets()));
                answered.push(number);
            }
        }
        answered.sort_unstable();
        assert!(answered.into_iter().eq(numbers));
    }
}

/// A query for an address, whose id is `number`.
fn query(number: u16) -> Vec<u8> {
    let mut bytes = number.to_be_bytes().to_vec();
    // Recursion is wanted; one question.
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name_of(number).split('.') {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.as_bytes());
    }
    // The root, type A, class IN.
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

fn response_to(query: &[u8]) -> Vec<u8> {
    let mut bytes = query.to_vec();
    bytes[2..8].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1]);
    // The question's name, type A, class IN, a minute, four bytes.
    bytes.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
    let number = u16::from_be_bytes([query[0], query[1]]);
    bytes.extend(address_of(number).octets());
    bytes
}

/// What one call moves.
struct Batch {
    headers: Vec<libc::mmsghdr>,
    #[expect(dead_code, reason = "the headers point into it")]
    vectors: Vec<libc::iovec>,
    names: Vec<libc::sockaddr_in>,
    buffers: Vec<Vec<u8>>,
}

impl Batch {
    fn new(mut buffers: Vec<Vec<u8>>, mut names: Vec<libc::sockaddr_in>) -> Self {
        let vector = |buffer: &mut Vec<u8>| libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        };
        let mut vectors: Vec<_> = buffers.iter_mut().map(vector).collect();
        let headers = vectors
            .iter_mut()
            .zip(&mut names)
            .map(|(vector, name)| {
                // SAFETY: all zeros is a message without anything.
                let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
                (header.msg_hdr.msg_iov, header.msg_hdr.msg_iovlen) = (vector, 1);
                header.msg_hdr.msg_name = ptr::from_mut(name).cast();
                header.msg_hdr.msg_namelen = 16;
                header
            })
            .collect();
        Self { headers, vectors, names, buffers }
    }
}

/// Sends all with one call.
fn send(socket: &UdpSocket, datagrams: &[(Vec<u8>, SocketAddrV4)]) {
    let names = datagrams.iter().map(|(_, to)| raw(*to)).collect();
    let mut batch = Batch::new(datagrams.iter().map(|(bytes, _)| bytes.clone()).collect(), names);
    let count = u32::try_from(datagrams.len()).unwrap();
    // SAFETY: what the headers point to outlives the call.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), batch.headers.as_mut_ptr(), count, 0) };
    assert_eq!(usize::try_from(sent).unwrap(), datagrams.len());
}

/// Receives with one call what is there, at least one.
fn receive(socket: &UdpSocket) -> Vec<(Vec<u8>, SocketAddrV4)> {
    let nobody = raw(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));
    let mut batch = Batch::new(vec![vec![0; LEN_MAX]; BATCH_MAX], vec![nobody; BATCH_MAX]);
    let count = u32::try_from(BATCH_MAX).unwrap();
    // SAFETY: as above.
    let received = unsafe {
        let (headers, wait) = (batch.headers.as_mut_ptr(), libc::MSG_WAITFORONE);
        libc::recvmmsg(socket.as_raw_fd(), headers, count, wait, ptr::null_mut())
    };
    let all = batch.headers.iter().zip(batch.buffers).zip(&batch.names);
    all.take(usize::try_from(received).unwrap())
        .map(|((header, mut buffer), name)| {
            buffer.truncate(header.msg_len as usize);
            let address = Ipv4Addr::from(name.sin_addr.s_addr.to_ne_bytes());
            (buffer, SocketAddrV4::new(address, u16::from_be(name.sin_port)))
        })
        .collect()
}

fn raw(address: SocketAddrV4) -> libc::sockaddr_in {
    // SAFETY: all zeros is an address.
    let mut raw: libc::sockaddr_in = unsafe { mem::zeroed() };
    raw.sin_family = libc::sa_family_t::try_from(libc::AF_INET).unwrap();
    raw.sin_port = address.port().to_be();
    raw.sin_addr.s_addr = u32::from_ne_bytes(address.ip().octets());
    raw
}
