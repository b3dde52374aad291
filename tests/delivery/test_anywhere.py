"""
Log calls from wherever Python runs code: the sum is right, and everything arrives once.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest

from tests.delivery.conftest import Received


# a timer that goes off again before its handler has returned, each time, ends any program
ALARM = """
depth = 0

def every(seconds, call):
    def ring(*_):
        global depth
        depth += 1
        if depth < 3:  # it may interrupt itself
            signal.setitimer(signal.ITIMER_REAL, seconds)
        call()
        depth -= 1
        if not depth:
            signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)

def no_more():
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
"""

SCRIPT = f"""
import warnings; warnings.simplefilter("ignore")
import eventlet; eventlet.monkey_patch()
import atexit, gc, itertools, json, signal, sys, weakref
from tests.delivery.conftest import *

os_threading = patcher.original("threading")
os_time = patcher.original("time")
uri, section = sys.argv[1], json.loads(sys.argv[2])
{ALARM}
delivery = BrokerDelivery(
    settings_at(uri),
    Route("foo", EXCHANGE, "log_event", (), None),
    parse_config({{"EVENTLOG_DISPATCHER": section}}),
)
counts = {{}}

def log(place):
    number = next(counts.setdefault(place, itertools.count()))  # one step: they interrupt it
    message = make_message(number)
    message.body = json.dumps({{"number": [place, number]}}).encode()
    delivery.accept(message)

class Cycle:
    def __init__(self):
        self.me = self
    def __del__(self):
        log("__del__")

class Referred:
    pass

def refer():
    one = Referred()
    weakref.finalize(one, log, "weakref")

def in_thread(name):
    for _ in range(300):
        log(name)
        os_time.sleep(0.0005)

atexit.register(lambda: log("atexit after"))  # runs after ours: last in, first out
delivery.start()
every(0.001, lambda: log("signal"))
threads = [os_threading.Thread(target=in_thread, args=[f"thread {{n}}"]) for n in range(8)]
for thread in threads:
    thread.start()
eventlet.hubs.get_hub().schedule_call_global(0.1, log, "hub")
while any(thread.is_alive() for thread in threads):
    Cycle(); refer(); log("green")
    gc.collect()
    eventlet.sleep(0.001)
no_more()
gc.disable()

@atexit.register
def before():
    log("atexit before")

def report():
    stats = delivery.stats()
    print(json.dumps([{{place: next(count) for place, count in counts.items()}}, stats]))
delivery.stop = (lambda stop: lambda seconds: (stop(seconds), report()))(delivery.stop)
"""


LOGGING_SCRIPT = f"""
import warnings; warnings.simplefilter("ignore")
import eventlet; eventlet.monkey_patch()
import gc, itertools, json, logging, signal, sys
from logging_ext import EventLogHandler
from nameko_eventlog.standalone import event_log_dispatcher

{ALARM}
logging.logThreads = False  # eventlet's current_thread() may raise in a signal handler
logger = logging.Logger("script", logging.INFO)
logger.addHandler(EventLogHandler(service="foo"))
counts = {{place: itertools.count() for place in ("main", "signal", "__del__")}}

def log(place, value=""):
    metadata = {{"number": [place, next(counts[place])]}}
    logger.info("counted %s", value, extra={{"metadata": metadata}})

class Collecting:
    def __str__(self):
        gc.collect()
        return "garbage"

class Cycle:
    def __init__(self):
        self.me = self
    def __del__(self):
        log("__del__")

gc.disable()  # in the midst of ContextVar.set() it may crash CPython before 3.12
with event_log_dispatcher({{"AMQP_URI": sys.argv[1]}}, "foo") as eventlog:
    every(0.002, lambda: log("signal"))
    for number in range(2_000):
        Cycle()
        log("main", Collecting() if number % 200 == 0 else "")
        if number % 200 == 100:
            gc.collect()
        if number % 10 == 0:
            eventlet.sleep(0)
    no_more()
    gc.collect()
print(json.dumps([{{place: next(count) for place, count in counts.items()}}, eventlog.stats()]))
"""


def run(script: str, *arguments: str) -> tuple[dict[str, int], dict[str, int]]:
    """
    Run *script* in a process of its own, and return what it has counted, and the stats.
    """
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
    counts, stats = json.loads(done.stdout)
    return counts, stats


@pytest.mark.parametrize("spooled", [False, True], ids=["memory", "spool"])
def test_sum(uri: str, received: Received, tmp_path: pathlib.Path, spooled: bool) -> None:
    """
    Threads, signal handlers, finalizers, weak references, the hub and ``atexit`` all log at once.
    """
    section = {"spool": str(tmp_path)} if spooled else {}
    counts, stats = run(SCRIPT, uri, json.dumps(section))
    total = sum(counts.values())

    assert total == stats["accepted"] == stats["confirmed"] + stats["undelivered"]
    assert (0, 0) == (stats["waiting"], stats["undelivered"])
    arrived = received.wait_for(total)
    assert {(place, n) for place in counts for n in range(counts[place])} == {
        tuple(number)
        for number in arrived  # type: ignore[arg-type]
    }
    assert total == len(received.ids)
    assert {"__del__", "weakref", "signal", "hub", "green", "atexit before"} <= set(counts)


def test_sum_of_log_calls(uri: str, received: Received) -> None:
    """
    Log calls within another one, or within the relay's own work, are counted as not forwarded.
    """
    counts, stats = run(LOGGING_SCRIPT, uri)

    assert sum(counts.values()) == stats["accepted"] + stats["not_forwarded"]
    assert stats["accepted"] == stats["confirmed"]
    arrived = {
        tuple(number)
        for number in received.wait_for(stats["accepted"])  # type: ignore[arg-type]
    }
    assert stats["accepted"] == len(arrived)
    assert {("main", n) for n in range(counts["main"])} <= arrived
    assert {"main", "signal", "__del__"} == {place for place, _ in arrived}
    assert stats["not_forwarded"] >= 800  # what __del__ logs within __str__ is certain
