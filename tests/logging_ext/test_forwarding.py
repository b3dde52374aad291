"""
What may be forwarded, what was, and how it is counted.
"""

import copy
import io
import json
import logging
import logging.handlers
import pickle
import queue
import time

import eventlet.patcher
import msgspec
import pytest
import structlog
from pythonjsonlogger.json import JsonFormatter as PlainJsonFormatter

from logging_ext import (
    EventLogProcessor,
    JsonFormatter,
    WorkerContextFilter,
    bind_sink,
    forwarding,
)
from logging_ext.claims import GENERATION, attached_names, claims
from logging_ext.forwarding import Counter, called_by_structlog
from tests.logging_ext.recording import CONTEXT, RecordingSink, StrictHandler


def record_of(**attributes):
    """
    Return a record.
    """
    return logging.makeLogRecord(
        {"name": "svc", "levelno": 20, "levelname": "INFO", "msg": "paid", "module": "pay"}
        | attributes
    )


class TestOnce:
    def test_two_handlers(self, logger, worker):
        """
        A record that two handlers see is forwarded once.
        """
        logger.addHandler(StrictHandler())

        logger.info("paid")

        assert ["paid"] == worker.types

    def test_handlers_along_the_hierarchy(self, worker):
        """
        A record that propagates to another handler is forwarded once.
        """
        for name in ("svc", "svc.payments"):
            logging.getLogger(name).addHandler(StrictHandler())
        logging.getLogger("svc").setLevel(logging.INFO)

        logging.getLogger("svc.payments").info("paid")

        assert ["paid"] == worker.types

    def test_two_calls(self, logger, worker):
        """
        Two equal calls are two event logs.
        """
        for _ in range(2):
            logger.info("paid")

        assert ["paid", "paid"] == worker.types

    @pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
    def test_copies(self, handler, worker, copied):
        """
        A copy of a forwarded record has been forwarded.
        """
        record = record_of()
        handler.handle(record)

        handler.handle(copied(record))

        assert ["paid"] == worker.types

    @pytest.mark.parametrize("order", [1, -1])
    def test_queue_in_any_order(self, bare_logger, service, order):
        """
        QueueHandler's copy and the record make one event log, whichever handler is first.
        """
        records = queue.SimpleQueue()
        handlers = [logging.handlers.QueueHandler(records), StrictHandler()]
        bare_logger.handlers[:] = handlers[::order]

        with bind_sink(RecordingSink()) as call:
            bare_logger.info("user %s", "bob")
        StrictHandler(service="foo").handle(records.get_nowait())

        assert ["user %s"] == call.types
        assert [] == service.types

    def test_queue(self, logger, worker):
        """
        QueueHandler's copy, which QueueListener hands on in a thread, has been forwarded.
        """
        records = queue.SimpleQueue()
        logger.addHandler(logging.handlers.QueueHandler(records))

        logger.info("user %s", "bob")
        StrictHandler().handle(records.get_nowait())

        assert ["user %s"] == worker.types
        assert 0 == forwarding.not_forwarded.value

    def test_pickled(self, handler, worker):
        """
        A pickled record is a plain one, with the context attributes that it had.
        """
        record = record_of()
        handler.handle(record)

        thawed = pickle.loads(pickle.dumps(record))

        assert str is type(thawed.module)
        assert record.__dict__ == thawed.__dict__
        assert CONTEXT["call_id"] == thawed.call_id


class TestBookkeeping:
    def formatted(self, formatter, bookkept):
        """
        Return what *formatter* makes of a record with or without our bookkeeping.
        """
        record = record_of(amount=5)
        if bookkept:
            record.__dict__.update(CONTEXT)
            StrictHandler().handle(record)
            WorkerContextFilter().filter(record)
            assert claims.get(record).forwarded
            for name in CONTEXT:
                del record.__dict__[name]
        return formatter.format(record)

    @pytest.mark.parametrize(
        "formatter",
        [
            logging.Formatter("%(module)s %(message)s"),
            PlainJsonFormatter("%(module)s %(message)s"),
            PlainJsonFormatter(reserved_attrs=["created", "msecs", "relativeCreated", "thread"]),
            structlog.stdlib.ProcessorFormatter(
                foreign_pre_chain=[structlog.stdlib.ExtraAdder()],
                processor=structlog.processors.JSONRenderer(),
            ),
        ],
        ids=["text", "json", "everything", "structlog"],
    )
    def test_does_not_show(self, worker, formatter):
        """
        No formatter prints anything of it.
        """
        assert self.formatted(formatter, False) == self.formatted(formatter, True)

    def test_record_attributes(self, handler, worker):
        """
        A forwarded record has the attributes of a plain one and the context's, no others.
        """
        record = record_of()
        plain = dict(record.__dict__)

        handler.handle(record)

        assert plain | CONTEXT == record.__dict__

    def test_another_handler(self, logger, worker):
        """
        Another handler's encoder, however strict, takes every value of a forwarded record.
        """
        lines = []
        other = logging.Handler()
        other.emit = lambda record: lines.append(msgspec.json.encode(record.__dict__))
        logger.addHandler(other)

        logger.info("paid")

        assert "paid" == json.loads(lines[0])["msg"]

    def test_bound(self, worker):
        """
        What is known of records does not pile up, and the latest are known.
        """
        records = [record_of(msg=f"m{number}") for number in range(12_000)]
        for record in records:
            StrictHandler().handle(record)
        for record in records[-GENERATION:]:
            StrictHandler().handle(record)

        assert 12_000 == len(worker.events)
        assert 2 * GENERATION + 2 >= len(claims.latest) + len(claims.earlier)

    def test_clock_that_stands_still(self, logger, worker, monkeypatch):
        """
        Records of one moment, as tests with a frozen clock make them, are records of their own.
        """
        monkeypatch.setattr(time, "time", lambda: 1_700_000_000.0)
        monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000_000_000_000)

        for _ in range(3):
            logger.info("paid")

        assert 3 == len(worker.events)

    @pytest.mark.parametrize("number", [0, None, "x"])
    def test_record_of_somebodys_own(self, handler, worker, number):
        """
        Records without the number that stands for a record are told apart as objects.
        """
        records = [record_of(relativeCreated=number) for _ in range(2)]
        for record in [*records, *records]:
            handler.handle(record)

        assert ["paid", "paid"] == worker.types


class TestAttached:
    def test_filter_first(self, logger, worker):
        """
        What a filter attached before the handler is context, no data.
        """
        logger.addFilter(WorkerContextFilter())

        logger.info("paid", extra={"amount": 5})

        assert {"amount": 5} == worker.data

    def test_handler_first(self, logger, worker):
        """
        What the handler attached is there for the handlers behind it.
        """
        stream = io.StringIO()
        shown = logging.StreamHandler(stream)
        shown.setFormatter(logging.Formatter("%(service_name)s %(call_stack)s"))
        logger.addHandler(shown)

        logger.info("paid")

        assert f"foo {CONTEXT['call_stack']}\n" == stream.getvalue()

    def test_callers_own(self):
        """
        Only what was attached counts as attached.
        """
        record = record_of(call_id="mine")

        WorkerContextFilter().filter(record)

        assert CONTEXT.keys() - {"call_id"} == attached_names(record)
        assert "mine" == record.call_id

    def test_added_to(self, worker):
        """
        What is attached later joins what was attached before.
        """
        record = record_of()
        forwarding.claim(record)
        WorkerContextFilter().filter(record)
        del record.call_id
        WorkerContextFilter().filter(record)

        assert CONTEXT.keys() == attached_names(record)
        assert CONTEXT["call_id"] == record.call_id
        assert not forwarding.claim(record)

    @pytest.mark.parametrize("usual", [True, False])
    def test_handled_in_another_call(self, handler, service, usual):
        """
        A record that got its context in one call, and is handled in another, is the first one's.
        """
        record = record_of() if usual else record_of(args=("x",), msg="paid %s", amount=5)
        call = {**CONTEXT, "call_id": "foo.pay.other", "call_stack": ["foo.pay.other"]}
        with bind_sink(RecordingSink(call)):
            WorkerContextFilter().filter(record)

        with bind_sink(RecordingSink()) as another:
            handler.handle(record)

        assert [] == another.events
        assert call.items() <= service.metadata.items()
        assert ({} if usual else {"amount": 5}) == service.data
        assert "foo.pay.other" == record.call_id

    def test_handled_outside(self, handler, service):
        """
        A record that got its context in a call is forwarded as that call's, by whatever thread.
        """
        records = queue.SimpleQueue()
        queueing = logging.handlers.QueueHandler(records)
        queueing.addFilter(WorkerContextFilter())
        with bind_sink(RecordingSink(CONTEXT)):
            queueing.handle(record_of())

        handler.handle(records.get_nowait())

        assert CONTEXT.items() <= service.metadata.items()
        assert {} == service.data

    def test_handled_in_a_call_it_is_not_of(self, handler, sink):
        """
        A record from outside any worker that a call hands on is not the call's.
        """
        record = record_of()
        WorkerContextFilter().filter(record)

        with bind_sink(sink):
            handler.handle(record)

        assert [] == sink.events
        assert 1 == forwarding.not_forwarded.value

    def test_service_without_dispatcher(self, handler, sink, caplog):
        """
        A record of a service that has no dispatcher here is not another one's.
        """
        record = record_of()
        with bind_sink(RecordingSink({**CONTEXT, "service_name": "bar"})):
            WorkerContextFilter().filter(record)

        with bind_sink(sink):
            handler.handle(record)

        assert [] == sink.events
        assert 1 == forwarding.not_forwarded.value
        assert "runs no dispatcher for service 'bar'" in caplog.text


class TestUnattributed:
    def test_counted_and_logged_once(self, logger, caplog):
        """
        An unattributed record is not forwarded. It is counted, and a warning is logged once.
        """
        for _ in range(3):
            logger.info("paid")

        assert 3 == forwarding.not_forwarded.value
        [warning] = caplog.records
        assert ("logging_ext", "WARNING") == (warning.name, warning.levelname)
        assert (
            "unattributed record of logger 'svc.payments': it was logged outside any worker and"
            " was not forwarded as an event log; set the option service of the handler or"
            " processor to attribute it to a service (counted as not_forwarded, logged once)"
        ) == warning.getMessage()

    def test_unknown_service(self, bare_logger, caplog):
        """
        A service without a dispatcher is named, once for each.
        """
        for name in ("bar", "baz", "bar"):
            bare_logger.handlers[:] = [StrictHandler(service=name)]
            bare_logger.info("paid")

        assert 3 == forwarding.not_forwarded.value
        warnings = [record.getMessage() for record in caplog.records]
        assert [True, True] == ["runs no dispatcher for service" in text for text in warnings]
        assert "'bar'" in warnings[0]
        assert "'baz'" in warnings[1]

    def test_counted_once_a_record(self, logger):
        """
        However many handlers see it, a record is counted once.
        """
        logger.addHandler(StrictHandler())

        logger.info("paid")

        assert 1 == forwarding.not_forwarded.value

    def test_counted_behind_a_filter(self, logger):
        """
        A record that a filter has put the context onto is counted like any other, once.
        """
        logger.addFilter(WorkerContextFilter())
        logger.addHandler(StrictHandler())

        logger.info("paid")

        assert 1 == forwarding.not_forwarded.value

    def test_counted_then_forwarded(self, logger, service):
        """
        A handler with a service forwards what another counted.
        """
        logger.addHandler(StrictHandler(service="foo"))

        logger.info("paid")

        assert ["paid"] == service.types

    def test_forwarded_then_seen_outside(self, handler, sink):
        """
        A forwarded record is not counted when it is seen outside.
        """
        record = record_of()
        with bind_sink(sink):
            handler.handle(record)

        handler.handle(record)

        assert 0 == forwarding.not_forwarded.value


class TestOwnLoggers:
    @pytest.mark.parametrize(
        "name",
        ["amqp", "kombu.connection", "nameko_eventlog.undelivered", "logging_ext", "amqp.x"],
    )
    def test_never(self, worker, name):
        """
        What delivery's own loggers say is never forwarded, not even inside a worker.
        """
        handler = StrictHandler(service="foo")
        handler.handle(record_of(name=name))
        structlog.wrap_logger(
            logging.getLogger(name), processors=[EventLogProcessor(), lambda *args: "x"]
        ).error("paid")

        assert [] == worker.types
        assert 0 == forwarding.not_forwarded.value

    @pytest.mark.parametrize("name", ["amqplib", "kombucha", "nameko_eventlogger", "my.kombu"])
    def test_others(self, worker, handler, name):
        """
        Names that only look alike are forwarded.
        """
        handler.handle(record_of(name=name))

        assert ["paid"] == worker.types

    def test_nameko_inside(self, handler, worker):
        """
        Nameko's loggers are forwarded from inside a worker.
        """
        handler.handle(record_of(name="nameko.containers"))

        assert ["paid"] == worker.types

    def test_nameko_outside(self, service):
        """
        Nameko's loggers are not forwarded from outside, not even with a service, nor counted.
        """
        StrictHandler(service="foo").handle(record_of(name="nameko.containers"))
        structlog.wrap_logger(
            logging.getLogger("nameko"),
            processors=[EventLogProcessor(service="foo"), lambda *args: "x"],
        ).error("paid")

        assert [] == service.types
        assert 0 == forwarding.not_forwarded.value

    def test_names_made_up(self):
        """
        Names of loggers made up at run time do not pile up.
        """
        for number in range(10_100):
            assert not forwarding.is_own(f"l{number}")

        assert 10_002 > len(forwarding._own)


class TestCalledByStructlog:
    def caught(self, processors):
        """
        Return what a filter of a logger finds.
        """
        found = []
        logger = logging.Logger("svc")

        def catch(record):
            found.append(called_by_structlog())
            return False

        logger.addFilter(catch)
        structlog.wrap_logger(
            logger, processors=processors, wrapper_class=structlog.stdlib.BoundLogger
        ).info("x")
        structlog.wrap_logger(
            logging.LoggerAdapter(logger, {}),
            processors=processors,
            wrapper_class=structlog.stdlib.BoundLogger,
        ).info("x")
        logger.info("x")
        return found

    def test_caller(self):
        """
        structlog's calls are told from others, through an adapter, too.
        """
        assert [True, True, False] == self.caught([lambda *args: "x"])

    def test_no_call(self):
        """
        Where no logger is called there is no call of structlog's.
        """
        assert not called_by_structlog()


class TestCounter:
    def test_counts(self):
        """
        It counts.
        """
        counter = Counter()
        assert 0 == counter.value

        for _ in range(3):
            counter.increment()

        assert 3 == counter.value

    def test_many_threads(self):
        """
        It is exact under OS threads.
        """
        threading = eventlet.patcher.original("threading")
        counter = Counter()

        def count():
            for _ in range(10_000):
                counter.increment()

        threads = [threading.Thread(target=count) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert 80_000 == counter.value


class TestManyThreads:
    def test_forwarded_exactly(self, handler, bare_logger):
        """
        A handler that many OS threads use at once forwards each record to its own sink.
        """
        threading = eventlet.patcher.original("threading")
        bare_logger.addHandler(handler)
        sinks = [RecordingSink() for _ in range(8)]

        def work(sink):
            with bind_sink(sink):
                for number in range(500):
                    bare_logger.info("paid", extra={"number": number})

        threads = [threading.Thread(target=work, args=(sink,)) for sink in sinks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        for sink in sinks:
            assert list(range(500)) == [event.event_data["number"] for event in sink.events]
        assert [] == handler.errors

    def test_nobodys_counted_exactly(self, handler, bare_logger, caplog):
        """
        Records that many OS threads log outside any worker are counted exactly, with one warning.
        """
        threading = eventlet.patcher.original("threading")
        bare_logger.addHandler(handler)

        def work():
            for _ in range(500):
                bare_logger.info("paid")

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert 4_000 == forwarding.not_forwarded.value
        assert 1 == len(caplog.records)


def test_json_line_of_a_forwarded_record(logger, worker):
    """
    Our own formatter prints the context and the data of a forwarded record, and no more.
    """
    stream = io.StringIO()
    shown = logging.StreamHandler(stream)
    shown.setFormatter(JsonFormatter())
    logger.addHandler(shown)

    logger.info("user %s paid", "bob", extra={"amount": 5})

    line = json.loads(stream.getvalue())
    del line["timestamp"]
    assert {
        "message": "user bob paid",
        "event_type": "user %s paid",
        "level": "info",
        "logger": "svc.payments",
        "data": {"amount": 5},
        **CONTEXT,
    } == line
