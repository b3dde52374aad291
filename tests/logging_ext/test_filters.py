"""
WorkerContextFilter.
"""

import io
import logging

import pytest

from logging_ext import WorkerContextFilter
from tests.logging_ext.recording import CONTEXT, OUTSIDE


FORMAT = " ".join(f"%({name})s" for name in CONTEXT)


@pytest.fixture
def stream(bare_logger):
    """
    What a handler with the filter, whose format names every attribute, prints.
    """
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(WorkerContextFilter())
    handler.setFormatter(logging.Formatter(FORMAT))
    bare_logger.addHandler(handler)
    return stream


class TestAttributes:
    def test_inside(self, bare_logger, stream, worker):
        """
        Inside a worker a record has the worker's context.
        """
        bare_logger.info("paid")

        assert FORMAT % CONTEXT + "\n" == stream.getvalue()

    def test_outside(self, bare_logger, stream):
        """
        Outside any worker all five are set, to None or [].
        """
        bare_logger.info("paid")

        assert FORMAT % OUTSIDE + "\n" == stream.getvalue()

    def test_callers_own(self, bare_logger, stream, worker):
        """
        What the caller passed under such a name stays.
        """
        bare_logger.info("paid", extra={"call_id": "mine"})

        assert FORMAT % {**CONTEXT, "call_id": "mine"} + "\n" == stream.getvalue()

    def test_third_parties(self, stream, worker, bare_logger):
        """
        Other libraries' records have it, too, delivery's own included.
        """
        for name in ("urllib3", "kombu"):
            logger = logging.getLogger(name)
            logger.addHandler(bare_logger.handlers[0])
            logger.error("x")

        assert 2 * (FORMAT % CONTEXT + "\n") == stream.getvalue()


class TestFiltering:
    def test_lets_all_pass(self):
        """
        Every record passes.
        """
        assert WorkerContextFilter().filter(logging.makeLogRecord({"name": "x"}))

    def test_by_name(self):
        """
        With a name it filters as logging.Filter does, and leaves others as they are.
        """
        record = logging.makeLogRecord({"name": "other"})
        context_filter = WorkerContextFilter("svc")

        assert not context_filter.filter(record)
        assert "call_id" not in record.__dict__
        assert context_filter.filter(logging.makeLogRecord({"name": "svc.payments"}))
