"""
A config.yaml, a database with event logs in it, and the command line in this process.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from nameko_eventlog.cli.commands import cli
from nameko_eventlog.store.writing import EventLogWriter
from tests.store.conftest import Make, body, message


__all__ = ["message"]

Cli = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """
    The current directory, with a config.yaml.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump({"EVENTLOG_STORE": {"uri": f"sqlite:///{tmp_path}/eventlog.db"}})
    )
    return tmp_path


@pytest.fixture
def configure(folder: pathlib.Path) -> Callable[..., None]:
    """
    Change the config.yaml: ``configure(AMQP_URI="memory://")``.
    """

    def configure(**changes: Any) -> None:
        path = folder / "config.yaml"
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))

    return configure


@pytest.fixture
def run(folder: pathlib.Path) -> Cli:
    """
    Run a command: ``run("query", "--json")``.
    """

    def run(*args: str, **options: Any) -> Result:
        result = CliRunner().invoke(cli, args, **options)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def stored(folder: pathlib.Path, message: Make) -> Callable[..., None]:
    """
    Store bodies: ``stored({"event_type": "paid"}, {"level": "error"})``.
    """

    def stored(*changes: dict[str, Any]) -> None:
        writer = EventLogWriter(f"sqlite:///{folder}/eventlog.db", ["json"])
        writer.write([message(body(**change)) for change in changes])
        writer.close()

    return stored
