"""
The entry point of the command ``nameko-eventlog``.

It is outside the package, because importing the package imports eventlet, which warns that it is
deprecated. Users of the command cannot do anything about that.
"""

from __future__ import annotations

import io
import os
import sys
import warnings


def main() -> None:
    """
    Run the command line, without warnings unless ``-W`` or ``PYTHONWARNINGS`` is given.

    The system's resolver looks up hosts. eventlet's resolver is for services, which must not
    block, and takes a sixth of a command's start.
    """
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    os.environ.setdefault("EVENTLET_NO_GREENDNS", "yes")
    run()


def run() -> None:
    """
    Run the command line; exit with a message if its extra is not installed.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # escape what the locale cannot encode
            stream.reconfigure(errors="backslashreplace")
    from nameko_eventlog.extras import MissingExtra, extra

    try:
        with extra():
            from nameko_eventlog.cli.commands import cli
            from nameko_eventlog.cli.output import handle_output_errors
    except MissingExtra as exc:
        sys.exit(str(exc))
    with handle_output_errors():
        cli()
