"""Sends statements to PostgreSQL inside TLS by psycopg, which finds the server by libpq's own variables.

    pgsql_tls.py STATEMENTS

Several clients talk at a time. Statements have parameters or none, are prepared once they come often, and
some of them fail.
"""

import sys
from concurrent.futures import ThreadPoolExecutor

import psycopg

STATEMENTS = int(sys.argv[1])
CLIENTS = 4


def talk(number):
    with psycopg.connect(autocommit=True) as connection:
        assert connection.pgconn.ssl_in_use
        connection.execute(f"CREATE TABLE psycopg{number} (id int, name text)")
        for at in range(STATEMENTS // CLIENTS):
            if at % 4 == 0:
                connection.execute(f"INSERT INTO psycopg{number} VALUES (%s, %s)", [str(at), f"name {number}.{at}"])
            elif at % 4 == 1:
                query = f"SELECT name FROM psycopg{number} WHERE id = %s"
                assert connection.execute(query, [str(at - 1)]).fetchone() == (f"name {number}.{at - 1}",)
            elif at % 4 == 2:
                assert connection.execute(f"SELECT {number}, {at}").fetchone() == (number, at)
            else:
                try:
                    connection.execute(f"SELECT {at} FROM nowhere{number}")
                    raise AssertionError("no failure")
                except psycopg.errors.UndefinedTable:
                    pass


with ThreadPoolExecutor(CLIENTS) as clients:
    list(clients.map(talk, range(CLIENTS)))
