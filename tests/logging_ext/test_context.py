"""
Whose code is running.
"""

import contextvars
import gc
import queue

import eventlet
import eventlet.patcher
import eventlet.tpool
import pytest

from logging_ext import bind_sink, current_sink, register_sink
from logging_ext.context import registered_sink, set_sink, worker_context
from tests.logging_ext.recording import CONTEXT, OUTSIDE, RecordingSink


class TestBindSink:
    def test_only_in_the_block(self):
        """
        A sink is current in the block, and no longer.
        """
        sink = RecordingSink()

        with bind_sink(sink) as bound:
            assert sink is bound
            assert sink is current_sink()

        assert None is current_sink()

    def test_nested(self):
        """
        A nested worker gives the outer one its sink back, also when it fails.
        """
        outer, inner = RecordingSink(), RecordingSink()

        with bind_sink(outer):
            with pytest.raises(ZeroDivisionError):  # noqa: PT012
                with bind_sink(inner):
                    assert inner is current_sink()
                    raise ZeroDivisionError

            assert outer is current_sink()

    def test_finalizer_at_the_end(self):
        """
        A finalizer that logs while the block ends does not make the sink stay current.

        Before Python 3.12 the garbage collector may run in the midst of ``ContextVar.reset``,
        which let the variable go on showing the value that it took away, were it freed or not.
        """
        sink = RecordingSink()

        class Finalized:
            def __init__(self):
                self.me = self

            def __del__(self):
                current_sink()

        def bind():
            contextvars.ContextVar("other").set(True)  # CPython shares the empty mapping
            with bind_sink(sink):
                Finalized()
                gc.enable()
            gc.disable()
            return current_sink()

        threshold = gc.get_threshold()
        gc.collect()
        gc.disable()
        try:
            gc.set_threshold(1)
            left = contextvars.Context().run(bind)
        finally:
            gc.set_threshold(*threshold)
            gc.enable()

        assert None is left

    def test_nobody(self):
        """
        None within a worker makes the block nobody's.
        """
        with bind_sink(RecordingSink()), bind_sink(None):
            assert None is current_sink()

    def test_without_a_block(self):
        """
        set_sink binds until it is called again.
        """
        sink = RecordingSink()

        set_sink(sink)
        assert sink is current_sink()
        set_sink(None)

        assert None is current_sink()


class TestRegisterSink:
    def test_by_name(self):
        """
        A registered sink is found by its service's name, until it is unregistered.
        """
        sink = RecordingSink()
        unregister = register_sink("foo", sink)

        assert sink is registered_sink("foo")
        assert None is registered_sink("bar")
        assert None is registered_sink(None)

        unregister()
        unregister()
        assert None is registered_sink("foo")

    def test_replaced(self):
        """
        A later registration replaces the earlier one, which no longer unregisters it.
        """
        first, second = RecordingSink(), RecordingSink()
        unregister_first = register_sink("foo", first)
        unregister_second = register_sink("foo", second)

        unregister_first()
        assert second is registered_sink("foo")

        unregister_second()
        assert None is registered_sink("foo")


class TestWorkerContext:
    def test_inside(self):
        """
        Inside a worker the attributes are the sink's, and no others.
        """
        with bind_sink(RecordingSink({**CONTEXT, "another": 1})):
            assert CONTEXT == worker_context()

    def test_missing(self):
        """
        What a sink's context lacks is None.
        """
        with bind_sink(RecordingSink({"service_name": "foo"})):
            assert {**OUTSIDE, "service_name": "foo", "call_stack": None} == worker_context()

    def test_outside(self):
        """
        Outside any worker all five are there, and the empty call stack is nobody else's.
        """
        worker_context()["call_stack"].append("mine")

        assert OUTSIDE == worker_context()


class TestGreenThreads:
    def test_start_empty(self):
        """
        A spawned green thread is nobody's.
        """
        with bind_sink(RecordingSink()):
            assert None is eventlet.spawn(current_sink).wait()

    def test_copied_context(self):
        """
        A green thread spawned with a copy of the context is the worker's, across switches.
        """
        sink = RecordingSink()

        def work():
            eventlet.sleep(0)
            return current_sink()

        with bind_sink(sink):
            thread = eventlet.spawn(contextvars.copy_context().run, work)

        assert sink is thread.wait()

    def test_apart(self):
        """
        Workers that run at once keep their own sinks.
        """
        sinks = [RecordingSink() for _ in range(20)]

        def work(sink):
            with bind_sink(sink):
                eventlet.sleep(0)
                return current_sink()

        threads = [eventlet.spawn(work, sink) for sink in sinks]

        assert sinks == [thread.wait() for thread in threads]


class TestOSThreads:
    def test_tpool_starts_empty(self):
        """
        Code in an OS thread of eventlet's pool is nobody's.
        """
        with bind_sink(RecordingSink()):
            assert None is eventlet.tpool.execute(current_sink)

    def test_tpool_with_copied_context(self):
        """
        Code in an OS thread that runs in a copy of the context is the worker's.
        """
        sink = RecordingSink()

        with bind_sink(sink):
            found = eventlet.tpool.execute(contextvars.copy_context().run, current_sink)

        assert sink is found

    def test_real_thread_starts_empty(self):
        """
        A real OS thread is nobody's.
        """
        threading = eventlet.patcher.original("threading")
        found = queue.SimpleQueue()

        with bind_sink(RecordingSink()):
            thread = threading.Thread(target=lambda: found.put(current_sink()))
            thread.start()
            thread.join()

        assert None is found.get_nowait()
