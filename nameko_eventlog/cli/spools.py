"""
Spools: what waits on disk, and lines of ``nameko_eventlog.undelivered``.
"""

from __future__ import annotations

import json
import pathlib
import sys
import time
from typing import IO, Any

import click
import kombu
from rich.progress import Progress

from nameko_eventlog import compat
from nameko_eventlog.addresses import masked, without_secrets
from nameko_eventlog.amqp.connections import MessageNacked, broker_uri, make_connection
from nameko_eventlog.amqp.message import Message, as_mapping
from nameko_eventlog.amqp.route import ROUTING_KEY
from nameko_eventlog.amqp.settings import ConnectionSettings, PublisherSettings
from nameko_eventlog.amqp.tables import encode_table
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
from nameko_eventlog.describing import shortened
from nameko_eventlog.limits import REPLAY_LINE_BYTES, REPLAY_REFUSALS
from nameko_eventlog.standalone import event_log_dispatcher
from nameko_eventlog.store.times import format_time


_OTHER_PROPERTIES = 2560  # bytes, beside the headers: nine of up to 256, and the fixed part


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


@spool.command(short_help="Print the waiting event logs as JSON lines, for `replay`.")
@config_option
@handle_errors
def export(path: str) -> None:
    """
    Print the waiting event logs as JSON lines, which `replay` reads.
    """
    config = read_config(path)
    routing_key = parse_config(config).event_type or ROUTING_KEY
    marker = _marker(config)
    failed = 0
    for directory in directories(path):
        if not directory.is_own:
            warn(
                f"{directory.name} belongs to user {directory.owner}: its lines get no mark,"
                " because a mark would say that you wrote them"
            )
        for message in directory.messages():
            if message is None:
                continue
            try:
                line = _exported(message, directory.service, routing_key)
                click.echo(marker.mark(line) if directory.is_own else line)
            except (ValueError, TypeError, RecursionError) as exc:
                failed += 1
                warn(
                    f"{directory.name}: {message.message_id} is left out, because JSON cannot"
                    f" represent its headers ({exc}); `spool replay` without a file publishes it"
                )
    if failed:
        raise Failure(f"left out {failed} event logs", NOTHING)


def _marker(config: Any) -> Marker:
    parsed = parse_config(config)
    return Marker(replay_secret(parsed, str(parsed.uri or config.get("AMQP_URI") or "")))


@spool.command(short_help="Publish the event logs in the spool, or the lines of a FILE.")
@click.argument("file", type=click.File("rb"), required=False)
@click.option("--seconds", default=60.0, show_default=True, help="How long to try.")
@click.option(
    "--unmarked",
    is_flag=True,
    help="Also publish lines of FILE without a mark: if only our own logger writes to it.",
)
@config_option
@handle_errors
def replay(path: str, file: Any, seconds: float, unmarked: bool) -> None:
    """
    Publish what dead processes have left in the spool, or the lines of FILE: from `export`, or a
    log file with lines of nameko_eventlog.undelivered. Message ids stay the same.
    """
    config = read_config(path)
    if file is not None:
        reader = LineReader(
            _marker(config),
            parse_config(config).event_type or ROUTING_KEY,
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
            warn(f"{directory.name} is in use: its process publishes it")
        elif not directory.is_own:
            refused += 1
            warn(
                f"{directory.name} belongs to user {directory.owner}: replay it as that user,"
                " because it would be published with your permissions"
            )
        else:
            services.add(directory.service)
    for service in sorted(services):
        try:
            stats = _replay_service(config, service, seconds)
        except Exception as exc:  # go on with the others
            refused += 1
            warn(f"{service} cannot be replayed: {exc}")
            continue
        failed += stats["waiting"]
        click.echo(
            f"{printable(service)}: {stats['confirmed']} published, {stats['waiting']} still wait"
        )
    if failed:
        raise Failure("the broker did not confirm all of them: see `spool list`", UNREACHABLE)
    if refused:
        raise Failure("not everything was replayed", NOTHING)


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
                        warn(f"line {number} is refused: {shortened(str(exc), 300)}")
                    continue
                if publication is None:
                    others += bool(line.strip())
                    continue
                try:
                    # an unroutable message is returned before it is confirmed
                    producer.publish(
                        publication.body, **{**publication.options, "mandatory": True}
                    )
                except MessageNacked:  # by a full queue
                    not_taken.append(publication.options["exchange"])
                except connection.channel_errors as exc:  # which has closed the channel
                    declined += 1
                    if declined <= REPLAY_REFUSALS:
                        reason = shortened(without_secrets(str(exc), uri), 300)
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
        raise Failure(f"the broker refused {declined} more", UNREACHABLE)
    if not_taken:
        raise Failure(
            f"no queue accepted {len(not_taken)} more; the first was sent to the exchange"
            f" {not_taken[0]!r}: bind a queue to it, and replay them again",
            UNREACHABLE,
        )
    if refused or not published:
        sys.exit(NOTHING)


def _producer(connection: kombu.Connection, on_return: Any) -> kombu.Producer:
    channel = connection.channel()
    returns = hasattr(channel, "events")  # memory:// returns nothing
    return kombu.Producer(channel, on_return=on_return if returns else None)


def _check_frame(connection: kombu.Connection, publication: Publication | None) -> None:
    """
    Refuse headers that do not fit into a frame: the broker would close the connection.
    """
    most = getattr(connection.connection, "frame_max", None)
    if publication is None or most is None:
        return
    if len(encode_table(publication.options["headers"])) + _OTHER_PROPERTIES > most:
        raise Refused(f"its headers do not fit into one of the broker's frames ({most} bytes)")


def _exported(message: Message, service: str, routing_key: str) -> str:
    settings = PublisherSettings(ConnectionSettings(""))
    whole = as_mapping(message, settings, service, f"{service}.events", routing_key)
    return json.dumps(whole, allow_nan=False)


def _time(message: Message) -> str:
    try:
        return local_time(format_time(int(message.timestamp * 1000)))
    except (OverflowError, ValueError):  # before the year 1, or after 9999
        return repr(message.timestamp)


def warn(text: str) -> None:
    """
    Print a line on standard error.
    """
    click.echo(printable(text), err=True)
