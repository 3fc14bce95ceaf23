"""Where a workflow comes from: a file, stdin, a picture, a video, a template, a server.

Knows nothing of running it.
"""
