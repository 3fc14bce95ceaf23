"""The queue, the history, the live monitor, the report on one job.

Knows nothing of batches.
"""
