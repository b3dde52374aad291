"""
What the relay logs of its broker: each change once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from nameko_eventlog.delivery.changes import Changes


@pytest.fixture
def changes() -> Changes:
    """
    Those of a shop whose broker is at a.example, with three event logs that wait.
    """
    return Changes("shop", lambda: "a.example", lambda: 3)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """
    Return what was logged since it was last called.
    """

    def said() -> list[str]:
        found = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return found

    return said


Said = Callable[[], list[str]]


class TestChanges:
    def test_connection(self, changes: Changes, said: Said) -> None:
        """
        That a broker is away, and that it is back.
        """
        for kind in ("no", "lost"):
            for _ in range(2):
                changes.lost(ConnectionError("(0, 0): amqp://u:secret@a.example refused"))
            (line,) = said()
            assert (
                f"{kind} connection to broker a.example (service shop): amqp://u:***@a.example"
                " refused; reconnecting; event logs wait until then: 3"
            ) == line
            for _ in range(2):
                changes.found()
            assert [
                "connected to broker a.example (service shop); event logs waiting: 3"
            ] == said()

    def test_alarm(self, changes: Changes, said: Said) -> None:
        """
        That it takes nothing for an alarm, and that it takes again.
        """
        for is_blocked in (False, True, True, False, False):
            changes.blocked(is_blocked)

        assert [
            "the broker at a.example has an alarm and blocks the event logs of shop; 3 waiting",
            "the broker at a.example has unblocked the event logs of shop; 3 waiting",
        ] == said()

    @pytest.mark.parametrize(
        ("is_held", "what"),
        [(True, ": they wait until one does"), (False, ": the broker confirms and drops them")],
    )
    def test_routed(self, changes: Changes, said: Said, is_held: bool, what: str) -> None:
        """
        That no queue takes event logs, and what becomes of them; and that one does.
        """
        found = [changes.routed(one, is_held) for one in (True, False, False, True, True)]

        assert [False, True, False, True, False] == found
        assert [
            f"no queue takes the event logs of shop{what} (logged once)",
            "a queue takes the event logs of shop again",
        ] == said()

    def test_refused(self, changes: Changes, said: Said) -> None:
        """
        That it refuses some again, and that it has taken them.
        """
        changes.taking()
        changes.refusing(2)
        changes.refusing(5)
        (line,) = said()
        assert (
            "the broker at a.example refuses event logs of shop (a queue is full, or not there):"
            " 2 wait aside and are published again now and then; new ones pass (logged once)"
        ) == line
        for _ in range(2):
            changes.taking()
        assert ["the broker at a.example takes the event logs of shop that it refused"] == said()

    def test_aside(self, changes: Changes, said: Said) -> None:
        """
        That so many wait aside that new ones do, too; and again when it has been otherwise.
        """
        for is_full in (False, True, True, False, True):
            changes.aside(is_full, 1_000)

        first, second = said()
        assert first == second
        assert (
            "1000 event logs of shop that the broker refuses wait: no new ones are published"
            " until it takes some (logged once)"
        ) == first

    def test_slow(self, changes: Changes, said: Said) -> None:
        """
        That confirms come late, and how long is waited now; and again when they were in time.
        """
        for _ in range(2):
            changes.slow(12.34, 40, 10)
        changes.quick()
        changes.slow(1, 20, 10)
        first, second = said()

        assert (
            "the broker at a.example takes 12.3 s to confirm event logs of shop: the relay waits"
            " for up to 40 s now; set EVENTLOG_DISPATCHER.confirm_timeout (10) above what the"
            " broker needs (logged once)"
        ) == first
        assert "takes 1.0 s" in second

    def test_failed(self, changes: Changes, said: Said, caplog: pytest.LogCaptureFixture) -> None:
        """
        An error of the relay's own, with its traceback; another one, and the same after success.
        """
        for error in (ValueError("a"), ValueError("a"), KeyError("a")):
            changes.failed(error)
        assert [logging.ERROR] * 2 == [record.levelno for record in caplog.records]
        assert ["the relay of shop failed and starts again"] * 2 == said()
        changes.found()
        changes.failed(KeyError("a"))
        assert 1 == len(said())

    def test_failing_handler(self, changes: Changes, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A log handler of the service's that raises breaks nothing.
        """

        class Failing(logging.Handler):
            """
            Raises.
            """

            def emit(self, record: logging.LogRecord) -> None:
                raise RuntimeError("no")

        logging.getLogger("nameko_eventlog").addHandler(Failing())
        changes.blocked(True)
        changes.failed(ValueError("a"))

        assert changes.is_blocked
