"""Talks to an AMQP server by its usual client, and prints as JSON what each channel exchanged, in order.

    amqp.py PORT MESSAGES

Several clients talk one after another, each on a connection of its own, so that none waits for another.
Each line is the port of the connection, the channel, who began (`client` where it is a pair), the methods' ids
and arguments as rows show them, and how many nanoseconds an answer took.
"""

import json
import sys
import time

import pika
from pika import exceptions, spec

PORT, MESSAGES = int(sys.argv[1]), int(sys.argv[2])
CLIENTS = 4
# Each message is published, got or delivered, and acknowledged, once with and once without confirms.
EACH = MESSAGES // CLIENTS // 6
TAG = "reader"
SIZES = [0, 1, 100, 5000, 150000]
# Where nothing is waited for, the server may read many messages in one call, of which the end is not looked at.
SMALL = [0, 1, 100]
BASIC = spec.Basic


def ids(method):
    return [0, 0] if method is None else list(divmod(method.INDEX, 1 << 16))


class Client:
    def __init__(self, number):
        self.number, self.record = number, []
        credentials = pika.PlainCredentials("guest", "guest")
        parameters = pika.ConnectionParameters("127.0.0.1", PORT, credentials=credentials, heartbeat=600)
        self.connection = pika.BlockingConnection(parameters)
        # There is no public way to the socket, by whose port the server knows the connection.
        self.port = self.connection._impl._transport._sock.getsockname()[1]
        tuned = {"channel_max": 2047, "frame_max": 131072}
        start, tune = spec.Connection.Start, spec.Connection.Tune
        self.pair(0, start, spec.Connection.StartOk, None, {"mechanism": "PLAIN", "locale": "en_US"})
        self.pair(0, tune, spec.Connection.TuneOk, tuned | {"heartbeat": 60}, tuned | {"heartbeat": 600})
        self.pair(0, spec.Connection.Open, spec.Connection.OpenOk, {"virtual_host": "/"})

    def tell(self, channel, begins, asked, answered, request, response, took=None):
        self.record.append({"port": self.port, "channel": channel, "begins": begins,
                            "ids": ids(asked) + ids(answered), "request": request, "response": response,
                            "took": took})

    def pair(self, channel, asked, answered, request=None, response=None, took=None):
        self.tell(channel, "client", asked, answered, request, response, took)

    def sent(self, channel, method, arguments):
        self.tell(channel, "client", method, None, arguments, None)

    def heard(self, channel, method, arguments):
        self.tell(channel, "server", None, method, None, arguments)

    def ask(self, channel, asked, answered, request, response, act):
        """Does something that asks and is answered; `response` may be made of what it gives."""
        began = time.monotonic_ns()
        given = act()
        took = time.monotonic_ns() - began
        self.pair(channel, asked, answered, request, response(given) if callable(response) else response, took)
        return given

    def open_channel(self):
        began = time.monotonic_ns()
        channel = self.connection.channel()
        self.pair(channel.channel_number, spec.Channel.Open, spec.Channel.OpenOk, None, None,
                  time.monotonic_ns() - began)
        return channel

    def declare(self, channel, queue, **flags):
        def response(given):
            return {"queue": queue, "message_count": given.method.message_count,
                    "consumer_count": given.method.consumer_count}

        self.ask(channel.channel_number, spec.Queue.Declare, spec.Queue.DeclareOk, {"queue": queue} | flags,
                 response, lambda: channel.queue_declare(queue, **flags))

    def publish(self, channel, exchange, key, size):
        body = b"x" * size
        channel.basic_publish(exchange, key, body)
        self.sent(channel.channel_number, BASIC.Publish,
                  {"exchange": exchange, "routing_key": key, "body_size": len(body)})

    def got(self, given):
        method, _, body = given
        return self.content(method, body) | {"message_count": method.message_count}

    def content(self, method, body):
        redelivered = {"redelivered": True} if method.redelivered else {}
        return redelivered | {"delivery_tag": method.delivery_tag, "exchange": method.exchange,
                              "routing_key": method.routing_key, "body_size": len(body)}


def by_turns(client, channel, queue):
    """Without confirms, and taken one by one."""
    one = channel.channel_number
    exchange, levels = f"logs{client.number}", f"level{client.number}"
    client.ask(one, spec.Exchange.Declare, spec.Exchange.DeclareOk, {"exchange": exchange, "type": "topic"}, None,
               lambda: channel.exchange_declare(exchange, "topic"))
    client.ask(one, spec.Queue.Bind, spec.Queue.BindOk,
               {"queue": queue, "exchange": exchange, "routing_key": f"{levels}.*"}, None,
               lambda: channel.queue_bind(queue, exchange, f"{levels}.*"))
    for at in range(EACH):
        client.publish(channel, exchange, f"{levels}.{at}", SMALL[at % len(SMALL)])
    client.declare(channel, queue, passive=True)
    for at in range(EACH):
        method, _, _ = client.ask(one, BASIC.Get, BASIC.GetOk, {"queue": queue}, client.got,
                                  lambda: channel.basic_get(queue))
        channel.basic_ack(method.delivery_tag)
        client.sent(one, BASIC.Ack, {"delivery_tag": method.delivery_tag})
    client.ask(one, BASIC.Get, BASIC.GetEmpty, {"queue": queue}, None, lambda: channel.basic_get(queue))


def confirmed(client, queue):
    """Each waits until the server has it."""
    channel = client.open_channel()
    two = channel.channel_number
    client.ask(two, spec.Confirm.Select, spec.Confirm.SelectOk, None, None, channel.confirm_delivery)
    for at in range(EACH):
        client.publish(channel, "", queue, SIZES[at % len(SIZES)])
        client.heard(two, BASIC.Ack, {"delivery_tag": at + 1})
    try:
        channel.basic_publish("", "nowhere", b"back", mandatory=True)
        raise AssertionError("it was routed")
    except exceptions.UnroutableError:
        sent = {"exchange": "", "routing_key": "nowhere", "body_size": 4}
        client.sent(two, BASIC.Publish, {"mandatory": True} | sent)
        client.heard(two, BASIC.Return, {"reply_code": 312, "reply_text": "NO_ROUTE"} | sent)
        client.heard(two, BASIC.Ack, {"delivery_tag": EACH + 1})


def consumed(client, channel, queue):
    """Delivered as the server likes, and acknowledged or not."""
    one = channel.channel_number
    client.ask(one, BASIC.Qos, BASIC.QosOk, {"prefetch_size": 0, "prefetch_count": 10}, None,
               lambda: channel.basic_qos(prefetch_count=10))
    taken = []

    def take(channel, method, _, body):
        client.heard(one, BASIC.Deliver, {"consumer_tag": TAG} | client.content(method, body))
        tag = method.delivery_tag
        if tag % 7 == 0:
            channel.basic_nack(tag, requeue=False)
            client.sent(one, BASIC.Nack, {"delivery_tag": tag})
        else:
            channel.basic_ack(tag)
            client.sent(one, BASIC.Ack, {"delivery_tag": tag})
        taken.append(tag)

    client.ask(one, BASIC.Consume, BASIC.ConsumeOk, {"queue": queue, "consumer_tag": TAG}, {"consumer_tag": TAG},
               lambda: channel.basic_consume(queue, take, consumer_tag=TAG))
    while len(taken) < EACH:
        client.connection.process_data_events(time_limit=1)
    client.ask(one, BASIC.Cancel, BASIC.CancelOk, {"consumer_tag": TAG}, {"consumer_tag": TAG},
               lambda: channel.basic_cancel(TAG))


def refused(client):
    """An error closes the channel, and is the answer."""
    channel, error = client.open_channel(), {}

    def ask():
        try:
            channel.queue_declare("missing", passive=True)
            raise AssertionError("there is one")
        except exceptions.ChannelClosedByBroker as closed:
            error.update(reply_code=closed.reply_code, reply_text=closed.reply_text, class_id=50, method_id=10)

    client.ask(channel.channel_number, spec.Queue.Declare, spec.Channel.Close,
               {"queue": "missing", "passive": True}, lambda _: error, ask)
    client.pair(channel.channel_number, spec.Channel.Close, spec.Channel.CloseOk, error)


def talk(number):
    client = Client(number)
    queue = f"work{number}"
    channel = client.open_channel()
    one = channel.channel_number
    client.declare(channel, queue)
    by_turns(client, channel, queue)
    confirmed(client, queue)
    consumed(client, channel, queue)
    refused(client)
    client.ask(one, spec.Queue.Delete, spec.Queue.DeleteOk, {"queue": queue},
               lambda given: {"message_count": given.method.message_count}, lambda: channel.queue_delete(queue))
    farewell = {"reply_code": 200, "reply_text": "Normal shutdown", "class_id": 0, "method_id": 0}
    client.connection.close()
    for open_channel in (1, 2):
        client.pair(open_channel, spec.Channel.Close, spec.Channel.CloseOk, farewell)
    client.pair(0, spec.Connection.Close, spec.Connection.CloseOk, farewell)
    return client.record


for client in range(CLIENTS):
    for entry in talk(client):
        print(json.dumps(entry))
