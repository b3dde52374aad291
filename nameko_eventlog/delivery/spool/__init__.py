"""
The spool: the outbox on disk.
"""
