"""
Bring a database's tables to what this version of the package knows.
"""

from __future__ import annotations

import logging
from functools import partial

from sqlalchemy import Connection, Engine, inspect, text

from nameko_eventlog.extras import extra
from nameko_eventlog.store.databases import DatabaseError, database_errors, shown_address


VERSION_TABLE = "eventlog_schema"
"""Where Alembic notes which version a database's tables have."""

_LOCK = 4_711_202_611
"""The key of PostgreSQL's advisory lock, the same for all instances of the store."""

_TALKATIVE = [
    logging.getLogger(name) for name in ("alembic.runtime.migration", "alembic.runtime.plugins")
]


class Migration:
    """
    Migrates forward, if it is needed.

    Make it in a green thread: that imports Alembic and makes loggers, which takes locks that a
    real thread must not wait for. `run` takes none, and belongs into a real one.

    Args:
        engine: The database's, for writing.
    """

    def __init__(self, engine: Engine) -> None:
        _silence()  # one of them logs when it is imported
        with extra("store"):
            from alembic import command
            from alembic.config import Config
            from alembic.script import ScriptDirectory

        self.is_current = False
        """Whether the tables were found to be of this version."""
        self._engine = engine
        self._config = Config()
        self._config.set_main_option("script_location", "nameko_eventlog.store:migrations")
        self._upgrade = partial(command.upgrade, self._config)
        self._script = ScriptDirectory.from_config(self._config)

    def run(self, to: str = "head") -> None:
        """
        Migrate. One process at a time does it, and others wait.

        Args:
            to: The version; default: this one.

        Raises:
            DatabaseError: If it cannot be done, or the tables are of a later version.
        """
        _silence()  # the logging may have been configured meanwhile
        url = self._engine.url
        with database_errors(url), self._engine.begin() as connection:
            if url.get_backend_name() == "postgresql":  # SQLite's transaction is a lock itself
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            if self._is_done(connection):
                return
            self._config.attributes["connection"] = connection
            self._upgrade(to)

    def try_write(self) -> str:
        """
        Find out what `run` would do, and change nothing.

        Returns:
            It, in words. Tables that are not there are made, and taken back; those that are there
            are not touched, for that may take long.

        Raises:
            DatabaseError: It could not be done.
        """
        _silence()
        url = self._engine.url
        with database_errors(url), self._engine.connect() as connection:
            if self._is_done(connection):
                return "they are of this version, and can be written"
            version = _version(connection)
            if version is not None:
                return f"they have the schema {version}: the store migrates them at its start"
            self._config.attributes["connection"] = connection
            self._upgrade("head")
            connection.rollback()
        return "there are none: the store makes them at its start"

    def _is_done(self, connection: Connection) -> bool:
        """
        Tell whether the tables are of this version.

        Raises:
            DatabaseError: They are of a later one.
        """
        version = _version(connection)
        self.is_current = version == self._script.get_current_head()
        if self.is_current:
            return True
        known = {revision.revision for revision in self._script.walk_revisions()}
        if version is not None and version not in known:
            url = self._engine.url
            raise DatabaseError(
                f"the event logs in {shown_address(url)} have the schema {version!r}, which this"
                " version of nameko-eventlog does not know: install a later one",
                reason="The tables of the database are of a later version.",
            )
        return False


def _silence() -> None:
    for logger in _TALKATIVE:
        logger.disabled = True


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    version: str | None = connection.scalar(
        text(f"SELECT version_num FROM {VERSION_TABLE}")  # noqa: S608
    )
    return version
