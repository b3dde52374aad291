"""
Inserting rows, each once, as fast as each database allows.
"""

from __future__ import annotations

from operator import itemgetter
from typing import Any

from sqlalchemy import (
    Connection,
    CursorResult,
    Insert,
    Table,
    bindparam,
    column,
    func,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite

from nameko_eventlog.store.json_text import encode
from nameko_eventlog.store.schema import event_logs


def insert(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> int:
    """
    Insert *rows*; skip those whose key exists.

    Returns:
        How many event logs were inserted.
    """
    if not rows:
        return 0
    is_postgresql = connection.dialect.name == "postgresql"
    result: CursorResult[Any]
    if table is not event_logs:
        dialect = postgresql if is_postgresql else sqlite
        result = connection.execute(dialect.insert(table).on_conflict_do_nothing(), rows)
    elif is_postgresql:
        result = connection.execute(_AS_ONE_DOCUMENT, {"rows": rows})
    else:
        values = [(*_but_the_body(row), encode(row["body"])) for row in rows]
        result = connection.exec_driver_sql(_OF_SQLITE, values)
    return max(result.rowcount, 0)


def _as_one_document() -> Insert:
    """
    Make PostgreSQL's statement, with all rows in one JSON document: twice as fast as a list.
    """
    row = (
        func.jsonb_to_recordset(bindparam("rows", type_=postgresql.JSONB))
        .table_valued(*(column(one.name, one.type) for one in event_logs.c))
        .render_derived(name="row", with_types=True)
    )
    names = [one.name for one in event_logs.c]
    return (
        postgresql.insert(event_logs)
        .from_select(names, select(*(row.c[name] for name in names)))
        .on_conflict_do_nothing()
    )


_AS_ONE_DOCUMENT = _as_one_document()


def _of_sqlite() -> str:
    """
    Make SQLite's statement, whose values bypass SQLAlchemy: five times as fast.
    """
    statement = sqlite.insert(event_logs).on_conflict_do_nothing()
    return str(statement.compile(dialect=sqlite.dialect()))


_OF_SQLITE = _of_sqlite()

_but_the_body = itemgetter(*[column.name for column in event_logs.c if column.name != "body"])
