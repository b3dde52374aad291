"""
An SQLite file that is deleted or replaced while it is open.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import pytest

from nameko_eventlog.store import DatabaseError, EventLogQuery
from nameko_eventlog.store.sql.files import identity
from nameko_eventlog.store.writing import EventLogWriter
from tests.store.conftest import Make, body


def event_types(path: pathlib.Path) -> list[str]:
    """
    Return what is stored in a file.
    """
    with EventLogQuery(f"sqlite:///{path}") as store:
        return sorted(row["body"]["event_type"] for row in store.query()["event_logs"])


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    """
    Where the database is.
    """
    return tmp_path / "eventlog.db"


@pytest.fixture
def write(path: pathlib.Path, message: Make) -> Callable[[str], None]:
    """
    Write one event log after the other over one connection: ``write("paid")``.
    """
    writer = EventLogWriter(f"sqlite:///{path}", ["json"])
    count = iter(range(1_000))

    def write(event_type: str) -> None:
        writer.prepare()
        one = message(body(event_type=event_type), message_id=f"id-{next(count)}")
        assert [] == writer.write([one])

    return write


class TestWriter:
    @pytest.mark.parametrize("is_kept", [True, False])
    def test_replaced(
        self, path: pathlib.Path, write: Callable[[str], None], is_kept: bool
    ) -> None:
        """
        Nothing is written into a file that is not at its path any more: that is refused once, and
        what comes goes into the one that is there.
        """
        write("before")
        for one in path.parent.glob(f"{path.name}*"):
            one.rename(one.with_name(f"old-{one.name}")) if is_kept else one.unlink()
        with pytest.raises(DatabaseError, match="was deleted or replaced while it was open"):
            write("refused")
        for event_type in ("first", "second"):
            write(event_type)

        assert ["first", "second"] == event_types(path)
        if is_kept:
            assert ["before"] == event_types(path.with_name("old-eventlog.db"))

    def test_log_deleted(self, path: pathlib.Path, write: Callable[[str], None]) -> None:
        """
        Where the write-ahead log alone is deleted, what it held goes into the main file.
        """
        write("before")
        log = path.with_name("eventlog.db-wal")
        log.unlink()
        with pytest.raises(DatabaseError, match=r"eventlog\.db-wal' was deleted or replaced"):
            write("refused")
        write("after")

        assert ["after", "before"] == event_types(path)


class TestReader:
    def test_replaced(self, path: pathlib.Path, write: Callable[[str], None]) -> None:
        """
        A reader looks into the file that is there now.
        """
        write("before")
        with EventLogQuery(f"sqlite:///{path}") as store:

            def found() -> list[str]:
                return [row["body"]["event_type"] for row in store.query()["event_logs"]]

            assert ["before"] == found()
            for one in path.parent.glob(f"{path.name}*"):
                one.unlink()
            with pytest.raises(DatabaseError):
                write("refused")
            write("after")
            assert ["after"] == found()


class TestIdentity:
    def test_identity(self, path: pathlib.Path) -> None:
        """
        It is the file's, whatever its name; where there is no file there is none.
        """
        assert identity(str(path)) is None
        path.touch()
        known = identity(str(path))
        other = path.rename(path.with_name("other"))
        path.touch()

        assert known == identity(str(other))
        assert known != identity(str(path))
