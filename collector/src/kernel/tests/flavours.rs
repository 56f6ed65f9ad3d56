//! Every flavour of socket call, made by a child process over one connection with itself.
#![expect(
    clippy::undocumented_unsafe_blocks,
    reason = "one reason holds for all: buffers are as long as is said and outlive their call"
)]
#![expect(clippy::cast_ptr_alignment, reason = "the queue of io_uring is a page of its own")]

use std::{
    io::{self, Read, Write},
    mem,
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

/// The byte at `at` of the stream.
pub(super) fn byte_at(at: u64) -> u8 {
    ((at * 7 + 13) % 251) as u8
}

/// Moves this thread into a network namespace of its own, with the loopback up.
pub(super) fn enter_network() {
    // SAFETY: plain calls; the request lives through the call that uses it.
    unsafe {
        ok(libc::unshare(libc::CLONE_NEWNET) as isize);
        let socket = OwnedFd::from_raw_fd(libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0));
        let mut request: libc::ifreq = mem::zeroed();
        request.ifr_name[0] = libc::c_char::try_from(b'l').unwrap();
        request.ifr_name[1] = libc::c_char::try_from(b'o').unwrap();
        request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP).unwrap();
        ok(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) as isize);
    }
}

pub(super) fn ok(result: isize) -> u64 {
    assert!(result >= 0, "{}", io::Error::last_os_error());
    result.unsigned_abs() as u64
}

/// A connection with itself and what went over it.
struct Pair {
    /// Where the other end came from; without it the kernel programs do not know that it accepted.
    _listener: TcpListener,
    out: TcpStream,
    into: TcpStream,
    /// Bytes sent and received.
    sent: u64,
    received: u64,
    operations: [u64; 2],
    bypassed: [u64; 2],
}

impl Pair {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let out = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (into, _) = listener.accept().unwrap();
        out.set_nodelay(true).unwrap();
        for (socket, option) in [(&out, libc::SO_SNDBUFFORCE), (&into, libc::SO_RCVBUFFORCE)] {
            let bytes: libc::c_int = 8 << 20;
            // SAFETY: the option is an integer that lives through the call.
            ok(unsafe {
                libc::setsockopt(
                    socket.as_raw_fd(),
                    libc::SOL_SOCKET,
                    option,
                    (&raw const bytes).cast(),
                    4,
                )
            } as isize);
        }
        Self {
            _listener: listener,
            out,
            into,
            sent: 0,
            received: 0,
            operations: [0; 2],
            bypassed: [0; 2],
        }
    }

    /// The next bytes of the stream.
    fn next(&self, len: usize) -> Vec<u8> {
        (self.sent..).take(len).map(byte_at).collect()
    }

    fn fds(&self) -> (RawFd, RawFd) {
        (self.out.as_raw_fd(), self.into.as_raw_fd())
    }

    fn sent(&mut self, result: isize) {
        self.sent += ok(result);
        self.operations[0] += 1;
    }

    fn received(&mut self, result: isize) {
        self.received += ok(result);
        self.operations[1] += 1;
    }

    /// Receives all that was sent.
    fn drain(&mut self) {
        let mut room = vec![0; 64 * 1024];
        while self.received < self.sent {
            let len = room.len().min(usize::try_from(self.sent - self.received).unwrap());
            // SAFETY: the room is as long as is said.
            let got =
                unsafe { libc::recv(self.into.as_raw_fd(), room.as_mut_ptr().cast(), len, 0) };
            self.received(got);
        }
    }
}

fn iovecs(parts: &mut [Vec<u8>]) -> Vec<libc::iovec> {
    let of = |part: &mut Vec<u8>| libc::iovec {
        iov_base: part.as_mut_ptr().cast(),
        iov_len: part.len(),
    };
    parts.iter_mut().map(of).collect()
}

fn message(iovecs: &mut [libc::iovec]) -> libc::msghdr {
    // SAFETY: all zeros is a message without anything.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = iovecs.as_mut_ptr();
    message.msg_iovlen = iovecs.len();
    message
}

/// `total` bytes of the stream in uneven parts, one of them empty.
fn parts(pair: &Pair, total: usize) -> Vec<Vec<u8>> {
    let bytes = pair.next(total);
    let (first, rest) = bytes.split_at(total / 5);
    vec![first.to_vec(), Vec::new(), rest[..1].to_vec(), rest[1..].to_vec()]
}

/// Plays every flavour. Gives bytes, operations out and in, bypassed bytes out and in, and the
/// bytes beyond what one operation may have captured.
pub(super) fn all(uring: bool) -> Vec<u64> {
    let mut pair = Pair::new();
    contiguous(&mut pair);
    vectored(&mut pair);
    messages(&mut pair);
    bypassing(&mut pair);
    if uring {
        through_uring(&mut pair);
    }
    let beyond = large(&mut pair);
    assert_eq!(pair.sent, pair.received);
    let Pair { sent, operations, bypassed, .. } = pair;
    vec![sent, operations[0], operations[1], bypassed[0], bypassed[1], beyond]
}

fn contiguous(pair: &mut Pair) {
    let (out, into) = pair.fds();
    let mut room = [0_u8; 512];
    for len in [1, 10, 255, 256, 257, 512] {
        let bytes = pair.next(len);
        // SAFETY (of this and all further calls here): buffers are as long as is said.
        pair.sent(unsafe { libc::write(out, bytes.as_ptr().cast(), len) });
        // Looking first does not count.
        ok(unsafe { libc::recv(into, room.as_mut_ptr().cast(), len, libc::MSG_PEEK) });
        pair.received(unsafe { libc::read(into, room.as_mut_ptr().cast(), len) });
        let bytes = pair.next(len);
        pair.sent(unsafe { libc::send(out, bytes.as_ptr().cast(), len, 0) });
        pair.received(unsafe { libc::recv(into, room.as_mut_ptr().cast(), len, 0) });
        // Another descriptor of the same socket.
        let bytes = pair.next(len);
        let twin = pair.out.try_clone().unwrap();
        pair.sent(unsafe { libc::write(twin.as_raw_fd(), bytes.as_ptr().cast(), len) });
        pair.drain();
    }
    // A call that fails moves nothing.
    let refused = unsafe { libc::recv(into, room.as_mut_ptr().cast(), 1, libc::MSG_DONTWAIT) };
    assert_eq!(refused, -1);
    // Thrown away by the kernel, so it never was in a buffer.
    let bytes = pair.next(100);
    pair.sent(unsafe { libc::send(out, bytes.as_ptr().cast(), 100, 0) });
    pair.received(unsafe { libc::recv(into, ptr::null_mut(), 100, libc::MSG_TRUNC) });
    pair.bypassed[1] += 100;
}

fn vectored(pair: &mut Pair) {
    let (out, into) = pair.fds();
    for total in [10, 1000, 20_000, 40_000] {
        let mut sent = parts(pair, total);
        let vectors = iovecs(&mut sent);
        pair.sent(unsafe { libc::writev(out, vectors.as_ptr(), 4) });
        let mut room = [vec![0; 3], vec![0; total]];
        let vectors = iovecs(&mut room);
        pair.received(unsafe { libc::readv(into, vectors.as_ptr(), 2) });
        pair.drain();
    }
}

fn messages(pair: &mut Pair) {
    let (out, into) = pair.fds();
    for total in [10, 1000, 40_000] {
        let mut sent = parts(pair, total);
        let mut vectors = iovecs(&mut sent);
        let header = message(&mut vectors);
        pair.sent(unsafe { libc::sendmsg(out, &raw const header, 0) });
        let mut room = [vec![0; 3], vec![0; total]];
        let mut vectors = iovecs(&mut room);
        let mut header = message(&mut vectors);
        pair.received(unsafe { libc::recvmsg(into, &raw mut header, 0) });
        pair.drain();
        // One message at a time is taken like that.
        let mut sent = parts(pair, total);
        let mut vectors = iovecs(&mut sent);
        let mut one = libc::mmsghdr { msg_hdr: message(&mut vectors), msg_len: 0 };
        assert_eq!(unsafe { libc::sendmmsg(out, &raw mut one, 1, 0) }, 1);
        pair.sent(isize::try_from(one.msg_len).unwrap());
        let mut room = [vec![0; total]];
        let mut vectors = iovecs(&mut room);
        let mut one = libc::mmsghdr { msg_hdr: message(&mut vectors), msg_len: 0 };
        assert_eq!(unsafe { libc::recvmmsg(into, &raw mut one, 1, 0, ptr::null_mut()) }, 1);
        pair.received(isize::try_from(one.msg_len).unwrap());
        pair.drain();
    }
}

fn bypassing(pair: &mut Pair) {
    let out = pair.fds().0;
    // Of several messages only the bytes are counted.
    let mut sent = parts(pair, 300);
    let mut vectors = iovecs(&mut sent);
    let header = message(&mut vectors);
    let mut three = [libc::mmsghdr { msg_hdr: header, msg_len: 0 }; 3];
    assert_eq!(unsafe { libc::sendmmsg(out, three.as_mut_ptr(), 3, 0) }, 3);
    for one in three {
        pair.sent(isize::try_from(one.msg_len).unwrap());
        pair.bypassed[0] += u64::from(one.msg_len);
    }
    // The receiver gets the same bytes three times, so its stream is not as expected: throw away.
    pair.received(unsafe {
        libc::recv(pair.into.as_raw_fd(), ptr::null_mut(), 900, libc::MSG_TRUNC)
    });
    pair.bypassed[1] += 900;
    // A file goes out without ever being in a buffer.
    let bytes = pair.next(1000);
    let file = unsafe { OwnedFd::from_raw_fd(libc::memfd_create(c"stream".as_ptr(), 0)) };
    ok(unsafe { libc::write(file.as_raw_fd(), bytes.as_ptr().cast(), 1000) });
    let mut offset = 0;
    pair.sent(unsafe { libc::sendfile(out, file.as_raw_fd(), &raw mut offset, 1000) });
    pair.bypassed[0] += 1000;
    pair.drain();
    let bytes = pair.next(500);
    let mut ends = [0; 2];
    ok(unsafe { libc::pipe(ends.as_mut_ptr()) } as isize);
    let [from, to] = ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) });
    ok(unsafe { libc::write(to.as_raw_fd(), bytes.as_ptr().cast(), 500) });
    let (nowhere, from) = (ptr::null_mut(), from.as_raw_fd());
    pair.sent(unsafe { libc::splice(from, nowhere, out, nowhere, 500, 0) });
    pair.bypassed[0] += 500;
    pair.drain();
}

/// One operation that is larger than what may be captured of it.
fn large(pair: &mut Pair) -> u64 {
    let len = 300 * 1024;
    let bytes = pair.next(len);
    let out = pair.fds().0;
    let before = pair.sent;
    pair.sent(unsafe { libc::write(out, bytes.as_ptr().cast(), len) });
    assert_eq!(pair.sent - before, len as u64, "the send buffer is large enough");
    pair.drain();
    let captured = undine_ebpf::CHUNKS_MAX * undine_ebpf::PAYLOAD_BYTES_MAX;
    (len - captured) as u64
}

/// `count` operations of `bytes` bytes each way.
pub(super) fn many(count: u64, bytes: usize) -> Vec<u64> {
    let mut pair = Pair::new();
    let (out, into) = pair.fds();
    let mut room = vec![0_u8; bytes];
    for _ in 0..count {
        let next = pair.next(bytes);
        pair.sent(unsafe { libc::write(out, next.as_ptr().cast(), bytes) });
        let before = pair.received;
        pair.received(unsafe { libc::read(into, room.as_mut_ptr().cast(), bytes) });
        assert_eq!(pair.received - before, bytes as u64);
    }
    vec![pair.sent, pair.operations[0], pair.operations[1]]
}

/// `count` operations of `bytes` bytes each way on a socket that is connected to itself: it sent a SYN and
/// received one, as where both ends connect (RFC 9293, 3.5).
pub(super) fn own(count: u64, bytes: usize) -> Vec<u64> {
    let mut socket = TcpStream::from(unsafe {
        OwnedFd::from_raw_fd(libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0))
    });
    let fd = socket.as_raw_fd();
    let mut addr: libc::sockaddr_in = unsafe { mem::zeroed() };
    let mut len = libc::socklen_t::try_from(size_of_val(&addr)).unwrap();
    addr.sin_family = libc::sa_family_t::try_from(libc::AF_INET).unwrap();
    addr.sin_addr.s_addr = u32::from(Ipv4Addr::LOCALHOST).to_be();
    unsafe {
        let at = (&raw mut addr).cast();
        ok(libc::bind(fd, at, len) as isize);
        ok(libc::getsockname(fd, at, &raw mut len) as isize);
        ok(libc::connect(fd, at, len) as isize);
    }
    let mut room = vec![0; bytes];
    for at in 0..count {
        let first = at * bytes as u64;
        let next: Vec<_> = (first..).take(bytes).map(byte_at).collect();
        socket.write_all(&next).unwrap();
        socket.read_exact(&mut room).unwrap();
        assert_eq!(room, next);
    }
    vec![count * bytes as u64]
}

/// A thread that waits to receive.
pub(super) struct Waiting {
    out: TcpStream,
    thread: std::thread::JoinHandle<usize>,
}

impl Waiting {
    /// Starts it, and gives it once it is in its call.
    pub(super) fn begin() -> Self {
        let Pair { out, mut into, .. } = Pair::new();
        let (say, hear) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            // SAFETY: no preconditions.
            say.send(unsafe { libc::gettid() }).unwrap();
            let mut room = [0; 100];
            into.read(&mut room).unwrap()
        });
        let task = format!("/proc/self/task/{}/stat", hear.recv().unwrap());
        let sleeps = || std::fs::read_to_string(&task).unwrap().contains(") S ");
        // A thread that sleeps sleeps in its only call; it may still have to get there.
        while !sleeps() {
            std::thread::yield_now();
        }
        Self { out, thread }
    }

    /// Sends what it waits for, and says how many bytes came.
    pub(super) fn end(mut self) -> u64 {
        self.out.write_all(&[7; 10]).unwrap();
        self.thread.join().unwrap() as u64
    }
}

/// Sends and receives through `io_uring`, where the kernel has it.
fn through_uring(pair: &mut Pair) {
    const SEND: u8 = 26;
    const RECV: u8 = 27;
    let (out, into) = pair.fds();
    let mut bytes = pair.next(77);
    if submit(SEND, out, &mut bytes).is_none() {
        println!("io_uring is not available here");
        return;
    }
    pair.sent(77);
    pair.bypassed[0] += 77;
    submit(RECV, into, &mut bytes).unwrap();
    pair.received(77);
    pair.bypassed[1] += 77;
}

/// Sets up a ring, submits one operation and waits for it.
fn submit(operation: u8, fd: RawFd, bytes: &mut [u8]) -> Option<()> {
    // `struct io_uring_params` is 120 bytes, a submission 64.
    let mut params = [0_u32; 30];
    // SAFETY: the structures have the sizes that the kernel gives them; offsets come from it.
    unsafe {
        let ring = libc::syscall(libc::SYS_io_uring_setup, 4, params.as_mut_ptr());
        let ring = OwnedFd::from_raw_fd(RawFd::try_from(ring).ok().filter(|fd| *fd >= 0)?);
        let map = |len: usize, offset: i64| {
            let (access, flags) =
                (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
            libc::mmap(ptr::null_mut(), len, access, flags, ring.as_raw_fd(), offset).cast::<u8>()
        };
        // `sq_off` begins at byte 40: head, tail, ring_mask, ring_entries, flags, dropped, array.
        let (tail_at, array_at) = (params[11] as usize, params[16] as usize);
        let queue = map(array_at + 16, 0);
        let entries = map(4 * 64, 0x1000_0000);
        ptr::write_bytes(entries, 0, 64);
        entries.write(operation);
        entries.add(4).cast::<i32>().write_unaligned(fd);
        entries.add(16).cast::<u64>().write_unaligned(bytes.as_mut_ptr() as u64);
        entries.add(24).cast::<u32>().write_unaligned(u32::try_from(bytes.len()).ok()?);
        queue.add(array_at).cast::<u32>().write_unaligned(0);
        queue.add(tail_at).cast::<u32>().write_volatile(1);
        let null = ptr::null::<libc::c_void>();
        let done = libc::syscall(libc::SYS_io_uring_enter, ring.as_raw_fd(), 1, 1, 1, null, 0);
        assert_eq!(done, 1, "{}", io::Error::last_os_error());
    }
    Some(())
}
