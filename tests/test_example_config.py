"""
``example_config.yaml``: complete, loadable, and in force when logged through.
"""

import dataclasses
import json
import logging
import logging.config
import pathlib
import re
from typing import Any

import pytest
import yaml
from nameko.rpc import rpc
from nameko.testing.services import entrypoint_hook

from nameko_eventlog import EventLogDispatcher
from nameko_eventlog.config import Config, parse_config
from nameko_eventlog.explorer.config import ExplorerConfig, parse_explorer_config
from nameko_eventlog.store.config import StoreConfig, parse_store_config
from nameko_eventlog.testing import capture_event_logs
from tests.nameko_version import NAMEKO


if NAMEKO == 2:
    from nameko.cli.main import setup_yaml_parser
else:
    from nameko.cli.utils.config import setup_yaml_parser

EXAMPLE = pathlib.Path(__file__).parent.parent / "example_config.yaml"


def load_yaml(text: str) -> Any:
    """
    Read YAML as ``nameko run`` does, environment variables among it.
    """
    setup_yaml_parser()
    return yaml.safe_load(text)


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """
    The example configuration, without anything in the environment.
    """
    for name in re.findall(r"\$\{(\w+):", EXAMPLE.read_text("utf-8")):
        monkeypatch.delenv(name, raising=False)
    return load_yaml(EXAMPLE.read_text("utf-8"))


class Foo:
    name = "foo"

    eventlog = EventLogDispatcher()

    @rpc
    def work(self):
        logging.getLogger("foo.accounts").info("worked", extra={"hours": 8})
        logging.getLogger("some.library").info("chatter")


class TestKeys:
    def test_complete(self, example):
        """
        Every key of the configuration is there, and no other.
        """
        keys = {field.name for field in dataclasses.fields(Config)}

        assert keys == example["EVENTLOG_DISPATCHER"].keys()

    def test_defaults(self, example):
        """
        The values are the defaults.
        """
        assert Config() == parse_config(example)

    def test_shown_defaults(self, example):
        """
        A key is null only where the default is.
        """
        section = example["EVENTLOG_DISPATCHER"]
        without = {field.name for field in dataclasses.fields(Config) if field.default is None}

        assert without == {name for name, value in section.items() if value is None}

    def test_commented(self):
        """
        Every key of the configuration has a comment above it, but for the second of a pair.
        """
        section = EXAMPLE.read_text("utf-8").partition("EVENTLOG_DISPATCHER:\n")[2]
        bare = re.findall(r"\n *[a-z_]+:.*\n  ([a-z_]+):", section)

        assert [
            *("buffer_bytes", "spool_max_bytes"),
            *("batch_seconds", "max_length", "event_type", "password_hash"),
        ] == bare

    def test_store(self, example):
        """
        So is every key of the store's, with its default but for the services.
        """
        keys = {field.name for field in dataclasses.fields(StoreConfig)}

        assert keys == example["EVENTLOG_STORE"].keys()
        assert StoreConfig(services=("foo", "bar")) == parse_store_config(example)

    def test_explorer(self, example):
        """
        And every key of the explorer's, with its default.
        """
        keys = {field.name for field in dataclasses.fields(ExplorerConfig)}

        assert keys == example["EVENTLOG_EXPLORER"].keys()
        assert ExplorerConfig() == parse_explorer_config({**example, "WEB_SERVER_ADDRESS": None})


class TestEnvironment:
    def test_defaults(self, example):
        """
        Without environment variables there are defaults for the broker and the web server.
        """
        assert "amqp://guest:guest@localhost:5672//" == example["AMQP_URI"]
        assert "0.0.0.0:8000" == example["WEB_SERVER_ADDRESS"]

    def test_from_environment(self, monkeypatch):
        """
        The environment names the broker, the web server's address, and switches auto capture.
        """
        monkeypatch.setenv("AMQP_URI", "amqp://me:secret@broker:5672/mine")
        monkeypatch.setenv("WEB_SERVER_ADDRESS", "127.0.0.1:8080")
        monkeypatch.setenv("EVENTLOG_AUTO_CAPTURE", "true")

        loaded = load_yaml(EXAMPLE.read_text("utf-8"))

        assert "amqp://me:secret@broker:5672/mine" == loaded["AMQP_URI"]
        assert "127.0.0.1:8080" == loaded["WEB_SERVER_ADDRESS"]
        assert parse_config(loaded).auto_capture is True


class TestLogging:
    @pytest.fixture
    def bodies(self, example, memory_config, container_factory, capsys):
        """
        What a worker's logging dispatches, after ``dictConfig`` alone.
        """
        logging.config.dictConfig(example["LOGGING"])
        with capture_event_logs() as bodies:
            container = container_factory(Foo, example | memory_config)
            container.start()
            with entrypoint_hook(container, "work") as work:
                work()
            container.stop()
        return bodies

    def test_event_log(self, bodies):
        """
        A record of one of the service's loggers is an event log; a library's is none.
        """
        (body,) = bodies

        assert ("worked", {"hours": 8}) == (body["event_type"], body["data"])
        assert ("foo", "Rpc", "work") == (
            body["service_name"],
            body["entrypoint_protocol"],
            body["entrypoint_name"],
        )
        assert ("info", "foo.accounts") == (body["level"], body["logger"])

    def test_console(self, bodies, capsys):
        """
        Each record is a line of JSON on the console, with the call's id.
        """
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        by_type = {line["event_type"]: line for line in lines}

        assert bodies[0]["call_id"] == by_type["worked"]["call_id"]
        assert bodies[0]["call_id"] == by_type["chatter"]["call_id"]
        assert {"hours": 8} == by_type["worked"]["data"]
