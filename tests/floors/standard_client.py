"""The smallest client with the standard library alone (a bare WebSocket by hand). The lower floor for bench.py."""

import base64
import http.client
import json
import os
import socket
import struct
import sys
import urllib.parse
import uuid

url, workflow, folder = sys.argv[1:4]
host = url.split("//")[1]
name, port = host.split(":")
client = uuid.uuid4().hex
sock = socket.create_connection((name, int(port)))
key = base64.b64encode(os.urandom(16)).decode()
sock.sendall(
    f"GET /ws?clientId={client} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
)
stream = sock.makefile("rb")
while stream.readline() != b"\r\n":
    pass


def frame():
    head = stream.read(2)
    size = head[1] & 127
    if size == 126:
        (size,) = struct.unpack(">H", stream.read(2))
    elif size == 127:
        (size,) = struct.unpack(">Q", stream.read(8))
    return head[0] & 15, stream.read(size)


frame()
with open(workflow) as file:
    graph = json.load(file)
web = http.client.HTTPConnection(host)
web.request(
    "POST",
    "/prompt",
    json.dumps({"prompt": graph, "client_id": client}),
    {"Content-Type": "application/json"},
)
prompt_id = json.loads(web.getresponse().read())["prompt_id"]
while True:
    opcode, data = frame()
    if opcode == 1:
        message = json.loads(data)
        if (
            message["type"] == "executing"
            and message["data"]["node"] is None
            and message["data"]["prompt_id"] == prompt_id
        ):
            break
web.request("GET", f"/history/{prompt_id}")
outputs = json.loads(web.getresponse().read())[prompt_id]["outputs"]
for output in outputs.values():
    for items in output.values():
        for item in items:
            if isinstance(item, dict):
                web.request("GET", "/view?" + urllib.parse.urlencode(item))
                with open(f"{folder}/{item['filename']}", "wb") as file:
                    answer = web.getresponse()
                    while piece := answer.read(1 << 20):
                        file.write(piece)
