"""
A made-up next version of the store's schema.
"""

from __future__ import annotations

import pathlib
import shutil

import pytest

from nameko_eventlog.store.sql import migrating


NEXT = '''"""
A made-up column.
"""

import sqlalchemy as sa
from alembic import op


revision = "9000"
down_revision = "{latest}"


def upgrade() -> None:
    """
    Add the column, with a value for older rows.
    """
    op.add_column("event_logs", sa.Column("colour", sa.Text(), server_default="blue"))
'''


def add_revision(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Let the migrations have a next revision, 9000, from a copy of them in *folder*.
    """
    original = pathlib.Path(migrating.__file__).parent / "migrations"
    shutil.copytree(original, folder, ignore=shutil.ignore_patterns("__pycache__"))
    versions = folder / "versions"
    latest = max(path.name[:4] for path in versions.glob("[0-9]*.py"))
    (versions / "9000_colour.py").write_text(NEXT.format(latest=latest))
    monkeypatch.setattr(migrating, "SCRIPTS", str(folder))
