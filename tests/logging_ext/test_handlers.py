"""
EventLogHandler: how it is made, and that nothing comes out of it.
"""

import contextvars
import gc
import logging
import logging.config
import logging.handlers
import sys

import eventlet
import greenlet
import pytest
from eventlet import tpool

from logging_ext import EventLogHandler, WorkerContextFilter, forwarding, handlers
from logging_ext.context import bound
from tests.logging_ext.recording import CONTEXT, OUTSIDE, RecordingSink, StrictHandler


class TestMaking:
    def configured(self, **options):
        """
        Configure a logger with a handler by dictConfig, and return both.
        """
        logging.config.dictConfig(
            {
                "version": 1,
                "disable_existing_loggers": False,
                "filters": {"context": {"()": "logging_ext.WorkerContextFilter"}},
                "handlers": {"eventlog": {"class": "logging_ext.EventLogHandler", **options}},
                "loggers": {"svc": {"handlers": ["eventlog"], "level": "DEBUG"}},
            }
        )
        logger = logging.getLogger("svc")
        return logger, logger.handlers[0]

    def test_class_alone(self, worker):
        """
        dictConfig makes it with nothing but its class.
        """
        logger, handler = self.configured()

        logger.debug("paid")

        assert EventLogHandler is type(handler)
        assert ["paid"] == worker.types

    def test_options(self, service):
        """
        dictConfig sets level, fields, service and filters.
        """
        logger, handler = self.configured(
            level="INFO", fields=["lineno"], service="foo", filters=["context"]
        )

        logger.debug("no")
        logger.info("paid")

        assert WorkerContextFilter is type(handler.filters[0])
        assert "paid" == service.only.event_type
        assert ["lineno"] == list(service.metadata)

    @pytest.mark.parametrize("options", [{"fields": ["x"]}, {"fields": "level"}, {"service": 5}])
    def test_wrong_options(self, options):
        """
        dictConfig refuses wrong options.
        """
        with pytest.raises(ValueError) as caught:
            self.configured(**options)

        assert repr(next(iter(options.values()))).strip("[]") in str(caught.value.__cause__)

    def test_wrong_service(self):
        """
        A service that is no string is a TypeError that shows the value.
        """
        with pytest.raises(TypeError) as caught:
            EventLogHandler(service=["foo"])

        assert "service must be the name of a service, not ['foo']" == str(caught.value)

    def test_no_lock(self):
        """
        It has no lock, and does without.
        """
        handler = EventLogHandler()

        assert None is handler.lock
        handler.acquire()
        handler.release()
        handler.flush()
        handler.close()


class TestLevels:
    def test_levels(self, logger, handler, worker):
        """
        The handler's level counts.
        """
        handler.setLevel(logging.WARNING)

        logger.info("no")
        logger.warning("yes")

        assert ["yes"] == worker.types

    def test_root_at_debug(self, worker):
        """
        It may hang on the root logger at DEBUG.
        """
        handler = StrictHandler()
        logging.getLogger().addHandler(handler)
        logging.getLogger().setLevel(logging.DEBUG)

        logging.getLogger("amqp").debug("frame")
        logging.getLogger("svc").debug("paid")

        assert ["paid"] == worker.types
        assert [] == handler.errors


class TestService:
    def test_outside(self, bare_logger, service):
        """
        With the option, records from outside any worker are the service's; their context is None.
        """
        records = []
        bare_logger.addHandler(StrictHandler(service="foo"))
        bare_logger.handlers[0].addFilter(lambda record: records.append(record) or True)

        bare_logger.info("paid", extra={"amount": 5})

        assert {"amount": 5} == service.data
        assert OUTSIDE == {name: records[0].__dict__[name] for name in OUTSIDE}
        assert 0 == forwarding.not_forwarded.value

    def test_inside(self, bare_logger, service, worker):
        """
        Inside a worker the worker's sink counts.
        """
        from logging_ext import bind_sink
        from tests.logging_ext.recording import RecordingSink

        mine = RecordingSink()
        bare_logger.addHandler(StrictHandler(service="foo"))

        with bind_sink(mine):
            bare_logger.info("paid")

        assert ["paid"] == mine.types
        assert [] == service.types

    def test_unregistered(self, bare_logger, caplog):
        """
        While its dispatcher does not run, records are nobody's.
        """
        bare_logger.addHandler(StrictHandler(service="foo"))

        bare_logger.info("paid")

        assert 1 == forwarding.not_forwarded.value


class TestFilters:
    def test_rejecting(self, logger, handler, worker):
        """
        What a filter keeps back is neither forwarded nor counted.
        """
        handler.addFilter(lambda record: "secret" not in record.msg)

        logger.info("a secret")
        logger.info("paid")

        assert ["paid"] == worker.types
        assert 0 == forwarding.not_forwarded.value

    def test_raising(self, bare_logger, worker, capsys):
        """
        A filter that raises is reported; the record is not forwarded, and counted.
        """
        handler = StrictHandler()
        handler.addFilter(lambda record: 1 / 0)
        bare_logger.addHandler(handler)

        bare_logger.info("paid")

        assert [] == worker.types
        assert 1 == len(handler.errors)
        assert 1 == forwarding.not_forwarded.value
        assert "ZeroDivisionError" in capsys.readouterr().err

    def test_logging(self, logger, handler, worker):
        """
        What a filter logs is not forwarded but counted, and does not recurse.
        """
        calls = []

        def chatty(record):
            calls.append(record.msg)
            logger.info("filtering %s", record.msg)
            return True

        handler.addFilter(chatty)

        logger.info("paid")

        assert ["paid"] == worker.types
        assert ["paid"] == calls
        assert 1 == forwarding.not_forwarded.value

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="came with Python 3.12")
    def test_replacing(self, logger, handler, worker):
        """
        A filter may replace the record.
        """

        def replace(record):
            return logging.makeLogRecord({**record.__dict__, "msg": "replaced"})

        handler.addFilter(replace)

        logger.info("paid")

        assert ["replaced"] == worker.types

    def test_return_value(self, handler, worker):
        """
        handle tells whether the record passed, as the standard library's does.
        """
        record = logging.makeLogRecord({"msg": "paid"})
        assert True is handler.handle(record)

        handler.addFilter(lambda record: False)
        assert False is handler.handle(record)


class TestOwnFeet:
    def test_what_is_logged_while_emitting(self, logger, worker):
        """
        What a __str__ logs is not forwarded but counted, and does not recurse.
        """

        class Chatty:
            def __str__(self):
                logger.info("asked for my text")
                return "chatty"

        logger.info("user %s", Chatty())

        assert ["user %s"] == worker.types
        assert "user chatty" == worker.metadata["message"]
        assert 1 == forwarding.not_forwarded.value

    def test_sink_that_logs(self, logger, worker, monkeypatch):
        """
        What a sink logs is not forwarded but counted, and does not recurse.
        """
        taken = []

        def emit(event):
            taken.append(event.event_type)
            logger.info("taken %s", event)

        monkeypatch.setattr(worker, "emit", emit)

        logger.info("paid")
        logger.info("paid again")

        assert ["paid", "paid again"] == taken
        assert 2 == forwarding.not_forwarded.value

    @pytest.mark.parametrize("name", ["amqp", "kombu.connection", "nameko_eventlog.undelivered"])
    def test_own_loggers_while_emitting(self, handler, worker, monkeypatch, name):
        """
        What delivery itself logs meanwhile is not counted: it is never forwarded.
        """
        own = logging.Logger(name)
        own.addHandler(handler)
        monkeypatch.setattr(worker, "emit", lambda event: own.error("lost"))

        handler.handle(logging.makeLogRecord({"name": "svc", "msg": "paid"}))

        assert [] == handler.errors
        assert 0 == forwarding.not_forwarded.value

    def test_nameko_while_emitting(self, service, monkeypatch):
        """
        Nor are, outside any worker, the framework's own records.
        """
        handler = StrictHandler(service="foo")
        nameko = logging.Logger("nameko.runners")
        nameko.addHandler(handler)
        monkeypatch.setattr(service, "emit", lambda event: nameko.error("lost"))

        handler.handle(logging.makeLogRecord({"name": "svc", "msg": "paid"}))

        assert [] == handler.errors
        assert 0 == forwarding.not_forwarded.value

    def test_counted_once(self, logger, worker, monkeypatch):
        """
        However many handlers see what is logged meanwhile, it is counted once.
        """
        logger.addHandler(StrictHandler())
        monkeypatch.setattr(worker, "emit", lambda event: logger.info("taken %s", event))

        logger.info("paid")

        assert 1 == forwarding.not_forwarded.value

    def test_record_of_somebodys_own(self, handler, worker, monkeypatch, capsys):
        """
        A record that cannot be read is reported and counted, and does not raise.
        """
        record = logging.makeLogRecord({"msg": "taken"})
        del record.name
        monkeypatch.setattr(worker, "emit", lambda event: handler.emit(record))

        handler.handle(logging.makeLogRecord({"msg": "paid"}))

        assert [record] == handler.errors
        assert 1 == forwarding.not_forwarded.value
        assert "AttributeError" in capsys.readouterr().err

    def test_finalizer_at_the_end(self, logger):
        """
        A finalizer that logs while suspension ends does not make it last.

        Before Python 3.12 the garbage collector may run in the midst of ``ContextVar.reset``,
        which let the variable go on showing the value that it took away.
        """
        logged = []

        class Finalized:
            def __init__(self):
                self.me = self

            def __del__(self):
                logged.append(logger.info("finalized"))

        class Sink(RecordingSink):
            def emit(self, event):
                super().emit(event)
                if event.event_type == "paid":
                    Finalized()
                    gc.enable()  # the last thing before suspension ends

        mine = Sink()
        threshold = gc.get_threshold()
        gc.collect()
        gc.disable()
        try:
            gc.set_threshold(1)
            contextvars.Context().run(lambda: self._log_twice(logger, mine))
        finally:
            gc.set_threshold(*threshold)
            gc.enable()
        gc.collect()

        assert ["paid", "again"] == [name for name in mine.types if name != "finalized"]
        assert [None] == logged

    def _log_twice(self, logger, sink):
        bound.set(sink)
        logger.info("paid")
        gc.disable()
        assert not forwarding.suspended.get()
        logger.info("again")

    @pytest.mark.parametrize("message", ["paid", "user %s paid"], ids=["usual", "any"])
    def test_signal_handler_that_raises(self, logger, worker, monkeypatch, message):
        """
        A signal handler that raises when suspension begins does not make it last.
        """

        def interrupted(value):
            forwarding.suspended.set(value)
            if value:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(handlers, "_set_suspended", interrupted)
            with pytest.raises(KeyboardInterrupt):
                logger.info(message, *["ada"] * message.count("%"))
        logger.info("again")

        assert ["again"] == worker.types

    def test_sink_that_raises(self, bare_logger, worker, monkeypatch, capsys):
        """
        A sink that raises is reported, not raised; the next record goes out.
        """
        handler = StrictHandler()
        bare_logger.addHandler(handler)
        with monkeypatch.context() as patch:
            patch.setattr(worker, "emit", lambda event: 1 / 0)
            bare_logger.info("paid")
        bare_logger.info("again")

        assert 1 == len(handler.errors)
        assert 1 == forwarding.not_forwarded.value
        assert "ZeroDivisionError" in capsys.readouterr().err
        assert ["again"] == worker.types

    def test_standard_error_that_logs(self, bare_logger, worker, monkeypatch):
        """
        A standard error that is a logger's does not recurse.
        """

        class Stream:
            def write(self, text):
                bare_logger.error(text)

            def flush(self):
                pass

        handler = StrictHandler()
        bare_logger.addHandler(handler)
        monkeypatch.setattr(worker, "emit", lambda event: 1 / 0)
        monkeypatch.setattr(sys, "stderr", Stream())

        bare_logger.info("paid")

        assert 1 == len(handler.errors)

    def test_standard_error_that_raises(self, bare_logger, worker, monkeypatch):
        """
        A standard error that is broken does not make a log call raise.
        """

        class Stream:
            def write(self, text):
                raise ValueError("closed")

        bare_logger.addHandler(StrictHandler())
        monkeypatch.setattr(worker, "emit", lambda event: 1 / 0)
        monkeypatch.setattr(sys, "stderr", Stream())

        bare_logger.info("paid")

        assert 1 == forwarding.not_forwarded.value

    def test_silenced(self, bare_logger, worker, monkeypatch, capsys):
        """
        Where logging.raiseExceptions is off, an error is still counted.
        """
        monkeypatch.setattr(logging, "raiseExceptions", False)
        bare_logger.addHandler(StrictHandler())
        monkeypatch.setattr(worker, "emit", lambda event: 1 / 0)

        bare_logger.info("paid")

        assert "" == capsys.readouterr().err
        assert 1 == forwarding.not_forwarded.value

    @pytest.mark.parametrize(
        "stop", [lambda: eventlet.Timeout(0), lambda: greenlet.GreenletExit(), SystemExit]
    )
    def test_base_exceptions_escape(self, logger, worker, stop, monkeypatch):
        """
        What stops a green thread escapes, from a sink, a filter and a __str__; then all is well.
        """
        exception = stop()
        if isinstance(exception, eventlet.Timeout):
            exception.cancel()

        def stopped(*args):
            raise exception

        class Stopped:
            __str__ = stopped

        with monkeypatch.context() as patch:
            patch.setattr(worker, "emit", stopped)
            with pytest.raises(type(exception)):
                logger.info("paid")
        with pytest.raises(type(exception)):
            logger.info("user %s", Stopped())
        logger.handlers[0].addFilter(stopped)
        with pytest.raises(type(exception)):
            logger.info("paid")
        logger.handlers[0].removeFilter(stopped)
        logger.info("again")

        assert ["again"] == worker.types


class TestGreenThreads:
    def test_spawned(self, logger, sink, worker):
        """
        What a spawned green thread logs is nobody's, with a copy of the context the worker's.
        """
        eventlet.spawn(logger.info, "nobody's").wait()
        eventlet.spawn(contextvars.copy_context().run, logger.info, "paid").wait()

        assert ["paid"] == worker.types
        assert 1 == forwarding.not_forwarded.value

    def test_tpool(self, logger, worker):
        """
        What an OS thread of eventlet's pool logs in a copy of the context is the worker's.
        """
        tpool.execute(contextvars.copy_context().run, logger.info, "paid")

        assert ["paid"] == worker.types


class TestMemoryHandler:
    def test_target(self, bare_logger, worker):
        """
        It is a target for MemoryHandler like any handler.
        """
        memory = logging.handlers.MemoryHandler(10, target=StrictHandler())
        bare_logger.addHandler(memory)

        bare_logger.info("paid")
        assert [] == worker.types
        memory.flush()

        assert ["paid"] == worker.types
        assert CONTEXT == worker.context
