"""
Spools: what waits on disk, and lines of ``nameko_eventlog.undelivered``.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import pathlib
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import click
import kombu
from amqp.exceptions import MessageNacked
from kombu import Connection
from rich.progress import Progress

from nameko_eventlog import compat
from nameko_eventlog.addresses import masked, without_secrets
from nameko_eventlog.cli.settings import (
    NOTHING,
    UNREACHABLE,
    USAGE,
    Failure,
    config_option,
    read_config,
    telling,
)
from nameko_eventlog.cli.terminal import console, event_line, json_line, local_time, printable
from nameko_eventlog.config import CONFIG_KEY, parse_config
from nameko_eventlog.delivery.directories import CORRUPT
from nameko_eventlog.delivery.message import Message
from nameko_eventlog.delivery.segments import (
    SUFFIX,
    LaterVersion,
    read_position,
    read_segment,
)
from nameko_eventlog.standalone import event_log_dispatcher
from nameko_eventlog.store.times import format_time


@click.group()
def spool() -> None:
    """
    Event logs that wait on disk to be published.
    """


def directories(path: str) -> list[pathlib.Path]:
    """
    Return each process's directory in the configured spool: ``SPOOL/SERVICE/PROCESS``.

    Raises:
        Failure: No spool is configured, or it is not there.
    """
    configured = parse_config(read_config(path)).spool
    if configured is None:
        raise Failure(f"{path} configures no spool: set {CONFIG_KEY}.spool", USAGE)
    root = pathlib.Path(configured)
    if not root.is_dir():
        raise Failure(f"there is no directory {configured!r}, the spool of {path}", NOTHING)
    return sorted(
        {
            segment.parent
            for segment in root.glob(f"*/*/*{SUFFIX}")
            if segment.parent.name != CORRUPT
        }
    )


def waiting(directory: pathlib.Path) -> Iterator[Message | None]:
    """
    Read what waits in a process's directory, in order; None for a line that is no message.
    """
    done, offset = "", 0
    with suppress(OSError, ValueError):
        done, offset = read_position((directory / "position").read_text())
    for segment in sorted(directory.glob(f"*{SUFFIX}")):
        try:
            yield from read_segment(segment, offset if segment.name == done else 0)
        except FileNotFoundError:
            continue  # its process has just settled it
        except OSError as exc:
            click.echo(printable(f"{segment} cannot be read: {exc}"), err=True)
        except LaterVersion:
            click.echo(printable(f"{segment} is of a later version"), err=True)


def is_in_use(directory: pathlib.Path) -> bool:
    """
    Tell whether a living process has it.
    """
    try:
        lock = os.open(directory / "lock", os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


@spool.command("list")
@config_option
@telling
def list_spools(path: str) -> None:
    """
    Print what waits, by service and process.
    """
    found = directories(path)
    if not found:
        click.echo("nothing waits")
    for directory in found:
        messages = list(waiting(directory))
        good = [one for one in messages if one is not None]
        oldest = f"oldest {_time(good[0])}" if good else ""
        bad = f"  {len(messages) - len(good)} corrupt" if len(good) < len(messages) else ""
        state = "in use" if is_in_use(directory) else "left behind"
        name = printable(f"{directory.parent.name}/{directory.name}")
        click.echo(f"{name}  {len(good)} waiting  {state}  {oldest}{bad}")


@spool.command()
@click.option("--limit", "-n", default=50, show_default=True, help="How many at the most.")
@config_option
@telling
def show(path: str, limit: int) -> None:
    """
    Print the event logs that wait.
    """
    out = console()
    shown = 0
    for directory in directories(path):
        for message in waiting(directory):
            if message is None or shown >= limit:
                continue
            shown += 1
            try:
                body = json.loads(message.body)
            except ValueError:
                body = {}
            if not isinstance(body, dict) or not body:
                body = {"event_type": message.event_type, "service_name": directory.parent.name}
            out.print(event_line(_time(message), body), soft_wrap=True)
    if not shown:
        click.echo("nothing waits", err=True)
        sys.exit(NOTHING)


@spool.command()
@config_option
@telling
def export(path: str) -> None:
    """
    Print the event logs that wait as JSON lines, which `replay` takes.
    """
    config = read_config(path)
    routing_key = parse_config(config).event_type or "log_event"
    for directory in directories(path):
        for message in waiting(directory):
            if message is not None:
                click.echo(json_line(_exported(message, directory.parent.name, routing_key)))


@spool.command()
@click.argument("file", type=click.File("r", encoding="utf-8", errors="replace"), required=False)
@click.option("--seconds", default=60.0, show_default=True, help="For how long to try.")
@config_option
@telling
def replay(path: str, file: Any, seconds: float) -> None:
    """
    Publish what dead processes have left in the spool; or a FILE of exported lines, or a log file
    with those of nameko_eventlog.undelivered. Message ids stay as they are.
    """
    config = read_config(path)
    if file is not None:
        _replay_lines(config, list(file))
    else:
        _replay_spool(config, path, seconds)


def _replay_spool(config: Any, path: str, seconds: float) -> None:
    found = directories(path)
    if not found:
        click.echo("nothing waits")
    used = [directory for directory in found if is_in_use(directory)]
    for directory in used:
        click.echo(
            printable(f"{directory.parent.name}/{directory.name} is in use: left to its process"),
            err=True,
        )
    failed = 0
    for service in sorted({one.parent.name for one in found if one not in used}):
        with event_log_dispatcher(config, service) as dispatch:
            deadline = time.monotonic() + seconds
            while dispatch.stats()["waiting"] and time.monotonic() < deadline:
                _sleep(0.1)
            stats = dispatch.stats()
        failed += stats["waiting"]
        click.echo(
            f"{printable(service)}: {stats['confirmed']} published, {stats['waiting']} still wait"
        )
    if failed:
        raise Failure("the broker has not confirmed all of them: see `spool list`", UNREACHABLE)


def _sleep(seconds: float) -> None:
    import eventlet

    eventlet.sleep(seconds)


def _replay_lines(config: Any, lines: list[str]) -> None:
    settings = compat.broker_settings(config)
    uri = compat.broker_uri(parse_config(config).uri or settings.uri)
    connection = Connection(
        uri,
        ssl=settings.ssl,
        login_method=settings.login_method,
        connect_timeout=5,
        transport_options={**settings.transport_options, "confirm_publish": True},
    )
    errors = (*connection.connection_errors, *connection.channel_errors, OSError)
    published = 0
    bad: list[int] = []
    not_taken: list[str] = []

    def note(exc: Any, exchange: str, routing_key: str, message: Any) -> None:
        not_taken.append(exchange)

    try:
        with (
            connection,
            Progress(console=console(), disable=not sys.stdout.isatty()) as progress,
        ):
            channel = connection.channel()
            returns = hasattr(channel, "events")  # those of memory:// have no queue to miss
            producer = kombu.Producer(channel, on_return=note if returns else None)
            for number, line in enumerate(progress.track(lines, description="publishing"), 1):
                if not line.strip():
                    continue
                try:
                    body, options = parse_line(line)
                except (ValueError, KeyError, TypeError):
                    bad.append(number)
                    continue
                try:
                    # what is returned, is returned before it is confirmed
                    producer.publish(body, **{**options, "mandatory": True})
                except MessageNacked:  # by a queue that is full
                    not_taken.append(options["exchange"])
                published += 1
    except errors as exc:
        raise Failure(
            f"the broker {masked(uri)} cannot be used: {without_secrets(str(exc), uri)};"
            f" {published - len(not_taken)} were published",
            UNREACHABLE,
        ) from None
    click.echo(f"{published - len(not_taken)} published, {len(bad)} lines are no event logs")
    if bad:
        click.echo(f"the first of these: line {bad[0]}", err=True)
    if not_taken:
        raise Failure(
            f"{len(not_taken)} more no queue took, the first of them by the exchange"
            f" {not_taken[0]!r}: bind a queue to it, and replay them again",
            UNREACHABLE,
        )
    if not published:
        sys.exit(NOTHING)


def parse_line(line: str) -> tuple[bytes, dict[str, Any]]:
    """
    Read a message from a line, whatever a log's format has put before it.

    Returns:
        Its body, and the options of kombu's ``publish``.

    Raises:
        ValueError: There is none.
        KeyError: Something of it is missing.
        TypeError: Something of it is of the wrong kind.
    """
    message, _ = json.JSONDecoder().raw_decode(line[line.index('{"exchange"') :])
    body = message["body"].encode()
    if message["body_encoding"] == "base64":
        body = base64.b64decode(message["body"])
    properties = dict(message["properties"])
    return body, {
        "exchange": message["exchange"],
        "routing_key": message["routing_key"],
        "headers": dict(properties.pop("headers", None) or {}),
        **properties,
    }


def _exported(message: Message, service: str, routing_key: str) -> dict[str, Any]:
    try:
        body, encoding = message.body.decode(), "utf-8"
    except UnicodeDecodeError:
        body, encoding = base64.b64encode(message.body).decode(), "base64"
    return {
        "exchange": f"{service}.events",
        "routing_key": routing_key,
        "properties": {
            "content_type": message.content_type,
            "content_encoding": message.content_encoding,
            "delivery_mode": 2,
            "message_id": message.message_id,
            "timestamp": int(message.timestamp),
            "type": message.event_type,
            "app_id": service,
            "headers": dict(message.headers),
        },
        "body": body,
        "body_encoding": encoding,
    }


def _time(message: Message) -> str:
    return local_time(format_time(int(message.timestamp * 1000)))
