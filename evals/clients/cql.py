"""Talks to a server of CQL by the DataStax driver, and prints as JSON what each client asked, in the order of
the answers.

    cql.py STATEMENTS

The server is `cqlsrv`, which keeps its rows in memory and prints where it listens. Several clients talk, each on
a connection of its own, one statement after the other and then many at a time. Each line is the number of the
client, the codes of request and response, the statement, how many rows came or the error's code, and of those
that were alone how many nanoseconds they took.
"""

import json
import re
import subprocess
import sys
import threading
import time

from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile
from cassandra.policies import WhiteListRoundRobinPolicy

STATEMENTS = int(sys.argv[1])
CLIENTS = 4
AT_A_TIME = 20
QUERY, RESULT, PREPARE, EXECUTE, ERROR = 7, 8, 9, 10, 0


class Client:
    def __init__(self, number, port):
        self.number, self.record = number, []
        profile = ExecutionProfile(load_balancing_policy=WhiteListRoundRobinPolicy(["127.0.0.1"]))
        self.cluster = Cluster(["127.0.0.1"], port=port, protocol_version=4, compression=False,
                               execution_profiles={EXEC_PROFILE_DEFAULT: profile},
                               schema_metadata_enabled=False, token_metadata_enabled=False)
        self.session = self.cluster.connect()

    def tell(self, asked, answered, statement, outcome, took=None):
        self.record.append({"client": self.number, "asked": asked, "answered": answered, "statement": statement,
                            "outcome": outcome, "took": took})

    def ask(self, statement):
        began = time.monotonic_ns()
        try:
            rows = self.session.execute(statement)
            took = time.monotonic_ns() - began
            self.tell(QUERY, RESULT, statement, len(list(rows)) if rows.column_names else None, took)
        except Exception as error:
            took = time.monotonic_ns() - began
            self.tell(QUERY, ERROR, statement, int(re.search("code=([0-9a-f]+)", str(error))[1], 16), took)

    def prepare(self, statement):
        began = time.monotonic_ns()
        prepared = self.session.prepare(statement)
        self.tell(PREPARE, RESULT, statement, None, time.monotonic_ns() - began)
        return prepared

    def ask_many(self, queries, code, statement_of):
        """Has so many on their way at a time; callbacks run in the order in which answers are read."""
        room = threading.Semaphore(AT_A_TIME)

        def answered(rows, query):
            self.tell(code, RESULT, statement_of(query), None if rows is None or code == EXECUTE else len(rows))
            room.release()

        def failed(error, query):
            self.tell(code, ERROR, statement_of(query), str(error))
            room.release()

        for query in queries:
            room.acquire()
            future = self.session.execute_async(*query)
            future.add_callbacks(answered, failed, callback_args=[query], errback_args=[query])
        for _ in range(AT_A_TIME):
            room.acquire()


def talk(number, port):
    client, table, each = Client(number, port), f"ks.t{number}", STATEMENTS // CLIENTS // 3
    client.ask(f"CREATE TABLE {table} (id int PRIMARY KEY, v text);")
    text = f"insert into {table} (id,v) values (?,?)"
    insert = client.prepare(text)
    client.ask_many([(insert, (at, f"x{at}")) for at in range(each)], EXECUTE, lambda _: text)
    for at in range(each):
        if at % 10 == 0:
            client.ask(f"select * from ks.nosuch{number}_{at}")
        else:
            client.ask(f"select * from {table} where id = {at}")
    client.ask_many([(f"select * from {table} where id = {at}",) for at in range(each)], QUERY, lambda it: it[0])
    client.cluster.shutdown()
    for entry in client.record:
        print(json.dumps(entry))


server = subprocess.Popen(["cqlsrv", "600"], stdout=subprocess.PIPE, text=True)
port = int(server.stdout.readline().rsplit(":", 1)[1])
first = Client(CLIENTS, port)
first.ask("CREATE KEYSPACE IF NOT EXISTS ks with replication={'class':'SimpleStrategy','replication_factor':1}")
first.cluster.shutdown()
for entry in first.record:
    print(json.dumps(entry))
for number in range(CLIENTS):
    talk(number, port)
server.kill()
server.wait()
