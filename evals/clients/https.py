"""Asks for what a list says, one after the other on one connection inside TLS.

A line of the list is `ID METHOD PATH BODY_SIZE`. Of each request it prints the id and how many
nanoseconds it took.
"""

import http.client
import ssl
import sys
import time

address, requests = sys.argv[1], open(sys.argv[2]).read().splitlines()
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
client = http.client.HTTPSConnection(address, context=context)
client.connect()
took = []
for line in requests:
    number, method, path, size = line.split(" ")
    body = b"u" * int(size) if method == "POST" else None
    began = time.monotonic_ns()
    client.request(method, path, body, {"X-Request-Id": number})
    answer = client.getresponse()
    answer.read()
    took.append(f"{number} {time.monotonic_ns() - began}")
    assert answer.headers["X-Request-Id"] == number, (line, answer.headers)
print("\n".join(took))
