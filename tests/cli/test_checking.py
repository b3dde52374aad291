"""
check: a config.yaml, right and wrong.
"""

from __future__ import annotations

import logging
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from sqlalchemy import create_engine, inspect, make_url

from nameko_eventlog.cli import checking
from nameko_eventlog.store.sql.engines import close_engine, open_engine
from nameko_eventlog.store.sql.migrating import VERSION_TABLE, Migration
from nameko_eventlog.store.writing import EventLogWriter
from tests.cli.conftest import Cli
from tests.postgresql import PostgreSQL
from tests.revisions import add_revision
from tests.store.tables import SQL


LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"eventlog": {"class": "logging_ext.EventLogHandler"}},
    "loggers": {"foo": {"handlers": ["eventlog"]}},
}


SENDS: dict[str, Any] = {"EVENTLOG_DISPATCHER": {}}
"""The file is of a service that sends, not of the store alone."""


def with_handler(handler: dict[str, Any]) -> dict[str, Any]:
    """
    Return `LOGGING` with a handler of the root logger's.
    """
    return {
        **LOGGING,
        "handlers": {**LOGGING["handlers"], "file": handler},
        "root": {"handlers": ["file"], "level": "DEBUG"},
    }


class OwnFileHandler(logging.FileHandler):
    """
    A class of a service's own, which cuts the file to nothing.
    """

    def __init__(self, filename: str) -> None:
        super().__init__(filename, mode="w")


class TestCheck:
    def test_right(
        self,
        run: Cli,
        configure: Callable[..., None],
        rabbit_config: dict[str, Any],
        database: str,
        stored: Callable[..., None],
        tmp_path: Any,
    ) -> None:
        """
        What is right, and answers, is said to be.
        """
        stored({})
        configure(
            AMQP_URI=rabbit_config["AMQP_URI"],
            LOGGING=LOGGING,
            EVENTLOG_DISPATCHER={"spool": str(tmp_path / "new")},
        )

        result = run("check")

        assert 0 == result.exit_code
        assert ["ok"] * 7 == [line.split()[0] for line in result.stdout.splitlines()]

    @pytest.mark.parametrize(
        ("changes", "code", "said"),
        [
            ({"EVENTLOG_DISPATCHER": {"spol": 1}}, 1, "did you mean 'spool'"),
            ({"EVENTLOG_STORE": {"uri": "mysql://x"}}, 1, "EVENTLOG_STORE: uri must be sqlite"),
            (
                {"EVENTLOG_STORE": {"retention": [{"level": "debug"}]}},
                1,
                "EVENTLOG_STORE: retention[0] must have the key days",
            ),
            ({"LOGGING": None, **SENDS}, 1, "LOGGING: missing, so no log call is forwarded"),
            ({"LOGGING": 5}, 1, "it must be a mapping, not 5"),
            ({"LOGGING": {"version": 1}, **SENDS}, 1, "no logger has a handler of class"),
            ({"LOGGING": {"version": 7}}, 1, "dictConfig rejects it"),
            ({"EVENTLOG_DISPATCHER": {"spool": "config.yaml"}}, 1, "is not a directory"),
            (
                {"LOGGING": with_handler({"class": "logging.FileHandler", "filename": "no/x"})},
                1,
                "no/x' cannot be written",
            ),
            (
                {"LOGGING": with_handler({"class": "logging.NoHandler", "filename": "x"})},
                1,
                "dictConfig rejects it",
            ),
            ({"AMQP_URI": None}, 1, "AMQP_URI: missing: set AMQP_URI: amqp://"),
            (
                {"AMQP_URI": "nonsense://x"},
                1,
                "invalid broker address for event logs 'nonsense://x'",
            ),
            ({"AMQP_URI": "nowhere"}, 3, "nothing listens there"),
            (
                {"EVENTLOG_STORE": {"uri": "postgresql://x@127.0.0.1:1/x"}},
                3,
                "the database postgresql",
            ),
            ({"EVENTLOG_STORE": {"uri": "sqlite:////proc/x/y"}}, 1, "is not writable, or "),
            (
                {"EVENTLOG_EXPLORER": {"username": "me"}},
                1,
                "EVENTLOG_EXPLORER: needs both username and password_hash",
            ),
            (
                {"EVENTLOG_DISPATCHR": {"spool": "x"}},
                1,
                "EVENTLOG_DISPATCHR: unknown section; did you mean 'EVENTLOG_DISPATCHER'?",
            ),
        ],
    )
    def test_wrong(
        self,
        run: Cli,
        configure: Callable[..., None],
        rabbit_config: dict[str, Any],
        nowhere: str,
        changes: dict[str, Any],
        code: int,
        said: str,
    ) -> None:
        """
        What is wrong is named, with what to do.
        """
        if changes.get("AMQP_URI") == "nowhere":
            changes = {"AMQP_URI": nowhere}
        configure(**{"AMQP_URI": rabbit_config["AMQP_URI"], "LOGGING": LOGGING, **changes})

        result = run("check")

        assert said in result.stdout
        assert code == result.exit_code

    def test_all_of_it(
        self, run: Cli, configure: Callable[..., None], nowhere: str, folder: pathlib.Path
    ) -> None:
        """
        Each fault is told, a line for each, not the first of them alone.
        """
        logging = with_handler({"class": "logging.FileHandler", "filename": "no/x"})
        logging["handlers"].pop("eventlog")
        logging["loggers"] = {"foo": {"handlers": ["file"]}}
        configure(
            AMQP_URI=nowhere,
            LOGGING=logging,
            EVENTLOG_DISPATCHER={"spol": 1, "redact": "password", "timespec": "seconds"},
            EVENTLOG_STORE={"batch_size": 0, "retention_days": -1},
            EVENTLOG_EXPLORER={"user": "me", "allow_anonymous": 1},
        )

        lines = run("check").stdout.splitlines()

        assert [
            ("WRONG", "EVENTLOG_DISPATCHER"),
            ("WRONG", "EVENTLOG_DISPATCHER"),
            ("WRONG", "LOGGING"),
            ("WRONG", "LOGGING"),
            ("FAILS", "broker"),
            ("WRONG", "EVENTLOG_STORE"),
            ("WRONG", "EVENTLOG_STORE"),
            ("WRONG", "EVENTLOG_EXPLORER"),
            ("WRONG", "EVENTLOG_EXPLORER"),
        ] == [tuple(line.partition(":")[0].split()) for line in lines]

    def test_a_key_that_is_a_users_own(
        self, run: Cli, configure: Callable[..., None], nowhere: str
    ) -> None:
        """
        A key that is like ours is somebody's own, where ours is there as well.
        """
        configure(AMQP_URI=nowhere, LOGGING=LOGGING, EVENTLOG_STORE_2={})

        assert "EVENTLOG_STORE_2" not in run("check").stdout

    def test_explorer_not_installed(
        self,
        run: Cli,
        configure: Callable[..., None],
        nowhere: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """
        Where the explorer's extra is missing, its section is not passed for right.
        """
        monkeypatch.setitem(sys.modules, "nameko_eventlog.explorer.config", None)
        configure(AMQP_URI=nowhere, EVENTLOG_EXPLORER={})

        assert "pip install 'nameko-eventlog[explorer]'" in run("check").stdout

    def test_database_without_tables(
        self, run: Cli, configure: Callable[..., None], nowhere: str, postgresql: PostgreSQL
    ) -> None:
        """
        Of a database that answers is said what makes its tables.
        """
        configure(AMQP_URI=nowhere, EVENTLOG_STORE={"uri": postgresql.create_database()})

        assert (
            "ok     tables: none yet: the store creates them when it starts" in run("check").stdout
        )

    @pytest.mark.parametrize(
        ("statements", "said"),
        [
            (["ALTER DATABASE {0} SET default_transaction_read_only = on"], "read-only"),
            (
                [
                    "CREATE ROLE reader_{0} LOGIN",
                    "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader_{0}",
                    "GRANT INSERT ON event_logs TO reader_{0}",
                ],
                "permission denied for table call_counts",
            ),
        ],
    )
    def test_database_that_takes_nothing(
        self,
        run: Cli,
        configure: Callable[..., None],
        nowhere: str,
        postgresql: PostgreSQL,
        statements: list[str],
        said: str,
    ) -> None:
        """
        A database that answers, and takes no rows of this user's, is not passed for right.
        """
        uri = postgresql.create_database()
        writer = EventLogWriter(uri, ["json"])
        writer.prepare()
        writer.close()
        url = make_url(uri)
        engine = create_engine(url.set(drivername="postgresql+psycopg2"))
        with engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement.format(url.database))
        engine.dispose()
        if len(statements) > 1:
            uri = uri.replace("eventlog@", f"reader_{url.database}@")
        configure(AMQP_URI=nowhere, EVENTLOG_STORE={"uri": uri})

        lines = run("check").stdout.splitlines()

        assert lines[-2].startswith("ok     database: ")
        assert lines[-1].startswith("FAILS  tables: ")
        assert said in lines[-1]

    @pytest.mark.parametrize(
        "handler",
        [
            {"class": "logging.FileHandler", "mode": "w"},
            {"class": "logging.FileHandler"},
            {"class": "logging.handlers.WatchedFileHandler", "mode": "w"},
            {"class": "logging.handlers.RotatingFileHandler", "maxBytes": 1, "backupCount": 1},
            {"class": "logging.handlers.TimedRotatingFileHandler", "when": "s"},
            {"class": f"{__name__}.OwnFileHandler"},
        ],
    )
    def test_log_files(
        self,
        run: Cli,
        configure: Callable[..., None],
        folder: pathlib.Path,
        nowhere: str,
        handler: dict[str, Any],
    ) -> None:
        """
        The service's log files are as they were: neither cut, nor written to, nor made.
        """
        there, missing = folder / "there.log", folder / "missing.log"
        there.write_text("what was logged\n")
        for path in (there, missing):
            configure(AMQP_URI=nowhere, LOGGING=with_handler({**handler, "filename": str(path)}))

            said = run("check").stdout
            logging.getLogger().critical("the check's own")

            assert "ok     LOGGING: valid" in said
        assert "what was logged\n" == there.read_text()
        assert ["config.yaml", "there.log"] == sorted(path.name for path in folder.iterdir())

    @pytest.mark.parametrize(
        "changes",
        [
            {"AMQP_URI": "nonsense://me:secret@x"},
            {"AMQP_URI": "amqp://me:secret/secret@x"},
            {"AMQP_URI": "amqp://me:1@secret@127.0.0.1:1/x"},
            {"EVENTLOG_STORE": {"uri": "mysql://me:secret@x"}},
            {"EVENTLOG_STORE": {"uri": "postgresql://me:secret@x:port/y"}},
            {"EVENTLOG_STORE": {"uri": "postgresql://me:1@secret@127.0.0.1:1/y"}},
            {"EVENTLOG_STORE": "postgresql://me:secret@x/y"},
            {"EVENTLOG_DISPATCHER": {"redact": "amqp://me:secret@x"}},
        ],
    )
    def test_password(
        self, run: Cli, configure: Callable[..., None], nowhere: str, changes: dict[str, Any]
    ) -> None:
        """
        A password is not shown, where the address is wrong, either.
        """
        configure(**{"AMQP_URI": nowhere, "LOGGING": LOGGING, **changes})

        result = run("check")

        assert result.exit_code in (1, 3)
        assert "secret" not in result.output

    @pytest.mark.parametrize(
        ("config", "code"),
        [
            ({"EVENTLOG_EXPLORER": {}}, 0),
            ({"EVENTLOG_EXPLORER": {}, "AMQP_URI": "memory://"}, 0),
            ({"EVENTLOG_STORE": {"services": ["shop"]}, "AMQP_URI": "memory://"}, 0),
            ({"EVENTLOG_STORE": {}, "AMQP_URI": "memory://"}, 1),
            ({"EVENTLOG_STORE": {}}, 1),
            ({"EVENTLOG_DISPATCHER": {}, "AMQP_URI": "memory://"}, 1),
            ({"AMQP_URI": "memory://"}, 1),
        ],
    )
    def test_alone(
        self, run: Cli, folder: pathlib.Path, config: dict[str, Any], code: int
    ) -> None:
        """
        A file for the store or the explorer alone needs no LOGGING, and the explorer no broker.
        """
        (folder / "config.yaml").write_text(yaml.safe_dump(config))

        result = run("check")

        assert code == result.exit_code
        assert "example_config.yaml" not in result.output
        is_sending = not {"EVENTLOG_STORE", "EVENTLOG_EXPLORER"} & set(config)
        assert is_sending == ("WRONG  LOGGING" in result.output)

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"serializer": "yml"}, "WRONG  configuration: Nameko rejects it: Please"),
            ({"ACCEPT": ["json", "no"]}, "WRONG  configuration: Nameko rejects it"),
            ({"TRANSPORT_OPTIONS": [1]}, "WRONG  broker: TRANSPORT_OPTIONS must be a mapping"),
            ({"AMQP_URI": "amqp://h?nonsense=1"}, "WRONG  broker: invalid broker address"),
            ({"AMQP_URI": ["amqp://h", 5]}, "or a list of such addresses"),
            ({"EVENTLOG_DISPATCHER": {"uri": "amqp:h"}}, "EVENTLOG_DISPATCHER: uri must be"),
        ],
    )
    def test_what_stops_a_start(
        self, run: Cli, configure: Callable[..., None], changes: dict[str, Any], said: str
    ) -> None:
        """
        What would stop the service at its start is found.
        """
        configure(**{"AMQP_URI": "memory://", "LOGGING": LOGGING, **changes})

        result = run("check")

        assert said in result.stdout
        assert 1 == result.exit_code

    @pytest.mark.parametrize("database", SQL, indirect=True)
    def test_schema(
        self,
        run: Cli,
        configure: Callable[..., None],
        database: str,
        tmp_path: pathlib.Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """
        Tables of a later version are found; those of an earlier one, or none, the store sees to.
        """
        configure(AMQP_URI="memory://", EVENTLOG_STORE={"uri": database, "services": ["shop"]})
        engine = open_engine(database, writes=True)
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE of_others (one INTEGER)")
        said = [run("check").stdout.splitlines()[-1]]
        with engine.connect() as connection:
            assert ["of_others"] == inspect(connection).get_table_names()
        Migration(engine).run()
        with monkeypatch.context() as patch:
            add_revision(tmp_path / "migrations", patch)
            said.append(run("check").stdout.splitlines()[-1])
        said.append(run("check").stdout.splitlines()[-1])
        with engine.begin() as connection:
            connection.exec_driver_sql(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
        said.append(run("check").stdout.splitlines()[-1])
        close_engine(engine)

        assert "ok     tables: none yet: the store creates them when it starts" == said[0]
        assert "ok     tables: schema 0001: the store migrates them when it starts" == said[1]
        assert "ok     tables: current and writable" == said[2]
        assert said[3].startswith("FAILS  tables: ")
        assert "the schema '9999', which this version" in said[3]

    def test_no_right_to_make_tables(
        self, run: Cli, configure: Callable[..., None], postgresql: PostgreSQL
    ) -> None:
        """
        Where there are no tables yet, it is tried whether this user may make them.
        """
        uri = postgresql.create_database()
        url = make_url(uri)
        engine = create_engine(url.set(drivername="postgresql+psycopg2"))
        with engine.begin() as connection:
            connection.exec_driver_sql(f"CREATE ROLE maker_{url.database} LOGIN")
            connection.exec_driver_sql("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        engine.dispose()
        configure(
            AMQP_URI="memory://",
            EVENTLOG_STORE={"uri": uri.replace("eventlog@", f"maker_{url.database}@")},
        )

        assert "permission denied for schema public" in run("check").stdout.splitlines()[-1]

    def test_driver_not_installed(
        self,
        run: Cli,
        configure: Callable[..., None],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """
        A driver that is not installed is named with its extra.
        """
        monkeypatch.setitem(sys.modules, "psycopg2", None)
        configure(AMQP_URI="memory://", EVENTLOG_STORE={"uri": "postgresql://me@127.0.0.1:1/x"})

        assert "psycopg2 is not installed: pip install 'nameko-eventlog[store]'" in (
            run("check").stdout
        )

    def test_access(
        self, run: Cli, configure: Callable[..., None], rabbit_config: dict[str, Any]
    ) -> None:
        """
        Of a broker that refuses is said what it may be.
        """
        configure(AMQP_URI=rabbit_config["AMQP_URI"].replace("guest:guest", "guest:wrong"))

        assert "the user or the password is wrong" in run("check").stdout

    def test_vhost(
        self, run: Cli, configure: Callable[..., None], rabbit_config: dict[str, Any]
    ) -> None:
        """
        So it is of a vhost that does not exist.
        """
        configure(AMQP_URI=f"{rabbit_config['AMQP_URI']}-missing")

        assert "no such vhost, or no permissions in it" in run("check").stdout

    @pytest.mark.parametrize(
        ("failure", "hint"),
        [
            ("[SSL: WRONG_VERSION_NUMBER] wrong version number", "does not use TLS"),
            ("unable to get local issuer certificate (_ssl.c:1006)", "{ca_certs: FILE}"),
            ("[Errno 2] No such file or directory", "a file that AMQP_SSL names"),
            ("[Errno 104] Connection reset by peer", "a TLS port needs amqps://"),
            ("Hostname mismatch, certificate is not valid for 'x'", "server_hostname: NAME"),
            ("anything else", ""),
        ],
    )
    def test_hints(self, failure: str, hint: str) -> None:
        """
        What a broker's connection fails with is followed by what to do.
        """
        found = checking._advice(OSError(failure))

        assert found.startswith(": ") if hint else found == ""
        assert hint in found

    def test_explorer_alone(self, run: Cli, configure: Callable[..., None]) -> None:
        """
        A file with a store and no broker may be the explorer's: it is said how that looks.
        """
        configure(EVENTLOG_STORE={})

        assert (
            "for the explorer alone, add a section EVENTLOG_EXPLORER: {} instead"
            in run("check").stdout
        )
