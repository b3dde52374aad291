"""
Standard output, and the end of a command that cannot write to it.
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

    It does not raise `OSError`, which commands take for an error of the broker.
    """

    _has_failed = False

    def write(self, data: Any, /) -> int:
        if self._has_failed:  # the buffer is flushed at exit: the error was reported
            return len(data)
        try:
            return super().write(data)
        except OSError as exc:
            self._has_failed = True
            if exc.errno == errno.EPIPE:  # the reader has seen enough
                raise click.exceptions.Exit(NOTHING) from None
            raise Failure(f"the output cannot be written: {exc.strerror}", NOTHING) from None


@contextmanager
def handle_output_errors() -> Iterator[None]:
    """
    End a command that cannot write to standard output with a message and an exit code.
    """
    stdout = sys.stdout
    if stdout is None:  # by ``>&-``
        sys.exit("Error: the output cannot be written: it is closed")
    try:
        stdout.flush()
        output = _Output(stdout.fileno(), "w", closefd=False)
    except (OSError, ValueError):  # a replacement that is not a file
        yield
        return
    wrapper = io.TextIOWrapper(
        io.BufferedWriter(output),
        encoding=stdout.encoding,
        errors=stdout.errors,
        line_buffering=True,  # so that nothing is left to write at exit
    )
    with redirect_stdout(wrapper):
        yield
