"""Talks to a NATS server by sockets alone, and prints as JSON what each connection exchanged, in order.

Each line is the port of the connection, the direction, the command with its fields, and how long its
answer took in nanoseconds where it has one.
"""

import json
import socket
import sys
import threading
import time

SERVER, REQUESTS = int(sys.argv[1]), int(sys.argv[2])
CLIENTS = 4
told = []


class Client:
    def __init__(self, options):
        self.socket = socket.create_connection(("127.0.0.1", SERVER))
        self.port = self.socket.getsockname()[1]
        self.file = self.socket.makefile("rb")
        self.record = []
        self.hear("INFO")
        self.send("CONNECT", "", f"CONNECT {options}".encode() + b"\r\n")

    def tell(self, direction, what, began=None):
        took = None if began is None else time.monotonic_ns() - began
        self.record.append({"port": self.port, "direction": direction, "what": what, "took": took})
        return self.record[-1]

    def send(self, command, what, data):
        entry = self.tell("client", f"{command} {what}".strip())
        self.began = time.monotonic_ns()
        self.socket.sendall(data)
        return entry

    def answered(self, entry, *also):
        """Waits for the answer to what was sent, and for what else the server sends meanwhile."""
        self.hear("answer", *also)
        entry["took"] = self.took

    def next(self):
        line = self.file.readline()
        words = line.decode().split()
        if words[0] == "PING":
            self.tell("server", "PING")
            self.socket.sendall(b"PONG\r\n")
            return self.next()
        if words[0] in ("+OK", "PONG", "-ERR"):
            self.took = time.monotonic_ns() - self.began
            return "answer"
        if words[0] == "MSG":
            payload = self.file.read(int(words[-1]) + 2)[:-2]
            self.tell("server", f"MSG {words[1]} {payload.decode()}")
        else:
            self.tell("server", words[0])
        return words[0]

    def hear(self, *expected):
        heard = sorted(self.next() for _ in expected)
        assert heard == sorted(expected), heard


def publish(client, subject, text, *also):
    data = f"PUB {subject} {len(text)}\r\n{text}\r\n".encode()
    return client.send("PUB", f"{subject} {text}", data)


def quiet(number):
    client = Client('{"verbose":false,"name":"quiet"}')
    client.send("SUB", f"quiet.{number}", f"SUB quiet.{number} 1\r\n".encode())
    for at in range(REQUESTS // 2 // CLIENTS // 2):
        publish(client, f"quiet.{number}", f"marker-{number}-{at}")
        client.hear("MSG")
    client.answered(client.send("PING", "", b"PING\r\n"))
    told.extend(client.record)


def loud(number):
    client = Client('{"verbose":true,"name":"loud","pass":"hunter2"}')
    client.record[-1]["took"] = None
    client.hear("answer")
    client.answered(client.send("SUB", f"loud.{number}", f"SUB loud.{number} 2\r\n".encode()))
    for at in range(REQUESTS // 2 // CLIENTS // 2):
        entry = publish(client, f"loud.{number}", f"marker-{number}-{at}")
        client.answered(entry, "MSG")
    client.answered(client.send("PING", "", b"PING\r\n"))
    told.extend(client.record)


for talk in (quiet, loud):
    threads = [threading.Thread(target=talk, args=[number]) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
for entry in told:
    print(json.dumps(entry))
