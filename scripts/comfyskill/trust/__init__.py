"""What a stranger's workflow may do.

Runs nothing and asks no server to.
"""
