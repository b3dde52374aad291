"""
The command `export`: stored event logs to a file or to standard output.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

import click

from nameko_eventlog.cli.filters import filter_options, parameters, time_options
from nameko_eventlog.cli.settings import (
    NOTHING,
    UNREACHABLE,
    USAGE,
    Failure,
    config_option,
    handle_errors,
    store_config,
)
from nameko_eventlog.cli.stored import warn_unseen
from nameko_eventlog.cli.terminal import error_progress
from nameko_eventlog.limits import EXPORT_SECONDS
from nameko_eventlog.store.archives.exporting import Export
from nameko_eventlog.store.archives.formats import (
    FORMATS,
    Archive,
    format_of,
    open_archive,
    stream_archive,
)
from nameko_eventlog.store.databases import DatabaseError
from nameko_eventlog.store.dating import EARLIEST_MS
from nameko_eventlog.store.parameters import MAX_LIMIT
from nameko_eventlog.store.queries import EventLogQuery
from nameko_eventlog.store.times import format_time


_COUNT_SECONDS = 5.0
_BODY_FILTERS = ("data", "data_contains", "metadata", "metadata_contains", "text")


@click.command(short_help="Write stored event logs to a file, oldest first.")
@click.argument("file", required=False)
@click.option(
    "--format",
    "format",
    type=click.Choice(FORMATS),
    help="The format. Default: what the suffix of FILE says, or jsonl.",
)
@filter_options
@time_options
@click.option("--cursor", help="Where an interrupted export goes on; FILE is appended to.")
@config_option
@handle_errors
def export(
    path: str,
    file: str | None,
    format: str | None,  # noqa: A002
    cursor: str | None,
    **options: Any,
) -> None:
    """
    Write stored event logs to FILE or standard output, oldest first, with complete bodies.

    FILE is a .jsonl, .jsonl.gz, .csv, .csv.gz or .parquet. `import` reads JSON lines and Parquet.
    Without --since and --until, event logs of all times are exported.
    """
    file = None if file == "-" else file
    format = _format(file, format)  # noqa: A001
    filters = parameters(options)
    uri = store_config(path).uri
    with EventLogQuery(uri, seconds=EXPORT_SECONDS) as store:
        work = Export(store, cursor=cursor, **filters)
        archive = _open(file, format, goes_on=cursor is not None)
        try:
            _write(work, archive, uri, is_quiet=file is None and sys.stdout.isatty())
        except BaseException as exc:
            is_saved = _settle(work, archive)
            if file is None and isinstance(exc, BrokenPipeError):  # the reader has seen enough
                sys.exit(NOTHING)
            reason, code = _reason(exc, file)
            if reason is None:
                raise
            raise Failure(f"{reason}\n{_advice(work, is_saved, file, format)}", code) from None
        if not work.written and cursor is None:
            warn_unseen(store, filters, is_empty=True)
            click.echo("no event logs found", err=True)
            sys.exit(NOTHING)
    click.echo(f"{work.written:,} event logs exported", err=True)


def _format(file: str | None, format: str | None) -> str:  # noqa: A002
    if file is None and format == "parquet":
        raise click.UsageError("Parquet cannot be written to standard output: name a FILE")
    found = format or ("jsonl" if file is None else format_of(file))
    if found is None:
        raise click.UsageError(f"pass --format: the name of {file!r} does not tell it")
    return found


def _open(file: str | None, format: str, goes_on: bool) -> Archive:  # noqa: A002
    if file is None:
        sys.stdout.flush()
        return stream_archive(sys.stdout.buffer, format, goes_on)
    try:
        return open_archive(file, format, goes_on)
    except FileExistsError:
        advice = "name another file, or remove it"
        if goes_on:
            advice = "Parquet cannot be appended to: name another file"
        elif format != "parquet":
            advice += "; to go on with it, pass --cursor"
        raise Failure(f"{file!r} exists: {advice}", USAGE) from None
    except OSError as exc:
        raise Failure(f"{file!r} cannot be written: {exc.strerror}", USAGE) from None


def _write(work: Export, archive: Archive, uri: str, is_quiet: bool) -> None:
    with error_progress(is_quiet) as progress:
        total = None if progress.disable else _total(uri, work)
        task = progress.add_task("exporting", total=total)
        for number in work.write_to(archive):
            progress.advance(task, number)
    archive.close()


def _total(uri: str, work: Export) -> int | None:
    """
    Count what will be exported, if that is quick.
    """
    if work.cursor is not None or any(name in work.filters for name in _BODY_FILTERS):
        return None
    times = {"since": work.filters["since"] or format_time(EARLIEST_MS)}
    with suppress(DatabaseError), EventLogQuery(uri, seconds=_COUNT_SECONDS) as store:
        counts = store.count(limit=MAX_LIMIT, **{**work.filters, **times})
        return sum(one["count"] for one in counts)
    return None


def _settle(work: Export, archive: Archive) -> bool:
    """
    Complete an archive after an error, or remove it if there is nothing in it.

    Returns:
        Whether there is something in it.
    """
    with suppress(OSError):
        if work.written:
            archive.close()
            return True
    with suppress(OSError):
        archive.discard()
    return False


def _reason(exc: BaseException, file: str | None) -> tuple[str | None, int]:
    """
    Return why the export has ended, and the exit code; no reason if there is nothing to say.
    """
    if isinstance(exc, KeyboardInterrupt):
        return "interrupted", NOTHING
    if isinstance(exc, DatabaseError):
        return str(exc), UNREACHABLE
    if isinstance(exc, OSError):
        name = "standard output" if file is None else repr(file)
        return f"{name} cannot be written: {exc.strerror or exc}", NOTHING
    return None, NOTHING


def _advice(work: Export, is_saved: bool, file: str | None, format: str) -> str:  # noqa: A002
    """
    Return how to go on.
    """
    if not is_saved:
        return "nothing was exported: run the same command again"
    number = f"{work.written:,} event logs were exported"
    if file is None:
        how = "append the output of the same command with this option"
    elif format == "parquet":
        how = "run the same command with another FILE and with this option"
    else:
        how = f"run the same command with this option, which appends to {file!r}"
    return f"{number}; to export the rest, {how}:\n--cursor {work.cursor}"
