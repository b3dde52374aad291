"""
A sink and a logger that keep what they get, and values whose own code misbehaves.
"""

from __future__ import annotations

import logging
from typing import Any

import structlog

from logging_ext import EventLog, EventLogHandler


CONTEXT: dict[str, Any] = {
    "service_name": "foo",
    "entrypoint_protocol": "Rpc",
    "entrypoint_name": "pay",
    "call_id": "foo.pay.1",
    "call_stack": ["bar.order.0", "foo.pay.1"],
}

OUTSIDE: dict[str, Any] = {
    "service_name": None,
    "entrypoint_protocol": None,
    "entrypoint_name": None,
    "call_id": None,
    "call_stack": [],
}


class RecordingSink:
    """
    Keep the event logs.
    """

    def __init__(self, context: dict[str, Any] | None = None) -> None:
        self.context = CONTEXT if context is None else context
        self.events: list[EventLog] = []

    def emit(self, event: EventLog) -> None:
        self.events.append(event)

    @property
    def types(self) -> list[str]:
        return [event.event_type for event in self.events]

    @property
    def only(self) -> EventLog:
        assert 1 == len(self.events), self.events
        return self.events[0]

    @property
    def data(self) -> Any:
        return self.only.event_data

    @property
    def metadata(self) -> Any:
        return self.only.metadata


class StrictHandler(EventLogHandler):
    """
    An `EventLogHandler` that keeps its errors.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.errors: list[logging.LogRecord] = []

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        self.errors.append(record)
        super().handleError(record)


class Unprintable:
    """
    Neither ``str`` nor ``repr`` work.
    """

    def __str__(self) -> str:
        raise ValueError("no str")

    def __repr__(self) -> str:
        raise ValueError("no repr")


class Incomparable:
    """
    ``==`` raises, as the truth of an array's does.
    """

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise ValueError("ambiguous")


def plain(*processors: Any, logger: Any = None, **values: Any) -> tuple[Any, list[dict[str, Any]]]:
    """
    Return a logger of structlog's own, and what arrives behind *processors*.
    """
    arrived: list[dict[str, Any]] = []

    def last(logger: Any, method_name: str, event_dict: Any) -> Any:
        arrived.append(event_dict)
        raise structlog.DropEvent

    log = structlog.wrap_logger(
        logger, processors=[*processors, last], wrapper_class=structlog.BoundLogger, **values
    )
    return log, arrived


def drop(logger: Any, method_name: str, event_dict: Any) -> Any:
    """
    End structlog's chain of processors: nothing is written.
    """
    raise structlog.DropEvent
