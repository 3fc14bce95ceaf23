"""One job: prepare, submit, follow, collect, report, receipt.

Knows nothing of batches, queues and pages.
"""
