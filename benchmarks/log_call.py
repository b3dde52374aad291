"""
What one log call costs the worker that makes it, beside other handlers.

All handlers in one process, many short rounds in turn: a call takes microseconds, and
which side of a cache line the code lies on moves it more than a round of noise does.
"""

from __future__ import annotations

import gc
import logging
import logging.handlers
import queue
from time import perf_counter
from typing import Any

from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
from opentelemetry.sdk._logs.export import (
    BatchLogRecordProcessor,
    LogRecordExporter,
    LogRecordExportResult,
)

from benchmarks.container import running
from benchmarks.without_relay import WARM_UP, WithoutRelay
from logging_ext import EventLogHandler


class _Encoder(LogRecordExporter):
    """
    An exporter that encodes, and sends nothing.
    """

    def export(self, batch: Any) -> LogRecordExportResult:
        """
        Encode *batch* as OTLP, and drop it.
        """
        encode_logs(batch).SerializeToString()
        return LogRecordExportResult.SUCCESS

    def shutdown(self) -> None:
        """
        Do nothing.
        """

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """
        Do nothing.
        """
        return True


def _logger(name: str, handler: logging.Handler) -> logging.Logger:
    logger = logging.getLogger(f"measured.{name}")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    return logger


def _call(logger: logging.Logger, calls: int) -> float:
    """
    Return the microseconds of one log call.
    """
    info = logger.info
    start = perf_counter()
    for number in range(calls):
        info(
            "session_created",
            extra={"session_id": "8c1d2e3f", "user": number, "amount": 12.5},
        )
    return (perf_counter() - start) / calls * 1e6


def run(uri: str, rounds: int, calls: int) -> dict[str, Any]:
    """
    Measure all handlers inside one worker.

    Args:
        uri: A broker; nothing is sent there.
        rounds: How many.
        calls: Log calls in each; fewer than OpenTelemetry's queue holds (2048).

    Returns:
        ``rounds``: the microseconds of one call by handler, for each; ``otel_encoded`` is
        that of OpenTelemetry with the encoding that its processor does later.
    """
    records: queue.Queue[logging.LogRecord] = queue.Queue(-1)
    processor = BatchLogRecordProcessor(_Encoder())
    provider = LoggerProvider()
    provider.add_log_record_processor(processor)
    loggers = {
        "null": _logger("null", logging.NullHandler()),
        "queue": _logger("queue", logging.handlers.QueueHandler(records)),
        "ours": _logger("ours", EventLogHandler()),
        "otel": _logger("otel", LoggingHandler(logger_provider=provider)),
    }

    def work(dispatch: Any) -> list[dict[str, float]]:
        outbox = dispatch._delivery._outbox
        confirmed = dispatch._delivery._ledger.confirmed
        results = []
        for number in range(WARM_UP + rounds):
            order = list(loggers.items())
            if number % 2:
                order.reverse()
            result = {}
            for name, logger in order:
                gc.collect()
                result[name] = _call(logger, calls)
                if name == "ours" and outbox.waiting != calls:
                    raise RuntimeError(f"{outbox.waiting} of {calls} are in the outbox")
                if name == "queue" and records.qsize() != calls:
                    raise RuntimeError(f"{records.qsize()} of {calls} are in the queue")
                for message in outbox.take(outbox.waiting):
                    outbox.settle(message, confirmed)
                while not records.empty():
                    records.get()
                start = perf_counter()
                processor.force_flush()
                if name == "otel":
                    encoding = (perf_counter() - start) / calls * 1e6
                    result["otel_encoded"] = result[name] + encoding
            results.append(result)
        return results[WARM_UP:]

    with running(WithoutRelay(), uri) as in_worker:
        results = in_worker(work)
    provider.shutdown()
    return {"rounds": results}
