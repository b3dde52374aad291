"""
`rpc`: Nameko's entrypoint for RPC, which no request can end.

Nameko's own ends the service on a request without ``reply_to``, with properties or headers that
cannot be read, of a content type that is not accepted, or in answer to which nothing can be sent;
and again at each start, because the request is still in the queue. Here requests are read by what
reads event logs. What cannot be answered is acknowledged and dropped, and the log says so.
"""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any

import kombu.serialization
import nameko.rpc
from eventlet.event import Event
from nameko.exceptions import (
    BadRequest,
    ConfigurationError,
    ContainerBeingKilled,
    MalformedRequest,
    MethodNotFound,
    UnserializableValueError,
    serialize,
)
from nameko.extensions import SharedExtension

from nameko_eventlog import compat, limits
from nameko_eventlog.amqp.decoding import UNREADABLE
from nameko_eventlog.consuming import QueueOptions, ReceivedMessage
from nameko_eventlog.consuming.context_data import context_data
from nameko_eventlog.consuming.subscription import Subscription
from nameko_eventlog.describing import describe_error
from nameko_eventlog.store.replying import Replies


_log = logging.getLogger("nameko_eventlog")

QUIET_SECONDS = 60.0
"""How often a line of the log tells of requests that were dropped, after the first."""

ExcInfo = Any
"""What `sys.exc_info` returns, or None."""


class Unanswerable(Exception):
    """
    A request to which no reply can be sent.
    """


class OversizedReply(Exception):
    """
    An answer that is too large to be sent.
    """


class RequestQueue(QueueOptions):
    """
    The queue of a service's requests, as Nameko declares it; it has no dead letters.
    """

    def declare_dead_letters(self, channel: Any, nowait: bool = False) -> None:
        """
        Do nothing: who has asked has been told, or cannot be.
        """


@dataclass(slots=True)
class Call:
    """
    One request, until it is acknowledged.
    """

    message: ReceivedMessage
    connection: int | None
    is_answered: bool = False


class RequestConsumer(SharedExtension):
    """
    Takes the requests to one service, hands them to its workers, and replies.
    """

    def __init__(self) -> None:
        super().__init__()
        self._entrypoints: dict[str, Rpc] = {}
        self._running = 0
        self._done: deque[Call] = deque()
        self._is_started = self._stopping = False
        self._ended = Event()
        self._dropped = 0
        self._quiet_until = 0.0

    def register(self, entrypoint: Rpc) -> None:
        """
        Take requests for the method of *entrypoint*.
        """
        key = f"{self.container.service_name}.{entrypoint.method_name}"
        self._entrypoints[key] = entrypoint

    def setup(self) -> None:
        """
        Read the configuration.

        Raises:
            ConfigurationError: There is no broker, or another entrypoint takes the same requests.
        """
        service = self.container.service_name
        for one in self.container.entrypoints:
            if isinstance(one, nameko.rpc.Rpc) and not isinstance(one, Rpc):
                raise ConfigurationError(
                    f"{service}.{one.method_name}: Nameko's @rpc would take the requests to this"
                    " service's other methods; use that of nameko_eventlog.store.rpc"
                )
        settings = compat.consumer_settings(self.container)
        exchange = compat.rpc_exchange(self.container)
        self._accept = self.container.accept
        self._at_once = min(limits.QUERIES_AT_ONCE, max(1, self.container.max_workers - 1))
        self._replies = Replies(settings, exchange)
        self._subscription = Subscription(
            settings,
            RequestQueue(f"rpc-{service}", (exchange,), f"{service}.*"),
            self._at_once,
            self._turn,
        )

    def start(self) -> None:
        """
        Begin taking requests.
        """
        self._is_started = True
        self.container.spawn_managed_thread(self._run, identifier="rpc")
        self._subscription.tried.wait()

    def stop(self) -> None:
        """
        Take no more requests, and return when those that run are answered.
        """
        self._stopping = True
        if self._is_started:  # the service may have failed before
            self._subscription.wake()
            self._ended.wait()

    def kill(self) -> None:
        """
        End at once; what is not acknowledged goes back to the queue.
        """
        self._stopping = True
        if self._is_started:
            self._subscription.stop()

    def _run(self) -> None:
        try:
            self._subscription.run(lambda: None)
        finally:
            self._replies.close()
            self._ended.send()

    def _turn(self) -> None:
        """
        Acknowledge what is answered, and hand out what is new.
        """
        while self._done:
            call = self._done.popleft()
            self._running -= 1
            if call.connection == self._subscription.connection:
                self._subscription.acknowledge([call.message])
        if self._stopping:
            if not self._running:
                self._subscription.stop()
            return
        waiting = self._subscription.waiting
        while waiting and self._running < self._at_once:
            call = Call(waiting.popleft(), self._subscription.connection)
            if call.message.redelivered:
                # it may be what has ended the process before: that happens once more at the most
                self._subscription.acknowledge([call.message])
            self._running += 1
            self.container.spawn_managed_thread(
                partial(self._handle, call), identifier="rpc request"
            )

    def _handle(self, call: Call) -> None:
        try:
            self._answer(call)
        except ContainerBeingKilled:
            return  # it goes back to the queue with the connection
        except Exception as exc:
            self._drop(exc)
        self._done.append(call)
        self._subscription.wake()

    def _answer(self, call: Call) -> None:
        """
        Run what is asked for, and reply.

        Raises:
            Exception: There is no reply that could be sent.
        """
        message = call.message
        if UNREADABLE in message.headers:
            raise Unanswerable("its properties cannot be read")
        if not message.properties.get("reply_to"):
            raise Unanswerable("it has no reply_to")
        try:
            entrypoint, args, kwargs = self._read(message)
            context = context_data(message.headers)
        except BadRequest:
            self._reply(call, None, sys.exc_info())
            return
        except Exception as exc:
            error = MalformedRequest(f"the request cannot be read: {describe_error(exc)}")
            self._reply(call, None, (type(error), error, None))
            return
        try:
            worker_ctx = self.container.spawn_worker(
                entrypoint,
                args,
                kwargs,
                context_data=context,
                handle_result=partial(self._handle_result, call),
            )
            compat.worker_thread(self.container, worker_ctx).wait()
        except ContainerBeingKilled:
            raise
        except BaseException as exc:  # Nameko tells of no eventlet.Timeout, for one
            if compat.is_being_killed(self.container):
                raise ContainerBeingKilled from exc
            if not call.is_answered:
                self._reply(call, None, (type(exc), exc, None))

    def _read(self, message: ReceivedMessage) -> tuple[Rpc, list[Any], dict[str, Any]]:
        """
        Return what is to be called, and with what.

        Raises:
            BadRequest: Who has asked is to be told what is wrong.
            Exception: The body cannot be read.
        """
        entrypoint = self._entrypoints.get(message.routing_key)
        if entrypoint is None:
            raise MethodNotFound(message.routing_key.rpartition(".")[2])
        if len(message.body) > limits.RPC_REQUEST_BYTES:
            raise MalformedRequest(
                f"the request has {len(message.body)} bytes, more than {limits.RPC_REQUEST_BYTES}"
            )
        body = message.decode(self._accept)
        if not isinstance(body, Mapping):
            raise MalformedRequest(f"the request is no mapping but {type(body).__name__}")
        args, kwargs = body.get("args"), body.get("kwargs")
        if not isinstance(args, list | tuple) or not isinstance(kwargs, Mapping):
            raise MalformedRequest("Message missing `args` or `kwargs`: a list, and a mapping")
        if not all(isinstance(name, str) for name in kwargs):
            raise MalformedRequest("the names in `kwargs` must be strings")
        entrypoint.check_signature(args, kwargs)
        return entrypoint, list(args), dict(kwargs)

    def _handle_result(
        self, call: Call, worker_ctx: Any, result: Any, exc_info: ExcInfo
    ) -> tuple[Any, ExcInfo]:
        try:
            return self._reply(call, result, exc_info)
        except Exception as exc:  # Nameko would kill the container for it
            self._drop(exc)
            return result, exc_info

    def _reply(self, call: Call, result: Any, exc_info: ExcInfo) -> tuple[Any, ExcInfo]:
        """
        Send a result, or an exception.

        Returns:
            What was sent: another exception, if this could not be.

        Raises:
            Exception: Nothing can be sent.
        """
        call.is_answered = True
        properties = call.message.properties
        serializer = self._serializer(call.message.content_type)
        try:
            error = None if exc_info is None else serialize(exc_info[1])
            encoded = _encode({"result": result, "error": error}, serializer)
        except Exception as exc:
            failure = exc
            if not isinstance(exc, OversizedReply):
                failure = UnserializableValueError(None)
                failure.repr_value = describe_error(result if exc_info is None else exc_info[1])
            result, exc_info = None, (type(failure), failure, None)
            encoded = _encode({"result": None, "error": serialize(failure)}, serializer)
        body, content_type, content_encoding = encoded
        self._replies.send(
            body,
            routing_key=properties["reply_to"],
            correlation_id=properties.get("correlation_id"),
            content_type=content_type,
            content_encoding=content_encoding,
        )
        return result, exc_info

    def _serializer(self, content_type: str | None) -> str:
        """
        Return the serializer of the request, if it is accepted: who has asked can read that.
        """
        if content_type in kombu.serialization.prepare_accept_content(self._accept):
            name: str = kombu.serialization.registry.type_to_name[content_type]
            return name
        return str(self.container.serializer)

    def _drop(self, exc: BaseException) -> None:
        self._dropped += 1
        if monotonic() < self._quiet_until:
            return
        _log.warning(
            "%s: %d RPC requests could not be answered and were dropped, the last because: %s",
            self.container.service_name,
            self._dropped,
            describe_error(exc),
        )
        self._dropped, self._quiet_until = 0, monotonic() + QUIET_SECONDS


class Rpc(nameko.rpc.Rpc):
    """
    Fires with RPC requests, as Nameko's own does: who handles that handles this.
    """

    rpc_consumer = RequestConsumer()

    def setup(self) -> None:
        """
        Take requests for this method.
        """
        self.rpc_consumer.register(self)

    def stop(self) -> None:
        """
        Wait until all methods' requests are answered.
        """
        self.rpc_consumer.stop()


def _encode(payload: dict[str, Any], serializer: str) -> tuple[bytes, str, str]:
    content_type, content_encoding, body = kombu.serialization.dumps(payload, serializer)
    encoded = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
    if len(encoded) > limits.RPC_REPLY_BYTES:
        raise OversizedReply(
            f"the answer has {len(encoded)} bytes, more than {limits.RPC_REPLY_BYTES}:"
            " ask for less"
        )
    return encoded, content_type, content_encoding


rpc = Rpc.decorator
