"""The rooms of the demo server. Nothing outside this folder and `demo_server.py` imports them."""
