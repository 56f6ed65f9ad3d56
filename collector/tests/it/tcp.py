"""Plays both ends of TCP connections, step by step, as its standard input says."""

import fcntl
import os
import socket
import struct
import sys
import termios
import threading
import time

PORT = 4700
kept = {}


def pair(port=PORT, keep_listener=True):
    listener = kept.get(port)
    if not listener:
        listener = socket.create_server(("127.0.0.1", port))
    client = socket.create_connection(("127.0.0.1", port))
    server, _ = listener.accept()
    for end in (client, server):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if keep_listener:
        kept[port] = listener
    else:
        listener.close()
    return client, server


def request(path):
    return f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode()


def answer(path):
    return f"HTTP/1.1 200 OK\r\nX-Path: {path}\r\nContent-Length: 0\r\n\r\n".encode()


def receive(end, size):
    got = b""
    while len(got) < size:
        more = end.recv(size - len(got))
        assert more, "the other end closed"
        got += more
    return got


def exchange(client, server, path):
    client.sendall(request(path))
    receive(server, len(request(path)))
    server.sendall(answer(path))
    receive(client, len(answer(path)))


def pipelined_before(depth):
    """A client that has sent `depth` requests, none of which is answered."""
    client, server = pair()
    paths = [f"/pipelined/{number}" for number in range(depth)]
    for path in paths:
        client.sendall(request(path))
        receive(server, len(request(path)))
    kept["pipelined"] = (client, server, paths)


def pipelined_after(rounds):
    """One more request comes before all are answered; then `rounds` times as many at once."""
    client, server, paths = kept["pipelined"]
    depth, number = len(paths), len(paths)
    for size in [1] + [depth] * rounds:
        for _ in range(size):
            paths.append(f"/pipelined/{number}")
            client.sendall(request(paths[-1]))
            receive(server, len(request(paths[-1])))
            number += 1
        while paths:
            path = paths.pop(0)
            server.sendall(answer(path))
            receive(client, len(answer(path)))


def idle_before():
    """Connections over which nothing has gone, one of them without a listener any more."""
    kept["idle"] = [pair(PORT + 1), pair(PORT + 2, keep_listener=False)]


def idle_after():
    for number, (client, server) in enumerate(kept["idle"]):
        for turn in range(3):
            exchange(client, server, f"/idle/{number}/{turn}")


def used_before():
    """A connection over which a request and its answer have gone; the listener is known."""
    kept["used"] = pair(PORT + 3)
    exchange(*kept["used"], "/used/before")


def used_after():
    for turn in range(3):
        exchange(*kept["used"], f"/used/{turn}")


def move(source, target, size):
    """Moves `size` bytes from socket to socket through a pipe."""
    out, into = os.pipe()
    while size:
        moved = os.splice(source.fileno(), into, min(size, 65536))
        assert moved, "the other end closed"
        size -= moved
        while moved:
            moved -= os.splice(out, target.fileno(), moved)
    os.close(out)
    os.close(into)


def proxied(up, down, reads):
    """A client, a proxy that splices, and a server. Of what it passes up the proxy reads the first
    `reads` bytes itself."""
    client, front = pair(PORT + 4)
    back, server = pair(PORT + 5)

    def proxy():
        if reads:
            back.sendall(receive(front, reads))
        move(front, back, up - reads)
        move(back, front, down)

    thread = threading.Thread(target=proxy)
    thread.start()
    client.sendall(b"u" * up)
    receive(server, up)
    server.sendall(b"d" * down)
    receive(client, down)
    thread.join()
    for end in (client, server, front, back):
        end.close()


def refused(count):
    for _ in range(count):
        end = socket.socket()
        try:
            end.connect(("127.0.0.1", 9))
            raise AssertionError("nobody listens there")
        except ConnectionRefusedError:
            end.close()


def aborted(count):
    """Connections that their client resets after a few bytes."""
    for _ in range(count):
        client, server = pair(PORT + 6)
        client.sendall(b"hello")
        receive(server, 5)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        try:
            assert not server.recv(1), "the client reset it"
        except ConnectionResetError:
            pass
        server.close()


def closed_meanwhile(size):
    """A client that is done with sending waits for more than comes before the server closes."""
    client, server = pair(PORT + 8)
    client.sendall(b"hello")
    receive(server, 5)
    client.shutdown(socket.SHUT_WR)
    assert not server.recv(1), "the client has shut it down"
    got = []
    reader = threading.Thread(
        target=lambda: got.append(client.recv(2 * size, socket.MSG_WAITALL))
    )
    reader.start()
    server.sendall(b"s" * size)
    deadline = time.monotonic() + 30
    while waiting(client):
        assert time.monotonic() < deadline, "nobody takes what has come"
        # Between two looks, so that the reader has the CPU.
        time.sleep(0.001)
    server.close()
    reader.join()
    assert len(got[0]) == size
    client.close()


def waiting(end):
    """Bytes that have come and that nobody has taken yet."""
    count = fcntl.ioctl(end.fileno(), termios.FIONREAD, struct.pack("i", 0))
    return struct.unpack("i", count)[0]


def stream(size):
    """Sends `size` bytes through a connection that may lose some on the way."""
    client, server = pair(PORT + 7)
    thread = threading.Thread(target=lambda: client.sendall(b"s" * size))
    thread.start()
    receive(server, size)
    thread.join()
    client.close()
    assert not server.recv(1)
    server.close()


print("ready", flush=True)
for line in sys.stdin:
    name, *arguments = line.split()
    globals()[name](*map(int, arguments))
    print("done", flush=True)
