"""
Look into a spool, and leave one behind.
"""

from __future__ import annotations

import json
import pathlib
import signal
import subprocess
import sys
import textwrap
from typing import Any


def stored(path: pathlib.Path) -> list[dict[str, Any]]:
    """
    What any tool that reads lines of JSON finds in a segment.
    """
    return [json.loads(line) for line in path.read_text().splitlines()]


def in_a_process(
    uri: str, directory: pathlib.Path, script: str
) -> subprocess.CompletedProcess[str]:
    """
    Run *script* in another process, where ``delivery`` is a started one with a spool.
    """
    prologue = f"""
        import warnings; warnings.simplefilter("ignore")
        import eventlet; eventlet.monkey_patch()
        import os, signal
        from tests.delivery.conftest import *
        delivery = BrokerDelivery(
            settings_at({uri!r}),
            Route("foo", EXCHANGE, "log_event", (), None),
            parse_config({{"EVENTLOG_DISPATCHER": {{"spool": {str(directory)!r}}}}}),
        )
        delivery.start()
    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(prologue) + textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def killed(uri: str, directory: pathlib.Path, count: int, more: str = "pass") -> None:
    """
    Accept *count* event logs in another process, which ends by SIGKILL.
    """
    script = f"""
        for number in range({count}):
            delivery.accept(make_message(number))
        {more}
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = in_a_process(uri, directory, script)
    assert -signal.SIGKILL == done.returncode, done.stderr


def numbers(path: pathlib.Path) -> list[int]:
    """
    Which messages a segment holds.
    """
    return [json.loads(line["body"])["number"] for line in stored(path)[1:]]
