"""Talks to a MongoDB server by its usual driver, and prints how each command that was sent ended."""

import collections
import sys

import pymongo
from pymongo import monitoring

URI = f"mongodb://127.0.0.1:{sys.argv[1]}/?directConnection=true"
counts = collections.Counter()


class Listener(monitoring.CommandListener):
    def started(self, event):
        pass

    def succeeded(self, event):
        counts[event.command_name, "ok"] += 1

    def failed(self, event):
        counts[event.command_name, event.failure["codeName"]] += 1


def check_fails(action):
    try:
        action()
    except pymongo.errors.OperationFailure:
        return
    raise AssertionError("no failure")


client = pymongo.MongoClient(URI, event_listeners=[Listener()])
things = client.shop.things
for number in range(300):
    things.insert_one({"_id": number, "name": f"thing {number}"})
    assert things.find_one({"_id": number})["name"] == f"thing {number}"
things.insert_many([{"size": size} for size in range(500)])
assert things.count_documents({}) == 800
assert len(list(things.find({}, batch_size=100))) == 800
exhaust = things.find({}, batch_size=100, cursor_type=pymongo.CursorType.EXHAUST)
assert len(list(exhaust)) == 800
things.update_many({}, {"$set": {"seen": True}})
list(things.aggregate([{"$group": {"_id": None, "n": {"$sum": 1}}}]))
things.insert_one({"long": "y" * 300000})
assert len(things.find_one({"long": {"$exists": True}})["long"]) == 300000
things.delete_one({"_id": 7})
check_fails(lambda: client.shop.command("noSuchCommand"))
check_fails(lambda: things.aggregate([{"$noSuchStage": {}}]))
client.admin.command("ping")
unheard = client.shop.get_collection("log", write_concern=pymongo.WriteConcern(w=0))
for number in range(50):
    unheard.insert_one({"_id": number})
client.admin.command("ping")
client.close()

for (command, status), count in sorted(counts.items()):
    print(command, status, count)
