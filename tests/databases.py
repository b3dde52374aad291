"""
Empty databases for the fixture `database`.
"""

from __future__ import annotations

import pathlib

import pytest


EVERY = ("sqlite", "postgresql", "clickhouse")
"""The kinds of databases that the store supports."""


def empty_database(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
    """
    Return the address of an empty database of the kind that is the fixture's parameter.
    """
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/eventlog.db"
    server = request.getfixturevalue(request.param)
    server.start()
    return str(server.create_database())
