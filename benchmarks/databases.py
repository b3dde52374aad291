"""
Empty databases to measure with.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Callable, Iterator

from tests.postgresql import PostgreSQL


@contextlib.contextmanager
def addresses(kind: str) -> Iterator[Callable[[], str]]:
    """
    Yield what makes an empty database, and returns its address.

    Args:
        kind: ``sqlite`` or ``postgresql``.
    """
    if kind == "postgresql":
        with PostgreSQL() as server:
            yield server.create_database
    else:
        with tempfile.TemporaryDirectory() as folder:
            numbers = itertools.count()
            yield lambda: f"sqlite:///{folder}/{next(numbers)}.db"
