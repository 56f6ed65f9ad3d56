"""Talks to librdkafka's own mock broker, and prints librdkafka's log of every request and response."""

import os
import sys

from confluent_kafka import Consumer, Producer

# The log goes to the standard error by itself.
os.dup2(1, 2)
RECORDS = int(sys.argv[1])

mock = Producer({"bootstrap.servers": "127.0.0.1:1", "test.mock.num.brokers": 1, "client.id": "mock",
                 "debug": "protocol"})
broker = list(mock.list_topics(timeout=10).brokers.values())[0]
at = f"{broker.host}:{broker.port}"
producer = Producer({"bootstrap.servers": at, "client.id": "teller", "acks": "all", "linger.ms": 0,
                     "debug": "protocol"})
for number in range(RECORDS):
    producer.produce("greetings", f"record {number}".encode() * 10)
    producer.flush()
consumer = Consumer({"bootstrap.servers": at, "client.id": "reader", "group.id": "readers",
                     "auto.offset.reset": "earliest", "debug": "protocol"})
consumer.subscribe(["greetings"])
heard = 0
while heard < RECORDS:
    message = consumer.poll(30)
    assert message is not None, f"{heard} of {RECORDS} records were read"
    heard += message.error() is None
consumer.close()
sys.stdout.flush()
# The mock broker would close connections on which requests are on their way.
os._exit(0)
