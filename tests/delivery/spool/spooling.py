"""
Look into a spool, and leave one behind.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import signal
import subprocess
import sys
import textwrap
from collections import deque
from typing import Any

from logging_ext.forwarding import Counter
from nameko_eventlog.delivery.entry import OutboxEntry
from nameko_eventlog.delivery.spool.deferred_log import DeferredLog
from nameko_eventlog.delivery.spool.directory import Directory
from nameko_eventlog.delivery.spool.disk import Stalled, write_whole
from nameko_eventlog.delivery.spool.spool import Spool


def written(path: pathlib.Path, *lines: bytes) -> Directory:
    """
    Make a process's directory with *lines* in a segment, and leave it open.
    """
    directory = Directory(path, DeferredLog())
    segment = directory.make_segment(path.parent.name)
    for line in lines:
        write_whole(segment.fd, line, segment.written)
        segment.written += len(line)
    return directory


def adopted(path: pathlib.Path) -> tuple[list[OutboxEntry], int, int]:
    """
    Read a process's directory as the next process of the service does.

    Returns:
        The messages, how many event logs were expected, how many were lost.
    """
    spool = Spool(str(path.parent.parent), path.parent.name, 1 << 30, DeferredLog())
    messages: deque[OutboxEntry] = deque()
    expected, lost = Counter(), Counter()
    for orphan in spool.orphans():
        assert spool.adopt(orphan, expected.ticks)
    assert expected.value == spool.unread
    while spool.unread:
        with contextlib.suppress(Stalled):  # on a busy machine
            spool.read(messages, lost.ticks)
    spool.close()
    return list(messages), expected.value, lost.value


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
