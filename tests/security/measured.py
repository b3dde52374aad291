"""
One attack on one reader of messages, in a process of its own: peak memory, and the longest stall.

``python -m tests.security.measured store lists 1`` prints them as JSON.
"""

from __future__ import annotations

import json
import pathlib
import resource
import sys
import tempfile
from dataclasses import replace
from time import monotonic
from typing import Any

from nameko_eventlog.consuming import ReceivedMessage
from nameko_eventlog.store.rows import Unstorable, decode_body
from nameko_eventlog.store.writing import EventLogWriter, content_types
from tests.security.attacks import ATTACKS, YAML_ATTACKS


ACCEPT = ["json", "yaml"]


def store(messages: list[ReceivedMessage]) -> list[Any]:
    """
    Write a batch into a database, and return the reasons of what was rejected.
    """
    with tempfile.TemporaryDirectory() as directory:
        writer = EventLogWriter(f"sqlite:///{pathlib.Path(directory)}/eventlog.db", ACCEPT)
        found: list[Any] = writer.write(messages)
        writer.close()
        return found


def handler(messages: list[ReceivedMessage]) -> list[Any]:
    """
    Decode as a handler does, and keep what was decoded.
    """
    found: list[Any] = []
    for one in messages:
        try:
            found.append(one.decode(content_types(ACCEPT)))
        except Exception as exc:
            found.append(type(exc).__name__)
    return found


def tail(messages: list[ReceivedMessage]) -> list[Any]:
    """
    Decode as ``tail`` does.
    """
    found: list[Any] = []
    for one in messages:
        try:
            decode_body(one, content_types(ACCEPT))
        except Unstorable as exc:
            found.append(str(exc)[:200])
    return found


def main(reader: str, name: str, count: int) -> None:
    """
    Attack, and print what it took.
    """
    sent = (ATTACKS | YAML_ATTACKS)[name]()
    messages = [
        replace(sent, properties={"message_id": f"attack {number}"}) for number in range(count)
    ]
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _peak()
    begun = monotonic()
    found = {"store": store, "handler": handler, "tail": tail}[reader](messages)
    seconds = monotonic() - begun
    texts = [one for one in found if isinstance(one, str)]
    sys.stdout.write(
        json.dumps(
            {
                "wire": len(sent.body),
                "peak": _peak() - before,
                "seconds": round(seconds, 3),
                "refused": len(texts),
                "reason": texts[0][:200] if texts else None,
            }
        )
    )


def _peak() -> int:
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
