"""
Bring a database's tables to what this version of the package knows.
"""

from __future__ import annotations

import logging

from sqlalchemy import Connection, Engine, inspect, text

from nameko_eventlog.store.databases import DatabaseError, database_errors, shown


VERSION_TABLE = "eventlog_schema"
"""Where Alembic notes which version a database's tables have."""

_LOCK = 4_711_202_611
"""The key of PostgreSQL's advisory lock, the same for all instances of the store."""

_TALKATIVE = ("alembic.runtime.migration", "alembic.runtime.plugins")


def migrate(engine: Engine, to: str = "head") -> None:
    """
    Migrate forward, if it is needed. One process at a time does it, and others wait.

    Args:
        engine: The database's, for writing.
        to: The version; default: this one.

    Raises:
        DatabaseError: If it cannot be done, or the tables are of a later version.
    """
    # They would log from a real thread, through handlers whose locks belong to green ones; the
    # latter as soon as it is imported.
    for name in _TALKATIVE:
        logging.getLogger(name).disabled = True
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", "nameko_eventlog.store:migrations")
    script = ScriptDirectory.from_config(config)
    with database_errors(engine.url), engine.begin() as connection:
        if engine.dialect.name == "postgresql":  # SQLite's transaction is a lock itself
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        version = _version(connection)
        if version == script.get_current_head():
            return
        known = {revision.revision for revision in script.walk_revisions()}
        if version is not None and version not in known:
            raise DatabaseError(
                f"the event logs in {shown(engine.url)} have the schema {version!r}, which this"
                " version of nameko-eventlog does not know: install a later one"
            )
        config.attributes["connection"] = connection
        command.upgrade(config, to)


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    version: str | None = connection.scalar(
        text(f"SELECT version_num FROM {VERSION_TABLE}")  # noqa: S608
    )
    return version
