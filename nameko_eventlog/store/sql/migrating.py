"""
Migrations: creating a database's tables, and changing them to this version's schema.
"""

from __future__ import annotations

import logging
from functools import partial

from sqlalchemy import Connection, Engine, inspect, text

from nameko_eventlog.extras import extra
from nameko_eventlog.store.databases import DatabaseError, shown_address
from nameko_eventlog.store.sql import text_indexes
from nameko_eventlog.store.sql.engines import database_errors


VERSION_TABLE = "eventlog_schema"
"""The table in which Alembic records the version of the schema."""

_LOCK = 4_711_202_611
"""The key of PostgreSQL's advisory lock, the same for all instances of the store."""

SCRIPTS = "nameko_eventlog.store.sql:migrations"
"""Where Alembic finds the migrations."""

_ALEMBIC_LOGGERS = [
    logging.getLogger(name) for name in ("alembic.runtime.migration", "alembic.runtime.plugins")
]


class Migration:
    """
    Migrates the tables to this version's schema, if needed.

    Create it in a green thread: importing Alembic and making loggers takes locks that a real
    thread must not wait for. `run` takes no locks, and belongs in a real thread.

    Args:
        engine: An engine that writes to the database.
    """

    def __init__(self, engine: Engine) -> None:
        _silence()  # Alembic logs when it is imported
        with extra("store"):
            from alembic import command
            from alembic.config import Config
            from alembic.script import ScriptDirectory

        self.is_current = False
        """Whether the tables were found to have this version's schema."""
        self._engine = engine
        self._config = Config()
        self._config.set_main_option("script_location", SCRIPTS)
        self._upgrade = partial(command.upgrade, self._config)
        self._script = ScriptDirectory.from_config(self._config)

    def run(self) -> None:
        """
        Migrate. One process does it at a time; others wait.

        Raises:
            DatabaseError: If it fails, or the tables have a later version's schema.
        """
        _silence()  # logging may have been configured since
        url = self._engine.url
        with database_errors(url), self._engine.begin() as connection:
            if url.get_backend_name() == "postgresql":  # SQLite's transaction is a lock
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            if self._is_done(connection):
                return
            self._config.attributes["connection"] = connection
            self._upgrade("head")

    def try_write(self) -> str:
        """
        Find out what `run` would do, without changing anything.

        Returns:
            A description. Missing tables are created and rolled back. Tables of an earlier version
            are not touched, because migrating them may take long.

        Raises:
            DatabaseError: `run` would fail.
        """
        _silence()
        url = self._engine.url
        with database_errors(url), self._engine.connect() as connection:
            if self._is_done(connection):
                return f"current and writable{text_indexes.describe(connection)}"
            version = _version(connection)
            if version is not None:
                return f"schema {version}: the store migrates them when it starts"
            self._config.attributes["connection"] = connection
            self._upgrade("head")
            note = text_indexes.describe(connection)
            connection.rollback()
        return f"none yet: the store creates them when it starts{note}"

    def _is_done(self, connection: Connection) -> bool:
        """
        Tell whether the tables have this version's schema.

        Raises:
            DatabaseError: They have a later version's schema.
        """
        version = _version(connection)
        self.is_current = version == self._script.get_current_head()
        if self.is_current:
            return True
        known = {revision.revision for revision in self._script.walk_revisions()}
        if version is not None and version not in known:
            url = self._engine.url
            raise DatabaseError(
                f"the database {shown_address(url)} has the schema {version!r}, which this version"
                " of nameko-eventlog does not know: install a later version",
                reason="The database has the schema of a later version.",
            )
        return False


def _silence() -> None:
    for logger in _ALEMBIC_LOGGERS:
        logger.disabled = True


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    version: str | None = connection.scalar(
        text(f"SELECT version_num FROM {VERSION_TABLE}")  # noqa: S608
    )
    return version
