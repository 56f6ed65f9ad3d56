"""One end of sessions of Mux that were written down: `mux.py server|client PORT SESSION [SESSIONS]`.

SESSION has a line for each part that an end says at once: whose it is, and its bytes in hex. The client has
so many sessions one after the other, each on a connection of its own, and prints as JSON what was exchanged in
the order of the answers: its port, type and destination of the request, the sizes of both frames, whether it
failed, and how many nanoseconds the answer to a request of its own took.
"""

import json
import socket
import struct
import sys
import time

DISPATCH, DISCARDED, LEASE, FAILED = 2, 66, 67, -128


def frames(part):
    """Type, tag, body and size of each frame."""
    while part:
        size = 4 + struct.unpack(">I", part[:4])[0]
        yield struct.unpack(">b", part[4:5])[0], part[5:8], part[8:size], size
        part = part[size:]


def destination(kind, body):
    if kind != DISPATCH:
        return ""
    contexts, body = struct.unpack(">H", body[:2])[0], body[2:]
    for _ in range(2 * contexts):
        body = body[2 + struct.unpack(">H", body[:2])[0]:]
    return body[2:2 + struct.unpack(">H", body[:2])[0]].decode()


class Record:
    def __init__(self, port):
        self.port, self.asked = port, {}

    def note(self, who, part):
        now = time.monotonic_ns()
        for kind, tag, body, size in frames(part):
            if kind in (DISCARDED, LEASE):
                continue
            if kind > 0:
                self.asked[who, tag] = kind, destination(kind, body), size, now
                continue
            asker = "client" if who == "server" else "server"
            asked, dest, request, began = self.asked.pop((asker, tag))
            # Answers to calls begin with a status, of which 0 alone is a success.
            failed = kind == FAILED or (kind in (-1, -2) and body[0] != 0)
            print(json.dumps({"port": self.port, "kind": asked, "dest": dest, "request": request, "response": size,
                              "failed": failed, "took": now - began if asker == "client" else None}))


def speak(peer, role, session, heard=lambda who, part: None):
    # Otherwise a frame waits until the one before is acknowledged.
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for who, part in session:
        if who == role:
            heard(who, part)
            peer.sendall(part)
        else:
            got = b""
            while len(got) < len(part):
                more = peer.recv(len(part) - len(got))
                assert more, "the other end is gone"
                got += more
            assert got == part
            heard(who, part)


role, port = sys.argv[1], int(sys.argv[2])
session = [(who, bytes.fromhex(part)) for who, part in map(str.split, sys.argv[3].splitlines())]
if role == "server":
    listener = socket.create_server(("127.0.0.1", port))
    while True:
        peer, _ = listener.accept()
        with peer:
            speak(peer, role, session)
else:
    for _ in range(int(sys.argv[4])):
        with socket.create_connection(("127.0.0.1", port)) as peer:
            speak(peer, role, session, Record(peer.getsockname()[1]).note)
