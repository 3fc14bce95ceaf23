"""What a workflow needs, what is missing, where to get it, and installing it.

Knows nothing of jobs.
"""
