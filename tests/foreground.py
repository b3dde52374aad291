"""
Processes that Ctrl-C ends, also where the tests run in the background.

A shell starts what runs in the background, the tests maybe, with SIGINT ignored.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator

import pytest


FOREGROUND = (
    sys.executable,
    "-c",
    """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
""",
)
"""What a command line begins with that is to end by SIGINT."""


@pytest.fixture
def python_s_own() -> Iterator[None]:
    """
    Python's own handler in this process.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
