"""Talks to an AMQP server by its usual client, and prints how often each method was exchanged."""

import collections
import sys

import pika
from pika import exceptions, spec

PORT = int(sys.argv[1])
counts = collections.Counter()


def count(asked, answered, times=1):
    def ids(method):
        return (0, 0) if method is None else divmod(method.INDEX, 1 << 16)

    counts[ids(asked) + ids(answered)] += times


def told_by_client(method, times=1):
    count(method, None, times)


def told_by_server(method, times=1):
    count(None, method, times)


def open_connection():
    credentials = pika.PlainCredentials("guest", "guest")
    parameters = pika.ConnectionParameters("127.0.0.1", PORT, credentials=credentials)
    connection = pika.BlockingConnection(parameters)
    count(spec.Connection.Start, spec.Connection.StartOk)
    count(spec.Connection.Tune, spec.Connection.TuneOk)
    count(spec.Connection.Open, spec.Connection.OpenOk)
    return connection


def open_channel(connection):
    count(spec.Channel.Open, spec.Channel.OpenOk)
    return connection.channel()


connection = open_connection()
channel = open_channel(connection)
channel.exchange_declare("logs", "topic")
count(spec.Exchange.Declare, spec.Exchange.DeclareOk)
channel.queue_declare("work")
count(spec.Queue.Declare, spec.Queue.DeclareOk)
channel.queue_bind("work", "logs", "level.*")
count(spec.Queue.Bind, spec.Queue.BindOk)

# Without confirms, and taken one by one.
for number in range(300):
    channel.basic_publish("logs", f"level.{number}", b"x" * number)
    told_by_client(spec.Basic.Publish)
channel.queue_declare("work", passive=True)
count(spec.Queue.Declare, spec.Queue.DeclareOk)
for _ in range(100):
    method, _, body = channel.basic_get("work")
    count(spec.Basic.Get, spec.Basic.GetOk)
    channel.basic_ack(method.delivery_tag)
    told_by_client(spec.Basic.Ack)

# Consumed.
channel.basic_qos(prefetch_count=10)
count(spec.Basic.Qos, spec.Basic.QosOk)
count(spec.Basic.Consume, spec.Basic.ConsumeOk)
for method, _, body in channel.consume("work"):
    told_by_server(spec.Basic.Deliver)
    if method.delivery_tag % 7 == 0:
        channel.basic_nack(method.delivery_tag, requeue=False)
        told_by_client(spec.Basic.Nack)
    else:
        channel.basic_ack(method.delivery_tag)
        told_by_client(spec.Basic.Ack)
    if method.delivery_tag == 300:
        break
channel.cancel()
count(spec.Basic.Cancel, spec.Basic.CancelOk)
channel.basic_get("work")
count(spec.Basic.Get, spec.Basic.GetEmpty)

# With confirms, and returned.
confirmed = open_channel(connection)
confirmed.confirm_delivery()
count(spec.Confirm.Select, spec.Confirm.SelectOk)
for number in range(200):
    confirmed.basic_publish("", "work", b"y" * number * 50)
    told_by_client(spec.Basic.Publish)
    told_by_server(spec.Basic.Ack)
confirmed.basic_publish("", "work", b"z" * 150000)
told_by_client(spec.Basic.Publish)
told_by_server(spec.Basic.Ack)
try:
    confirmed.basic_publish("", "nowhere", b"back", mandatory=True)
except exceptions.UnroutableError:
    told_by_client(spec.Basic.Publish)
    told_by_server(spec.Basic.Return)
    told_by_server(spec.Basic.Ack)

# An error closes the channel, and is the answer.
wrong = open_channel(connection)
try:
    wrong.queue_declare("missing", passive=True)
except exceptions.ChannelClosedByBroker:
    count(spec.Queue.Declare, spec.Channel.Close)
    count(spec.Channel.Close, spec.Channel.CloseOk)

transactions = open_channel(connection)
transactions.tx_select()
count(spec.Tx.Select, spec.Tx.SelectOk)
transactions.basic_publish("", "work", b"maybe")
told_by_client(spec.Basic.Publish)
transactions.tx_commit()
count(spec.Tx.Commit, spec.Tx.CommitOk)

channel.queue_purge("work")
count(spec.Queue.Purge, spec.Queue.PurgeOk)
channel.queue_delete("work")
count(spec.Queue.Delete, spec.Queue.DeleteOk)
channel.close()
count(spec.Channel.Close, spec.Channel.CloseOk)
connection.close()
count(spec.Channel.Close, spec.Channel.CloseOk, 2)
count(spec.Connection.Close, spec.Connection.CloseOk)

for ids, times in sorted(counts.items()):
    print(*ids, times)
