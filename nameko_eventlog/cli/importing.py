"""
The command `import`: archives that `export` has written, into the store's database.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import click

from nameko_eventlog.cli.settings import (
    NOTHING,
    UNREACHABLE,
    USAGE,
    Failure,
    config_option,
    handle_errors,
    store_config,
)
from nameko_eventlog.cli.terminal import error_progress, printable
from nameko_eventlog.store.archives.importing import BadRow, Counts, Import
from nameko_eventlog.store.archives.sources import (
    LineSource,
    Source,
    check_name,
    open_source,
)
from nameko_eventlog.store.databases import DatabaseError


_STDIN = "-"
_AGAIN = "import it again to go on: nothing is stored twice"


@click.command("import", short_help="Store the event logs of exported files.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--skip-bad", is_flag=True, help="Go on after lines that cannot be stored.")
@config_option
@handle_errors
def import_(path: str, files: tuple[str, ...], skip_bad: bool) -> None:
    """
    Store the event logs of exported files: .jsonl, .jsonl.gz or .parquet; - is standard input,
    JSON lines. An event log that is stored already is not stored again.
    """
    sizes = {file: _size(file) for file in files}
    work = Import(store_config(path).uri, _print_bad if skip_bad else None)
    try:
        _read(work, files, sizes)
    except KeyboardInterrupt:
        raise Failure(f"interrupted\n{_said(work.counts)}; {_AGAIN}", NOTHING) from None
    except BadRow as exc:
        advice = f"correct it or pass --skip-bad, and {_AGAIN}"
        raise Failure(f"{exc}\n{_said(work.counts)}; {advice}", NOTHING) from None
    except DatabaseError as exc:
        raise Failure(f"{exc}\n{_said(work.counts)}; {_AGAIN}", UNREACHABLE) from None
    finally:
        work.close()
    click.echo(_said(work.counts))
    if work.counts.bad:
        sys.exit(NOTHING)


def _read(work: Import, files: Sequence[str], sizes: Mapping[str, int | None]) -> None:
    total = None if None in sizes.values() else sum(sizes[file] or 0 for file in files)
    before = 0
    with error_progress() as progress:
        task = progress.add_task("importing", total=total)
        for file in files:
            with _open(file) as source:
                for _ in work.read(source):
                    if total is not None:
                        progress.update(task, completed=before + source.position)
            before += sizes[file] or 0


def _size(file: str) -> int | None:
    """
    Check that *file* can be imported, and return its size, if it has one.

    Raises:
        Failure: It cannot be imported.
    """
    if file == _STDIN:
        return None
    try:
        check_name(file)
        with open(file, "rb") as opened:
            status = os.fstat(opened.fileno())
    except ValueError as exc:
        raise Failure(str(exc), USAGE) from None
    except OSError as exc:
        raise _unreadable(file, exc) from None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


@contextmanager
def _open(file: str) -> Iterator[Source]:
    if file == _STDIN:
        yield LineSource("standard input", sys.stdin.buffer)
        return
    try:
        with open_source(file) as source:
            yield source
    except OSError as exc:
        raise _unreadable(file, exc) from None


def _unreadable(file: str, exc: OSError) -> Failure:
    return Failure(f"{file!r} cannot be read: {exc.strerror or exc}", USAGE)


def _print_bad(bad: BadRow) -> None:
    click.echo(printable(f"skipped {bad}"), err=True)


def _said(counts: Counts) -> str:
    said = f"{counts.read:,} read, {counts.stored:,} stored, {counts.known:,} already there"
    return f"{said}, {counts.bad:,} skipped" if counts.bad else said
