"""
A config.yaml, a database with event logs in it, and the command line in this process.
"""

from __future__ import annotations

import io
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import eventlet
import pytest
import yaml
from click.testing import CliRunner, Result

from nameko_eventlog.cli.commands import cli
from nameko_eventlog.store.writing import EventLogWriter
from tests.store.conftest import Make, body, message


__all__ = ["message"]

Cli = Callable[..., Result]


class Running:
    """
    A command that runs in a green thread of this process.
    """

    def __init__(self, args: tuple[str, ...], out: io.StringIO, err: io.StringIO) -> None:
        self._out = out
        self._err = err
        self._thread = eventlet.spawn(_exit_code, args)

    @property
    def lines(self) -> list[str]:
        """
        What it has printed.
        """
        return self._out.getvalue().splitlines()

    @property
    def errors(self) -> list[str]:
        """
        What it has printed on standard error.
        """
        return self._err.getvalue().splitlines()

    @property
    def has_ended(self) -> bool:
        """
        Whether it has ended.
        """
        return bool(self._thread.dead)

    def interrupt(self) -> int:
        """
        Press Ctrl-C, and return the exit code.
        """
        self._thread.kill(KeyboardInterrupt)
        return self.wait()

    def wait(self) -> int:
        """
        Wait for its end, and return the exit code.
        """
        with eventlet.Timeout(60):
            return int(self._thread.wait())

    def end(self) -> None:
        """
        End it, if it runs.
        """
        self._thread.kill()


def _exit_code(args: tuple[str, ...]) -> Any:
    # SystemExit in a green thread would end the test's own
    with pytest.raises(SystemExit) as raised:
        cli(args, "nameko-eventlog")
    return raised.value.code


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


@pytest.fixture
def begin(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Running]]:
    """
    Begin a command that goes on: ``begin("tail", "--follow")``. It has standard output.
    """
    begun = []

    def begin(*args: str) -> Running:
        out, err = io.StringIO(), io.StringIO()
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        begun.append(Running(args, out, err))
        return begun[-1]

    yield begin
    for one in begun:
        one.end()
