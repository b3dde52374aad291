"""
The command line ``nameko-eventlog``.
"""
