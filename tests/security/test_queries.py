"""
What a reader can ask for: however it is meant, it is answered within the limits, or refused.
"""

from __future__ import annotations

import contextlib
import json
import math
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from time import monotonic, time
from typing import Any

import eventlet
import pytest
from click.testing import CliRunner

from nameko_eventlog import limits
from nameko_eventlog.amqp.decoding import decode_json
from nameko_eventlog.cli.commands import cli
from nameko_eventlog.delivery.identifiers import UUID7Generator
from nameko_eventlog.store import DatabaseError, EventLogQuery, InvalidQuery
from nameko_eventlog.store.reading import Readers
from nameko_eventlog.store.rows import make_row
from nameko_eventlog.store.times import format_time
from nameko_eventlog.store.writing import EventLogWriter
from tests.store.conftest import body, make_message


JSON = ("application/json",)

SECONDS = 1.0
"""How long the queries here may take."""

Store = Callable[..., None]


@pytest.fixture
def store(database: str) -> Iterator[Store]:
    """
    Store bodies, one a second, the last now, as they are: the writer's bounds are not those here.
    """
    writer = EventLogWriter(database, ["json"])
    writer.prepare()
    ids = UUID7Generator()

    def store(*bodies: dict[str, Any] | str, ahead: float = 0) -> None:
        for number, one in enumerate(bodies):
            at = time() + ahead - len(bodies) + number
            told = one if isinstance(one, dict) else body()
            row = make_row(make_message(told, message_id=ids.make(at)), JSON, int(at * 1000))
            row["time_ms"] = int(at * 1000)
            row["body"] = one if isinstance(one, dict) else decoded(one)
            assert 1 == writer._writer.insert([row], [])

    yield store
    writer.close()


@lru_cache(1)
def decoded(text: str) -> Any:
    """
    Return what is in JSON, the same for the same text.
    """
    return decode_json(text)


def with_data(data: str) -> str:
    """
    Return a body as text, with that text as its data.
    """
    return encoded({**body(), "data": "DATA"}).replace('"DATA"', data)


def encoded(value: Any) -> str:
    """
    Return JSON as the store writes it.
    """
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


REFUSED: Sequence[dict[str, Any]] = [
    {"data_contains": {"l": list(range(1_500))}},
    {"data_contains": {"l": [[[number]] for number in range(150)]}},
    {"data_contains": {str(number): number for number in range(1_500)}},
    {"metadata_contains": {"l": ["x" * 1_000] * 50}},
    {"metadata_contains": {"k" * 20_000: 1}},
    {"data": {"l": list(range(1_500))}},
    {"data": {"l": 10**5_000}},
    {"data": {"l": [[], [10**5_000]]}},
    {"data": {10**5_000: 1}},
    {"metadata": {"l": "x" * 100_000}},
    {"text": "a" * 1_001},
    {"text": 10**5_000},
    {"event_type": "*a" * 30},
    {"event_type": ["x*", "*" * 400]},
    {"event_type": "x" * 100_000},
    {"service": "x" * 501},
    {"call_id": 10**5_000},
    {"since": 10**5_000},
    {"until": "1" * 100_000},
    {"limit": "1" * 100_000},
    {"limit": -(10**5_000)},
    {"order": 10**5_000},
    {"cursor": "A" * 1_000_000},
    {"colour": 10**5_000},
]


class TestAsked:
    @pytest.mark.parametrize("database", ["sqlite"], indirect=True)
    @pytest.mark.parametrize("parameters", REFUSED, ids=range(len(REFUSED)))
    def test_refused(self, database: str, store: Store, parameters: dict[str, Any]) -> None:
        """
        What is too much, or no value of JSON, is refused by its name, with a value that is cut.
        """
        (name,) = parameters
        with EventLogQuery(database) as query, pytest.raises(InvalidQuery) as refused:
            query.query(**parameters)

        assert str(refused.value).startswith(f"{name}=")
        assert len(str(refused.value)) < 500

    def test_not_finite(self, database: str, store: Store) -> None:
        """
        What is no number is looked for as the text that the store keeps of it.
        """
        store(body(data={"rate": "NaN"}))
        with EventLogQuery(database) as query:
            found = query.query(data={"rate": math.nan})["event_logs"]

        assert [{"rate": "NaN"}] == [one["body"]["data"] for one in found]

    def test_case(self, database: str, store: Store) -> None:
        """
        Letters are the same letters on every database, whatever their case.
        """
        words = ("\u0130stanbul", "ISTANBUL", "\u03a3\u03a3", "\u03c3\u03c2", "\u212a1", "\u00c9")
        store(*(body(data={"word": word}) for word in words))
        asked = (
            "\u0130",
            "\u0131",
            "istanbul",
            "\u0130STAN",
            "\u03c3\u03c3",
            "\u03c2",
            "k1",
            "\u00e9",
        )
        with EventLogQuery(database) as query:
            found = [
                [
                    one["body"]["data"]["word"]
                    for one in query.query(text=f"{text}", order="oldest")["event_logs"]
                ]
                for text in asked[1:]
            ]

        assert [
            [],
            ["\u0130stanbul", "ISTANBUL"],
            ["\u0130stanbul", "ISTANBUL"],
            ["\u03a3\u03a3"],
            ["\u03c3\u03c2"],
            ["\u212a1"],
            ["\u00c9"],
        ] == found


SLOW = {
    "nested": lambda: (
        with_data(encoded({"l": [[[number]] for number in range(200_000)]})),
        {"data_contains": {"l": [[[number]] for number in range(-40, -1)]}},
    ),
    "leaves": lambda: (
        with_data(encoded({"l": list(range(200_000))})),
        {"data_contains": {"l": list(range(-190, -1))}},
    ),
    "text": lambda: (
        with_data(encoded({"t": "a" * (8 << 20)})),
        {"text": "a" * 900 + "b"},
    ),
    "text from behind": lambda: (
        with_data(encoded({"t": "a" * (8 << 20)})),
        {"text": "b" + "a" * 900},
    ),
    "letters": lambda: (
        with_data(encoded({"t": "\u00e9\u0130" * (4 << 20)})),
        {"text": "\u00e9i" * 450 + "b"},
    ),
    "path": lambda: (
        with_data(encoded({"l": [[number] for number in range(200_000)]})),
        {"data": {"l.0.0": 7, "l": [7]}},
    ),
}


class TestSlow:
    @pytest.mark.parametrize("kind", SLOW)
    def test_given_up(self, database: str, store: Store, kind: str) -> None:
        """
        The slowest queries are answered, or given up in time, and stop neither other readers nor
        green threads meanwhile.
        """
        text, asked = SLOW[kind]()
        store(*[text] * 6, body(event_type="small"))
        readers = Readers(database, SECONDS)
        readers.ask("services")
        longest = 0.0
        is_over = False

        def tick() -> None:
            nonlocal longest
            while not is_over:
                begin = monotonic()
                eventlet.sleep(0.01)
                longest = max(longest, monotonic() - begin)

        def ask() -> float:
            begin = monotonic()
            with contextlib.suppress(DatabaseError):
                readers.ask("query", limit=1000, **asked)
            return monotonic() - begin

        ticker = eventlet.spawn(tick)
        slow = [eventlet.spawn(ask) for _ in range(3)]
        eventlet.sleep(0.05)
        begin = monotonic()
        assert 1 == len(readers.ask("query", event_type="small")["event_logs"])
        other = monotonic() - begin
        took = max(one.wait() for one in slow)
        is_over = True
        ticker.wait()
        readers.close()

        assert took < SECONDS + 4
        assert longest < 1
        assert other < SECONDS + 4


MEASURE = """
import sys
from nameko_eventlog.store import EventLogQuery
with EventLogQuery(sys.argv[1]) as query:
    query.services()
    peak = lambda: int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
    before = peak()
    {ask}
    print(peak() - before)
"""


def peak_kib(database: str, ask: str) -> int:
    """
    Return by how much the memory of a process grows that asks.
    """
    script = MEASURE.format(ask=ask)
    done = subprocess.run(
        [sys.executable, "-c", script, database], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


class TestLarge:
    def test_pages(self, database: str, store: Store) -> None:
        """
        A list has large bodies without what is in them, and tells their sizes.
        """
        large = body(event_type="large", level="error", data={"t": "x" * 100_000})
        small = body(event_type="small", data={"t": "y" * 1_000})
        store(large, small)
        with EventLogQuery(database) as query:
            second, first = query.query()["event_logs"]
            whole = query.get(first["message_id"])
            cut = query.get(first["message_id"], most_bytes=50_000)
            kept = query.get(first["message_id"], most_bytes=200_000)
            (call,) = [one for one in query.trace("shop.pay.2")["calls"] if one["known"]]

        assert small == second["body"]
        assert "omitted_bytes" not in second
        assert 1_000 < first["omitted_bytes"] < 200_000
        assert {**large, "data": {}, "timestamp": first["time"]} == first["body"]
        assert large == whole["body"]
        assert [first, second] == call["event_logs"]
        if database.startswith("sqlite"):  # PostgreSQL says how large it is compressed
            assert (first, whole) == (cut, kept)

    def test_bytes(self, database: str, store: Store) -> None:
        """
        A page ends where its bodies are large together, and goes on with its cursor.
        """
        number = limits.PAGE_BYTES // 30_000 + 20
        store(*(body(data={"n": at, "t": "x" * 30_000}) for at in range(number)))
        seen, sizes, cursor = [], [], None
        with EventLogQuery(database) as query:
            while True:
                page = query.query(limit=1000, cursor=cursor, order="oldest")
                seen += [one["body"]["data"]["n"] for one in page["event_logs"]]
                sizes.append(sum(len(json.dumps(one["body"])) for one in page["event_logs"]))
                cursor = page["cursor"]
                if cursor is None:
                    break

        assert list(range(number)) == seen
        assert 2 == len(sizes)
        assert max(sizes) <= limits.PAGE_BYTES * 1.05

    def test_memory(self, database: str, store: Store) -> None:
        """
        Neither forty large bodies nor hundreds that are just small enough take much memory.
        """
        store(*[with_data(f'{{"l": [{"[]," * (1 << 20)}[]]}}')] * 40)
        store(*[with_data(f'{{"l": [{"[]," * 10_000}[]]}}')] * 300)

        assert peak_kib(database, "query.query(limit=1000); query.trace('shop.pay.2')") < 600 << 10

    def test_file(self, tmp_path: Path) -> None:
        """
        A new file of SQLite's, and what SQLite puts beside it, is readable by its owner alone.
        """
        writer = EventLogWriter(f"sqlite:///{tmp_path}/x.db", ["json"])
        writer.prepare()
        modes = {one.name: stat.S_IMODE(one.stat().st_mode) for one in tmp_path.iterdir()}
        writer.close()

        assert {"x.db": 0o600, "x.db-wal": 0o600, "x.db-shm": 0o600} == modes


class TestAhead:
    def test_left_out(self, database: str, store: Store) -> None:
        """
        What is dated ahead of now is not on top of everything, but there when asked for.
        """
        store(body(event_type="now"))
        store(body(event_type="soon"), ahead=60)
        store(body(event_type="late", call_id="late"), ahead=7_200)
        with EventLogQuery(database) as query:
            found = [
                [one["body"]["event_type"] for one in query.query(**asked)["event_logs"]]
                for asked in (
                    {},
                    {"event_type": "late"},
                    {"call_id": "late"},
                    {"since": time_text(3_600)},
                    {"until": time_text(9_000)},
                )
            ]
            counts = [
                sum(one["count"] for one in query.count(**asked))
                for asked in ({}, {"since": time_text(3_600)})
            ]

        assert [["soon", "now"], [], ["late"], ["late"], ["late", "soon", "now"]] == found
        assert [2, 1] == counts


def time_text(ahead: float) -> str:
    """
    Return a time ahead of now.
    """
    return format_time(int((time() + ahead) * 1000))


class TestWildcards:
    def test_many_names(
        self, database: str, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        A wildcard finds what it means among any number of event types.
        """
        monkeypatch.setattr("nameko_eventlog.store.sql.paging._MOST_SERIES", 50)
        names = [f"{first}_{number}%~_" for number in range(100) for first in "ab"]
        store(*(body(event_type=name) for name in names))
        patterns: tuple[Any, ...] = ("b_*", "*_9*%~_", ["a_1*", "b_2%~_"], "*%*~*_", "*B*")
        patterns += ([f"a_{digit}*" for digit in range(1, 7)],)  # none means too many by itself
        with EventLogQuery(database) as query:
            found = [
                {
                    one["body"]["event_type"]
                    for one in query.query(event_type=pattern, limit=1000)["event_logs"]
                }
                for pattern in patterns
            ]

        assert [
            {name for name in names if name.startswith("b")},
            {name for name in names if "_9" in name},
            {name for name in names if name.startswith("a_1") or name == "b_2%~_"},
            set(names),
            set(),
            {name for name in names if name.startswith("a_") and name[2] in "123456"},
        ] == found


class TestTraces:
    def test_chain(self, database: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A chain of call stacks that were cut is followed so far, and said to be longer.
        """
        monkeypatch.setattr("nameko_eventlog.store.trace_search.TRACE_STEPS", 20)
        store(
            *(
                body(call_id=f"s.m.{at}", call_stack=[f"s.m.{at - 1}", f"s.m.{at}"])
                for at in range(1, 200)
            )
        )
        with EventLogQuery(database) as query:
            for asked in ("s.m.0", "s.m.199"):
                trace = query.trace(asked)
                assert trace["truncated"]
                assert 1 < len(trace["calls"]) < 60

    @pytest.mark.parametrize("database", ["sqlite"], indirect=True)
    def test_deep(self, database: str, store: Store, tmp_path: Path) -> None:
        """
        A trace of one message with thousands of calls above it is printed in no time, and no
        line is long.
        """
        stack = [f"{number}" for number in range(4_000)]
        store(body(call_id="3999", call_stack=stack))
        config = tmp_path / "config.yaml"
        config.write_text(f"EVENTLOG_STORE: {{uri: '{database}'}}\n")
        begin = monotonic()
        done = CliRunner().invoke(cli, ["trace", "3999", "--config", str(config)])
        took = monotonic() - begin

        assert 0 == done.exit_code
        assert took < 10
        assert limits.SHOWN_CALLS == len(done.stdout.splitlines())
        assert len(done.stdout) < 1_000_000
        said = f"showing {limits.SHOWN_CALLS} of 4000 calls: --json prints all of them"
        assert said in done.stderr
