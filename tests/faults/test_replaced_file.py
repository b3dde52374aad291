"""
The store's SQLite file is deleted or replaced while the store writes to it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nameko.testing.utils import get_extension

from nameko_eventlog import EventLogConsumer
from nameko_eventlog.store import EventLogQuery, EventLogStore
from tests.store.numbered import left, numbers, send
from tests.waiting import wait_until


def rename(path: Path) -> None:
    """
    Move the database away, with all that belongs to it.
    """
    for one in path.parent.glob(f"{path.name}*"):
        one.rename(one.with_name(f"old-{one.name}"))


def delete(path: Path) -> None:
    """
    Delete the database, with all that belongs to it.
    """
    for one in path.parent.glob(f"{path.name}*"):
        one.unlink()


@pytest.fixture
def start(run_service: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """
    Start the store, which tries again soon.
    """
    monkeypatch.setattr("nameko_eventlog.consuming.batches.FIRST_RETRY", 0.05)
    monkeypatch.setattr("nameko_eventlog.consuming.batches.LAST_RETRY", 0.2)

    def start(config: dict[str, Any], uri: str) -> Any:
        section = {"batch_seconds": 0.05, "services": ["shop"], "uri": uri}
        return run_service(EventLogStore, {**config, "EVENTLOG_STORE": section})

    return start


class TestReplacedFile:
    @pytest.mark.parametrize("replace", [rename, delete])
    def test_sum(
        self,
        rabbit_config: Any,
        tmp_path: Path,
        start: Callable[..., Any],
        caplog: pytest.LogCaptureFixture,
        replace: Callable[[Path], None],
    ) -> None:
        """
        What is sent after the file was replaced is in the new file, all of it, and a line says
        what happened.
        """
        path = tmp_path / "eventlog.db"
        uri = f"sqlite:///{path}"
        consumer = get_extension(start(rabbit_config, uri), EventLogConsumer)
        send(rabbit_config, 0, 200)
        wait_until(lambda: numbers(uri) == list(range(200)))
        # what is stored and not yet acknowledged would come again, and into the new file as well
        wait_until(lambda: consumer.stats()["handled"] == 200)
        replace(path)
        send(rabbit_config, 200, 300)

        wait_until(lambda: numbers(uri) == list(range(200, 500)))
        wait_until(lambda: left(rabbit_config) == (0, 0))
        assert [True] == ["was deleted or replaced" in one for one in caplog.messages][:1]
        if replace is rename:
            assert list(range(200)) == numbers(f"sqlite:///{tmp_path}/old-eventlog.db")

    def test_log_file(self, rabbit_config: Any, tmp_path: Path, start: Callable[..., Any]) -> None:
        """
        Where SQLite's write-ahead log alone is deleted, what it held is in the main file.
        """
        path = tmp_path / "eventlog.db"
        uri = f"sqlite:///{path}"
        start(rabbit_config, uri)
        send(rabbit_config, 0, 200)
        wait_until(lambda: numbers(uri) == list(range(200)))
        path.with_name("eventlog.db-wal").unlink()
        send(rabbit_config, 200, 100)

        wait_until(lambda: left(rabbit_config) == (0, 0))
        wait_until(lambda: numbers(uri) == list(range(300)))

    def test_reader(self, rabbit_config: Any, tmp_path: Path, start: Callable[..., Any]) -> None:
        """
        A reader that had the old file open reads the new one.
        """
        path = tmp_path / "eventlog.db"
        uri = f"sqlite:///{path}"
        start(rabbit_config, uri)
        send(rabbit_config, 0, 3)
        with EventLogQuery(uri) as query:
            wait_until(lambda: len(numbers(uri)) == 3)
            assert 3 == len(query.query()["event_logs"])
            rename(path)
            send(rabbit_config, 3, 1)
            wait_until(lambda: numbers(uri) == [3])
            assert 1 == len(query.query()["event_logs"])
