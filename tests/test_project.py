"""
The project as a whole: versions that agree, imports that keep apart, what is public.
"""

import ast
import graphlib
import importlib
import importlib.metadata
import json
import pathlib
import re
import subprocess
import sys

import pytest

from nameko_eventlog.cli.stored import query
from nameko_eventlog.explorer.views import FILTERS
from nameko_eventlog.store.parameters import Filters


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
        "consumer_stats",
        "event_log_handler",
        "process_stats",
    },
}


_SENDING = (
    "body.py", "capture.py", "config.py", "dispatcher.py", "serialization.py", "sinks.py",
    "standalone.py", "testing.py",
)  # fmt: skip
_DOWNSTREAM = {
    f"nameko_eventlog.{name}" for name in ("consumers", "consuming", "store", "explorer", "cli")
}

# what all rooms share, and the package itself
SHARED = {
    "__init__.py",
    "addresses.py",
    "checking.py",
    "compat.py",
    "connections.py",
    "exceptions.py",
    "extras.py",
    "frames.py",
    "limits.py",
    "reporting.py",
    "tables.py",
    "visible.py",
}


def _sending(*allowed: str) -> set[str]:
    names = {name.removesuffix(".py") for name in _SENDING} - set(allowed)
    return {f"nameko_eventlog.{name}" for name in names}


def _explorer(*allowed: str) -> set[str]:
    names = {path.stem for path in (ROOT / "nameko_eventlog/explorer").glob("[!_]*.py")}
    return {f"nameko_eventlog.explorer.{name}" for name in names - set(allowed)}


_DELIVERY = "nameko_eventlog.delivery"
_ASKED = {"nameko_eventlog.explorer", "nameko_eventlog.cli"}

MUST_NOT_IMPORT = {
    "logging_ext": {"nameko", "kombu", "amqp", "eventlet", "nameko_eventlog"},
    **{f"nameko_eventlog/{name}": _DOWNSTREAM for name in _SENDING},
    "nameko_eventlog/delivery": _sending("config", "serialization") | _DOWNSTREAM,
    "nameko_eventlog/consuming": _sending()
    | _DOWNSTREAM - {"nameko_eventlog.consuming"}
    | {_DELIVERY},
    "nameko_eventlog/consumers.py": _sending() | _ASKED | {_DELIVERY, "nameko_eventlog.store"},
    "nameko_eventlog/store": _sending() | _ASKED | {_DELIVERY},
    "nameko_eventlog/explorer": (
        _sending()
        | _DOWNSTREAM - {"nameko_eventlog.store", "nameko_eventlog.explorer"}
        | {_DELIVERY}
    ),
    "nameko_eventlog/cli": _sending("config", "standalone") | _explorer("config"),
}


def imported_by(path: pathlib.Path) -> set[str]:
    """
    Return the names of the modules that a file imports, wherever in it.
    """
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relatively"
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def modules_after(statement: str) -> set[str]:
    """
    Run a statement in a fresh interpreter and return the top-level modules it loaded.
    """
    code = f"{statement}\nimport sys, json; print(json.dumps(list(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


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

    def test_command_line_without_resolver(self):
        """
        A command begins without eventlet's own resolver, which is a sixth of the time.
        """
        loaded = modules_after(
            "import _nameko_eventlog, contextlib, sys; sys.argv = ['nameko-eventlog', '--version']"
            "\nwith contextlib.suppress(SystemExit): _nameko_eventlog.main()"
        )

        assert {"eventlet", "click"} <= loaded
        assert "dns" not in loaded


class TestRooms:
    @pytest.mark.parametrize("room", MUST_NOT_IMPORT)
    def test_imports(self, room):
        """
        What a room must not import, it does not: CONTRIBUTING.md's map of the code.
        """
        forbidden = MUST_NOT_IMPORT[room]
        paths = [ROOT / room] if room.endswith(".py") else sorted((ROOT / room).rglob("*.py"))
        found = {
            (str(path.relative_to(ROOT)), name)
            for path in paths
            for name in imported_by(path)
            if any(name == one or name.startswith(f"{one}.") for one in forbidden)
        }

        assert paths
        assert set() == found

    def test_no_circle(self):
        """
        No module imports itself by way of others, not even for types.
        """
        modules = {
            ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
            for package in PUBLIC
            for path in (ROOT / package).rglob("*.py")
        }

        def imported(path):
            for name in imported_by(path):
                inner = {one for one in imported_by(path) if one.rpartition(".")[0] == name}
                if not inner & modules.keys():  # "from package import module" imports the module
                    while name and name not in modules:
                        name = name.rpartition(".")[0]
                    yield name

        graph = {name: set(imported(path)) - {"", name} for name, path in modules.items()}

        assert len(graph) == len(list(graphlib.TopologicalSorter(graph).static_order()))

    def test_all(self):
        """
        Each module is in a room, or shared by all.
        """
        modules = {
            path.name
            for path in (ROOT / "nameko_eventlog").iterdir()
            if path.suffix == ".py" or (path / "__init__.py").exists()
        }
        rooms = {room.partition("/")[2] for room in MUST_NOT_IMPORT} - {""}

        assert modules == rooms | SHARED


class TestFilters:
    """
    What can be asked for can be asked for everywhere.
    """

    FILTERS = set(Filters.parse.__kwdefaults__)

    def test_command_line(self):
        """
        ``query`` has an option for each filter of the store.
        """
        assert set() == self.FILTERS - {option.name for option in query.params}

    def test_page(self):
        """
        The explorer's stream has a field for each, and keeps each in its URL.
        """
        template = (ROOT / "nameko_eventlog/explorer/templates/stream.html").read_text("utf-8")
        fields = re.findall(r'\bfield\("(\w+)"', template)
        search = re.findall(r'<input type="search" name="(\w+)"', template)

        assert set(FILTERS) == self.FILTERS
        assert {*fields, *search} == self.FILTERS


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
