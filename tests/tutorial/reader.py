"""
A reader who does what a tutorial says, and sees whether it is so.
"""

from __future__ import annotations

import contextlib
import html.parser
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.rabbitmq import free_ports
from tests.tutorial.steps import Look, Press, Step, Type, Write
from tests.waiting import wait_until


PATIENCE = 30.0
"""Seconds for which a reader who was too quick tries again."""

# What runs in the background of a shell, these tests maybe, ignores Ctrl-C, and so does all in it.
_SHELL = """
import os, signal
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execvp("bash", ["bash", "--noprofile", "--norc"])
"""

_UUID = r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}"
_OTHER_EACH_TIME = (
    r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d{3})?(?:\+00:00)?",  # a time
    r"\d+\.\d ms",
)


class Ids:
    """
    Which of this run's ids the ones on the page stand for.
    """

    def __init__(self) -> None:
        self._meant: dict[str, str] = {}

    def meant(self, shown: str) -> str:
        """
        Return a text of the page with the ids of this run.
        """
        return re.sub(_UUID, lambda found: self._meant[found[0]], shown)

    def match(self, shown: str, actual: str, *, within: bool = False) -> bool:
        """
        Tell whether *actual* is what is shown, and remember which id stands for which.

        Args:
            within: It may have other lines before and after.
        """
        new: list[str] = []
        pattern = ""
        for part in re.split(f"({_UUID}|{'|'.join(_OTHER_EACH_TIME)})", shown.strip()):
            if re.fullmatch(_UUID, part):
                if part in self._meant:
                    pattern += self._meant[part]
                elif part in new:
                    pattern += f"(?P=id{new.index(part)})"
                else:
                    pattern += f"(?P<id{len(new)}>{_UUID})"
                    new.append(part)
            else:
                kind = [one for one in _OTHER_EACH_TIME if re.fullmatch(one, part)]
                pattern += kind[0] if kind else re.escape(part)
        if within:
            found = re.search(f"^{pattern}$", actual, re.M)
        else:
            found = re.fullmatch(pattern, actual.strip())
        if not found:
            return False
        self._meant.update({shown: found[f"id{at}"] for at, shown in enumerate(new)})
        return True


@dataclass
class Typed:
    """
    A command that was typed, and where what it says goes.
    """

    file: pathlib.Path

    @property
    def out(self) -> str:
        """
        What it has printed so far.
        """
        return self.file.read_text("utf-8")

    @property
    def both(self) -> str:
        """
        What is on the terminal: what it has printed, and its complaints.
        """
        return self.out + self.file.with_suffix(".err").read_text("utf-8")

    @property
    def code(self) -> int | None:
        """
        Its exit code, once it has ended.
        """
        said = self.file.with_suffix(".code")
        text = said.read_text("utf-8") if said.exists() else ""
        return int(text) if text.endswith("\n") else None


class Terminal:
    """
    A shell that is typed into.

    Args:
        folder: Where it begins.
        notes: For what comes out.
        environment: Its variables.
    """

    def __init__(
        self, folder: pathlib.Path, notes: pathlib.Path, environment: dict[str, str]
    ) -> None:
        self._notes = notes
        self._count = 0
        notes.mkdir()
        self._shell = subprocess.Popen(
            [sys.executable, "-c", _SHELL],
            stdin=subprocess.PIPE,
            cwd=folder,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches all that runs in it, and so does its end
            text=True,
        )

    def type(self, command: str) -> Typed:
        """
        Type a command.
        """
        self._count += 1
        file = self._notes / f"{self._count}.out"
        # the shell may take its time to open them
        file.touch()
        file.with_suffix(".err").touch()
        assert self._shell.stdin is not None
        self._shell.stdin.write(
            f"exec >{file} 2>{file.with_suffix('.err')}\n"
            f"{command}\n"
            f"echo $? >{file.with_suffix('.code')}\n"
        )
        self._shell.stdin.flush()
        self.last = Typed(file)
        return self.last

    def press_ctrl_c(self) -> None:
        """
        Interrupt what runs.
        """
        os.killpg(self._shell.pid, signal.SIGINT)

    def close(self) -> None:
        """
        End the shell and all that runs in it.
        """
        with contextlib.suppress(ProcessLookupError):  # all of it has ended
            os.killpg(self._shell.pid, signal.SIGKILL)
        self._shell.communicate()


class Html(html.parser.HTMLParser):
    """
    What is to be read on a page: its text, and the links of each row.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text = ""
        self.links: list[tuple[str, str, int]] = []  # text, target, row
        self.rows: list[str] = [""]
        self._target: str | None = None
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """
        Begin a row, or a link.
        """
        if tag == "tr":
            self.rows.append("")
        if tag == "a":
            self.links.append(("", dict(attrs).get("href") or "", len(self.rows) - 1))
            self._target = tag

    def handle_endtag(self, tag: str) -> None:
        """
        End a link.
        """
        if tag == "a":
            self._target = None

    def handle_data(self, data: str) -> None:
        """
        Take text.
        """
        self.text += data
        self.rows[-1] += data
        if self._target:
            text, target, row = self.links[-1]
            self.links[-1] = (text + data, target, row)

    def link(self, text: str, beside: str) -> str:
        """
        Return where the first link of that text leads whose row has *beside*.
        """
        return next(
            target
            for shown, target, row in self.links
            if shown == text and beside in self.rows[row]
        )


@dataclass
class Reader:
    """
    Somebody who follows the tutorial.

    Args:
        folder: Where the terminals begin; the tutorial's own folder is made by its commands.
        notes: For what comes out.
        environment: The terminals' variables.
        ports: Those of the page; others stand for them, which are free when they come up.
    """

    folder: pathlib.Path
    notes: pathlib.Path
    environment: dict[str, str]
    ports: tuple[str, ...] = ()
    ids: Ids = field(default_factory=Ids)
    terminals: dict[str, Terminal] = field(default_factory=dict)
    running: dict[str, Typed] = field(default_factory=dict)
    pages: list[tuple[str, str]] = field(default_factory=list)  # URL, HTML
    _free: dict[str, int] = field(default_factory=dict)

    def follow(self, step: Step) -> None:
        """
        Do what a step says, and check what it claims.
        """
        doing: dict[type, Callable[[Any], None]] = {
            Write: self._write, Type: self._type, Press: self._press, Look: self._look
        }  # fmt: skip
        doing[type(step)](step)

    def close(self) -> None:
        """
        Close all terminals.
        """
        for terminal in self.terminals.values():
            terminal.close()

    def _here(self, text: str) -> str:
        for port in self.ports:
            shown = f"127.0.0.1:{port}"
            if shown in text and port not in self._free:
                # not before: others look for ports, too
                (self._free[port],) = free_ports(1)
            text = text.replace(shown, f"127.0.0.1:{self._free.get(port)}")
        return text

    def _write(self, step: Write) -> None:
        (self.folder / "tutorial" / step.name).write_text(self._here(step.content), "utf-8")

    def _type(self, step: Type) -> None:
        if step.terminal not in self.terminals:
            self.terminals[step.terminal] = Terminal(
                self.folder, self.notes / step.terminal, self.environment
            )
        terminal = self.terminals[step.terminal]
        assert step.terminal not in self.running, f"{step.terminal} is busy: {step.command}"
        command = self._here(self.ids.meant(step.command))
        if step.stays:
            self._leave(step, terminal.type(command))
            return
        deadline = time.monotonic() + PATIENCE
        while not self._printed(step.shown, terminal.type(command)):
            if time.monotonic() > deadline:
                out = terminal.last.both
                raise AssertionError(f"$ {command}\nshown:\n{step.shown}\nprinted:\n{out}")
            time.sleep(0.5)

    def _leave(self, step: Type, typed: Typed) -> None:
        self.running[step.terminal] = typed
        shown = step.shown
        if shown is not None:
            self._wait(lambda: self.ids.match(shown, typed.both, within=True), typed)

    def _printed(self, shown: str | None, typed: Typed) -> bool:
        self._wait(lambda: typed.code is not None, typed, 200)
        if shown is None:
            assert 0 == typed.code, typed.both
            return True
        return typed.code == 0 and self.ids.match(shown, typed.out)

    def _press(self, step: Press) -> None:
        typed = self.running.pop(step.terminal)
        assert typed.code is None, typed.both
        self.terminals[step.terminal].press_ctrl_c()
        self._wait(lambda: typed.code is not None, typed)
        assert 0 == typed.code, typed.both

    def _look(self, step: Look) -> None:
        if step.back:
            self.pages.pop()
        if step.url:
            url = self._here(step.url)
        else:
            base, page = self.pages[-1]
            url = urllib.parse.urljoin(base, Html(page).link(step.link, step.beside))
        page = self._get(url)
        self.pages.append((url, page))
        pattern = ".*".join(rf"(?<!\w){re.escape(one)}(?!\w)" for one in step.seen)
        assert re.search(pattern, Html(page).text, re.S), f"{url} lacks {step.seen}:\n{page}"

    def _get(self, url: str) -> str:
        """
        Open a page, as soon as somebody answers.
        """
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                with urllib.request.urlopen(url, timeout=10) as response:
                    return str(response.read().decode())
            except ConnectionError:
                assert time.monotonic() < deadline, f"nobody answers at {url}"
            except urllib.error.URLError as exc:
                if not isinstance(exc.reason, ConnectionError) or time.monotonic() > deadline:
                    raise
            time.sleep(0.2)

    def _wait(
        self, condition: Callable[[], bool], typed: Typed, seconds: float = PATIENCE
    ) -> None:
        try:
            wait_until(condition, seconds, 0.1)
        except AssertionError as exc:
            raise AssertionError(f"{exc}, and there was:\n{typed.both}") from None
