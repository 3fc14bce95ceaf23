"""Where a workflow comes from: a file, stdin, a picture, a video, a template, a server.

Does not run it.
"""
