"""
Standard output, and what becomes of a command that cannot write to it.
"""

from __future__ import annotations

import errno
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import click

from nameko_eventlog.cli.settings import NOTHING, Failure


class _Output(io.FileIO):
    """
    A file that ends the command when it cannot be written.

    Its error is no `OSError`, which commands take for one of the broker's.
    """

    _has_failed = False

    def write(self, data: Any, /) -> int:
        if self._has_failed:  # what was buffered, at the exit: it has been told
            return len(data)
        try:
            return super().write(data)
        except OSError as exc:
            self._has_failed = True
            if exc.errno == errno.EPIPE:  # who reads has seen enough
                raise click.exceptions.Exit(NOTHING) from None
            raise Failure(f"the output cannot be written: {exc.strerror}", NOTHING) from None


@contextmanager
def telling_output() -> Iterator[None]:
    """
    Let a command end with a message and an exit code where it cannot write to standard output.
    """
    stdout = sys.stdout
    if stdout is None:  # as ``>&-`` leaves it
        sys.exit("Error: the output cannot be written: it is closed")
    try:
        stdout.flush()
        output = _Output(stdout.fileno(), "w", closefd=False)
    except (OSError, ValueError):  # no file, but something in its place
        yield
        return
    wrapper = io.TextIOWrapper(
        io.BufferedWriter(output),
        encoding=stdout.encoding,
        errors=stdout.errors,
        line_buffering=True,  # so that nothing is left for the exit
    )
    with redirect_stdout(wrapper):
        yield
