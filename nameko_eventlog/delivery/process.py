"""
All deliveries of this process: their counts, a fork, and the interpreter's end.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import weakref
from typing import Protocol


class Stoppable(Protocol):
    """
    A delivery that joins `deliveries` when it is made.
    """

    service: str

    @property
    def is_closed(self) -> bool:
        """
        Whether it has stopped, and no longer counts.
        """

    def stats(self) -> dict[str, int]:
        """
        Return its counts.
        """

    def forked(self) -> None:
        """
        Leave connection and spool to the parent: this is a forked child.
        """

    def interpreter_ends(self) -> None:
        """
        Deliver what is left.
        """


deliveries: weakref.WeakSet[Stoppable] = weakref.WeakSet()
"""Those of the services that run in this process."""


def process_stats() -> dict[str, dict[str, int]]:
    """
    Return the counts of each service that runs in this process, by service name.

    The counts are those of the injected callable's ``stats()``, summed over the instances of a
    service.

    .. versionadded:: 0.1.0
    """
    found: dict[str, dict[str, int]] = {}
    for delivery in list(deliveries):
        if delivery.is_closed:
            continue
        stats = delivery.stats()
        known = found.setdefault(delivery.service, {})
        for name, count in stats.items():
            is_maximum = name in ("not_forwarded", "oldest_seconds")
            before = known.get(name, 0)
            known[name] = max(before, count) if is_maximum else before + count
    return found


def _after_fork_in_child() -> None:
    for delivery in list(deliveries):
        delivery.forked()


os.register_at_fork(after_in_child=_after_fork_in_child)


@atexit.register
def _at_exit() -> None:
    for delivery in list(deliveries):
        with contextlib.suppress(Exception):  # so that the others stop as well
            delivery.interpreter_ends()
