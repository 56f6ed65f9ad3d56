"""One peer over the same Parquet files: python peers.py ENGINE PLACE FILES START_NS RUNS THREADS SCRATCH

ENGINE is duckdb, chdb, polars or datafusion; PLACE is memory, where the files are loaded first, or parquet.
FILES is a file with one path a line. Prints one JSON line for each query and way to write it.
"""
import json, os, resource, statistics, sys, time

ENGINE, PLACE, LIST, START, RUNS, THREADS, SCRATCH = sys.argv[1:8]
START, RUNS, THREADS = int(START), int(RUNS), int(THREADS)
os.environ["POLARS_MAX_THREADS"] = os.environ["RAYON_NUM_THREADS"] = str(THREADS)
FILES = open(LIST).read().split()
SECOND = 10**9
WINDOW = 10 * SECOND
FROM, UNTIL, LAST = START + 3300 * SECOND, START + 3600 * SECOND, START + 3590 * SECOND
COLUMNS = ["time_", "service", "remote_addr", "req_path", "resp_status", "latency", "resp_body_size"]
TEXT = ["service", "remote_addr", "req_path"]


def cpu_ms():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return (used.ru_utime + used.ru_stime) * 1e3


def measure(query, way, run):
    try:
        rows, sums = summed(run())
        walls, cpus = [], []
        for _ in range(RUNS):
            cpu, wall = cpu_ms(), time.perf_counter()
            run()
            walls.append((time.perf_counter() - wall) * 1e3)
            cpus.append(cpu_ms() - cpu)
        found = dict(wall_ms=statistics.median(walls), cpu_ms=statistics.median(cpus), rows=rows, sums=sums)
    except Exception as error:
        found = dict(error=f"{type(error).__name__}: {error}"[:300])
    print(json.dumps(dict(engine=ENGINE, place=PLACE, query=query, way=way, **found)), flush=True)


def summed(table):
    """Rows of an Arrow table, and the sum of each column of numbers; of q, which holds pairs, of both."""
    import pyarrow
    import pyarrow.compute
    if table is None:
        return 0, {}
    sums = {}
    for name in table.column_names:
        values, kind = table.column(name), table.schema.field(name).type
        if name == "q":
            pairs = values.to_pylist()
            sums["p50"], sums["p99"] = (float(sum(pair[at] for pair in pairs)) for at in (0, 1))
        elif pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind) or pyarrow.types.is_decimal(kind):
            sums[name] = float(pyarrow.compute.sum(values).as_py() or 0)
    return table.num_rows, sums


def texts(table, window, quantiles, distinct, group):
    """The queries in SQL; `quantiles` by way of computing them."""
    by = f"FROM {table} GROUP BY service, {group}"
    head = f"SELECT service, {window} AS w, count(*) AS n"
    in_range = f"FROM {table} WHERE time_ >= {FROM} AND time_ < {UNTIL} GROUP BY service, {group}"
    failed = "sum(CASE WHEN resp_status >= 500 THEN 1 ELSE 0 END) AS e"
    for way, expression in quantiles.items():
        yield "q1", way, f"{head}, {expression} {by}"
        yield "q3", way, f"{head}, {expression} {in_range}"
    yield "q2", "sql", f"{head}, avg(latency) AS m, max(latency) AS mx, {failed} {by}"
    yield "q4", "sql", f"SELECT service, {distinct} AS d, count(*) AS n FROM {table} GROUP BY service"
    yield "q5", "sql", (
        f"SELECT req_path, count(*) AS n, avg(latency) AS m, {failed} FROM {table} "
        "WHERE service = 'default/svc-07' GROUP BY req_path ORDER BY e DESC, req_path LIMIT 10")
    yield "q6", "sql", (
        f"SELECT time_, req_path, latency FROM {table} WHERE time_ >= {LAST} AND resp_status = 503 "
        "AND service = 'default/svc-07' ORDER BY time_ DESC LIMIT 100")


def linked():
    """A folder that holds just the files."""
    folder = os.path.join(SCRATCH, "files-" + ENGINE)
    os.makedirs(folder, exist_ok=True)
    for file in FILES:
        link = os.path.join(folder, os.path.basename(file))
        if not os.path.exists(link):
            os.link(file, link)
    return folder


def arrow_table():
    import pyarrow.parquet
    return pyarrow.parquet.ParquetDataset(FILES).read(columns=COLUMNS)


def duckdb_runs():
    import duckdb
    base = duckdb.connect(":memory:")
    base.execute(f"SET threads = {THREADS}")
    base.execute("SET preserve_insertion_order = false")
    files = "read_parquet([" + ", ".join(f"'{file}'" for file in FILES) + "])"
    quantiles = {"exact": "quantile_cont(latency, [0.5, 0.99]) AS q",
                 "t-digest": "approx_quantile(latency, [0.5, 0.99]) AS q"}
    def ask(table):
        asked = texts(table, f"time_ // {WINDOW}", quantiles, "approx_count_distinct(remote_addr)", "w")
        for query, way, sql in asked:
            yield query, way, lambda sql=sql: base.sql(sql).to_arrow_table()
    if PLACE == "parquet":
        yield from ask(files)
        return
    base.execute(f"CREATE TABLE own AS SELECT {', '.join(COLUMNS)} FROM {files}")
    for query, way, run in ask("own"):
        yield query, way + ", own table", run
    base.execute("DROP TABLE own")
    import pyarrow
    rows = arrow_table()
    for name in TEXT:
        at = rows.column_names.index(name)
        rows = rows.set_column(at, name, rows.column(name).dictionary_encode())
    base.register("arrow_rows", rows)
    for query, way, run in ask("arrow_rows"):
        yield query, way + ", Arrow", run


def chdb_runs():
    from chdb import session
    import pyarrow
    import shutil
    folder = os.path.join(SCRATCH, "chdb-" + PLACE)
    shutil.rmtree(folder, ignore_errors=True)
    base = session.Session(folder)
    base.query(f"SET max_threads = {THREADS}")
    files = f"file('{linked()}/*.parquet', Parquet)"
    table = files
    if PLACE == "memory":
        types = ("time_ Int64, service LowCardinality(String), remote_addr LowCardinality(String), "
                 "req_path LowCardinality(String), resp_status Int64, latency Int64, resp_body_size Int64")
        base.query("CREATE DATABASE IF NOT EXISTS d")
        base.query(f"CREATE TABLE d.own ({types}) ENGINE = Memory")
        base.query(f"INSERT INTO d.own SELECT {', '.join(COLUMNS)} FROM {files}")
        table = "d.own"
    quantiles = {"exact": "quantilesExact(0.5, 0.99)(latency) AS q",
                 "reservoir": "quantiles(0.5, 0.99)(latency) AS q",
                 "ddsketch": "quantilesDD(0.01, 0.5, 0.99)(latency) AS q"}
    def run(sql):
        answer = base.query(sql, "ArrowStream")
        return pyarrow.ipc.open_stream(answer.bytes()).read_all()
    asked = texts(table, f"intDiv(time_, {WINDOW})", quantiles, "uniqHLL12(remote_addr)", "w")
    for query, way, sql in asked:
        yield query, way, lambda sql=sql: run(sql)


def polars_runs():
    import polars as pl
    lazy = pl.scan_parquet(FILES).select(COLUMNS)
    if PLACE == "memory":
        lazy = lazy.with_columns(pl.col(*TEXT).cast(pl.Categorical)).collect().lazy()
    col, n = pl.col, pl.len().alias("n")
    keys = [col("service"), (col("time_") // WINDOW).alias("w")]
    mean = col("latency").mean().alias("m")
    failed = (col("resp_status") >= 500).sum().alias("e")
    quantiles = [col("latency").quantile(0.5, "linear").alias("p50"),
                 col("latency").quantile(0.99, "linear").alias("p99")]
    one = col("service") == "default/svc-07"
    plans = {
        "q1": lazy.group_by(keys).agg(n, *quantiles),
        "q2": lazy.group_by(keys).agg(n, mean, col("latency").max().alias("mx"), failed),
        "q3": lazy.filter((col("time_") >= FROM) & (col("time_") < UNTIL)).group_by(keys).agg(n, *quantiles),
        "q4": lazy.group_by("service").agg(col("remote_addr").approx_n_unique().alias("d"), n),
        "q5": lazy.filter(one).group_by("req_path").agg(n, mean, failed)
                  .sort(["e", "req_path"], descending=[True, False]).head(10),
        "q6": lazy.filter((col("time_") >= LAST) & (col("resp_status") == 503) & one)
                  .select("time_", "req_path", "latency").sort("time_", descending=True).head(100),
    }
    def run(plan, engine):
        return plan.collect(engine=engine).to_arrow()
    for engine in ("in-memory", "streaming"):
        for query, plan in plans.items():
            yield query, engine, lambda plan=plan, engine=engine: run(plan, engine)


def datafusion_runs():
    import datafusion
    import pyarrow
    config = datafusion.SessionConfig().with_target_partitions(THREADS)
    context = datafusion.SessionContext(config)
    if PLACE == "memory":
        rows = arrow_table()
        for name in ["service", "req_path"]:
            at = rows.column_names.index(name)
            rows = rows.set_column(at, name, rows.column(name).dictionary_encode().unify_dictionaries())
        batches = rows.combine_chunks().to_batches(max_chunksize=65536)
        context.register_record_batches("own", [batches[part::THREADS] for part in range(THREADS)])
    else:
        context.register_parquet("own", linked() + "/")
    def quantile(function):
        return ", ".join(f"{function}({q}) WITHIN GROUP (ORDER BY latency) AS p{q:.0%}"[:-1] for q in (0.5, 0.99))
    quantiles = {"t-digest": quantile("approx_percentile_cont"), "exact": quantile("percentile_cont")}
    def run(sql):
        batches = context.sql(sql).collect()
        return pyarrow.Table.from_batches(batches) if batches else None
    window = f"time_ / {WINDOW}"
    for query, way, sql in texts("own", window, quantiles, "approx_distinct(remote_addr)", window):
        yield query, way, lambda sql=sql: run(sql)


for query, way, run in dict(duckdb=duckdb_runs, chdb=chdb_runs, polars=polars_runs, datafusion=datafusion_runs)[ENGINE]():
    measure(query, way, run)
