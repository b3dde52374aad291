"""
What others have sent reaches a terminal as text: in every command, wherever it stands.
"""

from __future__ import annotations

import json
import pathlib
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from nameko_eventlog.cli.terminal import column, event_line
from nameko_eventlog.store.writing import EventLogWriter
from nameko_eventlog.visible import visible
from tests.cli.conftest import Cli, configure, folder, run, stored
from tests.store.conftest import Make, body, message


__all__ = ["configure", "folder", "message", "run", "stored"]

Stored = Callable[..., None]

# one of each kind that a terminal obeys, turns text round with, or does not show
EVIL = (
    "\x1b[2J\x9b31m\x07\r\x7f\u202e\u2066\u200b\u200d\u200f\xad\u2060\ufeff\u061c\u180e\u3164\u115f"
    "\u2028\ufff9\ufe0f\U000e0041\U000e007f\U000e0100"
)

HARMFUL = {one for one in EVIL if not (one.isascii() and one.isprintable())}

# Unicode's format characters that have a look: the signs of numbers and verses, hieroglyphs' joins
_WITH_A_LOOK = frozenset(
    map(
        chr,
        (
            *range(0x600, 0x606),
            *(0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD),
            *range(0x13430, 0x13440),
        ),
    )
)


class TestVisible:
    def test_all_of_unicode(self) -> None:
        """
        No control or format character, surrogate or separator of lines is left as it is.
        """
        left = {
            one
            for one in map(chr, range(0x110000))
            if unicodedata.category(one) in ("Cc", "Cf", "Cs", "Zl", "Zp") and one in visible(one)
        }

        assert set() == left - _WITH_A_LOOK

    def test_each(self) -> None:
        """
        Each of them is an escape from which it can be read.
        """
        assert EVIL == visible(EVIL).encode("ascii").decode("unicode_escape")

    @pytest.mark.parametrize(
        "text",
        [
            "order_paid",
            "שלום",
            "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # Persian
            "क्\u200dष",
            "👩🏽\u200d🚀 ❤\ufe0f 1\ufe0f\u20e3",
            "e\u0301 ȧ̈",
            "東京",
        ],
    )
    def test_ordinary(self, text: str) -> None:
        """
        What people write stays as they wrote it, joined letters and pictographs among it.
        """
        assert text == visible(text)

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("ad\u200dmin", r"ad\u200dmin"),
            ("ad\u200cmin", r"ad\u200cmin"),
            ("admin\ufe0e", r"admin\ufe0e"),
            ("❤\ufe0f\ufe0e\ufe01", "❤\ufe0f\\ufe0e\\ufe01"),
            ("a\nb\tc", r"a\x0ab\x09c"),
            ("a" + "\u0301" * 50, "a" + "\u0301" * 4 + "… (46 characters)"),
        ],
    )
    def test_disguises(self, text: str, shown: str) -> None:
        """
        What makes two names look alike, hides a message or grows over other lines, is shown.
        """
        assert shown == visible(text)

    def test_lines(self) -> None:
        """
        Where lines are meant, their ends stay, and nothing else does.
        """
        assert "a\nb\tc\\x0d\\x1b" == visible("a\nb\tc\r\x1b", has_lines=True)


class TestCommands:
    @pytest.mark.parametrize(
        "command",
        [
            ("query",),
            ("query", "--json"),
            ("query", "--csv"),
            ("count",),
            ("count", "--by", "level"),
            ("count", "--by", "service"),
            ("count", "--json"),
            ("trace", "a.b.1"),
            ("trace", "a.b.1", "--json"),
            ("rejects", "list"),
            ("rejects", "show", "1"),
        ],
    )
    def test_stored(
        self, run: Cli, folder: pathlib.Path, message: Make, command: tuple[str, ...]
    ) -> None:
        """
        What asks the store shows no value raw, keys and reasons of rejects among them.
        """
        writer = EventLogWriter(f"sqlite:///{folder}/eventlog.db", ["json"])
        writer.write(
            [
                message(
                    body(
                        event_type=EVIL,
                        level=EVIL,
                        service_name=EVIL,
                        entrypoint_name=EVIL,
                        call_id="a.b.1",
                        call_stack=["a.b.1"],
                        data={EVIL: [EVIL]},
                    )
                ),
                message(body(event_type=[EVIL])),
            ]
        )
        writer.close()

        said = run(*command).output

        assert set() == HARMFUL & set(said)
        assert "\\x1b" in said or "\\u001b" in said or command[0] == "rejects"

    @pytest.mark.parametrize("command", [("check",), ("query",), ("spool", "list")])
    def test_configuration(
        self, run: Cli, configure: Callable[..., None], command: tuple[str, ...]
    ) -> None:
        """
        Nor do errors show what stands in the configuration.
        """
        configure(
            AMQP_URI=f"amqp://127.0.0.1:1/{EVIL}",
            EVENTLOG_STORE={"uri": f"sqlite:///{EVIL}.db", EVIL: EVIL},
            EVENTLOG_DISPATCHER={"spool": f"/nowhere/{EVIL}"},
            **{EVIL: 1, f"EVENTLOG_STOR{EVIL[:1]}": 1},
        )

        said = run(*command).output

        assert set() == HARMFUL & set(said)

    def test_tail(self, folder: pathlib.Path, run: Cli, stored: Stored) -> None:
        """
        Nor does the line of an event log that was never stored.
        """
        line = event_line("now", {"event_type": EVIL, "level": EVIL, "data": {EVIL: EVIL}})

        assert set() == HARMFUL & set(line.plain)


class TestColumns:
    """
    No value's length or content breaks the columns of what is printed in columns.
    """

    @given(st.text(), st.integers(2, 100))
    def test_column(self, text: str, width: int) -> None:
        """
        A column has its width, whatever is in it: wide characters, marks, controls.
        """
        shown = column(text, width)

        assert width == cell_len(shown)
        assert shown == visible(shown)

    @pytest.mark.parametrize(
        "level", [None, "", "info", "critical", "a" * 76, "東京東京東京", "e\u0301" * 8, 5, ["x"]]
    )
    def test_level(self, level: Any) -> None:
        """
        What follows the level begins where it always begins.
        """
        line = event_line("now", {"level": level, "service_name": "shop", "event_type": "x"}).plain

        before, found, _ = line.partition("shop  x")
        assert found
        assert len("now") + 1 + 8 + 1 == cell_len(before)

    @pytest.mark.parametrize("columns", [20, 80, 200])
    def test_count(
        self,
        run: Cli,
        stored: Stored,
        monkeypatch: pytest.MonkeyPatch,
        columns: int,
    ) -> None:
        """
        Counts stand below one another, and no line is longer than the terminal.
        """
        types = ["a" * 76, "東京" * 30, "e\u0301" * 60, "x", "\x1b" * 30, "y" * 500]
        stored(*[{"event_type": one} for one in types for _ in range(3)])
        monkeypatch.setattr("nameko_eventlog.cli.stored.console", lambda: _Terminal(columns))

        lines = run("count").output.splitlines()

        assert len(types) == len(lines)
        assert {True} == {cell_len(line) <= columns for line in lines}
        ends = {cell_len(line[: line.rindex("  3  ")]) for line in lines}
        assert 1 == len(ends)

    def test_count_in_a_pipe(self, run: Cli, stored: Stored) -> None:
        """
        In a pipe nothing is cut, and counts stand below one another, too.
        """
        types = ["a" * 76, "東京" * 30, "x"]
        stored(*[{"event_type": one} for one in types])

        lines = run("count").output.splitlines()

        assert set(types) == {line.split()[0] for line in lines}
        assert 1 == len({cell_len(line[: line.rindex("  1  ")]) for line in lines})


def _Terminal(columns: int) -> Any:  # noqa: N802
    from rich.console import Console

    return Console(highlight=False, markup=False, width=columns, soft_wrap=True)


class TestSpool:
    def test_show(self, run: Cli, configure: Callable[..., None], tmp_path: pathlib.Path) -> None:
        """
        What waits on disk is shown as text, names of directories among it.
        """
        folder = tmp_path / "spool" / f"shop{EVIL}" / "1"
        folder.mkdir(parents=True)
        (folder / "000.log").write_text(json.dumps({"x": EVIL}))
        configure(EVENTLOG_DISPATCHER={"spool": str(tmp_path / "spool")})

        for command in ("list", "show", "export"):
            assert set() == HARMFUL & set(run("spool", command).output)
