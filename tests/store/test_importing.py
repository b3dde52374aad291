"""
Imports: what one database exports goes into another, and nothing that the store would not make.
"""

from __future__ import annotations

import gzip
import io
import itertools
import json
import pathlib
from collections.abc import Callable
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nameko_eventlog import limits
from nameko_eventlog.store import DatabaseError, EventLogQuery
from nameko_eventlog.store.archives import parquet
from nameko_eventlog.store.archives.exporting import Export
from nameko_eventlog.store.archives.formats import format_of, json_line, open_archive
from nameko_eventlog.store.archives.importing import BadRow, Counts, Import, make_imported_row
from nameko_eventlog.store.archives.sources import LineSource, check_name, open_source
from nameko_eventlog.store.dating import EARLIEST_MS, NOTES
from nameko_eventlog.store.rows import Unstorable, make_row
from nameko_eventlog.store.times import format_time, now_ms
from nameko_eventlog.store.writing import content_types
from tests.examples import examples
from tests.postgresql import PostgreSQL
from tests.store.archived import (
    ACCEPT,
    EVERYTHING,
    all_rows,
    odd_messages,
    output_of,
    store,
    store_many,
    store_odd,
)
from tests.store.conftest import body, make_message
from tests.store.hostile import JSON, TEXT
from tests.store.tables import with_tables


NOW = now_ms()

CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "data": JSON,
        "meta": JSON,
        "level": JSON,
        "timestamp": JSON | st.datetimes().map(str),
        "call_stack": st.lists(TEXT, max_size=3),
        "call_id": TEXT,
        "entrypoint_name": TEXT | st.none(),
        "event_type": st.text(min_size=1, max_size=9),
    },
)
"""Changes to a body after which the store takes it."""

Stop = Callable[[BadRow], None] | None


def import_files(uri: str, *paths: pathlib.Path, on_bad: Stop = None) -> Counts:
    """
    Import files into a database.
    """
    with Import(uri, on_bad) as work:
        for path in paths:
            with open_source(str(path)) as source:
                list(work.read(source))
    return work.counts


def export(uri: str, path: pathlib.Path) -> pathlib.Path:
    """
    Export all event logs to a file.
    """
    with EventLogQuery(uri) as query:
        archive = open_archive(str(path), format_of(path.name) or "")
        list(Export(query).write_to(archive))
        archive.close()
    return path


def line(**changes: Any) -> bytes:
    """
    Make a line of an archive; what is given stands in the place of the usual.
    """
    usual = {"message_id": "m", "time": "2026-01-02T03:04:05.678+00:00", "body": body()}
    values = {key: value for key, value in {**usual, **changes}.items() if value is not ...}
    return json.dumps(values).encode()


def answers(uri: str) -> list[Any]:
    """
    Return what a database answers to queries of all kinds.
    """
    found: list[Any] = [all_rows(uri)]
    filters: list[dict[str, Any]] = [
        {},
        {"service": "shop"},
        {"level": "warning+"},
        {"level": "warn"},
        {"caller": "web"},
        {"call_id": "shop.pay.2"},
        {"origin_call_id": "web.get.1"},
        {"event_type": "caf*"},
        {"event_type": "numbers"},
        {"data": {"floats.0": 1e22}},
        {"data": {"integers.0": 2**63 - 1}},
        {"data": {"__type__": "datetime"}},
        {"data_contains": {"none": ["NaN"]}},
        {"data_contains": {"floats": [1e22]}},
        {"metadata": {"level": "WARN"}},
        {"text": "many words"},
        {"text": "yesterday"},
        *({"time_note": note} for note in NOTES),
    ]
    with EventLogQuery(uri) as query:
        for some in filters:
            some = {**EVERYTHING, **some}
            page = query.query(**some)
            found.append([row["message_id"] for row in page["event_logs"]])
            for group in ("service", "event_type", "entrypoint", "level", "time_note", "time"):
                found.append(query.count(group_by=group, **some))
            found.append(query.service_map(**some))
        found += [query.services(), query.trace("shop.pay.2"), query.unseen(service="shp")]
    return found


class TestRoundTrip:
    @pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "parquet"])
    def test_moved(self, postgresql: PostgreSQL, tmp_path: pathlib.Path, suffix: str) -> None:
        """
        From SQLite to PostgreSQL and back, the answers to all queries remain the same.
        """
        first = f"sqlite:///{tmp_path}/first.db"
        store_odd(first)
        postgresql.start()
        second = postgresql.create_database()
        third = f"sqlite:///{tmp_path}/third.db"
        number = len(odd_messages())

        there = import_files(second, export(first, tmp_path / f"there.{suffix}"))
        back = import_files(third, export(second, tmp_path / f"back.{suffix}"))

        assert Counts(stored=number) == there == back
        before = answers(first)
        for one in (second, third):
            for expected, found in zip(before, answers(one), strict=True):
                assert without_sizes(expected) == without_sizes(found)

    @settings(max_examples=examples(500))
    @given(CHANGES, TEXT | st.uuids().map(str) | st.none(), st.booleans())
    def test_any(self, changes: dict[str, Any], message_id: str | None, is_ascii: bool) -> None:
        """
        Whatever the store makes a row of, its line makes the same row.
        """
        message = make_message(json.dumps(body(**changes)).encode(), message_id=message_id)
        row = make_row(message, content_types(ACCEPT), NOW)
        answer: Any = {
            "message_id": row["message_id"],
            "time": format_time(row["time_ms"]),
            "body": row["body"],
        }
        if row["time_note"] is not None:
            answer["time_note"] = row["time_note"]
        made = json.dumps(answer).encode() if is_ascii else json_line(answer)

        ((place, found),) = LineSource("x", io.BytesIO(made))

        assert "x, line 1" == place
        assert not isinstance(found, Unstorable)
        assert row == make_imported_row(found, NOW)

    def test_any_database(self, database: str, tmp_path: pathlib.Path) -> None:
        """
        So it does in any database, and the other database answers the same.
        """
        numbers = itertools.count()

        @settings(max_examples=examples(50))
        @given(st.lists(CHANGES, min_size=1, max_size=20))
        def move(changes: list[dict[str, Any]]) -> None:
            number = next(numbers)
            uri = f"sqlite:///{tmp_path}/{number}.db"
            ids = [f"m{number}-{index}" for index in range(len(changes))]
            store(
                uri,
                [
                    make_message(json.dumps(body(**change)).encode(), message_id=one)
                    for one, change in zip(ids, changes, strict=True)
                ],
            )
            path = export(uri, tmp_path / f"{number}.jsonl")

            assert Counts(stored=len(ids)) == import_files(database, path)
            with EventLogQuery(uri) as first, EventLogQuery(database) as second:
                for one in ids:
                    assert with_floats(first.get(one)) == with_floats(second.get(one))

        move()

    @pytest.mark.parametrize(
        "data",
        [
            b'"' + b"\\u0000" * 5_500_000 + b'"',
            '"{}"'.format("é" * 16_000_000).encode(),
            b"[" + b"1," * 1_000_000 + b"1]",
        ],
        ids=["escapes", "text", "values"],
    )
    def test_largest(self, data: bytes) -> None:
        """
        So it does if the body is as large as the store takes it, and grows by being stored.
        """
        message = make_message(json.dumps(body(data="here")).encode().replace(b'"here"', data))
        row = make_row(message, content_types(ACCEPT), NOW)
        answer: Any = {"message_id": "m", "time": format_time(NOW), "body": row["body"]}

        ((_, found),) = LineSource("x", io.BytesIO(json_line(answer)))

        assert not isinstance(found, Unstorable)
        assert row["body"] == make_imported_row(found, NOW)["body"]

    def test_query_lines(self, tmp_path: pathlib.Path) -> None:
        """
        Lines of ``query --json`` are lines of an export.
        """
        uri = f"sqlite:///{tmp_path}/eventlog.db"
        store_odd(uri)
        path = tmp_path / "x.jsonl"
        path.write_text("".join(f"{json.dumps(row)}\n" for row in all_rows(uri)))

        other = f"sqlite:///{tmp_path}/other.db"
        assert Counts(stored=len(odd_messages())) == import_files(other, path)
        assert all_rows(uri) == all_rows(other)


def without_sizes(answer: Any) -> Any:
    """
    Return an answer without sizes in the database, which differ between databases.
    """
    if isinstance(answer, dict):
        return {key: without_sizes(one) for key, one in answer.items() if key != "omitted_bytes"}
    if isinstance(answer, list):
        return [without_sizes(one) for one in answer]
    return answer


def with_floats(answer: Any) -> Any:
    """
    Return an answer with floats in the place of large integers: PostgreSQL writes large floats
    without an exponent, with zeros for the digits that a float does not have.
    """
    if isinstance(answer, dict):
        return {key: with_floats(one) for key, one in answer.items()}
    if isinstance(answer, list):
        return [with_floats(one) for one in answer]
    return float(answer) if type(answer) is int and abs(answer) > 2**53 else answer


class TestDuplicates:
    def test_again(self, database: str, tmp_path: pathlib.Path) -> None:
        """
        An event log is stored once, however often it is imported, and stays as it was.
        """
        path = tmp_path / "x.jsonl"
        path.write_bytes(b"\n".join([line(message_id=one) for one in ("a", "b", "a")]))

        assert Counts(stored=2, known=1) == import_files(database, path)
        path.write_bytes(line(message_id="a", body=body(event_type="changed")))
        assert Counts(known=1) == import_files(database, path)

        types = [row["body"]["event_type"] for row in all_rows(database)]
        assert ["order_paid"] * 2 == types

    def test_interrupted(
        self, database: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        What was committed stays, and another import goes on.
        """
        monkeypatch.setattr(limits, "IMPORT_ROWS", 100)
        uri = f"sqlite:///{tmp_path}/many.db"
        store_many(uri, 450)
        path = export(uri, tmp_path / "x.jsonl")
        with Import(database) as work, open_source(str(path)) as source:
            steps = work.read(source)
            assert [Counts(100), Counts(200)] == [next(steps), next(steps)]
            steps.close()
        assert 200 == len(all_rows(database))

        counts = import_files(database, path)

        assert Counts(stored=250, known=200) == counts
        assert 450 == counts.read
        assert all_rows(uri) == all_rows(database)

    def test_large(self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A transaction takes as much as one of the store's.
        """
        monkeypatch.setattr(limits, "TRANSACTION_BYTES", 1_000_000)
        path = tmp_path / "x.jsonl"
        large = body(data={"text": "x" * 400_000})
        path.write_bytes(b"\n".join(line(message_id=str(n), body=large) for n in range(7)))
        uri = f"sqlite:///{tmp_path}/eventlog.db"
        with Import(uri) as work, open_source(str(path)) as source:
            steps = [counts.stored for counts in work.read(source)]

        assert [3, 6, 7] == steps


BAD = [
    (b"nope", "not a line of an export: JSON is malformed: invalid character .*, in 'nope'"),
    (line()[:-20], 'not a line of an export: Input data was truncated, in \'{"message_id": '),
    (b"[]", "not a line of an export: Expected `object`, got `array`"),
    (b"\xff\xfe", "not a line of an export: .*, in '\ufffd\ufffd'"),
    (line(message_id=...), "missing required field `message_id`"),
    (line(message_id=None), "Expected `str`, got `null` - at `\\$.message_id`"),
    (line(message_id=""), "message_id must be a non-empty string, not ''"),
    (line(message_id="x" * 501), "message_id has 501 characters, more than 500"),
    (line(time=...), "missing required field `time`"),
    (line(time="yesterday"), "time must be ISO 8601, like 2000-01-01T00:00.*, not 'yesterday'"),
    (line(time="1999-12-31T00:00:00Z"), "the time 1999-12-31T.* is before the year 2000"),
    (
        line(time=format_time(NOW + 10_000_000)),
        "the time .* is in the future: is this machine's clock right",
    ),
    (line(time_note="slow"), "time_note must be one of ahead, past, unreadable, differs, not"),
    (line(omitted_bytes=5), "contains unknown field `omitted_bytes`"),
    (line(body=...), "missing required field `body`"),
    (line(body=[]), r"the body must be a mapping, not \[\] \(message_id 'm'\)"),
    (line(body=body(service_name="")), "service_name must be a non-empty string, not ''"),
    (line(body=body(event_type="x" * 501)), "event_type has 501 characters"),
    (line(body=body(call_stack=[1])), r"call_stack must be a list of call ids, not \[1\]"),
    (line(body=body(data=float("nan"))), "JSON is malformed: invalid character"),
    (line().replace(b'"data": {}', b'"data": "\xff"'), "cannot be decoded: .*UTF-8"),
    (line().replace(b'"data": {}', b'"data": 1e999'), "a number is out of range"),
    (
        line().replace(b'"data": {}', b'"data": ' + b"9" * 5000),
        "a number has more than 4300 digits",
    ),
    (
        line().replace(b'"data": {}', b'"data": ' + b"[" * 201 + b"]" * 201),
        "nested deeper than 200 levels",
    ),
    (line().replace(b'"data": {}', b'"data": ' + b"[" * 100_000), "nested too deeply"),
    (
        line().replace(b'"data": {}', b'"data": [' + b"1e99," * 110_000 + b"1]"),
        "when its numbers are written out, more than",
    ),
    (
        line(body=body(data="x" * limits.BODY_BYTES)),
        f"the body has more than {limits.BODY_BYTES} bytes of text",
    ),
    (
        line().replace(b'"data": {}', b'"data": [' + b"1," * limits.BODY_VALUES + b"1]"),
        f"the body has more than {limits.BODY_VALUES} values",
    ),
]


class TestBadLines:
    @pytest.mark.parametrize(("bad", "said"), BAD, ids=[said[:40] for _, said in BAD])
    def test_stops(self, tmp_path: pathlib.Path, bad: bytes, said: str) -> None:
        """
        A bad line stops the import with its place and the reason; those before it are stored.
        """
        uri = f"sqlite:///{tmp_path}/eventlog.db"
        path = tmp_path / "x.jsonl"
        good = [line(message_id=one) for one in "abc"]
        path.write_bytes(b"\n".join([*good[:2], b"", bad, good[2]]))

        with pytest.raises(BadRow, match=said) as raised:
            import_files(uri, path)

        assert str(raised.value).startswith(f"{path}, line 4: ")
        assert len(str(raised.value)) < len(str(path)) + 600
        assert ["a", "b"] == sorted(row["message_id"] for row in all_rows(uri))

    def test_skipped(self, database: str, tmp_path: pathlib.Path) -> None:
        """
        With a function for bad lines, the import goes on and counts them.
        """
        path = tmp_path / "x.jsonl"
        path.write_bytes(b"\n".join([line(message_id="a"), b"{", line(message_id="b"), b"[]"]))
        errors: list[BadRow] = []

        counts = import_files(database, path, on_bad=errors.append)

        assert Counts(stored=2, bad=2) == counts
        assert 4 == counts.read
        assert [f"{path}, line 2", f"{path}, line 4"] == [
            str(error).partition(": ")[0] for error in errors
        ]

    def test_refused_by_database(self, database: str, tmp_path: pathlib.Path) -> None:
        """
        So it does after a row that the database alone refuses.
        """
        with with_tables(database) as tables:
            tables.refuse("event_logs", "message_id", "bad")
        path = tmp_path / "x.jsonl"
        lines = [line(message_id=one) for one in ("a", "bad", "b", "c")]
        path.write_bytes(b"\n".join([*lines, lines[0]]))

        with pytest.raises(BadRow, match="line 2: the database: "):
            import_files(database, path)
        errors: list[BadRow] = []
        counts = import_files(database, path, on_bad=errors.append)

        assert Counts(known=4, bad=1) == counts
        assert 1 == len(errors)
        assert {"a", "b", "c"} == {row["message_id"] for row in all_rows(database)}

    def test_too_long(self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A line that is too long is skipped to its end.
        """
        monkeypatch.setattr(limits, "IMPORT_LINE_BYTES", 1000)
        path = tmp_path / "x.jsonl"
        lines = [line(message_id="a"), line(body=body(data="x" * 5000)), line(message_id="b")]
        for end in (b"\n", b""):
            path.write_bytes(b"\n".join(lines) + b"\n" + line(body=body(data="x" * 1000)) + end)
            errors: list[BadRow] = []

            counts = import_files(
                f"sqlite:///{tmp_path}/{len(end)}.db", path, on_bad=errors.append
            )

            assert Counts(stored=2, bad=2) == counts
            assert "line 2: it is longer than IMPORT_LINE_BYTES (1000)" in str(errors[0])

    @pytest.mark.parametrize("damage", ["cut", "rubbish", "no gzip"])
    def test_damaged_gzip(self, tmp_path: pathlib.Path, damage: str) -> None:
        """
        Of damaged compressed data, what comes before the damage is stored.
        """
        path = tmp_path / "x.jsonl.gz"
        good = gzip.compress(b"".join(line(message_id=str(n)) + b"\n" for n in range(9)))
        more = gzip.compress(b"".join(line(message_id=str(n)) + b"\n" for n in range(9, 999)))
        path.write_bytes(
            {
                "cut": good + more[:-100],
                "rubbish": good + more[:200] + b"rubbish" * 50,
                "no gzip": good + b"rubbish",
            }[damage]
        )
        uri = f"sqlite:///{tmp_path}/eventlog.db"

        with pytest.raises(BadRow, match="the compressed data end early, or are damaged"):
            import_files(uri, path)

        assert len(all_rows(uri)) >= 9


class TestParquet:
    @staticmethod
    def written(path: pathlib.Path, **columns: Any) -> pathlib.Path:
        """
        Write a file that others might have written.
        """
        encoded = json.dumps(body())
        usual = {
            "message_id": ["m"],
            "time": pyarrow.array([NOW], pyarrow.timestamp("ms", "UTC")),
            "body": [encoded],
        }
        values = {key: value for key, value in {**usual, **columns}.items() if value is not ...}
        pyarrow.parquet.write_table(pyarrow.table(values), path)
        return path

    @pytest.mark.parametrize(
        ("unit", "zone", "factor"),
        [("s", None, 0.001), ("ms", "Europe/Berlin", 1), ("us", None, 1000), ("ns", "UTC", 10**6)],
    )
    def test_other_units(
        self, tmp_path: pathlib.Path, unit: str, zone: str | None, factor: float
    ) -> None:
        """
        A time may have another unit or time zone; in files of other programs, too.
        """
        time = NOW // 1000 * 1000
        path = self.written(
            tmp_path / "x.parquet",
            time=pyarrow.array([int(time * factor)], pyarrow.timestamp(unit, zone)),
            time_note=["differs"],
            level=["whatever"],
        )
        uri = f"sqlite:///{tmp_path}/eventlog.db"

        assert Counts(stored=1) == import_files(uri, path)
        assert [(format_time(time), "differs")] == [
            (row["time"], row["time_note"]) for row in all_rows(uri)
        ]

    @pytest.mark.parametrize(
        ("columns", "said"),
        [
            ({"body": ...}, "it cannot be read as Parquet: it has no column 'body'"),
            ({"time": ["2026-01-01"]}, "'time' must have timestamps, not string"),
            ({"body": [None]}, "row 1: the body must be a JSON object, not None"),
            ({"body": ["{"]}, "row 1: the body cannot be decoded"),
            ({"body": ["{} {}"]}, "row 1: the body cannot be decoded"),
            ({"body": ["[]"]}, r"row 1: the body must be a mapping, not \[\]"),
            ({"message_id": [b"m"]}, "row 1: message_id must be a non-empty string, not b'm'"),
            ({"message_id": [None]}, "row 1: message_id must be a non-empty string, not None"),
            (
                {"time": pyarrow.array([None], pyarrow.timestamp("ms"))},
                "row 1: time must be a time, not None",
            ),
            ({"time": pyarrow.array([2**60], pyarrow.timestamp("ms"))}, "is in the future"),
            ({"time": pyarrow.array([-(2**60)], pyarrow.timestamp("ms"))}, "before the year 2000"),
            ({"time_note": ["slow"]}, "time_note must be one of"),
        ],
    )
    def test_bad(self, tmp_path: pathlib.Path, columns: dict[str, Any], said: str) -> None:
        """
        A bad row stops the import like a bad line.
        """
        path = self.written(tmp_path / "x.parquet", **columns)

        with pytest.raises(BadRow, match=said) as raised:
            import_files(f"sqlite:///{tmp_path}/eventlog.db", path)

        assert str(raised.value).startswith(str(path))

    def test_damaged(self, tmp_path: pathlib.Path) -> None:
        """
        A file that is no Parquet, or damaged, is one bad row.
        """
        path = self.written(tmp_path / "x.parquet", body=[json.dumps(body(data="x" * 5000))])
        data = path.read_bytes()
        for number, damaged in enumerate(
            (b"rubbish", b"", data[:-50], data[:300] + b"\xff" * 100 + data[400:])
        ):
            path.write_bytes(damaged)
            errors: list[BadRow] = []

            counts = import_files(f"sqlite:///{tmp_path}/{number}.db", path, on_bad=errors.append)

            assert (number, Counts(bad=1)) == (number, counts)
            assert "cannot be read as Parquet" in str(errors[0])


class TestNames:
    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("x.csv", "'x.csv' cannot be imported, because CSV is made for spreadsheets"),
            ("x.csv.gz", "CSV is made for spreadsheets"),
            ("x.txt", "'x.txt' is not an archive: name a .jsonl, .jsonl.gz or .parquet"),
            ("x.parquet.gz", "is not an archive"),
        ],
    )
    def test_refused(self, name: str, said: str) -> None:
        """
        Only the suffixes of archives that can be imported are accepted.
        """
        with pytest.raises(ValueError, match=said):
            check_name(name)

    @pytest.mark.parametrize("name", ["x.jsonl", "x.JSONL.GZ", "x.Parquet"])
    def test_accepted(self, name: str) -> None:
        """
        In any case.
        """
        check_name(name)


class TestDatabase:
    def test_away(self, tmp_path: pathlib.Path) -> None:
        """
        Without a database nothing is read.
        """
        path = tmp_path / "x.jsonl"
        path.write_bytes(line())

        with pytest.raises(DatabaseError):
            import_files("postgresql://eventlog@127.0.0.1:1/x", path)

    def test_time(self) -> None:
        """
        The time may be the earliest that the store gives, and five minutes ahead.
        """
        for time in (EARLIEST_MS, NOW + limits.AHEAD_SECONDS * 1000):
            ((_, found),) = LineSource("x", io.BytesIO(line(time=format_time(time))))
            assert not isinstance(found, Unstorable)
            assert time == make_imported_row(found, NOW)["time_ms"]


class TestMemory:
    @pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.parquet"])
    def test_flat(
        self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        """
        30,000 event logs take no more memory than 10,000.
        """
        monkeypatch.setattr(parquet, "GROUP_BYTES", 1 << 20)
        uri = f"sqlite:///{tmp_path}/many.db"
        store_many(uri, 30_000, text="x" * 1000)
        export(uri, tmp_path / name)
        script = f"""
            from nameko_eventlog.store.archives.sources import open_source
            from nameko_eventlog.store.archives.importing import Import
            from tests.store.archived import peak
            before = 0
            with Import("sqlite:///eventlog.db") as work, open_source({name!r}) as source:
                for counts in work.read(source):
                    if counts.read > 10_000:
                        before = before or peak()
            print(work.counts.stored, peak() - before)
        """
        stored, mebibytes = map(int, output_of(script, tmp_path).split())

        assert 30_000 == stored
        assert mebibytes < 8
