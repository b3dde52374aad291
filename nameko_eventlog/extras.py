"""
What is optional, and which extra brings it.
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
    "jinja2": "explorer",
    "markupsafe": "explorer",
    "werkzeug": "explorer",
}
"""The extra that brings each package."""


class MissingExtra(ConfigurationError):
    """
    A package is not installed that an extra brings.

    `nameko run` ends with the text of a ``ConfigurationError``, without a traceback, which it
    prints for an ``ImportError``.

    Args:
        package: What is not installed.
        extra: What is to be installed.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed: pip install 'nameko-eventlog[{extra}]'")
        self.package = package


def require(*packages: str) -> None:
    """
    Refuse to go on without packages that are imported later, when a service starts.

    Raises:
        MissingExtra: One is not installed.
    """
    for package in packages:
        if find_spec(package) is None:
            raise MissingExtra(package, EXTRAS[package])


@contextmanager
def extra(name: str = "") -> Iterator[None]:
    """
    Say which extra is to be installed, where an import within the block fails for want of it.

    Args:
        name: The extra; default: the one that brings the package.

    Raises:
        MissingExtra: It is not installed.
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
