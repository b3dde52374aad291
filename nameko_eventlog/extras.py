"""
Optional dependencies, and the extras that install them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from nameko.exceptions import ConfigurationError


EXTRAS = {
    "click": "cli",
    "rich": "cli",
    "yaml": "cli",
    "sqlalchemy": "store",
    "alembic": "store",
    "psycopg2": "store",
    "clickhouse_connect": "clickhouse",
    "jinja2": "explorer",
    "markupsafe": "explorer",
    "werkzeug": "explorer",
    "pyarrow": "parquet",
}
"""The extra that installs each package."""


class MissingExtra(ConfigurationError):
    """
    A package of an extra is not installed.

    For a ``ConfigurationError`` `nameko run` prints only the text, for an ``ImportError`` a
    traceback.

    Args:
        package: The missing package.
        extra: The extra to install.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed: pip install 'nameko-eventlog[{extra}]'")
        self.package = package


def require(*packages: str) -> None:
    """
    Check that packages are installed that are imported later.

    Raises:
        MissingExtra: A package is not installed.
    """
    for package in packages:
        if find_spec(package) is None:
            raise MissingExtra(package, EXTRAS[package])


@contextmanager
def extra(name: str = "") -> Iterator[None]:
    """
    Turn an ``ImportError`` in the ``with`` block into an error that names the extra to install.

    Args:
        name: The extra; the default is the extra that installs the package.

    Raises:
        MissingExtra: A package of an extra is not installed.
    """
    try:
        yield
    except MissingExtra as exc:
        if not name:
            raise
        raise MissingExtra(exc.package, name) from None
    except ImportError as exc:
        missing = str(exc.name).partition(".")[0]
        if missing not in EXTRAS:
            raise
        raise MissingExtra(missing, name or EXTRAS[missing]) from None
