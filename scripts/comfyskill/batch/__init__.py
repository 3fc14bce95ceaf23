"""Many runs: the plan, the journal, the scheduler, one lane per server.

The pages that show the results are in `pages`.
"""
