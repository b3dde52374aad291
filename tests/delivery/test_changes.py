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
                " refused; reconnecting; event logs waiting: 3"
            ) == line
            for _ in range(2):
                changes.found()
            assert [
                "connected to broker a.example (service shop); event logs waiting: 3"
            ] == said()

    def test_alarm(self, changes: Changes, said: Said) -> None:
        """
        An alarm of the broker, and its end.
        """
        for is_blocked in (False, True, True, False, False):
            changes.blocked(is_blocked)

        assert [
            f"publishing {what} at broker a.example (service shop); event logs waiting: 3"
            for what in ("blocked by an alarm", "unblocked")
        ] == said()

    @pytest.mark.parametrize(
        ("is_held", "what"),
        [
            (True, "they wait until a queue is bound (logged once)"),
            (False, "the broker confirms and drops them (logged once)"),
        ],
    )
    def test_routed(self, changes: Changes, said: Said, is_held: bool, what: str) -> None:
        """
        No queue receives event logs, and what happens to them; then a queue does.
        """
        found = [changes.routed(one, is_held) for one in (True, False, False, True, True)]

        assert [False, True, False, True, False] == found
        assert [
            f"no queue receives event logs at broker a.example (service shop); {what}",
            "a queue receives event logs again at broker a.example (service shop)",
        ] == said()

    def test_refused(self, changes: Changes, said: Said) -> None:
        """
        The broker refuses some for the second time, and then accepts them.
        """
        changes.accepting()
        changes.refusing(2)
        changes.refusing(5)
        (line,) = said()
        assert (
            "event logs refused by broker a.example (service shop): a queue is full or missing; 2"
            " are retried with growing pauses, new ones are published meanwhile (logged once)"
        ) == line
        for _ in range(2):
            changes.accepting()
        assert ["all refused event logs accepted by broker a.example (service shop)"] == said()

    def test_aside(self, changes: Changes, said: Said) -> None:
        """
        So many wait aside that new ones do, too. It is logged again after it has ended.
        """
        for is_full in (False, True, True, False, True):
            changes.aside(is_full, 1_000)

        first, second = said()
        assert first == second
        assert (
            "1000 event logs refused by broker a.example (service shop): no more fit into memory;"
            " new ones are published when it accepts some (logged once)"
        ) == first

    def test_slow(self, changes: Changes, said: Said) -> None:
        """
        Confirms are late, and how long the relay waits now; again after they were in time.
        """
        for _ in range(2):
            changes.slow(12.34, 40, 10)
        changes.quick()
        changes.slow(1, 20, 10)
        first, second = said()

        assert (
            "a confirm took 12.3 s at broker a.example (service shop); the relay now waits up to"
            " 40 s; set EVENTLOG_DISPATCHER.confirm_timeout (10) above the time that the broker"
            " needs (logged once)"
        ) == first
        assert "took 1.0 s" in second

    def test_failed(self, changes: Changes, said: Said, caplog: pytest.LogCaptureFixture) -> None:
        """
        An error of the relay's own, with its traceback; another one, and the same after success.
        """
        for error in (ValueError("a"), ValueError("a"), KeyError("a")):
            changes.failed(error)
        assert [logging.ERROR] * 2 == [record.levelno for record in caplog.records]
        assert ["relay failed at broker a.example (service shop); restarting"] * 2 == said()
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
