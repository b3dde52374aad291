"""
Levels, however they are written.
"""

from __future__ import annotations

from typing import Any

import pytest

from nameko_eventlog.store import EventLogQuery
from nameko_eventlog.store.levels import normal_level
from nameko_eventlog.store.writing import EventLogWriter
from tests.store.conftest import Make, body


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        *((one, "error") for one in ("error", "ERROR", " Error\n", "err", "exception", 40, "40")),
        *((one, "warning") for one in ("warning", "warn", "WARN", 30)),
        *((one, "critical") for one in ("critical", "Fatal", "crit", 50)),
        *((one, "level 35") for one in (35, "35", "Level 35")),
        ("Custom", "custom"),
        ("", ""),
        *((one, None) for one in (None, True, 4.0, -1, 10**30, [], {})),
    ],
)
def test_normal(written: Any, normal: str | None) -> None:
    """
    Case and blanks do not count, aliases and logging's numbers are names; what is none is None.
    """
    assert normal == normal_level(written)


def test_above(database: str, message: Make) -> None:
    """
    A level and a plus mean that level and those above, by name or by number; bodies stay as sent,
    and counts are by the normal name.
    """
    sent = ["debug", "INFO", "Warn", 35, "error", "ERROR", "fatal", "custom", None]
    writer = EventLogWriter(database, ["json"])
    assert [] == writer.write([message(body(level=one, data={"n": one})) for one in sent])
    writer.close()
    with EventLogQuery(database) as query:

        def found(level: Any) -> list[Any]:
            rows = query.query(level=level, order="oldest")["event_logs"]
            assert len(rows) == sum(one["count"] for one in query.count(level=level))
            return [row["body"]["level"] for row in rows]

        assert ["Warn", 35, "error", "ERROR", "fatal"] == found("warning+")
        assert [35, "error", "ERROR", "fatal"] == found("31+")
        assert ["fatal"] == found("CRITICAL+")
        assert ["INFO", "error", "ERROR"] == found(["info", "Err"])
        assert ["custom"] == found("Custom")
        assert [] == found("custom+")
        assert {"error": 2, "critical": 1}.items() <= {
            one["group"]: one["count"] for one in query.count(group_by="level")
        }.items()
        near = {"filter": "level", "value": "eror", "near": ["error"]}
        assert [near] == query.unseen(level=["eror", "WARN", "warning+"], service="shop")
