"""
What is printed, and what a page links to, finds the event log that it is of.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from werkzeug.datastructures import MultiDict

from nameko_eventlog.cli.filters import matcher
from nameko_eventlog.cli.terminal import json_line
from nameko_eventlog.explorer.rendering import body_lines
from nameko_eventlog.explorer.views import View
from nameko_eventlog.store import EventLogQuery
from nameko_eventlog.store.paths import read_path, write_path
from nameko_eventlog.store.typed import parse_equality
from nameko_eventlog.store.writing import EventLogWriter
from tests.examples import examples
from tests.store.conftest import Make, body


NUMBERS = [
    *(0, -0.0, 1, 1.0, 1.5, -2.5e-7, 5e-324, 1.7976931348623157e308, 0.1234567890123456789),
    *(10**15, 1e15, 10**16, 1e16, 1e19, 1e22, 1.2345678901234567e25),
    *(2**53 + 1, 2**63 - 1, 2**63, 2**64 + 1, -(2**63), -(2**63) - 1, 10**40),
    *(float("inf"), float("-inf"), float("nan")),
]
TEXTS = [
    "",
    " ",
    "a b",
    "\0",
    "\ud800",
    "\u212a\u0130",
    '"',
    "\\",
    "5",
    "NaN",
    "null",
    "%_~",
    "x" * 300,
]
KEYS = [
    "a",
    "http.method",
    "a=b",
    "",
    ".",
    '"',
    '"a"',
    "0",
    "-1",
    " k ",
    "\u00e9",
    "\\",
    "\n",
    "k\0",
]

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.sampled_from(NUMBERS)
    | st.sampled_from(TEXTS)
    | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=2)
    ),
    max_leaves=3,
)
NAMES = st.sampled_from([" shop", '"shop"', '"', "a*b", "*" * 30, "\u00e9\0", "x" * 500, "shop"])
LEVELS = st.sampled_from(["ERROR", "Warn", 40, 35, " ", "error+", "", "l" * 600, None])
HOURS = st.sampled_from([0, 11, 13, 100, -1])


def paths(value: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """
    Yield where each value is.
    """
    if at:
        yield at, value
    if isinstance(value, (dict, list)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, one in items:
            yield from paths(one, (*at, str(key)))


class TestFound:
    @pytest.fixture
    def store(self, database: str) -> Iterator[tuple[EventLogWriter, EventLogQuery]]:
        """
        A store, to write to and to ask.
        """
        writer = EventLogWriter(database, ["json"])
        writer.prepare()
        with EventLogQuery(database) as query:
            yield writer, query
        writer.close()

    @settings(
        max_examples=examples(8),
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3), NAMES, NAMES, LEVELS, HOURS)
    @example({f"k{at}": one for at, one in enumerate(NUMBERS)}, "shop", "paid", None, 13)
    @example({f"k{at}": one for at, one in enumerate(TEXTS)}, "shop", "paid", None, 0)
    @example({one: {one: [one]} for one in KEYS}, "shop", "paid", None, 0)
    def test_row(
        self, store: Any, message: Make, data: Any, service: str, kind: str, level: Any, hours: int
    ) -> None:
        """
        Each value that ``query --json`` prints, as a filter, and each link on the event log's page
        finds it: of any type, with any key, however old it is, or dated ahead.
        """
        writer, query = store
        at = datetime.now(timezone.utc) - timedelta(hours=hours)
        message_id = f"m{at.timestamp()}"
        sent = body(
            service_name=service,
            entrypoint_name=message_id,
            event_type=kind,
            level=level,
            data=data,
            call_stack=["web.get.1", " b", "shop.pay.2"],
            timestamp=at.isoformat(),
            meta={"a.b": 1e22, "n": 2**64},
        )
        assert [] == writer.write([message(sent, message_id=message_id)])
        row = query.get(message_id)
        assert row is not None
        printed = json.loads(json_line(row))
        around = {
            "since": (at - timedelta(hours=1)).isoformat(),
            "until": (at + timedelta(hours=1)).isoformat(),
        }

        def is_found(**filters: Any) -> bool:
            # of the others, none has this entrypoint: there is little to look through
            found = query.query(**{"entrypoint": message_id, **filters})["event_logs"]
            return message_id in [one["message_id"] for one in found]

        for keys, value in paths(printed["body"]["data"]):
            path, typed = parse_equality(f"{write_path(keys)}={json.dumps(value)}")
            assert is_found(data={path: typed}, **around), (path, typed)
            assert matcher({"data": ((path, typed),)})(row["body"]), (path, typed)
            plain = ".".join(keys)
            if keys in read_path(plain):
                assert is_found(data={plain: value}, **around), (plain, value)
        for name, key in (("service", "service_name"), ("level", "level")):
            told = printed["body"][key]
            if isinstance(told, str) and 0 < len(told) <= 500:
                assert is_found(**{name: told}, **around), (name, told)
        assert is_found(metadata={"level": printed["body"]["level"]}, **around)

        urls = [line.url for line in body_lines(row)[0] if line.url]
        view = View.read(MultiDict(around))
        stream = {"event_type": row["body"]["event_type"], "service": row["body"]["service_name"]}
        urls += filter(None, [view.narrowed(**{name: one}) for name, one in stream.items()])
        assert len(urls) > 5
        for url in urls:
            view = View.read(MultiDict(parse_qsl(url.partition("?")[2])))
            assert is_found(**view.parameters()), url
