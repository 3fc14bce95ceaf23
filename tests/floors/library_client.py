"""The smallest client with the same libraries: opens its socket, posts once, downloads once. The floor for bench.py."""

import json
import sys
import uuid

import requests
import websocket

url, workflow, folder = sys.argv[1:4]
client = uuid.uuid4().hex
ws = websocket.create_connection(url.replace("http", "ws", 1) + f"/ws?clientId={client}")
ws.recv()
with open(workflow) as file:
    graph = json.load(file)
session = requests.Session()
answer = session.post(f"{url}/prompt", json={"prompt": graph, "client_id": client}).json()
done = False
while not done:
    frame = ws.recv()
    if isinstance(frame, str):
        message = json.loads(frame)
        data = message["data"]
        done = (
            message["type"] == "executing"
            and data["node"] is None
            and data["prompt_id"] == answer["prompt_id"]
        )
outputs = session.get(f"{url}/history/{answer['prompt_id']}").json()[answer["prompt_id"]]["outputs"]
for output in outputs.values():
    for key in output:
        for item in output[key]:
            if isinstance(item, dict):
                with session.get(f"{url}/view", params=item, stream=True) as response:
                    with open(f"{folder}/{item['filename']}", "wb") as file:
                        for piece in response.iter_content(1 << 20):
                            file.write(piece)
