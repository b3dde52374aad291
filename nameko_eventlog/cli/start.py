"""
Where ``nameko-eventlog`` begins, with or without what it needs.
"""

from __future__ import annotations

import io
import sys


_EXTRAS = {
    "click": "cli",
    "rich": "cli",
    "yaml": "cli",
    "sqlalchemy": "store",
    "alembic": "store",
    "psycopg2": "store",
}


def main() -> None:
    """
    Run the command line.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what the locale cannot say is spelt out
            stream.reconfigure(errors="backslashreplace")
    try:
        from nameko_eventlog.cli.commands import cli
        from nameko_eventlog.cli.output import telling_output
    except ImportError as exc:
        missing = str(exc.name).partition(".")[0]
        if missing not in _EXTRAS:
            raise
        sys.exit(f"{missing} is not installed: pip install 'nameko-eventlog[{_EXTRAS[missing]}]'")
    with telling_output():
        cli()
