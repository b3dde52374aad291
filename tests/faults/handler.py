"""
The service of `tests.faults.test_consumers`: a handler that notes what it is handed.

One event log ends the process. ``POISON`` is its number, ``HANDLED`` the file, ``BATCH`` the size
of a batch, 0 for none, ``SECONDS`` how long a call takes.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import eventlet

from nameko_eventlog import event_log_handler


BATCH = int(os.environ["BATCH"])


class Log:
    """
    Handles the event logs of the shop.
    """

    name = "log"

    @event_log_handler(
        "shop", quorum=True, batch_size=BATCH or None, batch_seconds=0.2, max_attempts=2
    )
    def handle(self, argument: Any) -> None:
        """
        Note the numbers, if none of them is the poison.
        """
        bodies = argument if BATCH else [argument]
        numbers = [body["data"]["number"] for body in bodies]
        if int(os.environ["POISON"]) in numbers:
            sys.exit(1)
        eventlet.sleep(float(os.environ["SECONDS"]))
        with open(os.environ["HANDLED"], "a") as handled:
            handled.writelines(f"{number}\n" for number in numbers)
