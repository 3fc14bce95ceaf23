"""The modules of the demo server. Only `demo_server.py` imports them."""
