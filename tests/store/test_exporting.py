"""
Exports: complete, in any format, and going on after whatever interrupts them.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import pathlib
import signal
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from nameko_eventlog.store import DatabaseError, EventLogQuery, InvalidQuery
from nameko_eventlog.store.archives import exporting, parquet
from nameko_eventlog.store.archives import formats as archives
from nameko_eventlog.store.archives.columns import COLUMNS
from nameko_eventlog.store.archives.exporting import Export
from nameko_eventlog.store.archives.files import ArchiveFile
from nameko_eventlog.store.archives.formats import Archive, format_of, open_archive
from nameko_eventlog.store.levels import normal_level
from nameko_eventlog.store.retention import purge
from nameko_eventlog.store.times import format_time, now_ms, read_iso
from tests.foreground import python_s_own
from tests.postgresql import PostgreSQL
from tests.store.archived import (
    all_rows,
    odd_messages,
    output_of,
    store,
    store_many,
    store_odd,
)
from tests.store.conftest import body, make_message


__all__ = ["python_s_own"]


NAMES = ("x.jsonl", "x.jsonl.gz", "x.csv", "x.csv.gz", "x.parquet")

Frequent = Callable[[int], None]


def open_named(path: pathlib.Path, goes_on: bool = False) -> Archive:
    """
    Open an archive whose suffix tells the format.
    """
    found = format_of(path.name)
    assert found is not None
    return open_archive(str(path), found, goes_on)


def export(uri: str, path: pathlib.Path, **options: Any) -> int:
    """
    Export to a file, and return how many event logs.
    """
    with EventLogQuery(uri) as query:
        work = Export(query, **options)
        archive = open_named(path, "cursor" in options)
        steps = list(work.write_to(archive))
        archive.close()
    assert sum(steps) == work.written
    return work.written


def export_some(uri: str, path: pathlib.Path, number: int, **filters: Any) -> str:
    """
    Export until an archive was flushed so many times, and return the cursor.
    """
    with EventLogQuery(uri) as query:
        work = Export(query, **filters)
        archive = open_named(path)
        assert number == len(list(islice(work.write_to(archive), number)))
        archive.close()
    assert work.cursor is not None
    return work.cursor


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """
    Read an archive with other tools than ours, as what `EventLogQuery` answers.
    """
    data = path.read_bytes() if path.suffix != ".parquet" else b""
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    if ".jsonl" in path.name:
        return [json.loads(line) for line in text.splitlines()]
    if ".csv" in path.name:
        csv.field_size_limit(1 << 30)
        head, *cells = csv.reader(io.StringIO(text, newline=""))
        lines = [dict(zip(head, line, strict=True)) for line in cells]
    else:
        lines = pyarrow.parquet.read_table(path).to_pylist()
        for line in lines:
            line["time"] = line["time"].isoformat(timespec="milliseconds")
    return [
        {
            "message_id": line["message_id"],
            "time": line["time"],
            **({"time_note": line["time_note"]} if line["time_note"] else {}),
            "body": json.loads(line["body"]),
        }
        for line in lines
    ]


@pytest.fixture
def frequent(monkeypatch: pytest.MonkeyPatch) -> Frequent:
    """
    Let archives be flushed after so many characters.
    """

    def frequent(size: int) -> None:
        monkeypatch.setattr(archives, "_FLUSH_BYTES", size)
        monkeypatch.setattr(parquet, "GROUP_BYTES", size)

    return frequent


class TestContents:
    @pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.parquet"])
    def test_complete(self, database: str, tmp_path: pathlib.Path, name: str) -> None:
        """
        All event logs are exported, the oldest first, with complete bodies, as they are stored.
        """
        store_odd(database)

        number = export(database, tmp_path / name)

        assert len(odd_messages()) == number
        assert all_rows(database) == read(tmp_path / name)

    @pytest.mark.parametrize("name", ["x.csv", "x.csv.gz"])
    def test_csv(self, database: str, tmp_path: pathlib.Path, name: str) -> None:
        """
        CSV has the same, with cells that are no formulas, and no characters that cannot be seen.
        """
        store_odd(database)

        export(database, tmp_path / name)

        expected = all_rows(database)
        found = read(tmp_path / name)
        assert [row["body"] for row in expected] == [row["body"] for row in found]
        assert [row["time"] for row in expected] == [row["time"] for row in found]
        ids = {row["message_id"] for row in found}
        assert {"'=1+1", "é ☃ 🐍 \\u202e", "a\\u0000b\\x3b=1"} <= ids

    def test_columns(self, database: str, tmp_path: pathlib.Path) -> None:
        """
        CSV and Parquet have the same columns; the level is the name by which the store finds it.
        """
        store(
            database,
            [make_message(body(level="WARN"), message_id="a"), make_message(body(level=[1]))],
        )
        export(database, tmp_path / "x.csv")
        export(database, tmp_path / "x.parquet")

        head, *cells = csv.reader((tmp_path / "x.csv").read_text().splitlines())
        table = pyarrow.parquet.read_table(tmp_path / "x.parquet")

        assert list(COLUMNS) == head == table.schema.names
        assert {"warning", ""} == {line[head.index("level")] for line in cells}
        assert {"warning", None} == set(table.column("level").to_pylist())
        assert {normal_level("WARN"), None} == set(table.column("level").to_pylist())
        assert pyarrow.timestamp("ms", "UTC") == table.schema.field("time").type
        for name in ("service_name", "event_type", "entrypoint_name", "call_id"):
            values = [row["body"][name] for row in all_rows(database)]
            assert values == table.column(name).to_pylist()

    @pytest.mark.parametrize("name", NAMES)
    def test_nothing(self, tmp_path: pathlib.Path, name: str) -> None:
        """
        Without event logs the archive is valid, and has none.
        """
        uri = f"sqlite:///{tmp_path}/eventlog.db"
        store(uri, [])

        assert 0 == export(uri, tmp_path / name)
        assert [] == read(tmp_path / name)

    def test_terminal(self, tmp_path: pathlib.Path) -> None:
        """
        A line of JSON has no character that a terminal obeys or does not show.
        """
        uri = f"sqlite:///{tmp_path}/eventlog.db"
        store_odd(uri)

        export(uri, tmp_path / "x.jsonl")

        text = (tmp_path / "x.jsonl").read_text("utf-8")
        assert not set("\x1b\x9b\u202e\U000e0041\x7f") & set(text)
        assert "é ☃ 🐍" in text

    def test_row_groups(self, tmp_path: pathlib.Path, frequent: Frequent) -> None:
        """
        The row groups of Parquet have a bounded size.
        """
        frequent(10_000)
        uri = f"sqlite:///{tmp_path}/eventlog.db"
        store_many(uri, 500)

        export(uri, tmp_path / "x.parquet")

        file = pyarrow.parquet.ParquetFile(tmp_path / "x.parquet")
        groups = [file.metadata.row_group(n) for n in range(file.num_row_groups)]
        assert 500 == sum(group.num_rows for group in groups)
        assert max(group.num_rows for group in groups) < 50
        assert {"ZSTD"} == {group.column(n).compression for group in groups for n in range(9)}


class TestFilters:
    @pytest.mark.parametrize(
        ("filters", "number"),
        [
            ({}, 4),
            ({"service": "shop"}, 3),
            ({"event_type": "order_*"}, 4),
            ({"data": {"n": 1}}, 2),
            ({"text": "needle"}, 1),
            ({"data": {"n": 1}, "since": "2020-01-01T00:00:00Z"}, 1),
            ({"until": "2020-01-01T00:00:00Z"}, 2),
            ({"service": "nobody"}, 0),
        ],
    )
    def test_all_times(
        self, database: str, tmp_path: pathlib.Path, filters: dict[str, Any], number: int
    ) -> None:
        """
        Filters select among the event logs of all times, unless they name a time.
        """
        old = "2019-05-05T05:05:05Z"
        store(
            database,
            [
                make_message(body(timestamp=old, data={"n": 1}), message_id="a"),
                make_message(body(timestamp=old, data={"x": "a Needle"}), message_id="b"),
                make_message(body(data={"n": 1}), message_id="c"),
                make_message(body(service_name="web"), message_id="d"),
            ],
        )

        assert number == export(database, tmp_path / "x.jsonl", **filters)

    def test_many_event_types(
        self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        So does a pattern, however many event types there are.
        """
        monkeypatch.setattr("nameko_eventlog.store.queries.DISTINCT_NAMES", 1)
        uri = f"sqlite:///{tmp_path}/eventlog.db"
        store(
            uri,
            [
                make_message(body(event_type=name, timestamp="2019-05-05T05:05:05Z"))
                for name in ("order_a", "order_b")
            ],
        )

        assert 2 == export(uri, tmp_path / "x.jsonl", event_type="order_*")

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"since": "never"}, "since='never'"),
            ({"level": ""}, "level=''"),
            ({"cursor": "x"}, "pass the cursor of an interrupted export, unchanged"),
            ({"cursor": "é" * 5}, "pass the cursor of an interrupted export, unchanged"),
            ({"cursor": "A" * 30_000}, "pass the cursor of an interrupted export, unchanged"),
        ],
    )
    def test_invalid(self, tmp_path: pathlib.Path, options: dict[str, Any], said: str) -> None:
        """
        What is invalid is refused before anything is read.
        """
        with EventLogQuery(f"sqlite:///{tmp_path}/eventlog.db") as query:
            with pytest.raises(InvalidQuery, match=said):
                Export(query, **options)


class TestGoingOn:
    def test_anywhere(self, database: str, tmp_path: pathlib.Path, frequent: Frequent) -> None:
        """
        An export that ends after any row goes on with the next one.
        """
        frequent(1)
        store_odd(database)
        expected = all_rows(database)

        for stop in range(1, len(expected)):
            path = tmp_path / f"{stop}.jsonl"
            cursor = export_some(database, path, stop)
            assert expected[:stop] == read(path)

            assert len(expected) - stop == export(database, path, cursor=cursor)
            assert expected == read(path)

    @pytest.mark.parametrize("name", NAMES[1:])
    def test_formats(self, tmp_path: pathlib.Path, frequent: Frequent, name: str) -> None:
        """
        So it does in any format: lines in the same file, Parquet in a further one.
        """
        frequent(1)
        uri = f"sqlite:///{tmp_path}/eventlog.db"
        store_odd(uri)
        export(uri, tmp_path / f"whole-{name}")
        path = tmp_path / name
        further = tmp_path / f"further-{name}" if name == "x.parquet" else path

        export(uri, further, cursor=export_some(uri, path, 5))

        found = read(path) if further == path else read(path) + read(further)
        assert read(tmp_path / f"whole-{name}") == found

    def test_pages(self, database: str, tmp_path: pathlib.Path, frequent: Frequent) -> None:
        """
        So it does within any page, where several event logs have the same time, and with filters.
        """
        frequent(30_000)
        store_many(database, 2500)
        path = tmp_path / "x.jsonl"
        steps = 0
        cursor = None
        while True:
            with EventLogQuery(database) as query:
                work = Export(query, cursor=cursor, service="shop")
                archive = open_named(path, cursor is not None)
                step = next(work.write_to(archive), None)
                archive.close()
            if step is None:
                break
            steps += 1
            cursor = work.cursor

        assert steps > 20
        assert all_rows(database) == read(path)

    def test_relative_times(self, tmp_path: pathlib.Path, frequent: Frequent) -> None:
        """
        The time range is that of the interrupted export, whatever is given again.
        """
        frequent(1)
        uri = f"sqlite:///{tmp_path}/eventlog.db"
        store_many(uri, 10)
        path = tmp_path / "x.jsonl"
        cursor = export_some(uri, path, 1, since=format_time(now_ms() - 60_000))

        assert 9 == export(uri, path, cursor=cursor, since=format_time(now_ms() - 1))
        assert 10 == len(read(path))

    def test_other_filters(self, tmp_path: pathlib.Path, frequent: Frequent) -> None:
        """
        A cursor of other filters is refused.
        """
        frequent(1)
        uri = f"sqlite:///{tmp_path}/eventlog.db"
        store_many(uri, 3)
        cursor = export_some(uri, tmp_path / "x.jsonl", 1, service="shop")

        with EventLogQuery(uri) as query:
            with pytest.raises(InvalidQuery, match="belongs to another export: pass the same"):
                Export(query, cursor=cursor, service="web")

    @pytest.mark.parametrize("remaining", [3, 2, 1])
    def test_deleted(
        self, database: str, tmp_path: pathlib.Path, frequent: Frequent, remaining: int
    ) -> None:
        """
        If what was written last is deleted meanwhile, nothing that remains is omitted.
        """
        frequent(1)
        days = [f"2026-01-0{number}T00:00:00Z" for number in range(1, 5)]
        store(database, [make_message(body(timestamp=day), message_id=day) for day in days])
        path = tmp_path / "x.jsonl"
        cursor = export_some(database, path, 2)
        assert 4 - remaining == sum(purge(database, read_iso(days[-remaining])))

        export(database, path, cursor=cursor)

        assert days[:2] + days[max(2, 4 - remaining) :] == [
            row["message_id"] for row in read(path)
        ]

    def test_deleted_among_others(
        self, database: str, tmp_path: pathlib.Path, frequent: Frequent
    ) -> None:
        """
        Neither is what has the same time, which may then be exported twice.
        """
        frequent(1)
        same = "2026-01-01T00:00:00Z"
        store(
            database,
            [make_message(body(timestamp=same), message_id=f"m{number}") for number in range(3)],
        )
        path = tmp_path / "x.jsonl"
        ended = exporting._Cursor.decode(export_some(database, path, 2))

        export(database, path, cursor=replace(ended, message_id="deleted").encode())

        assert {"m0", "m1", "m2"} == {row["message_id"] for row in read(path)}

    def test_arrived(self, database: str, tmp_path: pathlib.Path, frequent: Frequent) -> None:
        """
        What arrives meanwhile with a later time is exported, and shifts nothing else.
        """
        frequent(1)
        store_many(database, 3)
        path = tmp_path / "x.jsonl"
        cursor = export_some(database, path, 2)
        store(
            database,
            [
                make_message(body(timestamp="2026-01-01T00:00:00Z"), message_id="earlier"),
                make_message(body(), message_id="later"),
            ],
        )

        export(database, path, cursor=cursor)

        expected = [row["message_id"] for row in all_rows(database)]
        assert expected == ["earlier", *[row["message_id"] for row in read(path)]]

    @pytest.mark.parametrize("name", ["x.jsonl", "x.parquet"])
    def test_database_stops(
        self, postgresql: PostgreSQL, tmp_path: pathlib.Path, frequent: Frequent, name: str
    ) -> None:
        """
        If the database stops, what was written so far is valid, and the export goes on later.
        """
        frequent(30_000)
        postgresql.start()
        uri = postgresql.create_database()
        store_many(uri, 2500)
        path = tmp_path / name
        with EventLogQuery(uri) as query:
            work = Export(query)
            archive = open_named(path)
            steps = work.write_to(archive)
            next(steps)
            postgresql.stop()
            try:
                with pytest.raises(DatabaseError):
                    list(steps)
            finally:
                postgresql.start()
            archive.close()
        assert work.written == len(read(path))

        further = path if name == "x.jsonl" else tmp_path / "further.parquet"
        export(uri, further, cursor=work.cursor)

        found = read(path) if further == path else read(path) + read(further)
        assert all_rows(uri) == found

    @pytest.mark.usefixtures("python_s_own")
    def test_interrupted_flush(self, tmp_path: pathlib.Path, frequent: Frequent) -> None:
        """
        Ctrl-C takes effect between two flushes, and not within one.
        """
        frequent(1)
        uri = f"sqlite:///{tmp_path}/eventlog.db"
        store_many(uri, 5)
        path = tmp_path / "x.jsonl"

        class Interrupted(ArchiveFile):
            """
            A file in whose writing somebody presses Ctrl-C.
            """

            def write(self, data: bytes, /) -> int:
                signal.raise_signal(signal.SIGINT)
                return super().write(data)

        archive = archives.LineArchive(Interrupted(str(path)), archives.json_line)
        with EventLogQuery(uri) as query:
            work = Export(query)
            with pytest.raises(KeyboardInterrupt):
                list(work.write_to(archive))
        archive.close()

        assert 1 == work.written == len(read(path))
        assert signal.default_int_handler is signal.getsignal(signal.SIGINT)
        assert 4 == export(uri, path, cursor=work.cursor)
        assert all_rows(uri) == read(path)


class TestFile:
    def test_private(self, tmp_path: pathlib.Path) -> None:
        """
        A new file belongs to its owner alone.
        """
        for name in NAMES:
            open_named(tmp_path / name).close()

            assert 0o600 == (tmp_path / name).stat().st_mode & 0o777

    @pytest.mark.parametrize("name", NAMES)
    def test_existing(self, tmp_path: pathlib.Path, name: str) -> None:
        """
        A file that has content is not overwritten.
        """
        (tmp_path / name).write_text("precious")

        with pytest.raises(FileExistsError):
            open_named(tmp_path / name)

        assert "precious" == (tmp_path / name).read_text()

    @pytest.mark.parametrize("name", NAMES)
    def test_discarded(self, tmp_path: pathlib.Path, name: str) -> None:
        """
        An archive in which there is nothing leaves no file, but for one that was there before.
        """
        archive = open_named(tmp_path / name)
        archive.discard()
        assert not (tmp_path / name).exists()

        if name == "x.parquet":
            return
        (tmp_path / name).write_bytes(b"precious")
        open_named(tmp_path / name, True).discard()
        assert b"precious" == (tmp_path / name).read_bytes()

    @pytest.mark.parametrize("name", NAMES)
    def test_full_disk(self, tmp_path: pathlib.Path, name: str) -> None:
        """
        When the disk is full, what was written before is valid, and the export goes on elsewhere.
        """
        uri = f"sqlite:///{tmp_path}/eventlog.db"
        store(
            uri, [make_message(body(data={"text": os.urandom(2000).hex()})) for _ in range(2000)]
        )
        script = f"""
            import resource, sys
            from nameko_eventlog.store import EventLogQuery
            from nameko_eventlog.store.archives import formats as archives, parquet
            from nameko_eventlog.store.archives.formats import format_of, open_archive
            from nameko_eventlog.store.archives.exporting import Export
            archives._FLUSH_BYTES = parquet.GROUP_BYTES = 300_000
            archives._GZIP_LEVEL = 0
            name = {name!r}
            resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
            with EventLogQuery({uri!r}) as query:
                work = Export(query)
                archive = open_archive(name, format_of(name))
                try:
                    list(work.write_to(archive))
                except OSError as exc:
                    archive.close()
                    print(exc.errno, work.written, work.cursor)
        """
        errno, written, cursor = output_of(script, tmp_path).split()

        assert "27" == errno  # EFBIG
        assert 0 < int(written) < 2000
        first = read(tmp_path / name)
        assert int(written) == len(first)
        assert 2000 - int(written) == export(uri, tmp_path / f"2-{name}", cursor=cursor)
        bodies = [row["body"] for row in first + read(tmp_path / f"2-{name}")]
        assert [row["body"] for row in all_rows(uri)] == bodies

    def test_not_synced(self, tmp_path: pathlib.Path) -> None:
        """
        A file that could not be completed is not closed as if it were.
        """
        file = ArchiveFile(str(tmp_path / "x"))
        file.write(b"x")
        with pytest.MonkeyPatch.context() as changed:
            changed.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(5, "broken")))
            with pytest.raises(OSError, match="broken"):
                file.close()

        with pytest.raises(OSError, match="not everything was written"):
            file.close()
        file.discard()
        assert not (tmp_path / "x").exists()


class TestMemory:
    @pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.csv", "x.parquet"])
    def test_flat(self, tmp_path: pathlib.Path, name: str) -> None:
        """
        30,000 event logs take no more memory than 6,000.
        """
        uri = f"sqlite:///{tmp_path}/eventlog.db"
        store_many(uri, 30_000, text="x" * 1000)
        script = f"""
            from nameko_eventlog.store import EventLogQuery
            from nameko_eventlog.store.sql import engines
            from nameko_eventlog.store.archives import parquet
            from nameko_eventlog.store.archives.formats import format_of, open_archive
            from nameko_eventlog.store.archives.exporting import Export
            from tests.store.archived import peak
            parquet.GROUP_BYTES = 1 << 20
            engines._CACHE_KIB = 2_000  # it would grow to 64 MiB
            with EventLogQuery({uri!r}) as query:
                work = Export(query)
                archive = open_archive({name!r}, format_of({name!r}))
                before = 0
                for _ in work.write_to(archive):
                    if work.written > 6_000:
                        before = before or peak()
                archive.close()
            print(work.written, peak() - before)
        """
        written, mebibytes = map(int, output_of(script, tmp_path).split())

        assert 30_000 == written
        assert mebibytes < 8
