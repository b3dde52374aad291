"""
The index of texts on PostgreSQL: pg_trgm's, of the text of bodies.

It ignores case in its own way, by the locale of the database: see `unlike`.
"""

from __future__ import annotations

from sqlalchemy import Connection, text


NAME = "event_logs_text"

_CASES = text(
    "SELECT lower('I') = 'i' AND lower('\u0130') IN ('i', '\u0130'),"
    " lower('\u212a') IN ('k', '\u212a')"
)

_EXISTS = text(
    "SELECT to_regclass(:name) IS NOT NULL AND current_setting('server_encoding') = 'UTF8'"
)


def exists(connection: Connection) -> bool:
    """
    Tell whether the tables have the index.
    """
    return bool(connection.scalar(_EXISTS, {"name": NAME}))


def unlike(connection: Connection) -> str:
    """
    Return the letters that the index does not find in any case.

    Other letters have no case beyond ASCII. The lower case of a dotted I may be two letters, and
    that of I may have no dot.
    """
    is_i, is_k = connection.execute(_CASES).one()
    return ("" if is_i else "i") + ("" if is_k else "k")
