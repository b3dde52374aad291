"""
README and docs: every snippet runs, and nothing that is public is left out.
"""

import contextlib
import copy
import dataclasses
import json
import logging
import logging.config
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
from typing import Any

import eventlet
import kombu
import pytest
from nameko.rpc import rpc
from nameko.testing.services import entrypoint_hook
from sybil.document import Document
from sybil.parsers.myst import CodeBlockParser, PythonCodeBlockParser

import logging_ext
import nameko_eventlog
from nameko_eventlog.config import Config, parse_config
from nameko_eventlog.explorer.config import ExplorerConfig, parse_explorer_config
from nameko_eventlog.store.config import StoreConfig, parse_store_config
from nameko_eventlog.testing import capture_event_logs
from tests.conftest import global_config
from tests.nameko_version import NAMEKO
from tests.test_example_config import load_yaml
from tests.waiting import wait_until


ROOT = pathlib.Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(
        page
        for page in sorted((ROOT / "docs").rglob("*.md"))
        if "_build" not in page.relative_to(ROOT).parts
    ),
]
TUTORIAL = ROOT / "docs/tutorial.md"  # tests/tutorial follows it
NOT_RUN = {"console", "text", "diff"}


def page_id(page: pathlib.Path) -> str:
    """
    Return the page's path, as it is named in the repository.
    """
    return str(page.relative_to(ROOT))


def anchors(page: pathlib.Path) -> set[str]:
    """
    Return the anchors of a page's headings, as MyST and GitHub make them.
    """
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def evaluate_yaml(example: Any) -> None:
    """
    Read a configuration, and put its logging in force.
    """
    config = load_yaml(example.parsed)
    parse_config(config)
    parse_store_config(config)
    parse_explorer_config(config)
    if "LOGGING" in config:
        logging.config.dictConfig(copy.deepcopy(config["LOGGING"]))
    example.namespace["config"] = config


def evaluate_json(example: Any) -> None:
    """
    Check that it is JSON.
    """
    json.loads(example.parsed)


class Snippets:
    """
    What the invisible blocks of the pages use to try what the visible ones say.

    Args:
        namespace: The page's.
        container_factory: Nameko's fixture.
        memory_config: A configuration with a broker within the process.
        capsys: pytest's fixture.
    """

    def __init__(self, namespace, container_factory, memory_config, capsys):
        self._namespace = namespace
        self._container_factory = container_factory
        self._memory_config = memory_config
        self._capsys = capsys

    @contextlib.contextmanager
    def no_worker(self):
        """
        Run the block outside any worker, and outside the sink of the test.
        """
        with logging_ext.bind_sink(None):
            yield

    @contextlib.contextmanager
    def _started(self, service, **config):
        config = {**self._namespace.get("config", {}), **config, **self._memory_config}
        with global_config(config):
            # Nameko 3: the factory would undo its own patch later than we undo ours
            given = (config,) if NAMEKO == 2 else ()
            container = self._container_factory(service, *given)
            container.start()
            yield container
            container.stop()

    @contextlib.contextmanager
    def running(self, service):
        """
        Run a service with the page's latest configuration, and give the bodies of its event logs.
        """
        with capture_event_logs() as bodies, self._started(service):
            yield bodies

    def fire(self, service, method, *args, raises=(), **kwargs):
        """
        Fire an entrypoint of a service, and return the bodies of its event logs.
        """
        with capture_event_logs() as bodies, self._started(service) as container:
            with entrypoint_hook(container, method) as call, contextlib.suppress(raises):
                call(*args, **kwargs)
        return bodies

    def answer(self, service, method, *args):
        """
        Fire an entrypoint of a service, and return what it returns.
        """
        with self._started(service) as container, entrypoint_hook(container, method) as call:
            return call(*args)

    def printed(self):
        """
        Return what was printed since the last time.
        """
        return self._capsys.readouterr().out

    def undelivered(self, event_type, event_data):
        """
        Return the lines for an event log that cannot be delivered.
        """
        lines = []
        handler = logging.Handler()
        handler.emit = lambda record: lines.append(record.getMessage())
        logging.getLogger("nameko_eventlog.undelivered").addHandler(handler)

        class Shop:
            name = "shop"
            eventlog = nameko_eventlog.EventLogDispatcher()

            @rpc
            def pay(self):
                logging.getLogger("shop").warning(event_type, extra=event_data)

        logging.getLogger("shop").addHandler(logging_ext.EventLogHandler())
        nowhere = {"uri": "amqp://127.0.0.1:1//", "flush_timeout": 0}
        with self._started(Shop, EVENTLOG_DISPATCHER=nowhere) as container:
            with entrypoint_hook(container, "pay") as pay:
                pay()
        return lines

    def sent_by(self, send, line):
        """
        Return the properties and the body of what *send* publishes.
        """
        message = json.loads(line)
        with kombu.Connection("memory://") as connection:
            exchange = kombu.Exchange(message["exchange"], type="topic", durable=True)
            queue = kombu.Queue("again", exchange, routing_key=message["routing_key"])
            bound = queue(connection.default_channel)
            bound.declare()
            send("memory://", line)
            received = bound.get(no_ack=True)
            return received.properties, received.decode()


class TestPages:
    @pytest.mark.parametrize("page", [page for page in PAGES if page != TUTORIAL], ids=page_id)
    def test_snippets(self, page, container_factory, memory_config, capsys, monkeypatch, tmp_path):
        """
        Every snippet of the page runs, and does what the page says.
        """
        monkeypatch.chdir(tmp_path)
        document = Document.parse(
            str(page),
            PythonCodeBlockParser(),
            CodeBlockParser("yaml", evaluate_yaml),
            CodeBlockParser("json", evaluate_json),
        )
        namespace = document.namespace
        snippets = Snippets(namespace, container_factory, memory_config, capsys)
        for name in (
            "fire",
            "running",
            "answer",
            "no_worker",
            "printed",
            "undelivered",
            "sent_by",
        ):
            namespace[name] = getattr(snippets, name)
        namespace.update(
            __name__="page",
            container_factory=container_factory,
            json=json,
            re=re,
            page=page.read_text("utf-8"),
        )

        try:
            for example in document.examples():
                example.evaluate()
        finally:
            logging.shutdown()  # closes files

    @pytest.mark.parametrize("page", PAGES, ids=page_id)
    def test_languages(self, page):
        """
        Every snippet runs, except for commands, output and differences.
        """
        fences = re.findall(r"^```+(\S*)", page.read_text("utf-8"), re.M)
        languages = {fence for fence in fences if fence and not fence.startswith("{")}

        assert set() == languages - NOT_RUN - {"python", "yaml", "json"}

    @pytest.mark.parametrize("page", PAGES, ids=page_id)
    def test_links(self, page):
        """
        What the page links to in the repository is there: the file, and the heading in it.
        """
        links = re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", page.read_text("utf-8"))
        broken = []
        for target, anchor in links:
            there = page.parent / target if target else page
            if not there.exists() or (anchor and anchor not in anchors(there)):
                broken.append(f"{target}#{anchor}" if anchor else target)

        assert [] == broken

    def test_pictures(self):
        """
        Each picture in the docs is shown on some page.
        """
        shown = {
            (page.parent / target).resolve()
            for page in PAGES
            for target in re.findall(r"!\[[^]]*\]\(([^)]*)\)", page.read_text("utf-8"))
        }
        pictures = {
            picture
            for kind in ("png", "svg")
            for picture in (ROOT / "docs").rglob(f"*.{kind}")
            if "_build" not in picture.relative_to(ROOT).parts
        }

        assert pictures
        assert set() == pictures - shown


class TestReadme:
    def test_first_command(self):
        """
        The first command that the README shows is the demo.
        """
        commands = re.findall(r"^\$ (.*)$", (ROOT / "README.md").read_text("utf-8"), re.M)

        assert "make demo" == commands[0]

    def test_first_example(self, tmp_path):
        """
        The first example, copied into two files, prints event logs under ``nameko run``.
        """
        first, _ = self.copied(tmp_path, configurations=1)
        with self.running(tmp_path, first) as process, eventlet.Timeout(60):
            line = process.stdout.readline()

        assert "'event_type': 'till_closed', 'data': {'amount': 5}}" in line

    def test_keep_and_ask(self, tmp_path):
        """
        With the store beside it, as the next section has it, the command line finds them.
        """
        _, second = self.copied(tmp_path, configurations=2)
        text = (ROOT / "README.md").read_text("utf-8")
        query = re.search(r"^\$ nameko-eventlog (query .*)$", text, re.M)
        trace = re.search(r"^\$ nameko-eventlog (trace .*) (shop\.close_till)\.\S+$", text, re.M)

        def ask(*arguments):
            done = subprocess.run(
                [sys.executable, "-c", "from _nameko_eventlog import main; main()", *arguments],
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                capture_output=True,
                text=True,
                check=False,
            )
            return done.stdout

        with self.running(tmp_path, second):
            wait_until(lambda: "till_closed" in ask(*shlex.split(query[1])), 30, 0.5)
            body = json.loads(ask(*shlex.split(query[1]), "--json").splitlines()[0])["body"]
            tree = ask(*shlex.split(trace[1]), body["call_id"])

        assert body["call_id"].startswith(trace[2])
        assert "shop.close_till" in tree

    @staticmethod
    def copied(folder, configurations):
        text = (ROOT / "README.md").read_text("utf-8")
        for language, name, count in (
            ("python", "shop.py", 1),
            ("yaml", "shop.yaml", configurations),
        ):
            blocks = re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)
            (folder / name).write_text("".join(blocks[:count]), "utf-8")
        return re.findall(r"^\$ nameko (run .*)$", text, re.M)

    @staticmethod
    @contextlib.contextmanager
    def running(folder, command):
        process = subprocess.Popen(
            [sys.executable, "-m", "nameko", *command.split()],
            cwd=folder,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "PYTHONUNBUFFERED": "1",
                "PYTHONWARNINGS": "ignore",
            },
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=120)
        assert 0 == process.returncode


class TestComplete:
    @pytest.mark.parametrize(
        ("page", "config"),
        [("configuration", Config), ("store", StoreConfig), ("explorer", ExplorerConfig)],
    )
    def test_configuration(self, page, config):
        """
        The reference has every key of the configuration, with its default.
        """
        text = (ROOT / f"docs/reference/{page}.md").read_text("utf-8")
        table = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)`", text, re.M))
        shown = {name: load_yaml(default) for name, default in table.items()}
        defaults = {
            field.name: list(field.default) if isinstance(field.default, tuple) else field.default
            for field in dataclasses.fields(config)
        }

        assert defaults == shown

    @pytest.mark.parametrize("package", [logging_ext, nameko_eventlog])
    def test_api(self, package):
        """
        The reference has every public name.
        """
        text = (ROOT / "docs/reference/api.md").read_text("utf-8")
        documented = re.findall(rf"^\.\. \S+:: {package.__name__}\.(\w+)$", text, re.M)

        assert set() == set(package.__all__) - set(documented)
