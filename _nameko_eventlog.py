"""
The entry point of the command ``nameko-eventlog``.

It is outside the package, because importing the package imports eventlet, which emits a
deprecation warning that the user of a command can do nothing about.
"""

from __future__ import annotations

import io
import os
import sys
import warnings


def main() -> None:
    """
    Run the command line, hiding warnings unless ``-W`` or ``PYTHONWARNINGS`` is set.

    Host names are resolved by the system. Eventlet's resolver is for services, which must not
    block, and loading it takes a sixth of a command's start.
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
