"""Sends commands to Redis inside TLS by redis-py.

    redis_tls.py PORT COMMANDS
"""

import sys
from concurrent.futures import ThreadPoolExecutor

import redis

PORT, COMMANDS = int(sys.argv[1]), int(sys.argv[2])
CLIENTS = 4


def talk(number):
    # What it would say of itself to a newer server this one refuses, and MONITOR shows nothing of that.
    client = redis.Redis(port=PORT, ssl=True, ssl_cert_reqs="none", ssl_check_hostname=False, protocol=2,
                         lib_name=None, lib_version=None, single_connection_client=True)
    for at in range(COMMANDS // CLIENTS):
        if at % 4 == 0:
            assert client.set(f"py:{number}:{at}", f"value {number} \"{at}\"")
        elif at % 4 == 1:
            assert client.get(f"py:{number}:{at - 1}") == f"value {number} \"{at - 1}\"".encode()
        elif at % 4 == 2:
            assert client.rpush(f"py:list:{number}", "y" * (at % 5000)) == at // 4 + 1
        else:
            assert client.echo(f"py-{number}-{at}") == f"py-{number}-{at}".encode()
    client.close()


with ThreadPoolExecutor(CLIENTS) as clients:
    list(clients.map(talk, range(CLIENTS)))
