"""Takes rows into another store's durable table and prints what that took, as one JSON object.

python3 -c peers.py PEER FOLDER BATCH_ROWS FILE...
"""

import http.client
import json
import os
import socket
import subprocess
import sys
import time

COLUMNS = "time_, service, upid, remote_addr, req_path, resp_status, latency, resp_body_size"


def size_of(folder):
    files = (os.path.join(path, name) for path, _, names in os.walk(folder) for name in names)
    return sum(os.path.getsize(file) for file in files)


def duckdb_rows(folder, batch_rows, files):
    import duckdb

    os.makedirs(folder)
    database = duckdb.connect(os.path.join(folder, "rows.db"))
    database.execute("SET threads = 2")
    database.execute(
        f"CREATE TEMP TABLE source AS SELECT {COLUMNS}, row_number() OVER () - 1 AS number "
        "FROM read_parquet($files)",
        {"files": files},
    )
    database.execute(f"CREATE TABLE kept AS SELECT {COLUMNS} FROM source LIMIT 0")
    rows = database.execute("SELECT count(*) FROM source").fetchone()[0]
    before = time.process_time()
    for first in range(0, rows, batch_rows):
        database.execute(
            f"INSERT INTO kept SELECT {COLUMNS} FROM source WHERE number >= ? AND number < ?",
            [first, first + batch_rows],
        )
    database.execute("CHECKPOINT")
    cpu = time.process_time() - before
    kept = database.execute("SELECT count(*) FROM kept").fetchone()[0]
    database.close()
    return kept, cpu


def clickhouse_rows(folder, batch_rows, files):
    from chdb import session

    server = session.Session(folder)
    query = lambda text: server.query(text, "TabSeparated").data().strip()
    query("CREATE DATABASE bench ENGINE = Atomic")
    paths = "{" + ",".join(files) + "}" if len(files) > 1 else files[0]
    # One block a batch, so that a batch is found without a search.
    types = (
        "time_ Int64, service LowCardinality(String), upid String, remote_addr String, "
        "req_path LowCardinality(String), resp_status Int64, latency Int64, resp_body_size Int64"
    )
    query(f"CREATE TABLE bench.source ({types}, batch UInt32) ENGINE = MergeTree ORDER BY batch")
    query(
        f"INSERT INTO bench.source SELECT {COLUMNS}, "
        f"intDiv(rowNumberInAllBlocks(), {batch_rows}) FROM file('{paths}', Parquet) "
        "SETTINGS max_threads = 1"
    )
    batches = int(query("SELECT max(batch) + 1 FROM bench.source"))
    for batch in range(batches):
        query(
            f"CREATE TABLE bench.batch_{batch} ({types}) ENGINE = Memory"
        )
        query(
            f"INSERT INTO bench.batch_{batch} SELECT {COLUMNS} FROM bench.source "
            f"WHERE batch = {batch}"
        )
    query("DROP TABLE bench.source SYNC")
    query(f"CREATE TABLE bench.kept ({types}) ENGINE = MergeTree ORDER BY (service, time_)")
    before = time.process_time()
    for batch in range(batches):
        query(f"INSERT INTO bench.kept SELECT * FROM bench.batch_{batch}")
    cpu = time.process_time() - before
    return int(query("SELECT count() FROM bench.kept")), cpu


class VictoriaMetrics:
    """A server of its own, which ends with the block."""

    def __init__(self, folder):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.process = subprocess.Popen(
            [
                "victoria-metrics",
                f"-httpListenAddr=127.0.0.1:{self.port}",
                f"-storageDataPath={folder}",
                "-retentionPeriod=10y",
                "-search.latencyOffset=0s",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self):
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return self
            except ConnectionRefusedError:
                assert self.process.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def ask(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        connection.request(method, path, body)
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status < 300, text
        return text

    def cpu(self):
        with open(f"/proc/{self.process.pid}/stat") as stat:
            user, system = stat.read().rsplit(")", 1)[1].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def victoria_rows(folder, batch_rows, files):
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(files)
    labels = ["service", "req_path", "resp_status"]
    bodies = []
    for first in range(0, rows.num_rows, batch_rows):
        batch = rows.slice(first, batch_rows).to_pydict()
        series = {}
        for at, key in enumerate(zip(*(batch[label] for label in labels))):
            series.setdefault(key, []).append(at)
        lines = []
        for key, places in series.items():
            named = dict(zip(labels, map(str, key)))
            times = [batch["time_"][at] // 1_000_000 for at in places]
            for measure in ["latency", "resp_body_size"]:
                values = [batch[measure][at] for at in places]
                line = {"metric": {"__name__": measure, **named}, "values": values}
                lines.append(json.dumps({**line, "timestamps": times}))
        bodies.append("\n".join(lines))
    until = max(rows["time_"].to_pylist()) // 1_000_000_000 + 1
    with VictoriaMetrics(folder) as server:
        before = server.cpu()
        for body in bodies:
            server.ask("POST", "/api/v1/import", body)
        server.ask("GET", "/internal/force_flush")
        cpu = server.cpu() - before
        asked = f"/api/v1/query?query=sum(count_over_time(latency[1h]))&time={until}"
        found = json.loads(server.ask("GET", asked))["data"]["result"]
    return int(found[0]["value"][1]), cpu


peer, folder, batch_rows, files = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:]
take = {
    "duckdb": duckdb_rows,
    "clickhouse_merge_tree": clickhouse_rows,
    "victoria_metrics": victoria_rows,
}[peer]
kept, cpu = take(folder, batch_rows, files)
print(json.dumps({"rows": kept, "cpu_s": cpu, "bytes": size_of(folder)}))
