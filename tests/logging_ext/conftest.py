"""
Fixtures: a recording sink, a worker that has it, a logger with a handler.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from logging_ext import bind_sink, forwarding, register_sink
from tests.logging_ext.recording import OUTSIDE, RecordingSink, StrictHandler


@pytest.fixture(autouse=True)
def clean_forwarding(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """
    Forget warnings and claims, and check that nothing stays suspended.
    """
    monkeypatch.setattr(forwarding, "_warned", {})
    monkeypatch.setattr(forwarding, "not_forwarded", forwarding.Counter())
    forwarding._seen.set(None)
    forwarding._seen_suspended.set(None)
    yield
    assert not forwarding.suspended.get()


@pytest.fixture
def sink() -> RecordingSink:
    """
    A sink of nobody's.
    """
    return RecordingSink()


@pytest.fixture
def worker(sink: RecordingSink) -> Iterator[RecordingSink]:
    """
    The sink of the worker that the test is.
    """
    with bind_sink(sink):
        yield sink


@pytest.fixture
def service(sink: RecordingSink) -> Iterator[RecordingSink]:
    """
    The sink of a service ``foo``, registered, outside any worker.
    """
    sink.context = {**OUTSIDE, "service_name": "foo"}
    unregister = register_sink("foo", sink)
    yield sink
    unregister()


@pytest.fixture
def bare_logger() -> logging.Logger:
    """
    A logger of its own, without handlers, and out of reach of pytest's.
    """
    return logging.Logger("svc.payments", logging.DEBUG)


@pytest.fixture
def handler() -> StrictHandler:
    """
    An event log handler.
    """
    return StrictHandler()


@pytest.fixture
def logger(bare_logger: logging.Logger, handler: StrictHandler) -> Iterator[logging.Logger]:
    """
    A logger whose one handler is `handler`, which must not get any error.
    """
    bare_logger.addHandler(handler)
    yield bare_logger
    assert [] == handler.errors


@pytest.fixture
def stream() -> io.StringIO:
    """
    Where the ordinary handler writes.
    """
    return io.StringIO()


@pytest.fixture
def both(stream: io.StringIO, handler: StrictHandler) -> Iterator[logging.Logger]:
    """
    A standard logger with an ordinary handler and an event log handler.
    """
    logger = logging.Logger("svc", logging.DEBUG)
    logger.addHandler(logging.StreamHandler(stream))
    logger.addHandler(handler)
    yield logger
    assert [] == handler.errors
