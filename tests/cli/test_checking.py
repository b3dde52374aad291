"""
check: a config.yaml, right and wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.cli.conftest import Cli


LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"eventlog": {"class": "logging_ext.EventLogHandler"}},
    "loggers": {"foo": {"handlers": ["eventlog"]}},
}


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
            ({"EVENTLOG_STORE": {"uri": "mysql://x"}}, 1, "EVENTLOG_STORE.uri must be sqlite"),
            ({"LOGGING": None}, 1, "it is not there, so that no log call is forwarded"),
            ({"LOGGING": 5}, 1, "it must be a mapping, not 5"),
            ({"LOGGING": {"version": 1}}, 1, "no logger has a handler of the class"),
            ({"LOGGING": {"version": 7}}, 1, "dictConfig does not take it"),
            ({"EVENTLOG_DISPATCHER": {"spool": "config.yaml"}}, 1, "is no directory"),
            ({"AMQP_URI": None}, 1, "AMQP_URI: it is not there"),
            ({"AMQP_URI": "nonsense://x"}, 1, "is no address of one"),
            ({"AMQP_URI": "nowhere"}, 3, "nobody listens there"),
            (
                {"EVENTLOG_STORE": {"uri": "postgresql://x@127.0.0.1:1/x"}},
                3,
                "the database postgresql",
            ),
            ({"EVENTLOG_STORE": {"uri": "sqlite:////proc/x/y"}}, 1, "cannot be written"),
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

    def test_access(
        self, run: Cli, configure: Callable[..., None], rabbit_config: dict[str, Any]
    ) -> None:
        """
        Of a broker that refuses is said what it may be.
        """
        configure(AMQP_URI=rabbit_config["AMQP_URI"].replace("guest:guest", "guest:wrong"))

        assert "user or password are wrong" in run("check").stdout
