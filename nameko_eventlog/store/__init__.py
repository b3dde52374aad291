"""
Event logs in a database: `EventLogStore` writes them, `EventLogQuery` finds them.
"""
