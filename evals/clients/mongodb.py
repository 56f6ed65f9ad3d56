"""Talks to a MongoDB server by its usual driver, and prints as JSON what the driver tells of each command.

    mongodb.py PORT COMMANDS

Several clients talk one after another, each on a connection of its own, so that none waits for another.
Each line is the number of the client, the command's name, the request and the reply with their values as rows
show them, the status, and how many nanoseconds the driver says it took. What wants no reply has neither reply
nor status nor time.
"""

import datetime
import json
import sys

import bson
import pymongo
from pymongo import monitoring

PORT, COMMANDS = sys.argv[1], int(sys.argv[2])
CLIENTS = 4
UNHEARD = {"w": 0}


def shown(value):
    if isinstance(value, dict):
        return {name: shown(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [shown(inner) for inner in value]
    if isinstance(value, bson.ObjectId):
        return str(value)
    if isinstance(value, bytes):
        return f"[binary {len(value)} bytes]"
    if isinstance(value, datetime.datetime):
        since = value.replace(tzinfo=datetime.timezone.utc) - datetime.datetime.fromtimestamp(0, datetime.timezone.utc)
        return f"[date {since // datetime.timedelta(milliseconds=1)} ms]"
    if isinstance(value, bson.Timestamp):
        return "[timestamp]"
    return value


class Listener(monitoring.CommandListener):
    def __init__(self, client):
        self.client, self.asked, self.record = client, {}, []

    def started(self, event):
        # The driver may use the same document again.
        self.asked[event.request_id] = shown(event.command)

    def succeeded(self, event):
        self.ended(event, event.reply, "ok")

    def failed(self, event):
        self.ended(event, event.failure, event.failure["codeName"])

    def ended(self, event, reply, status):
        asked = self.asked.pop(event.request_id)
        entry = {"client": self.client, "command": event.command_name, "request": asked}
        if asked.get("writeConcern") == UNHEARD:
            entry |= {"reply": None, "status": "", "took": None}
        else:
            entry |= {"reply": shown(reply), "status": status, "took": event.duration_micros * 1000}
        self.record.append(entry)


def fails(action):
    try:
        action()
    except pymongo.errors.OperationFailure:
        return
    raise AssertionError("no failure")


def talk(number):
    listener = Listener(number)
    client = pymongo.MongoClient(f"mongodb://127.0.0.1:{PORT}/?directConnection=true", maxPoolSize=1,
                                 event_listeners=[listener])
    things = client.shop[f"things{number}"]
    unheard = things.with_options(write_concern=pymongo.WriteConcern(w=0))
    for at in range(COMMANDS // CLIENTS):
        kind, key = at % 8, at - at % 8
        if kind == 0:
            things.insert_one({"_id": key, "name": f"thing {number}.{key}", "size": key / 3, "raw": b"abc",
                               "made": datetime.datetime(2024, 5, 6, 7, 8, 9), "parts": [1, None, {"of": key}]})
        elif kind == 1:
            assert things.find_one({"_id": key})["name"] == f"thing {number}.{key}"
        elif kind == 2:
            things.update_one({"_id": key}, {"$set": {"seen": True}})
        elif kind == 3:
            unheard.insert_one({"_id": key + kind, "unheard": key})
        elif kind == 4:
            things.insert_many([{"size": size} for size in range(3)])
        elif kind == 5:
            fails(lambda: client.shop.command("noSuchCommand", key))
        elif kind == 6:
            assert len(list(things.aggregate([{"$match": {"_id": key}}]))) == 1
        else:
            things.delete_one({"_id": key})
    things.insert_one({"_id": "long", "text": "y" * 300000})
    assert len(things.find_one({"_id": "long"})["text"]) == 300000
    things.insert_many([{"_id": f"many {at}"} for at in range(60)])
    found = list(things.find({"_id": {"$regex": "^many"}}, batch_size=20).sort("_id", 1))
    assert len(found) == 60, found
    client.close()
    return listener.record


for client in range(CLIENTS):
    for entry in talk(client):
        print(json.dumps(entry))
