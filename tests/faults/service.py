"""
A service that logs numbers, for ``nameko run``, and writes down which of them it has logged.

Environment: ``LOGGED``, the file of what was accepted; ``COUNT``, how many, or -1 for no end;
``BATCH``, how many without letting others run; ``PAUSE``, seconds between batches;
``DISK_PATIENCE``, seconds after which the spool's disk counts as stalled. A file
``LOGGED.enough`` ends it.
"""

import logging
import os
import pathlib

import eventlet
from nameko.extensions import Entrypoint
from nameko.web.handlers import http

from nameko_eventlog import EventLogDispatcher, process_stats
from nameko_eventlog.delivery.spool import disk


logger = logging.getLogger("foo")


disk.PATIENCE = float(os.environ["DISK_PATIENCE"])


class Once(Entrypoint):
    """
    Fire once, at the start.
    """

    def start(self) -> None:
        """
        Fire.
        """
        self.container.spawn_worker(self, (), {})


class Foo:
    """
    The service.
    """

    name = "foo"

    eventlog = EventLogDispatcher()

    @Once.decorator
    def log(self) -> None:
        """
        Log numbers, each of which is written down when its call has returned.
        """
        logged = os.open(os.environ["LOGGED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        count, pause = int(os.environ["COUNT"]), float(os.environ["PAUSE"])
        batch = int(os.environ["BATCH"])
        number = 0
        while number != count:
            identity = f"{os.getpid()}-{number}"
            logger.info("counted", extra={"number": identity})
            os.write(logged, f"{identity}\n".encode())
            number += 1
            if not number % batch:
                eventlet.sleep(pause)
                if os.path.exists(os.environ["LOGGED"] + ".enough"):
                    break
        pathlib.Path(os.environ["LOGGED"] + ".done").touch()

    @http("GET", "/alive")
    def alive(self, request: object) -> str:
        """
        Answer.
        """
        return "yes"

    @http("GET", "/waiting")
    def waiting(self, request: object) -> str:
        """
        Tell how many event logs are not confirmed yet.
        """
        return str(process_stats()["foo"]["waiting"])
