"""Asks another engine; reads one JSON object from standard input and writes one to standard output.

{"engine": "deltalake" | "duckdb" | "chdb", "setup": SQL, "questions": [{"sql", "delta", "version"}]}
gives the rows of each question. `delta` and `version` are for readers of Delta logs: the folder of a
table, which the question calls t.
"""

import importlib.util
import json
import sys


def deltalake(asked):
    from deltalake import DeltaTable, QueryBuilder

    for question in asked["questions"]:
        table = DeltaTable(question["delta"], version=question["version"])
        result = QueryBuilder().register("t", table).execute(question["sql"]).read_all()
        columns = [result.column(at).to_pylist() for at in range(result.num_columns)]
        yield [list(row) for row in zip(*columns)]


def duckdb(asked):
    import duckdb

    connection = duckdb.connect()
    # Extensions that came as packages lie there.
    if packaged := importlib.util.find_spec("duckdb_ext"):
        folder = f"{packaged.submodule_search_locations[0]}/extensions"
        connection.execute(f"SET extension_directory = '{folder}'")
    connection.execute(asked["setup"])
    for question in asked["questions"]:
        # As text, since Python's times with a zone would need one more module.
        sql = f"SELECT CAST(COLUMNS(*) AS VARCHAR) FROM ({question['sql']})"
        yield connection.execute(sql).fetchall()


def chdb(asked):
    from chdb import session

    with session.Session() as engine:
        if asked["setup"]:
            engine.query(asked["setup"])
        for question in asked["questions"]:
            sql = question["sql"]
            if question.get("delta"):
                sql = f"WITH t AS (SELECT * FROM deltaLakeLocal('{question['delta']}')) {sql}"
                sql += f" SETTINGS delta_lake_snapshot_version = {question['version']}"
            rows = engine.query(sql, "JSONCompactEachRow").bytes().decode()
            yield [json.loads(row) for row in rows.splitlines()]


def main():
    asked = json.load(sys.stdin)
    engines = {"deltalake": deltalake, "duckdb": duckdb, "chdb": chdb}
    json.dump(list(engines[asked["engine"]](asked)), sys.stdout, default=str)


main()
