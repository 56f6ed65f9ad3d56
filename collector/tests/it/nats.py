"""Talks to a NATS server by sockets alone, and prints how often it sent and was sent each command."""

import collections
import socket
import sys

PORT = int(sys.argv[1])
counts = collections.Counter()


class Client:
    def __init__(self, options):
        self.socket = socket.create_connection(("127.0.0.1", PORT))
        self.file = self.socket.makefile("rb")
        self.hear("INFO")
        self.send(f"CONNECT {options}")

    def send(self, line, payload=None):
        counts[line.split()[0]] += 1
        data = line.encode() + b"\r\n"
        if payload is not None:
            data += payload + b"\r\n"
        self.socket.sendall(data)

    def next(self):
        """The next command of the server but `PING`, which is answered."""
        words = self.file.readline().decode().split()
        if words[0] == "PING":
            counts["PING"] += 1
            self.send("PONG")
            return self.next()
        if words[0] in ("MSG", "HMSG"):
            self.file.read(int(words[-1]) + 2)
        if words[0] in ("INFO", "MSG", "HMSG"):
            counts[words[0]] += 1
        return words[0]

    def hear(self, *expected):
        heard = sorted(self.next() for _ in expected)
        assert heard == sorted(expected), heard


quiet = Client('{"verbose":false,"headers":true,"name":"quiet"}')
quiet.send("SUB load.* 1")
for number in range(100):
    for size in range(20):
        quiet.send(f"PUB load.{number} {size * 7}", b"x" * size * 7)
    for _ in range(20):
        quiet.hear("MSG")
quiet.send("PUB load.long _INBOX.1 300000", b"y" * 300000)
quiet.hear("MSG")
headers = b"NATS/1.0\r\nTrace-Id: 7\r\n\r\n"
quiet.send(f"HPUB load.headers {len(headers)} {len(headers) + 2}", headers + b"hi")
quiet.hear("HMSG")
quiet.send("PING")
quiet.hear("PONG")

loud = Client('{"verbose":true,"pedantic":true,"headers":true,"pass":"hunter2"}')
loud.hear("+OK")
loud.send("SUB loud q 9")
loud.hear("+OK")
for number in range(200):
    loud.send("PUB loud 3", b"abc")
    loud.hear("MSG", "+OK")
loud.send("PING")
loud.hear("PONG")
loud.send("PUB a..b 1", b"x")
loud.hear("-ERR", "+OK")
loud.send("UNSUB 9")
loud.hear("+OK")

default = Client("{}")
default.hear("+OK")
default.send("PING")
default.hear("PONG")

for command, count in sorted(counts.items()):
    print(command, count)
