"""
What is not installed: which extra brings it.
"""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

from nameko_eventlog.extras import MissingExtra, extra


def run_without(package: str, code: str, folder: pathlib.Path) -> tuple[int, str]:
    """
    Run code in an interpreter in which a package is not installed.
    """
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            f"import sys; sys.modules[{package!r}] = None\n{code}",
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, (done.stdout + done.stderr).strip()


NAMEKO = """
sys.argv = ["nameko", "run", "nameko_eventlog.{}", "--config", "config.yaml"]
try:
    from nameko.cli import cli as main  # 3
except ImportError:
    from nameko.cli.main import main  # 2
main()
"""


class TestNamekoRun:
    @pytest.mark.parametrize(
        ("service", "package", "name"),
        [
            ("store", "sqlalchemy", "store"),
            ("store", "alembic", "store"),
            ("explorer", "jinja2", "explorer"),
            ("explorer", "sqlalchemy", "explorer"),
        ],
    )
    def test_one_line(self, tmp_path: pathlib.Path, service: str, package: str, name: str) -> None:
        """
        ``nameko run`` ends with one line, which says what to install.
        """
        (tmp_path / "config.yaml").write_text("AMQP_URI: 'memory://'")

        _, said = run_without(package, NAMEKO.format(service), tmp_path)  # Nameko 2 exits with 0

        expected = f"Error: {package} is not installed: pip install 'nameko-eventlog[{name}]'"
        assert [expected] == [line for line in said.splitlines() if line != "Aborted!"]

    def test_driver(self, tmp_path: pathlib.Path) -> None:
        """
        So it does where an address needs a driver that is not installed.
        """
        (tmp_path / "config.yaml").write_text(
            "{AMQP_URI: 'memory://', EVENTLOG_STORE: {uri: 'postgresql://me@127.0.0.1:1/x',"
            " services: [shop]}}"
        )

        _, said = run_without("psycopg2", NAMEKO.format("store"), tmp_path)

        assert "psycopg2 is not installed: pip install 'nameko-eventlog[store]'" in said


class TestCommandLine:
    @pytest.mark.parametrize(
        ("package", "name"), [("click", "cli"), ("rich", "cli"), ("sqlalchemy", "store")]
    )
    def test_one_line(self, tmp_path: pathlib.Path, package: str, name: str) -> None:
        """
        So does the command line.
        """
        code, said = run_without(package, "import _nameko_eventlog as m; m.main()", tmp_path)

        expected = f"{package} is not installed: pip install 'nameko-eventlog[{name}]'"
        assert (1, expected) == (code, said)


class TestExtra:
    def test_imports(self) -> None:
        """
        Whoever imports it is told of the package, and of the outermost extra.
        """
        with pytest.raises(MissingExtra) as raised, extra("explorer"), extra("store"):
            raise ModuleNotFoundError(name="sqlalchemy.orm")

        assert "sqlalchemy" == raised.value.package
        assert "nameko-eventlog[explorer]" in str(raised.value)

    def test_others(self) -> None:
        """
        What is of no extra is not ours to explain.
        """
        with pytest.raises(ModuleNotFoundError), extra("store"):
            raise ModuleNotFoundError(name="somebodys")
