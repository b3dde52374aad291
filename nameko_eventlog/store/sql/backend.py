"""
The backend for SQLite and PostgreSQL: implements `backends.Backend`.
"""

from __future__ import annotations

from nameko_eventlog.store.sql.probing import probe, try_tables
from nameko_eventlog.store.sql.purging import SqlPurger as Purger
from nameko_eventlog.store.sql.reading import SqlReader as Reader
from nameko_eventlog.store.sql.rejects import SqlRejects as Rejects
from nameko_eventlog.store.sql.writing import SqlWriter as Writer


__all__ = ["Purger", "Reader", "Rejects", "Writer", "probe", "try_tables"]
