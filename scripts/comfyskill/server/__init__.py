"""One server: transport, the three protocols, events, the socket, the watcher and node definitions.

Knows graphs, but not where a workflow came from nor what becomes of a job's files.
"""
