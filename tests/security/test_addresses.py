"""
A password in an address: whatever is wrong with it, no part of it is said anywhere.
"""

from __future__ import annotations

import io
import logging
import os
import pathlib
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from datetime import datetime, timezone
from time import process_time
from typing import Any
from urllib.parse import quote

import eventlet
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from nameko.exceptions import ConfigurationError
from sqlalchemy import text

from nameko_eventlog import compat
from nameko_eventlog.addresses import (
    broker_address,
    check_quoted,
    masked,
    masked_text,
    masked_value,
    without_secrets,
)
from nameko_eventlog.cli.commands import cli
from nameko_eventlog.config import parse_config
from nameko_eventlog.consuming.entrypoint import event_log_handler
from nameko_eventlog.exceptions import NotConfirmed
from nameko_eventlog.standalone import event_log_dispatcher
from nameko_eventlog.store import DatabaseError, EventLogQuery
from nameko_eventlog.store.config import parse_store_config
from nameko_eventlog.store.rejecting import Rejects
from nameko_eventlog.store.retention import count_before
from nameko_eventlog.store.writing import EventLogWriter
from tests.conftest import global_config
from tests.examples import examples
from tests.postgresql import PostgreSQL
from tests.waiting import wait_until


# no part of any text of ours, of a driver's, or of a traceback
WORDS = ("Hunter2x", "9Secret9", "zQzQ7", "00xyz00", "Wolpertinger")
SEPARATORS = "@/:?#;&=[]%+\\'\" ,|"

passwords = st.lists(
    st.tuples(st.sampled_from(WORDS), st.text(SEPARATORS, min_size=1, max_size=3)),
    min_size=1,
    max_size=4,
).map(lambda parts: "".join(word + between for word, between in parts) + WORDS[0])

AMQP = (
    "amqp://ops:{}@127.0.0.1:1/vhost",
    "amqp://ops:{}@127.0.0.1:1//",
    "amqp://o@ps:{}@[::1]:1/",
    "pyamqp://:{}@127.0.0.1:1",
    "amqp:///ops:{}@127.0.0.1:1/",
    "amqp:/ops:{}@127.0.0.1:1/",
    "ops:{}@127.0.0.1:1",
    "nonsense://ops:{}@127.0.0.1:1/",
    "amqp://ops:{}@127.0.0.1:port/",
    "amqp://ops:{}@127.0.0.1:1/;amqp://ops:{}@127.0.0.1:2/x",
    "amqp://127.0.0.1:1;amqp://ops:{}@127.0.0.1:2/x",
    "amqp://ops@127.0.0.1:1/vhost?password={}",
    "amqp://ops:{}@127.0.0.1:1/vhost?ssl_password={}",
    "amqp://ops@127.0.0.1:1/vhost?a%75th_token={}",
    " amqp://ops:{}@127.0.0.1:1/vhost\n",
)
DATABASES = (
    "postgresql://ops:{}@127.0.0.1:1/eventlog",
    "postgresql+psycopg2://ops:{}@127.0.0.1:1/eventlog?connect_timeout=1",
    "postgresql://o@ps:{}@127.0.0.1:1/eventlog",
    "postgresql:///eventlog?host=127.0.0.1&port=1&user=ops&password={}",
    "postgresql://ops@127.0.0.1:1/eventlog?password={}",
    "postgresql://ops@127.0.0.1:1/eventlog?sslpassword={}&nonsense=1",
    "postgresql://ops@127.0.0.1:1/eventlog?p%61ssfile={}",
    "postgresql://ops:{}@127.0.0.1:port/eventlog",
    "postgres://ops:{}@127.0.0.1:1/eventlog",
    "postgresql:ops:{}@127.0.0.1:1/eventlog",
    "mysql://ops:{}@127.0.0.1/eventlog",
    "host=127.0.0.1 port=1 user=ops password={}",
    "sqlite:////nowhere/eventlog.db?password={}",
    "sqlite://ops:{}@host/eventlog.db",
)


class Said(logging.Handler):
    """
    All that is said: log records with their tracebacks, exceptions, standard output and error.
    """

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.parts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.parts.append(logging.Formatter().format(record))

    def add_error(self, exc: BaseException) -> None:
        """
        Keep what an exception says, with its causes as a traceback prints them.
        """
        self.parts += str(exc), repr(exc), str(getattr(exc, "reason", ""))
        self.parts += traceback.format_exception(exc)

    @contextmanager
    def adding_errors(self) -> Iterator[None]:
        try:
            yield
        except (ConfigurationError, DatabaseError, NotConfirmed, ValueError) as exc:
            self.add_error(exc)

    def words(self) -> set[str]:
        """
        Return which parts of a password were said.
        """
        whole = "\n".join(self.parts)
        return {word for word in WORDS if word in whole}


@contextmanager
def listening() -> Iterator[Said]:
    said, root = Said(), logging.getLogger()
    level = root.level
    root.addHandler(said)
    root.setLevel(logging.DEBUG)
    output = io.StringIO()
    try:
        with redirect_stdout(output), redirect_stderr(output):
            yield said
    finally:
        root.removeHandler(said)
        root.setLevel(level)
        said.parts.append(output.getvalue())


@contextmanager
def own_folder() -> Iterator[None]:
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        yield


@contextmanager
def chdir(folder: str) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def addresses(shapes: tuple[str, ...]) -> st.SearchStrategy[str]:
    """
    Return addresses with a password that was quoted, or was not.
    """
    quoted = passwords.map(lambda password: quote(password, safe=""))
    return st.builds(
        lambda shape, password: shape.replace("{}", password),
        st.sampled_from(shapes),
        st.one_of(passwords, quoted),
    )


class TestMasked:
    @given(addresses(AMQP + DATABASES))
    @settings(max_examples=examples(300))
    def test_alone(self, address: str) -> None:
        """
        No part of a password is left, wherever it was not quoted, nor in a value's repr.
        """
        said = Said()
        said.parts = [
            masked(address),
            masked([address, address]),
            masked_text(f"Invalid: {address!r}"),
            masked_value("uri", address),
            masked_value("AMQP_URI", [address]),
            masked_value("EVENTLOG_STORE", {"uri": address, "services": [address], "a": address}),
            masked_value("section", address),
        ]

        assert set() == said.words()

    @pytest.mark.parametrize(
        ("address", "shown"),
        [
            ("amqp://guest:guest@localhost:5672/vh", "amqp://guest:***@localhost:5672/vh"),
            ("amqp://a:b@x/Secret9@127.0.0.1:5672//", "amqp://a:***@127.0.0.1:5672//"),
            ("amqp://a:b@h1;amqp://c:d@h2/x", "amqp://a:***@h1;amqp://c:***@h2/x"),
            ("amqp://localhost:5672/", "amqp://localhost:5672/"),
            ("amqp://me@localhost", "amqp://me@localhost"),
            ("amqp://[::1]:5672/", "amqp://[::1]:5672/"),
            ("memory://", "memory://"),
            ("postgresql://me@h/db?password=x&y=z", "postgresql://me@h/db?password=***"),
            ("postgresql://me@h/db?sslmode=require", "postgresql://me@h/db?sslmode=require"),
            ("sqlite:////data/a:b@c.db", "sqlite:////data/a:b@c.db"),
            ("amqp://me%3Asecret@h/v", "amqp://me%3A***@h/v"),
            ("amqp://me%3asecret:more@h/v", "amqp://me%3a***@h/v"),
            ("postgresql://h/db?pw=secret", "postgresql://h/db?pw=***"),
            (["amqp://a:b@h1", "amqp://h2"], "amqp://a:***@h1;amqp://h2"),
        ],
    )
    def test_rest(self, address: Any, shown: str) -> None:
        """
        What is no secret stays, so that people know what is meant.
        """
        assert shown == masked(address)

    @pytest.mark.parametrize(
        ("name", "value", "shown"),
        [
            ("batch_size", 0, "0"),
            ("timespec", "days:hours", "'days:hours'"),
            ("password_hash", "x", "***"),
            ("x", {"api_token": "x", "n": ("a",)}, "{'api_token': ***, 'n': ('a',)}"),
        ],
    )
    def test_values(self, name: str, value: Any, shown: str) -> None:
        """
        A value of the configuration is shown as it is, if it is neither an address nor a secret.
        """
        assert shown == masked_value(name, value)

    def test_what_others_say(self) -> None:
        """
        What was said about an address, and quotes a secret of it, is shown without.
        """
        address = "postgresql://ops:a%40b9@h/db?sslpassword=hush"

        assert "no *** nor *** nor *** at h" == without_secrets(
            "no a@b9 nor a%40b9 nor hush at h", address
        )

    @pytest.mark.parametrize(
        "text",
        [
            "a" * 200_000 + "@",
            "@" + "%" * 200_000,
            "pass" * 50_000,
            "pass " * 40_000,
            "amqp://" + "," * 200_000 + "[;",
            "postgresql://" + "a:5432," * 30_000 + "a:b:c",
        ],
        ids=["word", "percent", "pass", "words", "commas", "hosts"],
    )
    def test_time(self, text: str) -> None:
        """
        The time that masking takes grows as the text does.
        """
        begun = process_time()
        masked_text(text)
        masked(text)
        with suppress(ValueError):
            check_quoted(text)

        assert process_time() - begun < 2


class TestRefused:
    @given(addresses(AMQP))
    @settings(max_examples=examples(200))
    def test_broker(self, address: str) -> None:
        """
        A broker's address is taken by every part, or refused by every part without the password.
        """
        config = {"AMQP_URI": address, "EVENTLOG_DISPATCHER": {"uri": address}}
        refused = []
        with listening() as said:
            for read in (compat.connection_settings, parse_config):
                try:
                    read(config)
                except ConfigurationError as exc:
                    said.add_error(exc)
                    refused.append(read)

        assert set() == said.words()
        try:
            broker_address(address)
        except ValueError:
            assert [compat.connection_settings, parse_config] == refused

    @given(addresses(DATABASES))
    @settings(max_examples=examples(100))
    def test_database(self, address: str) -> None:
        """
        A database's address is refused before anybody connects, or what fails does not show it.
        """
        with listening() as said:
            for use in (
                lambda: EventLogQuery(address).services(),
                lambda: EventLogWriter(address, ["json"]).prepare(),
                lambda: Rejects(address).list(),
                lambda: parse_store_config({"EVENTLOG_STORE": {"uri": address}}),
                lambda: count_before(address, datetime.now(timezone.utc)),
            ):
                with said.adding_errors():
                    use()

        assert set() == said.words()

    @pytest.mark.parametrize(
        "password", ["a@b9", "a/b9", "a#b9", "a?b9", "a[b9", "a]b9", "a b9", "a;b9"]
    )
    @pytest.mark.parametrize("shape", ["amqp://ops:{}@h/x", "postgresql://ops:{}@h/x"])
    def test_what_to_do(self, shape: str, password: str) -> None:
        """
        What was not quoted is refused with what to write; what was quoted is taken.
        """
        is_broker = shape.startswith("amqp")

        def read(address: str) -> None:
            if is_broker:
                compat.connection_settings({"AMQP_URI": address})
            else:
                parse_store_config({"EVENTLOG_STORE": {"uri": address}})

        read(shape.format(quote(password, safe="")))
        if password == "a;b9" and not is_broker:  # ends no part of a database's address
            return
        with pytest.raises(ConfigurationError, match="write %40 for @, %2F for /") as raised:
            read(shape.format(password))
        assert "b9" not in str(raised.value)


class TestCommands:
    @given(
        st.one_of(
            addresses(AMQP).map(lambda uri: {"AMQP_URI": uri}),
            addresses(AMQP).map(lambda uri: {"AMQP_URI": [uri, "amqp://127.0.0.1:1"]}),
            addresses(AMQP).map(
                lambda uri: {"AMQP_URI": "amqp://127.0.0.1:1", "EVENTLOG_DISPATCHER": {"uri": uri}}
            ),
            addresses(DATABASES).map(lambda uri: {"EVENTLOG_STORE": {"uri": uri}}),
            addresses(AMQP + DATABASES).map(
                lambda uri: {
                    "AMQP_URI": {"url": uri},
                    "EVENTLOG_STORE": uri,
                    "EVENTLOG_DISPATCHER": {"spool": [uri], uri: 1},
                    "LOGGING": {"version": 1, "handlers": {"x": {"class": uri}}},
                }
            ),
            addresses(AMQP + DATABASES),
        )
    )
    @settings(max_examples=examples(40))
    def test_commands(self, config: Any) -> None:
        """
        No command says any of it, whatever section it stands in.
        """
        runner = CliRunner()
        with listening() as said, own_folder():
            pathlib.Path("config.yaml").write_text(yaml.safe_dump(config))
            pathlib.Path("lines").write_text("{}\n")
            for command in (
                ["check"],
                ["query"],
                ["tail", "-n", "1"],
                ["purge", "--older-than", "1d", "-y"],
                ["rejects", "list"],
                ["spool", "list"],
                ["spool", "replay", "lines"],
            ):
                result = runner.invoke(cli, command)
                said.parts.append(result.output)
                assert result.exit_code != 0 or command != ["check"]
                if result.exception is not None and not isinstance(result.exception, SystemExit):
                    said.add_error(result.exception)
                    raise result.exception

        assert set() == said.words()

    @pytest.mark.parametrize(
        "line",
        [
            'AMQP_URI: "amqp://ops:9Secret9@h',
            "AMQP_URI: amqp://ops:9Secret9@h: x",
            "AMQP_URI: @9Secret9",
            "AMQP_URI: *9Secret9://ops:9Secret9@h",
            'AMQP_URI: "amqp://ops:\\q9Secret9@h"',
            "AMQP_URI: {amqp://ops:9Secret9@h",
        ],
    )
    def test_no_yaml(self, line: str) -> None:
        """
        A file that is no YAML is not quoted: the line may be the one with the password.
        """
        runner = CliRunner()
        with own_folder():
            pathlib.Path("config.yaml").write_text(f"x: 1\n{line}\n")
            result = runner.invoke(cli, ["check"])

        assert 2 == result.exit_code
        assert "is not valid YAML" in result.output
        assert "line 2" in result.output or "line 3" in result.output
        assert "Secret9" not in result.output


class TestRunning:
    @pytest.mark.parametrize("is_list", [False, True])
    def test_standalone(self, is_list: bool) -> None:
        """
        The relay's warnings, and what a manual call raises, name brokers without their passwords.
        """
        uris = [f"amqp://ops:{WORDS[0]}%40{WORDS[1]}@127.0.0.1:{port}//" for port in (1, 2)]
        config = {
            "AMQP_URI": uris if is_list else uris[0],
            "EVENTLOG_DISPATCHER": {"confirm_timeout": 0.5, "flush_timeout": 0},
        }
        with listening() as said, said.adding_errors():
            with event_log_dispatcher(config, "shop") as dispatch:
                dispatch("paid")

        assert set() == said.words()
        assert any("amqp://ops:***@127.0.0.1:1" in one for one in said.parts)

    def test_consumer(self, run_service: Callable[..., Any]) -> None:
        """
        A consumer whose broker is away says so without its password.
        """

        class Listener:
            name = "listener"

            @event_log_handler("shop")
            def handle(self, body: Any) -> None:
                """Never called."""

        uri = f"amqp://ops:{WORDS[0]}%2F{WORDS[1]}@127.0.0.1:1//"
        with listening() as said, global_config({"AMQP_URI": uri}) as config:
            run_service(Listener, config)
            wait_until(lambda: any("cannot consume queue" in one for one in said.parts))

        assert set() == said.words()
        assert any("amqp://ops:***@127.0.0.1:1" in one for one in said.parts)

    def test_refused_login(self, postgresql: PostgreSQL, rabbit_config: dict[str, Any]) -> None:
        """
        A database and a broker that refuse the login are named, without the password.
        """
        database = postgresql.create_database().replace("eventlog@", f"nobody:{WORDS[2]}@")
        broker = rabbit_config["AMQP_URI"].replace("guest:guest", f"guest:{WORDS[2]}")
        config = {
            "AMQP_URI": broker,
            "EVENTLOG_DISPATCHER": {"confirm_timeout": 3, "flush_timeout": 0},
        }
        with listening() as said:
            with said.adding_errors():
                EventLogQuery(database).services()
            with said.adding_errors(), event_log_dispatcher(config, "shop") as dispatch:
                dispatch("paid")

        assert set() == said.words()
        assert any("nobody" in one for one in said.parts)
        assert any("ACCESS_REFUSED" in one for one in said.parts)


class TestReason:
    """
    What a page may show of a database that cannot be used.
    """

    @pytest.mark.parametrize(
        ("uri", "reason"),
        [
            ("postgresql://ops@127.0.0.1:1/there", "The database cannot be used: it cannot be"),
            ("sqlite:////nowhere/there.db", "The database does not exist yet"),
            ("mysql://there/x", "The address of the database is wrong."),
        ],
    )
    def test_no_address(self, uri: str, reason: str) -> None:
        """
        The reason is a sentence without anything of the address; the text names it.
        """
        with pytest.raises(DatabaseError) as raised:
            EventLogQuery(uri).services()

        assert raised.value.reason.startswith(reason)
        assert not {"there.db", "there/", "127", "ops"} & set(raised.value.reason.split())
        assert "there" in str(raised.value)

    def test_of_postgresql(self, postgresql: PostgreSQL) -> None:
        """
        What PostgreSQL says names users and databases: the reason does not.
        """
        uri = postgresql.create_database()
        writer = EventLogWriter(uri, ["json"])
        writer.prepare()
        with writer._writer.engine.begin() as connection:
            connection.execute(text("CREATE ROLE somebody_else LOGIN"))
        writer.close()
        reasons = {}
        for user in ("somebody_else", "nobody_at_all"):
            with pytest.raises(DatabaseError) as raised:
                EventLogQuery(uri.replace("eventlog@", f"{user}@")).services()
            reasons[user] = raised.value.reason
            assert user not in raised.value.reason

        assert "permission denied" in reasons["somebody_else"]


class TestListOfBrokers:
    """
    ``AMQP_URI`` may be a list, as kombu takes it.
    """

    def test_delivers(self, rabbit_config: dict[str, Any], nowhere: str) -> None:
        """
        A broker that is away is passed over, by the dispatcher and by the commands.
        """
        config = {**rabbit_config, "AMQP_URI": [nowhere, rabbit_config["AMQP_URI"]]}
        runner = CliRunner()
        with own_folder():
            pathlib.Path("config.yaml").write_text(yaml.safe_dump({**config, "LOGGING": None}))
            tail = eventlet.spawn(runner.invoke, cli, ["tail", "-n", "1", "-s", "shop"])
            with event_log_dispatcher(config, "shop") as dispatch:
                wait_until(lambda: dispatch("paid") or tail.dead, interval=0.1)
            result = tail.wait()

        assert "shop  paid" in result.output
        assert 0 == result.exit_code

    @pytest.mark.parametrize("value", [[], [5], {"a": 1}, 5, ["amqp://h", None], "localhost"])
    def test_refused(self, value: Any) -> None:
        """
        What is neither an address nor a list of them is refused by the same sentence everywhere.
        """
        if value:
            with pytest.raises(
                ConfigurationError, match="must be amqp://USER:PASSWORD@HOST/VHOST"
            ):
                compat.connection_settings({"AMQP_URI": value})
        with pytest.raises(ConfigurationError, match="must be amqp://USER:PASSWORD@HOST/VHOST"):
            parse_config({"EVENTLOG_DISPATCHER": {"uri": value}})
