"""
Making the summaries of a day again from its event logs.

The call stacks are in ``call_parts`` alone. So what was there is kept until the day is done: event
logs that arrive meanwhile may have added to it.
"""

from __future__ import annotations

from datetime import date, timedelta

from sqlalchemy import func, select
from sqlalchemy import table as table_named

from nameko_eventlog.store.clickhouse.connections import Connection
from nameko_eventlog.store.clickhouse.schema import (
    DAY_MS,
    PART,
    SERIES_DAY,
    event_logs,
)
from nameko_eventlog.store.positions import first_at


_MOST_TIMES = 10  # that a day is made again, because event logs of it arrive meanwhile

# each selects what its view does: see `schema`
_SELECTS = {
    "series_days": """
SELECT {series_day} FROM event_logs WHERE {in_day} GROUP BY day, series_id
""",
    "call_parts": """
SELECT parts.span, parts.id, known.call_key, known.origin_key, known.parent_key, known.context,
    parts.first, parts.last_ms, parts.ended, parts.severity, parts.is_failed
FROM (
    SELECT {part}, max(series.severity) AS severity, max(series.is_failure) AS is_failed
    FROM event_logs INNER JOIN series ON series.id = event_logs.series_id
    WHERE {in_day} AND call != toFixedString('', 16)
    GROUP BY span, id
) AS parts
INNER JOIN (
    SELECT * FROM (SELECT * FROM call_parts UNION ALL SELECT * FROM call_parts_before)
    WHERE intDiv(span, 86400) = {day} AND id IN (SELECT call FROM event_logs WHERE {in_day})
    LIMIT 1 BY span, id
) AS known
ON known.span = parts.span AND known.id = parts.id
""",
}


def rebuild(connection: Connection, day: int) -> None:
    """
    Make the summaries of a day again.

    Event logs that arrive meanwhile are in the tables, but their summaries would be replaced: then
    it is done once more.

    Args:
        connection: To the database.
        day: In days since 1970.
    """
    connection.command("CREATE TABLE IF NOT EXISTS call_parts_before AS call_parts")
    for _ in range(_MOST_TIMES):
        number = _number(connection, day)
        for table, text in _SELECTS.items():
            _replace(connection, table, text, day)
        if _number(connection, day) == number:
            break
    connection.command(f"ALTER TABLE call_parts_before DROP PARTITION '{date_of(day)}'")


def _replace(connection: Connection, table: str, text: str, day: int) -> None:
    rebuilt, partition = f"{table}_rebuilt", f"PARTITION '{date_of(day)}'"
    select_ = text.format(part=PART, series_day=SERIES_DAY, in_day=in_day(day), day=day)
    connection.command(f"DROP TABLE IF EXISTS {rebuilt} SYNC")
    connection.command(f"CREATE TABLE {rebuilt} AS {table}")
    connection.command(f"INSERT INTO {rebuilt} {select_}", is_long=True)
    if table == "call_parts":
        connection.command(f"ALTER TABLE {table} MOVE {partition} TO TABLE {table}_before")
        connection.command(f"ALTER TABLE {table} ATTACH {partition} FROM {rebuilt}")
    elif connection.scalar(select(func.count()).select_from(table_named(rebuilt))):
        connection.command(f"ALTER TABLE {table} REPLACE {partition} FROM {rebuilt}")
    else:  # nothing is left, and nothing cannot replace a partition
        connection.command(f"ALTER TABLE {table} DROP {partition}")
    connection.command(f"DROP TABLE {rebuilt} SYNC")


def _number(connection: Connection, day: int) -> int:
    position = event_logs.c.position
    statement = select(func.count()).where(
        position >= first_at(day * DAY_MS), position < first_at((day + 1) * DAY_MS)
    )
    return int(connection.scalar(statement) or 0)


def in_day(day: int) -> str:
    """
    Return the condition on positions of a day.
    """
    begin, end = (first_at(one * DAY_MS).hex() for one in (day, day + 1))
    return f"position >= unhex('{begin}') AND position < unhex('{end}')"


def date_of(day: int) -> str:
    """
    Return a day as its partition is named.
    """
    return (date(1970, 1, 1) + timedelta(days=day)).isoformat()
