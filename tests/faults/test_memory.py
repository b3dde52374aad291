"""
Memory is bounded: while the broker is away and what waits for it is large, and in the long run.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import textwrap
from typing import Any

import pytest


def grown(nowhere: str, count: int, each: int, **section: Any) -> tuple[int, int]:
    """
    Log *count* event logs with 8 KB of context data in another process.

    Args:
        nowhere: A broker that is away.
        count: How many.
        each: How many of them a worker logs.
        section: Configuration.

    Returns:
        How many wait, and by how many MiB the process has grown.
    """
    script = f"""
        import warnings; warnings.simplefilter("ignore")
        import eventlet; eventlet.monkey_patch()
        import logging, os, resource, types
        from nameko_eventlog.dispatching.context_headers import ContextHeaders
        from tests.delivery.conftest import *
        logging.disable()
        delivery = BrokerDelivery(
            settings_at({nowhere!r}),
            Route("foo", EXCHANGE, "log_event", (), None),
            parse_config({{"EVENTLOG_DISPATCHER": {section!r}}}),
        )
        most = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        before = most()
        for number in range({count}):
            if number % {each} == 0:
                worker = types.SimpleNamespace(
                    data={{"basket": f"{{number}}" + "x" * 8_000}},
                    call_id_stack=["foo.bar.1"],
                )
                headers = ContextHeaders(worker)
            delivery.accept(make_message(number, headers=headers.make(), body=b"x" * 380))
        print(delivery.stats()["waiting"], most() - before >> 10, flush=True)
        os._exit(0)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    waiting, mebibytes = map(int, done.stdout.split())
    return waiting, mebibytes


@pytest.mark.timeout(120)
class TestLargeContext:
    def test_in_memory(self, nowhere: str) -> None:
        """
        8 KB of context data with each event log take no more memory than ``buffer_bytes``.
        """
        waiting, mebibytes = grown(nowhere, 6_000, 1, buffer_bytes=16 << 20)

        assert 1_500 < waiting < 2_000
        assert mebibytes < 24

    def test_shared(self, nowhere: str) -> None:
        """
        What a worker's event logs share counts once: as many wait as it really takes.
        """
        waiting, mebibytes = grown(nowhere, 6_000, 100, buffer_bytes=16 << 20)

        assert 6_000 == waiting
        assert mebibytes < 24

    def test_ahead_of_a_spool(self, nowhere: str, tmp_path: pathlib.Path) -> None:
        """
        With a spool all of them wait, and what of it is in memory is within the same bound.
        """
        waiting, mebibytes = grown(
            nowhere, 6_000, 1, buffer_bytes=16 << 20, spool=str(tmp_path / "spool")
        )

        assert 6_000 == waiting
        assert mebibytes < 28


CALLS = """
    import warnings; warnings.simplefilter("ignore")
    import eventlet; eventlet.monkey_patch()
    import logging, os, resource
    from nameko.containers import ServiceContainer
    from nameko.testing.services import dummy
    from nameko.testing.utils import get_extension
    from nameko.extensions import Entrypoint
    from logging_ext import EventLogHandler
    from nameko_eventlog import EventLogDispatcher, process_stats
    from tests.conftest import global_config

    logger = logging.getLogger("foo")
    logger.setLevel("INFO")
    logger.addHandler(EventLogHandler())

    class Foo:
        name = "foo"
        eventlog = EventLogDispatcher()

        @dummy
        def pay(self, number):
            logger.info("paid", extra={"number": number})

    section = {"auto_capture": True, "capture_types": ["Entrypoint"], "capture_arguments": True}
    config = {"AMQP_URI": os.environ["AMQP_URI"], "EVENTLOG_DISPATCHER": section}
    page = os.sysconf("SC_PAGE_SIZE")
    resident = lambda: int(open("/proc/self/statm").read().split()[1]) * page >> 20
    with global_config(config):
        container = ServiceContainer(Foo, config)
        container.start()
        pay = get_extension(container, Entrypoint)
        for number in range(200_000):
            if number == 20_000:
                before = resident()
            container.spawn_worker(pay, (number,), {})
        grown = resident() - before
        while (stats := process_stats()["foo"])["waiting"]:
            eventlet.sleep(0.01)
        print(stats["accepted"], stats["confirmed"], grown, flush=True)
        container.stop()
"""


@pytest.mark.timeout(300)
class TestLongRun:
    def test_calls(self, rabbit_config: dict[str, Any]) -> None:
        """
        200,000 captured calls, of two event logs each: memory stays as it is.
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(CALLS)],
            env={**os.environ, "AMQP_URI": rabbit_config["AMQP_URI"]},
            capture_output=True,
            text=True,
            timeout=290,
            check=True,
        )
        accepted, confirmed, grown = map(int, done.stdout.split())

        assert (400_000, 400_000) == (accepted, confirmed)
        assert grown < 10, f"{grown} MiB"
