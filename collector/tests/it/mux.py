"""One end of sessions that were written down: server or client, port, session."""

import socket, sys
role, port = sys.argv[1], int(sys.argv[2])
session = [line.split() for line in sys.argv[3].splitlines()]
def speak(peer):
    for who, hex in session:
        part = bytes.fromhex(hex)
        if who == role:
            peer.sendall(part)
        else:
            got = b""
            while len(got) < len(part):
                more = peer.recv(len(part) - len(got))
                assert more, "the other end is gone"
                got += more
            assert got == part
if role == "server":
    listener = socket.create_server(("127.0.0.1", port))
    while True:
        peer, _ = listener.accept()
        with peer:
            speak(peer)
else:
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", port)) as peer:
            speak(peer)
