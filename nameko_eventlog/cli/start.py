"""
Where ``nameko-eventlog`` begins, with or without what it needs.
"""

from __future__ import annotations

import sys
import warnings


def main() -> None:
    """
    Run the command line.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # eventlet is deprecated: its users know
        try:
            from nameko_eventlog.cli.commands import cli
        except ImportError as exc:
            if exc.name not in ("click", "rich", "yaml", "sqlalchemy", "alembic", "psycopg2"):
                raise
            extra = "cli" if exc.name in ("click", "rich", "yaml") else "store"
            sys.exit(f"{exc.name} is not installed: pip install 'nameko-eventlog[{extra}]'")
    cli()
