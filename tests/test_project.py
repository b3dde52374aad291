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

from nameko_eventlog import EventLogDispatcher
from nameko_eventlog.cli.stored import query
from nameko_eventlog.config import CAPTURE_STAGES
from nameko_eventlog.explorer.views import FILTERS
from nameko_eventlog.store.answers import ENTRYPOINT_FAILED
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


# which rooms of nameko_eventlog a room may import, beside itself and what all share
MAY_IMPORT = {
    "amqp": set(),
    "delivery": {"amqp", "config"},
    "dispatching": {"amqp", "delivery", "config"},
    "consuming": {"amqp"},
    "store": {"amqp", "consuming"},
    "explorer": {"store"},
    "cli": {"amqp", "consuming", "delivery", "store", "config", "standalone"},
    "config": set(),
    "standalone": {"dispatching"},
    "testing": {"amqp", "config", "delivery", "dispatching"},
}

# of a room that it may not import otherwise
BESIDES = {"cli": {"nameko_eventlog.explorer.config"}}

SHARED = {
    "addresses",
    "backoff",
    "checking",
    "compat",
    "describing",
    "exceptions",
    "extras",
    "limits",
    "plain_json",
    "reporting",
    "visible",
}

# what of a room may know nothing of the rest of it, and what of it that may know
WITHIN = {
    "nameko_eventlog.delivery.spool": {
        "nameko_eventlog.delivery.entry",
        "nameko_eventlog.delivery.holding",
        "nameko_eventlog.delivery.outbox",
        "nameko_eventlog.delivery.steps",
        "nameko_eventlog.delivery.waiting",
    },
}

APART = ("archives", "clickhouse", "sql")
"""The parts of the store, which do not know each other."""

ELSEWHERE = {"nameko", "kombu", "amqp", "eventlet", "nameko_eventlog"}


def is_within(name: str, modules: set[str]) -> bool:
    """
    Tell whether a name is that of one of *modules*, or of something in one.
    """
    return any(name == one or name.startswith(f"{one}.") for one in modules)


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

    def test_version_added(self):
        """
        What is marked as new is new in a version of the changelog.
        """
        released = re.findall(r"^## \[(\d.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
        marked = {
            version
            for package in PUBLIC
            for path in (ROOT / package).rglob("*.py")
            for version in re.findall(r"version(?:added|changed):: (\S+)", path.read_text("utf-8"))
        }

        assert marked
        assert set() == marked - set(released)

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
    def test_logging_ext(self):
        """
        The framework-neutral half imports nothing of the other half's world, wherever in it.
        """
        paths = sorted((ROOT / "logging_ext").glob("*.py"))
        imported = {name for path in paths for name in imported_by(path)}

        assert paths
        assert set() == {name for name in imported if is_within(name, ELSEWHERE)}

    @pytest.mark.parametrize("room", MAY_IMPORT)
    def test_arrows(self, room):
        """
        A room imports those that it may, and no other: CONTRIBUTING.md's map of the code.
        """
        path = ROOT / "nameko_eventlog" / room
        paths = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
        allowed = {f"nameko_eventlog.{one}" for one in {room, *MAY_IMPORT[room], *SHARED}}
        allowed |= BESIDES.get(room, set())
        found = {
            (str(path.relative_to(ROOT)), name)
            for path in paths
            for name in imported_by(path)
            if name.startswith("nameko_eventlog.") and not is_within(name, allowed)
        }

        assert paths
        assert set() == found

    def test_py_amqp(self):
        """
        Only its room imports py-amqp.
        """
        found = {
            path.parent.name
            for path in (ROOT / "nameko_eventlog").rglob("*.py")
            if is_within("amqp", {name.partition(".")[0] for name in imported_by(path)})
        }

        assert {"amqp"} == found

    @pytest.mark.parametrize("part", APART)
    def test_apart(self, part):
        """
        A part of the store imports no other, and the packages of the databases are in theirs.
        """
        store = ROOT / "nameko_eventlog" / "store"
        others = {f"nameko_eventlog.store.{one}" for one in APART if one != part}
        packages = {"sql": {"clickhouse_connect"}, "clickhouse": {"psycopg2", "alembic"}}
        found = {
            (path.name, name)
            for path in (store / part).rglob("*.py")
            for name in imported_by(path)
            if is_within(name, others | packages.get(part, set()))
        }

        assert set() == found

    def test_shared(self):
        """
        What all share imports no room, but for the settings that it reads for one.
        """
        rooms = {f"nameko_eventlog.{room}" for room in MAY_IMPORT}
        found = {
            (module, name.rpartition(".")[0])
            for module in SHARED
            for name in imported_by(ROOT / "nameko_eventlog" / f"{module}.py")
            if is_within(name, rooms)
        }

        assert {
            ("compat", "nameko_eventlog.amqp"),
            ("compat", "nameko_eventlog.amqp.connections"),
            ("compat", "nameko_eventlog.amqp.settings"),
            ("compat", "nameko_eventlog.amqp.tables"),
        } == found

    @pytest.mark.parametrize("part", WITHIN)
    def test_within(self, part):
        """
        What a part of a room knows of the rest of it.
        """
        room = part.rpartition(".")[0]
        found = {
            (path.name, name)
            for path in (ROOT / part.replace(".", "/")).glob("*.py")
            for name in imported_by(path)
            if is_within(name, {room}) and not is_within(name, {part, *WITHIN[part]})
        }

        assert set() == found - {(name, room) for name, _ in found}

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
            path.stem
            for path in (ROOT / "nameko_eventlog").iterdir()
            if path.suffix == ".py" or (path / "__init__.py").exists()
        }

        assert modules == {"__init__"} | MAY_IMPORT.keys() | SHARED


class TestCaptureStages:
    @pytest.mark.parametrize("stage", CAPTURE_STAGES)
    def test_documented(self, stage):
        """
        Each stage is in the guide, in the reference, in the example and in the API.
        """
        attribute = f"ENTRYPOINT_{stage.upper()}"

        assert f"entrypoint_{stage}" == getattr(EventLogDispatcher, attribute)
        assert f"`{stage}`" in (ROOT / "docs/how-to/auto-capture.md").read_text("utf-8")
        assert f"`{stage}`" in (ROOT / "docs/reference/configuration.md").read_text("utf-8")
        assert stage in (ROOT / "example_config.yaml").read_text("utf-8")
        assert attribute in (ROOT / "docs/reference/api.md").read_text("utf-8")

    def test_recognized(self):
        """
        The store recognizes the event type of failed calls.
        """
        assert ENTRYPOINT_FAILED == EventLogDispatcher.ENTRYPOINT_FAILED


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
