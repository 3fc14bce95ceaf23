"""Many runs: the plan, the journal, the scheduler, one lane per server.

Knows nothing of the pages that show its results.
"""
