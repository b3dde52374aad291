"""
Event logs that are stored, and exported: odd ones, and many.
"""

from __future__ import annotations

import base64
import json
import os
import pathlib
import random
import subprocess
import sys
import textwrap
from datetime import datetime, timedelta, timezone
from typing import Any

from nameko_eventlog.consuming import ReceivedMessage
from nameko_eventlog.store import EventLogQuery
from nameko_eventlog.store.answers import EventLogRow
from nameko_eventlog.store.times import format_time, now_ms
from nameko_eventlog.store.writing import EventLogWriter
from tests.store.conftest import body, make_message


ACCEPT = ("json", "yaml")

EVERYTHING = {"since": "2000-01-01T00:00:00Z", "until": "9999-12-31T00:00:00Z"}
"""A time range in which all event logs are."""

_NOISE = base64.b64encode(random.Random(1).randbytes(600_000)).decode()


def _at(**ago: float) -> str:
    return (datetime.now(timezone.utc) - timedelta(**ago)).isoformat(timespec="milliseconds")


def odd_messages() -> list[ReceivedMessage]:
    """
    Return messages that are stored, although they are unusual.
    """
    plain = [
        make_message(body(level="WARN", timestamp=_at(days=400)), message_id="old"),
        make_message(body(level=30, timestamp=_at(days=3)), message_id="=1+1"),
        make_message(body(level="x" * 501), message_id="é ☃ 🐍 \u202e"),
        make_message(body(level={"a": 1}, timestamp=_at(days=2)), message_id="a\0b;=1"),
        make_message(body(timestamp=_at(days=-30))),
        make_message(body(timestamp="1970-01-01T00:00:07Z"), message_id="past"),
        make_message(body(timestamp="yesterday"), message_id="unreadable"),
        make_message(body(timestamp=None), message_id=None),
        make_message(body(timestamp=_at(hours=2))),
        make_message(body(call_stack=[], call_id=None, entrypoint_name=None)),
        make_message(
            body(event_type="caf\u00e9_\u202e\x1b[2J\x9b\U000e0041", data={"\ud800": "a\0\udfff"})
        ),
        make_message(
            body(
                event_type="numbers",
                data={
                    "floats": [1e22, 1e308, -1.5e-300, 5e-324, 0.1, -0.0, 1e15, 123456.789],
                    "integers": [2**63 - 1, -(2**63), 10**30, 0],
                    "none": [float("nan"), float("inf"), None, True],
                    "empty": [{}, [], ""],
                },
            )
        ),
        make_message(body(event_type="huge", data={"text": "many words " * 200_000})),
        make_message(body(event_type="large", data={"text": _NOISE})),
        make_message(body(event_type="deep", data=json.loads("[" * 198 + "]" * 198))),
    ]
    tagged = "\n".join(
        [
            "service_name: shop",
            "event_type: tagged",
            "data: {__type__: datetime, __value__: never}",
            f"timestamp: '{_at(minutes=1)}'",
        ]
    )
    return [*plain, make_message(tagged.encode(), content_type="application/x-yaml")]


def store_odd(uri: str) -> None:
    """
    Store `odd_messages`.
    """
    store(uri, odd_messages())


def store(uri: str, messages: list[ReceivedMessage]) -> None:
    """
    Store messages; none of them is a reject.
    """
    writer = EventLogWriter(uri, ACCEPT)
    try:
        assert [] == writer.write(messages)
    finally:
        writer.close()


def store_many(uri: str, number: int, **changes: Any) -> None:
    """
    Store numbered event logs, one a second, the last now. Three have the same millisecond.
    """
    begin = now_ms() - number * 1000
    for first in range(0, number, 5000):
        some = range(first, min(first + 5000, number))
        store(
            uri,
            [
                make_message(
                    body(
                        timestamp=format_time(begin + one // 3 * 3000),
                        data={"number": one},
                        **changes,
                    ),
                    message_id=f"m{one * 7919 % number}",
                )
                for one in some
            ],
        )


def all_rows(uri: str) -> list[EventLogRow]:
    """
    Return all event logs with complete bodies, the oldest first.
    """
    rows: list[EventLogRow] = []
    cursor = None
    with EventLogQuery(uri) as query:
        while True:
            page = query.query(order="oldest", limit=1000, cursor=cursor, **EVERYTHING)
            for row in page["event_logs"]:
                whole = query.get(row["message_id"])
                assert whole is not None
                rows.append(whole)
            cursor = page["cursor"]
            if cursor is None:
                return rows


def output_of(script: str, folder: pathlib.Path) -> str:
    """
    Run a script in another process, and return what it prints.
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "" == done.stderr
    return done.stdout


def peak() -> int:
    """
    Return how many MiB this process has needed at the most.

    Not `resource.getrusage`, which counts what the process needed from which it was started.
    """
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) >> 10
