"""
Event logs a second from one worker, from the call until the broker has confirmed them all.
"""

from __future__ import annotations

from time import perf_counter, process_time
from types import SimpleNamespace
from typing import Any

import kombu
from eventlet.hubs import trampoline
from nameko.standalone.events import get_event_exchange

from benchmarks.container import (
    CALLER,
    CLASSIC,
    EVENT_DATA,
    METADATA,
    OLD,
    OURS,
    SERVICE,
    bind_queue,
    dispatcher,
    logger,
    running,
    wait_until_confirmed,
)
from nameko_eventlog.amqp.frame_reading import BufferedReader
from nameko_eventlog.amqp.frame_writing import (
    FrameGatherer,
    PropertiesEncoder,
    Publisher,
)
from nameko_eventlog.amqp.settings import ConnectionSettings, PublisherSettings
from nameko_eventlog.delivery import OutboxEntry


CEILING = "ceiling"

_WINDOW = 1_000
_BATCH = 100


def _ceiling(uri: str, count: int, kind: str) -> tuple[float, float]:
    """
    Publish constant bytes in batches: as fast as this broker confirms.

    Returns:
        Seconds, and seconds of Python's CPU.
    """
    written: list[bytes] = []
    message = OutboxEntry(
        b'{"service_name":"foo","entrypoint_protocol":"Entrypoint"}'.ljust(380),
        "application/json",
        "utf-8",
        {"nameko.call_id_stack": [CALLER["call_id_stack"][0], "foo.work." + "0" * 36]},
        "session_created",
        1.7e9,
        message_id="0" * 36,
    )
    settings = PublisherSettings(ConnectionSettings(uri))
    options = {"confirm_publish": False}
    with kombu.Connection(uri, transport_options=options) as connection:
        channel = connection.default_channel
        get_event_exchange(SERVICE, {})(channel).declare()
        bind_queue(uri, kind)
        channel.confirm_select()
        gatherer = FrameGatherer()
        gatherer.make(connection.connection, SimpleNamespace(write=written.append))
        Publisher(channel, f"{SERVICE}.events", "log_event", gatherer).publish(
            message.body, PropertiesEncoder(settings, SERVICE).encode(message), False
        )
        batch = b"".join(written) * _BATCH
        confirmed = 0

        def confirm(tag: int, multiple: bool) -> None:
            nonlocal confirmed
            confirmed = max(confirmed, tag)

        channel.events["basic_ack"].add(confirm)
        reader = BufferedReader(connection.connection)
        sent, start, cpu = 0, perf_counter(), process_time()
        while confirmed < count:
            while sent < count and sent - confirmed <= _WINDOW - _BATCH:
                connection.connection.sock.sendall(batch)
                sent += _BATCH
            if not reader.read(50):
                trampoline(connection.connection.sock, read=True)
        return perf_counter() - start, process_time() - cpu


def run(side: str, uri: str, count: int, kind: str = CLASSIC) -> dict[str, Any]:
    """
    Dispatch *count* event logs in one worker: ours by log calls, the old library's by hand.

    Args:
        side: Whose; or `CEILING`, what the broker takes at the most.
        uri: An empty vhost.
        count: How many; a multiple of a hundred.
        kind: Of the durable queue.

    Returns:
        ``rate``: event logs a second; ``cpu``: Python's microseconds for each.
    """

    def work(dispatch: Any) -> tuple[float, float]:
        dispatch("warm_up", EVENT_DATA, METADATA)
        bind_queue(uri, kind)
        start, cpu = perf_counter(), process_time()
        if side == OURS:
            before = dispatch.stats()["accepted"]
            for _ in range(count):
                logger.info("session_created", extra=EVENT_DATA)
            wait_until_confirmed(dispatch.stats, before + count)
        else:
            for _ in range(count):
                dispatch("session_created", EVENT_DATA, METADATA)
        return perf_counter() - start, process_time() - cpu

    if side == CEILING:
        elapsed, cpu = _ceiling(uri, count, kind)
        return {"rate": count / elapsed, "cpu": cpu / count * 1e6}
    if side not in (OURS, OLD):
        raise ValueError(f"side must be {OURS!r} or {OLD!r}, not {side!r}")
    with running(dispatcher(side), uri) as in_worker:
        elapsed, cpu = in_worker(work)
    return {"rate": count / elapsed, "cpu": cpu / count * 1e6}
