"""
Whether a database has its index of texts: without it, searching reads every row.
"""

from __future__ import annotations

from sqlalchemy import Connection

from nameko_eventlog.store.sql import full_text, trigram_index


def describe(connection: Connection) -> str:
    """
    Return what `nameko-eventlog check` adds if a text is searched without an index.
    """
    if connection.dialect.name == "postgresql":
        has_index, lack = trigram_index.exists(connection), "PostgreSQL had no extension pg_trgm"
    else:
        has_index, lack = full_text.exists(connection), "SQLite had no FTS5 with trigrams"
    return "" if has_index else f"; texts are searched without an index, because {lack}"
