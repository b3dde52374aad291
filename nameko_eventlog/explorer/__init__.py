"""
The store's event logs on a web page: ``nameko run nameko_eventlog.explorer``.
"""

from nameko_eventlog.extras import extra


with extra("explorer"):
    from nameko_eventlog.explorer.service import EventLogExplorer


__all__ = ["EventLogExplorer"]
