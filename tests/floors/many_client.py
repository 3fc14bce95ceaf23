"""The smallest client for many jobs: posts all of them, then collects. The floor for batches in bench.py."""

import copy
import json
import sys
import uuid

import requests
import websocket

url, workflow, folder, count = sys.argv[1:5]
client = uuid.uuid4().hex
ws = websocket.create_connection(url.replace("http", "ws", 1) + f"/ws?clientId={client}")
ws.recv()
with open(workflow) as file:
    graph = json.load(file)
session = requests.Session()
waiting = {}
for number in range(int(count)):
    one = copy.deepcopy(graph)
    one["1"]["inputs"]["color"] = one["1"]["inputs"]["color"] + number
    one["2"]["inputs"]["filename_prefix"] += f"_{number}"
    answer = session.post(f"{url}/prompt", json={"prompt": one, "client_id": client}).json()
    waiting[answer["prompt_id"]] = []
left = set(waiting)
while left:
    frame = ws.recv()
    if isinstance(frame, str):
        message = json.loads(frame)
        data = message["data"]
        if message["type"] == "executed" and data["output"]:
            waiting[data["prompt_id"]] += data["output"].get("images", [])
        if message["type"] == "executing" and data["node"] is None:
            left.discard(data["prompt_id"])
for items in waiting.values():
    for item in items:
        body = session.get(f"{url}/view", params=item).content
        with open(f"{folder}/{item['filename']}", "wb") as file:
            file.write(body)
