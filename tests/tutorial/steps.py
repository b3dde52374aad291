"""
What a tutorial tells its reader to do.

What a reader understands is all that it goes by: a file is what follows "Put this into `name`:",
commands are typed into the terminal that was named last, one that is to be left running is left
running, and what is shown below a command is what it prints. A page is opened, and a link on it
followed, where the text says so, and what it names then is on the page, in that order.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Write:
    """
    A file to be written.
    """

    name: str
    content: str


@dataclass(frozen=True)
class Type:
    """
    A command to be typed, and what is shown of its output.
    """

    terminal: str
    command: str
    stays: bool = False
    shown: str | None = None


@dataclass(frozen=True)
class Press:
    """
    Ctrl-C, in a terminal.
    """

    terminal: str


@dataclass(frozen=True)
class Look:
    """
    A page to be opened, or a link to be followed, and what is there.

    Args:
        url: To be opened; "" for a link of the page before.
        link: The link's text.
        beside: What is in the row with it.
        back: Whether the page that was opened last is gone back to before.
        seen: What the page has, in this order.
    """

    url: str
    link: str
    beside: str
    back: bool
    seen: tuple[str, ...]


Step = Write | Type | Press | Look


def read_steps(page: str) -> list[Step]:
    """
    Read a page as a reader does who does what it says.
    """
    steps: list[Step] = []
    terminal = ""
    text, *rest = re.split(r"^```(\w+)\n(.*?)^```$", page, flags=re.M | re.S)
    for language, block, after in zip(rest[::3], rest[1::3], rest[2::3], strict=True):
        words = " ".join(text.split())
        steps += _looks(text)
        steps += [Press(ordinal) for ordinal in _pressed(words)]
        named = re.findall(r"(\w+) terminal\b", words)
        terminal = named[-1] if named else terminal
        if language == "console":
            commands = [line.removeprefix("$ ") for line in block.splitlines()]
            stays = "leave it running" in words
            steps += [Type(terminal, one) for one in commands[:-1]]
            steps.append(Type(terminal, commands[-1], stays))
        elif language == "text":
            last = steps.pop()
            assert isinstance(last, Type), f"what has printed this? {block}"
            assert last.shown is None
            steps.append(Type(last.terminal, last.command, last.stays, block))
        else:
            put = re.search(r"Put this into `(\S+)`:$", words)
            assert put, f"which file is this? {block}"
            steps.append(Write(put[1], block))
        text = after
    return steps + _looks(text)


def _pressed(words: str) -> list[str]:
    said = re.search(r"Press Ctrl-C in the (\w+) and in the (\w+) terminal", words)
    return list(said.groups()) if said else []


def _looks(text: str) -> list[Step]:
    looks: list[Step] = []
    for paragraph in text.split("\n\n"):
        words = " ".join(paragraph.split())
        found = list(
            re.finditer(
                r"Open <(?P<url>\S+)>|(?P<back>Go back, and )?follow \*\*(?P<link>.+?)\*\*"
                r" beside `(?P<beside>.+?)`",
                words,
                re.I,
            )
        )
        ends = [one.start() for one in found[1:]] + [len(words)]
        for one, end in zip(found, ends, strict=False):
            seen = re.findall(r"`(.+?)`", words[one.end() : end])
            looks.append(
                Look(
                    one["url"] or "",
                    one["link"] or "",
                    one["beside"] or "",
                    bool(one["back"]),
                    tuple(seen),
                )
            )
    return looks
