"""
The command `tail`: event logs as they arrive at the broker or in the store.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Collection
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import uuid4

import click
import kombu
from kombu import Exchange

from nameko_eventlog import compat
from nameko_eventlog.addresses import masked, without_secrets
from nameko_eventlog.amqp.connections import broker_uri, make_connection
from nameko_eventlog.amqp.decoding import UNREADABLE
from nameko_eventlog.amqp.deliveries import consume
from nameko_eventlog.amqp.route import ROUTING_KEY
from nameko_eventlog.cli.filters import filter_options, matcher, parameters
from nameko_eventlog.cli.settings import (
    UNREACHABLE,
    Failure,
    config_option,
    handle_errors,
    read_config,
)
from nameko_eventlog.cli.stored import warn_unseen
from nameko_eventlog.cli.terminal import console, json_line, printable, row_line
from nameko_eventlog.config import parse_config
from nameko_eventlog.consuming import ReceivedMessage
from nameko_eventlog.describing import describe_error, describe_value
from nameko_eventlog.store.config import parse_store_config
from nameko_eventlog.store.databases import DatabaseError
from nameko_eventlog.store.dating import claimed_time, decide_time
from nameko_eventlog.store.queries import EventLogQuery
from nameko_eventlog.store.rows import Unstorable, decode_body, time_of_id
from nameko_eventlog.store.times import format_time, now_ms
from nameko_eventlog.store.writing import content_types


OVERLAP = timedelta(seconds=10)
"""How far back the store is read again: a row may be committed after a later one."""

EVERY = 0.5
"""Seconds between two queries of the store."""

AGAIN = 5.0
"""Seconds to wait after a failed query."""

_REMEMBERED = 100_000


@click.command()
@filter_options
@click.option("--follow", "-f", is_flag=True, help="Follow the store instead of the broker.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--count", "-n", type=click.IntRange(1), help="Stop after this many.")
@config_option
@handle_errors
def tail(path: str, follow: bool, as_json: bool, count: int | None, **options: Any) -> None:
    """
    Print event logs as they arrive, until interrupted.

    Without --service, the fan-in exchange provides those of all services; with --service, the
    services' own exchanges provide theirs.
    """
    config = read_config(path)
    if follow:
        _follow(parse_store_config(config).uri, parameters(options), as_json, count)
    else:
        _listen(config, options, as_json, count)


def _follow(uri: str, filters: dict[str, Any], as_json: bool, count: int | None) -> None:
    known: OrderedDict[str, None] = OrderedDict()
    out = console()
    begun = since = datetime.now(timezone.utc)
    left = count
    has_answered = False
    with EventLogQuery(uri) as store, suppress(KeyboardInterrupt):
        while left is None or left > 0:
            cursor = None
            while True:
                try:
                    page = store.query(
                        order="oldest", limit=1000, since=since, cursor=cursor, **filters
                    )
                except DatabaseError as exc:
                    if not has_answered:
                        raise
                    click.echo(f"{printable(str(exc))}; trying again", err=True)
                    time.sleep(AGAIN)
                    break
                if not has_answered:
                    warn_unseen(store, filters, is_empty=not page["event_logs"])
                has_answered = True
                for row in page["event_logs"]:
                    if row["message_id"] in known:
                        continue
                    known[row["message_id"]] = None
                    if len(known) > _REMEMBERED:
                        known.popitem(last=False)
                    if as_json:
                        click.echo(json_line(row))
                    else:
                        out.print(row_line(row), soft_wrap=True)
                    if left is not None:
                        left -= 1
                        if not left:
                            return
                cursor = page["cursor"]
                if cursor is None:
                    break
            since = max(begun, datetime.now(timezone.utc) - OVERLAP)
            time.sleep(EVERY)


def _listen(config: Any, options: dict[str, Any], as_json: bool, count: int | None) -> None:
    is_wanted = matcher(options)
    settings = compat.connection_settings(config)
    dispatcher = parse_config(config)
    uri = broker_uri(dispatcher.uri or settings.uri)
    accept = content_types(config.get("ACCEPT") or ["json"])
    services = options["service"]
    if not services and dispatcher.fan_in_exchange is None:
        raise click.UsageError("no fan-in exchange is configured: name services with --service")
    exchanges = [compat.named_event_exchange(config, name) for name in services] or [
        Exchange(str(dispatcher.fan_in_exchange), type="topic", durable=True)
    ]
    out = console()
    left = count

    arrived: deque[ReceivedMessage] = deque()

    def show(received: ReceivedMessage) -> None:
        nonlocal left
        try:
            body = _body(received, accept)
            if not is_wanted(body) or left == 0:
                return
            if as_json:
                line: Any = json_line({**_identity(received), "body": body})
            else:
                line = row_line(_row(received, body))
        except Exception as exc:  # anyone may have sent anything
            reason = str(exc) if isinstance(exc, Unstorable) else describe_error(exc)
            click.echo(
                f"skipped a message that is not an event log: {printable(reason)}", err=True
            )
            return
        if as_json:
            click.echo(line)
        else:
            out.print(line, soft_wrap=True)
        if left is not None:
            left -= 1

    connection = make_connection(settings, uri, heartbeat=settings.heartbeat)
    errors = (*connection.connection_errors, *connection.channel_errors, OSError)
    try:
        with connection, suppress(KeyboardInterrupt):
            channel = connection.channel()
            queue = kombu.Queue(
                f"eventlog-tail-{uuid4()}", exclusive=True, auto_delete=True, durable=False
            )(channel)
            queue.declare()
            for exchange in exchanges:
                exchange(channel).declare()
                queue.bind_to(exchange, routing_key=dispatcher.event_type or ROUTING_KEY)
            consume(channel, queue.name, arrived.append, queue.name, no_ack=True)
            while left is None or left > 0:
                with suppress(TimeoutError):
                    connection.drain_events(timeout=1)
                connection.heartbeat_check()
                while arrived:
                    show(arrived.popleft())
    except errors as exc:
        raise Failure(
            f"the broker {masked(uri)} cannot be used: {without_secrets(str(exc), uri)}",
            UNREACHABLE,
        ) from None


def _body(received: ReceivedMessage, accept: Collection[str]) -> dict[str, Any]:
    if UNREADABLE in received.headers:
        raise Unstorable("its properties cannot be read")
    body = decode_body(received, accept)
    if not isinstance(body, dict):
        raise Unstorable(f"the body must be a mapping, not {describe_value(body)}")
    return body


def _row(received: ReceivedMessage, body: dict[str, Any]) -> Any:
    """
    Return the row that the store would return, with the event log's time, not its arrival's.
    """
    claimed = claimed_time(body.get("timestamp"))
    time_ms, time_note = decide_time(
        claimed, time_of_id(received.properties.get("message_id")), now_ms()
    )
    row = {"time": format_time(time_ms), "body": body}
    return row if time_note is None else {**row, "time_note": time_note}


def _identity(received: ReceivedMessage) -> dict[str, Any]:
    message_id = received.properties.get("message_id")
    if message_id is not None and not isinstance(message_id, str):
        message_id = describe_value(message_id)
    return {"message_id": message_id, "exchange": received.exchange}
