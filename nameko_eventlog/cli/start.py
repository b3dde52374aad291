"""
Where ``nameko-eventlog`` begins, with or without what it needs.
"""

from __future__ import annotations

import io
import sys

from nameko_eventlog.extras import MissingExtra, extra


def main() -> None:
    """
    Run the command line.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what the locale cannot say is spelt out
            stream.reconfigure(errors="backslashreplace")
    try:
        with extra():
            from nameko_eventlog.cli.commands import cli
            from nameko_eventlog.cli.output import telling_output
    except MissingExtra as exc:
        sys.exit(str(exc))
    with telling_output():
        cli()
