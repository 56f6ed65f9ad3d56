//! Every way to send and receive a datagram, made by a child process, and what is seen of it.

use std::{
    mem,
    net::UdpSocket,
    os::fd::{AsRawFd, RawFd},
    ptr,
};

use undine_ebpf::{FLAG_BYPASSED, FLAG_TRUNCATED};

use super::{flavours::ok, *};

/// A watched port, which needs no rights beyond those of the test.
const PORT: u16 = 53;
/// A datagram that is larger than what is captured of one.
const LARGE: usize = 20_000;

/// The bytes of datagram `serial`: its number, then a pattern of its own.
fn bytes_of(serial: u32, len: usize) -> Vec<u8> {
    let mut bytes = serial.to_le_bytes().to_vec();
    bytes.extend((4..len).map(|at| u8::try_from((at * 7 + serial as usize) % 251).unwrap()));
    bytes
}

/// What was sent, by numbers that go up.
#[derive(Default)]
struct Post {
    sent: u32,
}

impl Post {
    fn next(&mut self, len: usize) -> Vec<u8> {
        self.sent += 1;
        bytes_of(self.sent - 1, len)
    }
}

/// Messages as `sendmmsg` and `recvmmsg` take them, with what they point to.
struct Messages {
    #[expect(dead_code, reason = "the vectors point into it")]
    buffers: Vec<Vec<u8>>,
    #[expect(dead_code, reason = "the headers point into it")]
    vectors: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

impl Messages {
    /// One message for each buffer, all to the port on the loopback where `named`.
    fn new(mut buffers: Vec<Vec<u8>>, named: Option<&libc::sockaddr_in>) -> Self {
        let mut vectors: Vec<_> = buffers
            .iter_mut()
            .map(|buffer| libc::iovec {
                iov_base: buffer.as_mut_ptr().cast(),
                iov_len: buffer.len(),
            })
            .collect();
        let headers = vectors
            .iter_mut()
            .map(|vector| {
                // SAFETY: all zeros is a message without anything.
                let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
                (header.msg_hdr.msg_iov, header.msg_hdr.msg_iovlen) = (vector, 1);
                if let Some(name) = named {
                    header.msg_hdr.msg_name = ptr::from_ref(name).cast_mut().cast();
                    header.msg_hdr.msg_namelen = 16;
                }
                header
            })
            .collect();
        Self { buffers, vectors, headers }
    }

    fn rooms(count: usize) -> Self {
        Self::new(vec![vec![0; 600]; count], None)
    }

    fn send(&mut self, fd: RawFd) -> u64 {
        let count = u32::try_from(self.headers.len()).unwrap();
        // SAFETY: buffers are as long as is said and outlive the call.
        ok(unsafe { libc::sendmmsg(fd, self.headers.as_mut_ptr(), count, 0) } as isize)
    }

    fn receive(&mut self, fd: RawFd, flags: i32, timeout: bool) -> u64 {
        let count = u32::try_from(self.headers.len()).unwrap();
        let mut second = libc::timespec { tv_sec: 1, tv_nsec: 0 };
        let timeout = if timeout { &raw mut second } else { ptr::null_mut() };
        // SAFETY: as above.
        ok(unsafe { libc::recvmmsg(fd, self.headers.as_mut_ptr(), count, flags, timeout) } as isize)
    }
}

fn loopback() -> libc::sockaddr_in {
    // SAFETY: all zeros is an address.
    let mut name: libc::sockaddr_in = unsafe { mem::zeroed() };
    name.sin_family = libc::AF_INET.try_into().unwrap();
    name.sin_port = PORT.to_be();
    name.sin_addr.s_addr = u32::from_ne_bytes([127, 0, 0, 1]);
    name
}

/// Sends and receives in every way. Gives how many datagrams went each way, and of how many of
/// those that were received the place is not known while the call runs.
pub(super) fn all() -> Vec<u64> {
    let mut post = Post::default();
    let server = UdpSocket::bind(("127.0.0.1", PORT)).unwrap();
    let asker = UdpSocket::bind("127.0.0.1:0").unwrap();
    let connected = UdpSocket::bind("127.0.0.1:0").unwrap();
    connected.connect(("127.0.0.1", PORT)).unwrap();
    there_and_back(&mut post, &server, &asker, &connected);
    by_message(&mut post, &server, &asker);
    several(&mut post, &server, &asker, &connected);
    let unknown = with_a_timeout(&mut post, &server, &connected);
    mapped(&mut post, &server);
    // What has nothing to do with the port is not seen.
    let others = [UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap()];
    others[0].send_to(b"to another port", others[1].local_addr().unwrap()).unwrap();
    others[1].recv(&mut [0; 100]).unwrap();
    vec![u64::from(post.sent), unknown]
}

fn there_and_back(post: &mut Post, server: &UdpSocket, asker: &UdpSocket, connected: &UdpSocket) {
    let mut room = vec![0; 2 * LARGE];
    for len in [4, 30, 300, LARGE] {
        asker.send_to(&post.next(len), ("127.0.0.1", PORT)).unwrap();
        let (_, from) = server.recv_from(&mut room).unwrap();
        server.send_to(&post.next(len), from).unwrap();
        // Looking first does not count.
        asker.peek(&mut room).unwrap();
        asker.recv_from(&mut room).unwrap();
        connected.send(&post.next(len)).unwrap();
        let (_, from) = server.recv_from(&mut room).unwrap();
        server.send_to(&post.next(len), from).unwrap();
        connected.recv(&mut room).unwrap();
        let next = post.next(len);
        // SAFETY: buffers are as long as is said.
        unsafe {
            ok(libc::write(connected.as_raw_fd(), next.as_ptr().cast(), len));
            ok(libc::read(server.as_raw_fd(), room.as_mut_ptr().cast(), room.len()));
        }
    }
    // One that does not fit into the room is cut by the kernel.
    asker.send_to(&post.next(100), ("127.0.0.1", PORT)).unwrap();
    // SAFETY: as above.
    let len =
        unsafe { libc::recv(server.as_raw_fd(), room.as_mut_ptr().cast(), 10, libc::MSG_TRUNC) };
    assert_eq!(ok(len), 100);
}

/// In parts, with `sendmsg` and `recvmsg`.
fn by_message(post: &mut Post, server: &UdpSocket, asker: &UdpSocket) {
    let (mut name, mut from) = (loopback(), loopback());
    for len in [40, 3000] {
        let bytes = post.next(len);
        let part = |from: usize, to: usize| libc::iovec {
            iov_base: bytes[from..to].as_ptr().cast_mut().cast(),
            iov_len: to - from,
        };
        let mut vectors = [part(0, 0), part(0, 7), part(7, 8), part(8, len)];
        let mut room = [[0_u8; 2000]; 2];
        let mut rooms = room
            .each_mut()
            .map(|part| libc::iovec { iov_base: part.as_mut_ptr().cast(), iov_len: 2000 });
        // SAFETY: everything that is pointed to outlives the calls.
        unsafe {
            let mut header: libc::msghdr = mem::zeroed();
            (header.msg_name, header.msg_namelen) = ((&raw mut name).cast(), 16);
            (header.msg_iov, header.msg_iovlen) = (vectors.as_mut_ptr(), 4);
            ok(libc::sendmsg(asker.as_raw_fd(), &raw const header, 0));
            (header.msg_name, header.msg_namelen) = ((&raw mut from).cast(), 16);
            (header.msg_iov, header.msg_iovlen) = (rooms.as_mut_ptr(), 2);
            ok(libc::recvmsg(server.as_raw_fd(), &raw mut header, 0));
        }
    }
}

/// Several of the same length in one call, which must be told apart, also where one is empty, one
/// cannot be sent, or fewer come than there is room for.
fn several(post: &mut Post, server: &UdpSocket, asker: &UdpSocket, connected: &UdpSocket) {
    let server = server.as_raw_fd();
    let name = loopback();
    let (mut two, mut eight) = (Messages::rooms(2), Messages::rooms(8));
    for _ in 0..3 {
        let both = vec![post.next(50), post.next(50)];
        assert_eq!(Messages::new(both, None).send(connected.as_raw_fd()), 2);
        assert_eq!(two.receive(server, 0, false), 2);
        let named = vec![post.next(60), Vec::new(), post.next(60)];
        assert_eq!(Messages::new(named, Some(&name)).send(asker.as_raw_fd()), 3);
        assert_eq!(eight.receive(server, libc::MSG_DONTWAIT, false), 3);
        let cut = vec![post.next(70), post.next(70), vec![0; 70_000]];
        let sent = Messages::new(cut, None).send(connected.as_raw_fd());
        assert_eq!(sent, 2, "the third is too long");
        assert_eq!(eight.receive(server, libc::MSG_WAITFORONE, false), 2);
    }
}

/// With a timeout a call may be over before its messages are.
fn with_a_timeout(post: &mut Post, server: &UdpSocket, connected: &UdpSocket) -> u64 {
    let both = vec![post.next(50), post.next(50)];
    assert_eq!(Messages::new(both, None).send(connected.as_raw_fd()), 2);
    Messages::rooms(2).receive(server.as_raw_fd(), 0, true)
}

/// A socket of IPv6 that sends to an address of IPv4.
fn mapped(post: &mut Post, server: &UdpSocket) {
    let both = match UdpSocket::bind("[::]:0") {
        Ok(both) => both,
        Err(error) => {
            println!("no IPv6 here: {error}");
            return;
        }
    };
    let mut room = [0; 100];
    both.send_to(&post.next(80), ("::ffff:127.0.0.1", PORT)).unwrap();
    let (_, from) = server.recv_from(&mut room).unwrap();
    server.send_to(&post.next(80), from).unwrap();
    both.recv_from(&mut room).unwrap();
}

/// Checks what a datagram is and gives its number, or nothing where its bytes are not known.
fn serial_of(message: &Message) -> (usize, Option<u32>) {
    let header = &message.header;
    let direction = usize::from(header.direction);
    let captured = header.captured as usize;
    if captured == 0 {
        assert_ne!(header.flags & FLAG_BYPASSED, 0, "{header:?}");
        return (direction, None);
    }
    let payload = &message.body[size_of::<ConnInfo>()..][..captured];
    let serial = u32::from_le_bytes(payload[..4].try_into().unwrap());
    assert!(bytes_of(serial, captured) == payload, "{header:?} is not datagram {serial}");
    let cut = header.flags & FLAG_TRUNCATED != 0;
    assert_eq!(cut, header.len > header.captured);
    assert!(!cut || captured == PAYLOAD_BYTES_MAX || captured == 10);
    (direction, Some(serial))
}

fn check(hooks: Hooks, object: Object) {
    let Some(_alone) = turn() else { return };
    if !can_use(hooks, &object) {
        return;
    }
    let cgroup = own_cgroup("datagrams");
    let mut program = Program::start();
    take(&cgroup, &program);
    let targets = vec![Target::Cgroup(cgroup.path().to_path_buf())];
    let mut kernel = Config { object, ..only(targets, Some(hooks), 8 << 20) }.build().unwrap();
    program.tell("datagrams");
    let said = program.hear("done");
    let mut messages = Vec::new();
    let counters = drain(&mut kernel, &mut messages);
    program.end();
    println!("{counters:?}");
    assert_eq!((counters.dropped, counters.faults), (0, 0));
    assert!(messages.iter().all(|message| message.kind() == Kind::Datagram));
    let unknown = if hooks == Hooks::SysExit { 0 } else { said[1] };
    let mut serials = [Vec::new(), Vec::new()];
    let mut bypassed = 0;
    for message in &messages {
        match serial_of(message) {
            (direction, Some(serial)) => serials[direction].push(serial),
            (_, None) => bypassed += 1,
        }
    }
    assert_eq!(bypassed, unknown);
    let sent: Vec<u32> = (0..u32::try_from(said[0]).unwrap()).collect();
    assert_eq!(serials[1], sent);
    serials[0].dedup();
    assert_eq!(serials[0].len() as u64 + unknown, said[0]);
    assert!(serials[0].is_sorted());
    assert_eq!(counters.operations, messages.len() as u64);
    let bytes: u64 = messages.iter().map(|message| u64::from(message.header.len)).sum();
    assert_eq!(counters.operation_bytes, bytes);
    check_ends(&messages, hooks);
}

/// Checks what is said of sockets and their peers.
fn check_ends(messages: &[Message], hooks: Hooks) {
    let mut sockets = std::collections::BTreeSet::new();
    for message in messages {
        let info: ConnInfo = message.read();
        sockets.insert(info.inode);
        assert_eq!(info.protocol, 17);
        assert!(info.netns > 0 && info.inode > 0 && info.cgroup > 0);
        assert_eq!(info.role, if info.local_port == PORT { 2 } else { 1 }, "{info:?}");
        let sent = message.header.direction == EGRESS;
        if sent || hooks == Hooks::SysExit && message.header.syscall != 0 && info.remote_port != 0 {
            let address = if info.family == 10 {
                [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 127, 0, 0, 1]
            } else {
                [127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
            };
            assert_eq!(info.remote_addr, address, "{info:?}");
            assert!(info.role == 2 || info.remote_port == PORT, "{info:?}");
        }
    }
    assert_eq!(sockets.len(), 4);
}

#[test]
fn every_datagram_on_a_watched_port_is_seen_with_its_own_bytes() {
    check(Hooks::SocketLength, Object::Usual);
}

#[test]
fn functions_of_sockets_tell_the_same_datagrams() {
    check(Hooks::SocketFunctions, Object::Usual);
}

#[test]
fn functions_of_sockets_tell_the_same_datagrams_where_bpf_loop_is_missing() {
    check(Hooks::SocketFunctions, Object::Before5_17);
}

#[test]
fn sys_exit_sees_the_same_datagrams() {
    check(Hooks::SysExit, Object::Usual);
}

#[test]
fn sys_exit_sees_the_same_datagrams_where_bpf_loop_is_missing() {
    check(Hooks::SysExit, Object::Before5_17);
}

#[test]
fn which_ports_are_watched_can_be_changed_and_has_a_limit() {
    let Some(_alone) = turn() else { return };
    let cgroup = own_cgroup("ports");
    let mut program = Program::start();
    take(&cgroup, &program);
    let targets = vec![Target::Cgroup(cgroup.path().to_path_buf())];
    let mut kernel = only(targets, None, 1 << 20).build().unwrap();
    let control = kernel.control();
    assert!(control.set_datagram_ports(&[1; 9]).is_err());
    control.set_datagram_ports(&[5300, 5301]).unwrap();
    program.tell("datagrams");
    program.hear("done");
    let mut messages = Vec::new();
    let counters = drain(&mut kernel, &mut messages);
    assert_eq!((messages.len(), counters.operations), (0, 0));
    control.set_datagram_ports(&[53]).unwrap();
    program.tell("datagrams");
    program.hear("done");
    assert!(drain(&mut kernel, &mut messages).operations > 0);
}

#[test]
fn datagrams_for_which_the_ring_has_no_room_are_counted() {
    let Some(_alone) = turn() else { return };
    let cgroup = own_cgroup("datagram-ring");
    let mut program = Program::start();
    take(&cgroup, &program);
    let targets = vec![Target::Cgroup(cgroup.path().to_path_buf())];
    let mut kernel = only(targets, None, 64 * 1024).build().unwrap();
    program.tell("datagrams");
    program.hear("done");
    let mut messages = Vec::new();
    let counters = drain(&mut kernel, &mut messages);
    println!("{counters:?}");
    assert!(counters.dropped > 0);
    assert_eq!(counters.dropped, counters.dropped_operations);
    assert_eq!(counters.dropped, counters.dropped_datagrams);
    assert_eq!(counters.dropped_bytes, counters.dropped_datagram_bytes);
    assert_eq!(counters.operations, messages.len() as u64 + counters.dropped_operations);
    let bytes: u64 = messages.iter().map(|message| u64::from(message.header.len)).sum();
    assert_eq!(counters.operation_bytes, bytes + counters.dropped_bytes);
}
