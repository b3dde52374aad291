"""
Event logs in a database: `EventLogStore` writes them, `EventLogQuery` reads them.
"""

from nameko_eventlog.extras import extra, require


with extra("store"):
    require("alembic")
    from nameko_eventlog.store.databases import DatabaseError
    from nameko_eventlog.store.parameters import InvalidQuery
    from nameko_eventlog.store.queries import EventLogQuery
    from nameko_eventlog.store.service import EventLogStore


__all__ = ["DatabaseError", "EventLogQuery", "EventLogStore", "InvalidQuery"]
