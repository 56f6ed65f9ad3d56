"""Sends statements to MariaDB inside TLS by PyMySQL; some of them fail.

    mysql_tls.py PORT STATEMENTS
"""

import ssl
import sys
from concurrent.futures import ThreadPoolExecutor

import pymysql

PORT, STATEMENTS = int(sys.argv[1]), int(sys.argv[2])
CLIENTS = 4


def talk(number):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = pymysql.connect(host="127.0.0.1", port=PORT, user="root", database="it", ssl=context,
                                 autocommit=True)
    cursor = connection.cursor()
    cursor.execute("show status like 'Ssl_cipher'")
    assert cursor.fetchone()[1], "not inside TLS"
    cursor.execute(f"create table pymysql{number} (id int, name varchar(40))")
    for at in range(STATEMENTS // CLIENTS):
        if at % 4 == 0:
            cursor.execute(f"insert into pymysql{number} values (%s, %s)", (at, f"name {number}.{at}"))
        elif at % 4 == 1:
            cursor.execute(f"select name from pymysql{number} where id = %s", (at - 1,))
            assert cursor.fetchall() == ((f"name {number}.{at - 1}",),)
        elif at % 4 == 2:
            assert connection.ping() is None
            cursor.execute(f"select {number}, {at}, repeat('y', 40000)")
            assert cursor.fetchone()[:2] == (number, at)
        else:
            try:
                cursor.execute(f"select {at} from nowhere{number}")
                raise AssertionError("no failure")
            except pymysql.err.ProgrammingError:
                pass
    connection.close()


with ThreadPoolExecutor(CLIENTS) as clients:
    list(clients.map(talk, range(CLIENTS)))
