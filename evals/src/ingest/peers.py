"""Takes rows into another store's durable table and prints what that took, as one JSON object.

python3 -c peers.py PEER FOLDER BATCH_ROWS FILE...
"""

import json
import os
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


peer, folder, batch_rows, files = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:]
take = {"duckdb": duckdb_rows, "clickhouse_merge_tree": clickhouse_rows}[peer]
kept, cpu = take(folder, batch_rows, files)
print(json.dumps({"rows": kept, "cpu_s": cpu, "bytes": size_of(folder)}))
