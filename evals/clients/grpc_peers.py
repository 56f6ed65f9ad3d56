"""A gRPC server that records what it answered, and clients that ask it.

    grpc_peers.py serve PORT RECORD   writes `serving` and then a line of JSON for each call
    grpc_peers.py call PORT CALLS     prints the number of each call and how many nanoseconds it took

A request begins with its number; the sizes of messages follow from it.
"""

import json
import sys
import threading
import time
from concurrent import futures

import grpc

SERVICE = "undine.Evals"
CHANNELS = 4
# What a message has before it on the wire.
PREFIX = 5
UPLOAD_PARTS = 3
STREAM_PARTS = 4


def size_of(number):
    return [0, 1, 100, 5000, 70000][number % 5]


def message(number):
    return f"{number} ".encode() + b"q" * size_of(number)


def number_of(request):
    return int(request.split(b" ", 1)[0])


class Calls:
    """Each method gives its answers, and tells of the call once it is over."""

    def __init__(self, record):
        self.record = record
        self.lock = threading.Lock()

    def tell(self, context, method, requests, answers, began, status=0, text=""):
        line = {
            "port": int(context.peer().rsplit(":", 1)[1]),
            "id": number_of(requests[0]),
            "path": f"/{SERVICE}/{method}",
            "sent": sum(PREFIX + len(request) for request in requests),
            "received": sum(PREFIX + len(answer) for answer in answers),
            "status": status,
            "message": text,
            "took": time.monotonic_ns() - began,
        }
        with self.lock:
            print(json.dumps(line), file=self.record, flush=True)

    def echo(self, request, context):
        began = time.monotonic_ns()
        self.tell(context, "Echo", [request], [request], began)
        return request

    def fail(self, request, context):
        began = time.monotonic_ns()
        text = f"there is no {number_of(request)}"
        self.tell(context, "Fail", [request], [], began, grpc.StatusCode.NOT_FOUND.value[0], text)
        context.abort(grpc.StatusCode.NOT_FOUND, text)

    def stream(self, request, context):
        began = time.monotonic_ns()
        answers = [b"%d" % part + request for part in range(STREAM_PARTS)]
        self.tell(context, "Stream", [request], answers, began)
        yield from answers

    def upload(self, requests, context):
        requests = list(requests)
        began = time.monotonic_ns()
        answer = b"%d" % len(requests)
        self.tell(context, "Upload", requests, [answer], began)
        return answer


def serve(port, record):
    record = open(record, "w")
    calls = Calls(record)
    handlers = {
        "Echo": grpc.unary_unary_rpc_method_handler(calls.echo),
        "Fail": grpc.unary_unary_rpc_method_handler(calls.fail),
        "Stream": grpc.unary_stream_rpc_method_handler(calls.stream),
        "Upload": grpc.stream_unary_rpc_method_handler(calls.upload),
    }
    server = grpc.server(futures.ThreadPoolExecutor(CHANNELS))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    print("serving", file=record, flush=True)
    server.wait_for_termination()


def call(port, first, calls, took):
    # Otherwise all channels to one address share a connection.
    alone = [("grpc.use_local_subchannel_pool", 1)]
    channel = grpc.insecure_channel(f"127.0.0.1:{port}", alone)
    echo, fail = (channel.unary_unary(f"/{SERVICE}/{name}") for name in ("Echo", "Fail"))
    stream = channel.unary_stream(f"/{SERVICE}/Stream")
    upload = channel.stream_unary(f"/{SERVICE}/Upload")
    for number in range(first, calls, CHANNELS):
        request = message(number)
        began = time.monotonic_ns()
        if number % 7 == 5:
            try:
                fail(request)
                raise AssertionError(number)
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.NOT_FOUND, error
        elif number % 7 == 6:
            assert len(list(stream(request))) == STREAM_PARTS
        elif number % 7 == 4:
            assert upload(iter([request] * UPLOAD_PARTS)) == b"%d" % UPLOAD_PARTS
        else:
            assert echo(request) == request
        took.append((number, time.monotonic_ns() - began))
    channel.close()


def call_all(port, calls):
    took = []
    threads = [
        threading.Thread(target=call, args=(port, first, calls, took)) for first in range(CHANNELS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(took) == calls, f"{len(took)} calls of {calls}"
    for number, nanoseconds in took:
        print(number, nanoseconds)


if sys.argv[1] == "serve":
    serve(sys.argv[2], sys.argv[3])
else:
    call_all(sys.argv[2], int(sys.argv[3]))
