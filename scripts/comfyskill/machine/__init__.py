"""The hardware check, the set-up and the health check of this computer.

Knows nothing of running a workflow but the smoke test.
"""
