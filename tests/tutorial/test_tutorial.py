"""
The tutorial, followed step by step as a reader does, with the wheel that is built from this tree.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import zipfile
from collections.abc import Iterator

import pytest

from tests.tutorial.reader import Html, Ids, Reader
from tests.tutorial.steps import Look, Press, Type, Write, read_steps


ROOT = pathlib.Path(__file__).parents[2]
PAGE = ROOT / "docs/tutorial.md"

PORTS = ("8000", "8001")
"""Those of the page, which need not be free where the test runs."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """
    The wheel of this tree.
    """
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", folder, ROOT],
        check=True,
        capture_output=True,
        timeout=120,
    )
    (wheel,) = folder.glob("nameko_eventlog-*.whl")
    return wheel


@pytest.fixture
def reader(wheel: pathlib.Path, tmp_path: pathlib.Path) -> Iterator[Reader]:
    """
    A reader with an empty folder, for whom pip finds the wheel where it would find a release.
    """
    version = wheel.name.split("-")[1]
    constraints = tmp_path / "constraints.txt"
    constraints.write_text(f"nameko-eventlog=={version}\n", "utf-8")
    ours = ("PYTEST", "PYTHON", "VIRTUAL_ENV", "AMQP_URI")
    base = pathlib.Path(sys.base_prefix) / "bin"  # not our environment's
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(ours)},
        "PATH": f"{base}{os.pathsep}{os.environ['PATH']}",
        "PIP_CONSTRAINT": str(constraints),
        "PIP_FIND_LINKS": f"{os.environ.get('PIP_FIND_LINKS', '')} {wheel.parent}".strip(),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PYTHONIOENCODING": "utf-8",  # that of a reader's terminal
    }
    for name in ("folder", "notes"):
        (tmp_path / name).mkdir()
    reader = Reader(tmp_path / "folder", tmp_path / "notes", environment, PORTS)
    yield reader
    reader.close()


class TestTutorial:
    @pytest.mark.timeout(400)
    def test_followed(self, reader, wheel):
        """
        Whoever does what the tutorial says sees what it shows.
        """
        for step in read_steps(PAGE.read_text("utf-8")):
            reader.follow(step)

        assert {} == reader.running
        (info,) = reader.folder.glob("tutorial/venv/lib/*/site-packages/nameko_eventlog-*")
        with zipfile.ZipFile(wheel) as built:
            record = built.read(f"{info.name}/RECORD").decode().splitlines()
        installed = (info / "RECORD").read_text("utf-8").splitlines()
        assert set() == set(record) - set(installed)

    def test_steps(self):
        """
        There are steps of every kind, and the last pages are a trace that went well and one that
        did not.
        """
        steps = read_steps(PAGE.read_text("utf-8"))

        names = [step.name for step in steps if isinstance(step, Write)]
        assert ["shop.py", "mailer.py", "config.yaml", "customer.py", "explorer.yaml"] == names
        stay = [step.terminal for step in steps if isinstance(step, Type) and step.stays]
        assert ["first", "third"] == stay
        assert stay == [step.terminal for step in steps if isinstance(step, Press)]
        looks = [step for step in steps if isinstance(step, Look)]
        assert [
            ("shop.pay", "mailer.send_receipt", "completed"),
            ("mailer.send_receipt", "failed"),
        ] == [look.seen for look in looks[1:]]


class TestReader:
    """
    It notices what is wrong.
    """

    SHOWN = (
        "2026-11-24 23:26:52.190 shop.pay.400c578e-4c05-4e7e-ad26-20e33e87905f 8.5 ms\n"
        "  shop.pay.400c578e-4c05-4e7e-ad26-20e33e87905f\n"
    )
    ACTUAL = (
        "2027-01-01 00:00:00.000 shop.pay.00000000-4c05-4e7e-ad26-000000000000 12.0 ms\n"
        "  shop.pay.00000000-4c05-4e7e-ad26-000000000000\n"
    )

    def test_other_each_time(self):
        """
        Ids, times and durations are this run's.
        """
        ids = Ids()

        assert ids.match(self.SHOWN, self.ACTUAL)
        assert "trace 00000000-4c05-4e7e-ad26-000000000000" == ids.meant(
            "trace 400c578e-4c05-4e7e-ad26-20e33e87905f"
        )

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("shop.pay", "shop.buy"),
            (" ms\n  shop.pay.00000000", " ms\n  shop.pay.11111111"),
            ("2027-01-01 ", ""),
            (" ms\n", " ms\nmore\n"),
        ],
        ids=["word", "id", "time", "line"],
    )
    def test_different(self, old, new):
        """
        Everything else is as it is shown, and the same id is the same one.
        """
        assert not Ids().match(self.SHOWN, self.ACTUAL.replace(old, new, 1))

    def test_known_id(self):
        """
        An id that was seen before is that one.
        """
        ids = Ids()
        ids.match(self.SHOWN, self.ACTUAL)

        assert ids.match(self.SHOWN, self.ACTUAL)
        assert not ids.match(self.SHOWN, self.ACTUAL.replace("00000000", "11111111"))

    @pytest.fixture
    def at_shell(self, tmp_path):
        """
        A reader with a shell and nothing installed.
        """
        for name in ("folder", "notes"):
            (tmp_path / name).mkdir()
        reader = Reader(tmp_path / "folder", tmp_path / "notes", dict(os.environ))
        yield reader
        reader.close()

    def test_output(self, at_shell, monkeypatch):
        """
        A command that prints something else, or fails, is noticed.
        """
        monkeypatch.setattr("tests.tutorial.reader.PATIENCE", 0.2)
        at_shell.follow(Type("first", "echo one", shown="one\n"))

        for command, shown in (
            ("echo one", "two\n"),
            ("echo one; false", "one\n"),
            ("false", None),
        ):
            with pytest.raises(AssertionError):
                at_shell.follow(Type("first", command, shown=shown))

    def test_interrupted(self, at_shell):
        """
        What is left running runs until Ctrl-C, and nothing else can be typed meanwhile.
        """
        waiting = "python3 -c 'import signal; print(1, flush=True); signal.sigwait([2])'"
        blocked = (
            f"trap : INT; {waiting.replace('print', 'signal.pthread_sigmask(0, [2]); print')}"
        )
        at_shell.follow(Type("first", blocked, stays=True, shown="1\n"))

        with pytest.raises(AssertionError, match="busy"):
            at_shell.follow(Type("first", "true"))

        at_shell.follow(Press("first"))
        at_shell.follow(Type("first", "echo on", shown="on\n"))

    def test_page(self):
        """
        A link is that of the row which is meant.
        """
        page = Html(
            "<table><tr><td>one<td><a href='/1'>trace</a></tr>"
            "<tr><td>two<td><a href='/2'>trace</a></tr></table>"
        )

        assert "/2" == page.link("trace", "two")
        with pytest.raises(StopIteration):
            page.link("trace", "three")
