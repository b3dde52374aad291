"""
The project as a whole: versions that agree, imports that keep apart, what is public.
"""

import importlib
import importlib.metadata
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest


ROOT = pathlib.Path(__file__).parent.parent

PUBLIC = {
    "logging_ext": {
        "EventLog",
        "EventLogHandler",
        "EventLogProcessor",
        "EventSink",
        "JsonFormatter",
        "WorkerContextFilter",
        "add_worker_context",
        "bind_sink",
        "current_sink",
        "register_sink",
    },
    "nameko_eventlog": {
        "EventLogConsumer",
        "EventLogDispatcher",
        "EventLogError",
        "EventLogTypeError",
        "EventLogValueError",
        "NotConfirmed",
        "OversizedEvent",
        "Unavailable",
        "event_log_handler",
        "process_stats",
    },
}


def modules_after(statement: str) -> set[str]:
    """
    Run a statement in a fresh interpreter and return the top-level modules it loaded.
    """
    # Coverage starts within subprocesses, and loads eventlet.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")
    }
    code = f"{statement}; import sys, json; print(json.dumps(list(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.partition(".")[0] for name in json.loads(done.stdout)}


class TestVersion:
    def test_changelog(self):
        """
        The version that is built is the newest one of the changelog.
        """
        declared = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
        released = re.findall(r"^## \[(\d.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)

        assert declared is not None
        assert declared[1] == released[0]

    def test_installed(self):
        """
        The environment has that version installed.
        """
        declared = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)

        assert declared is not None
        assert declared[1] == importlib.metadata.version("nameko-eventlog")


class TestImports:
    def test_logging_ext_alone(self):
        """
        The framework-neutral half loads nothing of the other half's world.
        """
        loaded = modules_after("import logging_ext")

        assert set() == loaded & {"nameko", "kombu", "eventlet", "amqp", "nameko_eventlog"}

    def test_no_test_tools(self):
        """
        The library loads no test tool.
        """
        loaded = modules_after("import nameko_eventlog")

        assert set() == loaded & {"pytest", "hypothesis", "mock"}


class TestPublicNames:
    @pytest.mark.parametrize("package", PUBLIC)
    def test_all(self, package):
        """
        What is public is decided here, and every public name is there.
        """
        module = importlib.import_module(package)

        assert PUBLIC[package] == set(module.__all__)
        assert [] == [name for name in module.__all__ if not hasattr(module, name)]

    @pytest.mark.parametrize("package", PUBLIC)
    def test_typed(self, package):
        """
        Both packages tell type checkers that they are typed.
        """
        assert (ROOT / package / "py.typed").exists()
