"""
Spools: what waits on disk, and lines of ``nameko_eventlog.undelivered``.
"""

from __future__ import annotations

import base64
import json
import pathlib
import sys
import time
from typing import IO, Any

import click
import kombu
from amqp.exceptions import MessageNacked
from amqp.serialization import dumps
from rich.progress import Progress

from nameko_eventlog import compat
from nameko_eventlog.addresses import masked, without_secrets
from nameko_eventlog.amqp.connections import broker_uri, make_connection
from nameko_eventlog.amqp.message import Message, shortstr, whole_seconds
from nameko_eventlog.cli.replaying import (
    LineReader,
    Publication,
    Refused,
    numbered_lines,
    serializer_of,
)
from nameko_eventlog.cli.settings import (
    NOTHING,
    UNREACHABLE,
    USAGE,
    Failure,
    config_option,
    handle_errors,
    read_config,
)
from nameko_eventlog.cli.terminal import console, event_line, local_time, printable
from nameko_eventlog.config import CONFIG_KEY, parse_config
from nameko_eventlog.delivery.marks import Marker, replay_secret
from nameko_eventlog.delivery.spool.listing import ProcessDirectory, process_directories
from nameko_eventlog.limits import REPLAY_LINE_BYTES, REPLAY_REFUSALS
from nameko_eventlog.standalone import event_log_dispatcher
from nameko_eventlog.store.times import format_time


_OTHER_PROPERTIES = 2560  # bytes: nine at 256 and what is fixed, beside the headers


@click.group()
def spool() -> None:
    """
    Event logs that wait on disk to be published.
    """


def directories(path: str) -> list[ProcessDirectory]:
    """
    Return each process's directory in the configured spool: ``SPOOL/SERVICE/PROCESS``.

    Raises:
        Failure: No spool is configured, or it is not there, or it cannot be read.
    """
    configured = parse_config(read_config(path)).spool
    if configured is None:
        raise Failure(f"{path} configures no spool: set {CONFIG_KEY}.spool", USAGE)
    try:
        return process_directories(pathlib.Path(configured).absolute(), warn)
    except (FileNotFoundError, NotADirectoryError):
        raise Failure(
            f"there is no directory {configured!r}, the spool of {path}", NOTHING
        ) from None
    except OSError as exc:
        raise Failure(
            f"the spool {configured!r} cannot be read: {exc.strerror}", NOTHING
        ) from None


@spool.command("list")
@config_option
@handle_errors
def list_spools(path: str) -> None:
    """
    Print what waits, by service and process.
    """
    found = directories(path)
    if not found:
        click.echo("nothing waits")
    for directory in found:
        good = corrupt = 0
        oldest = ""
        for message in directory.messages():
            if message is None:
                corrupt += 1
                continue
            oldest = oldest or f"oldest {_time(message)}"
            good += 1
        bad = f"{corrupt} corrupt" if corrupt else ""
        state = "in use" if directory.is_in_use() else "left behind"
        parts = (printable(directory.name), f"{good} waiting", state, oldest, bad)
        click.echo("  ".join(filter(None, parts)))


@spool.command()
@click.option("--limit", "-n", default=50, show_default=True, help="How many at the most.")
@config_option
@handle_errors
def show(path: str, limit: int) -> None:
    """
    Print the event logs that wait.
    """
    out = console()
    shown = 0
    for directory in directories(path):
        for message in directory.messages():
            if shown >= limit:
                break
            if message is None:
                continue
            shown += 1
            named = {"event_type": message.event_type, "service_name": directory.service}
            try:
                body = json.loads(message.body)
                line = event_line(
                    _time(message), body if isinstance(body, dict) and body else named
                )
            except (ValueError, RecursionError):  # no JSON, or nested too deep
                line = event_line(_time(message), named)
            out.print(line, soft_wrap=True)
    if not shown:
        click.echo("nothing waits", err=True)
        sys.exit(NOTHING)


@spool.command(short_help="Print what waits as JSON lines, for `replay`.")
@config_option
@handle_errors
def export(path: str) -> None:
    """
    Print the event logs that wait as JSON lines, which `replay` takes.
    """
    config = read_config(path)
    routing_key = parse_config(config).event_type or "log_event"
    marker = _marker(config)
    failed = 0
    for directory in directories(path):
        if not directory.is_own:
            warn(
                f"{directory.name} belongs to the user {directory.owner}: its lines get no mark,"
                " which would say that you have written them"
            )
        for message in directory.messages():
            if message is None:
                continue
            try:
                line = json.dumps(_exported(message, directory.service, routing_key))
                click.echo(marker.mark(line) if directory.is_own else line)
            except (ValueError, TypeError, RecursionError) as exc:
                failed += 1
                warn(
                    f"{directory.name}: {message.message_id} is left out, for JSON does not know"
                    f" its headers ({exc}); `spool replay` without a file publishes it"
                )
    if failed:
        raise Failure(f"{failed} event logs are left out", NOTHING)


def _marker(config: Any) -> Marker:
    parsed = parse_config(config)
    return Marker(replay_secret(parsed, str(parsed.uri or config.get("AMQP_URI") or "")))


@spool.command(short_help="Publish what waits in the spool, or the lines of a FILE.")
@click.argument("file", type=click.File("rb"), required=False)
@click.option("--seconds", default=60.0, show_default=True, help="For how long to try.")
@click.option(
    "--unmarked",
    is_flag=True,
    help="Publish lines of FILE without a mark, too: if only our own logger writes to it.",
)
@config_option
@handle_errors
def replay(path: str, file: Any, seconds: float, unmarked: bool) -> None:
    """
    Publish what dead processes have left in the spool; or a FILE of exported lines, or a log file
    with those of nameko_eventlog.undelivered. Message ids stay as they are.
    """
    config = read_config(path)
    if file is not None:
        reader = LineReader(
            _marker(config),
            parse_config(config).event_type or "log_event",
            serializer_of(config),
            unmarked,
        )
        _replay_lines(config, reader, file)
    else:
        _replay_spool(config, path, seconds)


def _replay_spool(config: Any, path: str, seconds: float) -> None:
    found = directories(path)
    if not found:
        click.echo("nothing waits")
    services, failed, refused = set(), 0, 0
    for directory in found:
        if directory.is_in_use():
            warn(f"{directory.name} is in use: left to its process")
        elif not directory.is_own:
            refused += 1
            warn(
                f"{directory.name} belongs to the user {directory.owner}: replay it as that user,"
                " or it would publish with your rights what that user has written"
            )
        else:
            services.add(directory.service)
    for service in sorted(services):
        try:
            stats = _replay_service(config, service, seconds)
        except Exception as exc:  # the others have their turn
            refused += 1
            warn(f"{service} cannot be replayed: {exc}")
            continue
        failed += stats["waiting"]
        click.echo(
            f"{printable(service)}: {stats['confirmed']} published, {stats['waiting']} still wait"
        )
    if failed:
        raise Failure("the broker has not confirmed all of them: see `spool list`", UNREACHABLE)
    if refused:
        raise Failure("not all of it was replayed", NOTHING)


def _replay_service(config: Any, service: str, seconds: float) -> dict[str, int]:
    with event_log_dispatcher(config, service) as dispatch:
        deadline = time.monotonic() + seconds
        while dispatch.stats()["waiting"] and time.monotonic() < deadline:
            _sleep(0.1)
        return dispatch.stats()


def _sleep(seconds: float) -> None:
    import eventlet

    eventlet.sleep(seconds)


def _replay_lines(config: Any, reader: LineReader, file: IO[bytes]) -> None:
    settings = compat.connection_settings(config)
    uri = broker_uri(parse_config(config).uri or settings.uri)
    connection = make_connection(settings, uri, confirm_publish=True)
    errors = (*connection.connection_errors, *connection.channel_errors, OSError)
    published = others = refused = declined = 0
    not_taken: list[str] = []

    def note(exc: Any, exchange: str, routing_key: str, message: Any) -> None:
        not_taken.append(exchange)

    try:
        with (
            connection,
            Progress(console=console(), disable=not sys.stdout.isatty()) as progress,
        ):
            producer = _producer(connection, note)
            lines = progress.track(numbered_lines(file), total=None, description="publishing")
            for number, line in lines:
                try:
                    if line is None:
                        raise Refused(f"it is longer than REPLAY_LINE_BYTES ({REPLAY_LINE_BYTES})")
                    publication = reader.read(line)
                    _check_frame(connection, publication)
                except Refused as exc:
                    refused += 1
                    if refused <= REPLAY_REFUSALS:
                        warn(f"line {number} is refused: {_shortened(str(exc))}")
                    continue
                if publication is None:
                    others += bool(line.strip())
                    continue
                try:
                    # what is returned, is returned before it is confirmed
                    producer.publish(
                        publication.body, **{**publication.options, "mandatory": True}
                    )
                except MessageNacked:  # by a queue that is full
                    not_taken.append(publication.options["exchange"])
                except connection.channel_errors as exc:  # which has closed the channel
                    declined += 1
                    if declined <= REPLAY_REFUSALS:
                        reason = _shortened(without_secrets(str(exc), uri))
                        warn(f"line {number} is refused by the broker: {reason}")
                    producer = _producer(connection, note)
                    continue
                published += 1
    except errors as exc:
        raise Failure(
            f"the broker {masked(uri)} cannot be used: {without_secrets(str(exc), uri)};"
            f" {published - len(not_taken)} were published",
            UNREACHABLE,
        ) from None
    click.echo(f"{published - len(not_taken)} published, {others} other lines skipped")
    if refused:
        warn(f"{refused} lines refused")
    if declined and not not_taken:
        raise Failure(f"{declined} more the broker has refused", UNREACHABLE)
    if not_taken:
        raise Failure(
            f"{len(not_taken)} more no queue took, the first of them by the exchange"
            f" {not_taken[0]!r}: bind a queue to it, and replay them again",
            UNREACHABLE,
        )
    if refused or not published:
        sys.exit(NOTHING)


def _producer(connection: kombu.Connection, on_return: Any) -> kombu.Producer:
    channel = connection.channel()
    returns = hasattr(channel, "events")  # those of memory:// have no queue to miss
    return kombu.Producer(channel, on_return=on_return if returns else None)


def _check_frame(connection: kombu.Connection, publication: Publication | None) -> None:
    """
    Refuse headers that need more than a frame: the broker would end the connection.
    """
    most = getattr(connection.connection, "frame_max", None)
    if publication is None or most is None:
        return
    if len(dumps("F", [publication.options["headers"]])) + _OTHER_PROPERTIES > most:
        raise Refused(f"its headers do not fit into one of the broker's frames ({most} bytes)")


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
            "timestamp": whole_seconds(message),
            "type": shortstr(message.event_type),
            "app_id": shortstr(service),
            "headers": dict(message.headers),
        },
        "body": body,
        "body_encoding": encoding,
    }


def _time(message: Message) -> str:
    try:
        return local_time(format_time(int(message.timestamp * 1000)))
    except (OverflowError, ValueError):  # before the year 1, or after 9999
        return repr(message.timestamp)


def _shortened(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:300]}..."


def warn(text: str) -> None:
    """
    Print a line on standard error.
    """
    click.echo(printable(text), err=True)
