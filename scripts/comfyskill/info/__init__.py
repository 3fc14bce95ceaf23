"""Questions about a server: nodes, models, templates, what is ready to run.

Changes nothing on the server but the files a user sends.
"""
