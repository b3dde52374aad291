"""
CSV for spreadsheets: no cell is a formula.
"""

from __future__ import annotations

import csv
import io
import pathlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nameko_eventlog.cli.stored import _cell
from nameko_eventlog.store.writing import EventLogWriter
from tests.cli.conftest import Cli, folder, run
from tests.store.conftest import Make, body, message


__all__ = ["folder", "message", "run"]

FORMULA = "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"


class TestCells:
    @pytest.mark.parametrize(
        ("value", "cell"),
        [
            ('=HYPERLINK("http://x")', '\'=HYPERLINK("http://x")'),
            ("+1+cmd|' /C calc'!A0", "'+1+cmd|' /C calc'!A0"),
            ("-2+3", "'-2+3"),
            ("@SUM(1)", "'@SUM(1)"),
            ("\t=1", "'\\x09=1"),
            ("\r=1", "'\\x0d=1"),
            (" =1", "' =1"),
            ("\uff1d1", "'\uff1d1"),
            ("order-paid", "order-paid"),
            ("-5", "-5"),
            ("+49.5e3", "+49.5e3"),
            (-5, "-5"),
            (-5.5, "-5.5"),
            ({"a": "=1"}, '{"a": "=1"}'),
            (["=1"], '["=1"]'),
            (None, ""),
            ("a;=1", "a\\x3b=1"),
            ('a; "+1', 'a\\x3b "+1'),
            ("a;b", "a;b"),
            ({"a": ";@1"}, '{"a": "\\u003b@1"}'),
        ],
    )
    def test_formulas(self, value: Any, cell: str) -> None:
        """
        What begins like a formula gets an apostrophe before it, numbers stay numbers, and no
        semicolon, which ends a cell elsewhere, has a formula behind it.
        """
        assert cell == _cell({"message_id": "1", "time": "", "body": {"level": value}}, "level")

    @given(st.text() | st.text(FORMULA + " a1.", min_size=1))
    def test_any(self, text: str) -> None:
        """
        No text begins like a formula, but for numbers.
        """
        cell = _cell({"message_id": "1", "time": "", "body": {"level": text}}, "level")

        if cell.lstrip()[:1] in set(FORMULA):
            float(cell)

    def test_command(self, run: Cli, folder: pathlib.Path, message: Make) -> None:
        """
        All columns of ``query --csv`` are so, the message id of a sender's own among them.
        """
        writer = EventLogWriter(f"sqlite:///{folder}/eventlog.db", ["json"])
        names = ("service_name", "entrypoint_name", "call_id", "event_type", "level")
        evil = dict.fromkeys(names, "=1+1")
        writer.write([message(body(**evil, data="=1+1", entrypoint_protocol="=1"))])
        writer.close()

        _, *rows = csv.reader(io.StringIO(run("query", "--csv").stdout))

        assert 1 == len(rows)
        assert not [cell for cell in rows[0] if cell[:1] in set(FORMULA)]
        assert 6 == rows[0].count("'=1+1")
