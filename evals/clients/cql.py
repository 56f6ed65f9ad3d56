"""Talks to a server of CQL by the DataStax driver, and prints what it asked, the codes of request and
response, and how often.

The server is `cqlsrv`, which keeps its rows in memory and prints where it listens.
"""

import collections
import subprocess

from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile
from cassandra.concurrent import execute_concurrent_with_args
from cassandra.policies import WhiteListRoundRobinPolicy

QUERY, RESULT, PREPARE, EXECUTE, ERROR = 7, 8, 9, 10, 0
INSERT = "insert into ks.t (id,v) values (?,?)"
counts = collections.Counter()

server = subprocess.Popen(["cqlsrv", "600"], stdout=subprocess.PIPE, text=True)
port = int(server.stdout.readline().rsplit(":", 1)[1])
profile = ExecutionProfile(load_balancing_policy=WhiteListRoundRobinPolicy(["127.0.0.1"]))
cluster = Cluster(["127.0.0.1"], port=port, protocol_version=4, compression=False,
                  execution_profiles={EXEC_PROFILE_DEFAULT: profile},
                  schema_metadata_enabled=False, token_metadata_enabled=False)
session = cluster.connect()


def ask(statement):
    try:
        rows = list(session.execute(statement))
        counts[QUERY, RESULT, statement] += 1
        return rows
    except Exception:
        counts[QUERY, ERROR, statement] += 1


ask("CREATE KEYSPACE IF NOT EXISTS ks with replication={'class':'SimpleStrategy','replication_factor':1}")
ask("CREATE TABLE ks.t (id int PRIMARY KEY, v text);")
insert = session.prepare(INSERT)
counts[PREPARE, RESULT, INSERT] += 1
execute_concurrent_with_args(session, insert, [(i, "x%d" % i) for i in range(500)], concurrency=50)
counts[EXECUTE, RESULT, INSERT] += 500
for number in range(100):
    assert ask(f"select * from ks.t where id = {number}") is not None
assert ask("select * from ks.nosuch") is None
cluster.shutdown()
server.kill()
server.wait()

for (asked, answered, statement), count in sorted(counts.items()):
    print(asked, answered, statement, count)
