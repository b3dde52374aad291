"""
`rpc`: an entrypoint like Nameko's ``rpc``, which no request can crash.

Nameko's entrypoint kills the service on a request without ``reply_to``, with unreadable properties
or headers, with a content type that is not accepted, or with a reply that cannot be sent; and
again after each restart, because the request is still in the queue. This one reads requests with
the code that reads event logs. It acknowledges and drops a request that cannot be answered, and
logs that.
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
"""How often dropped requests are logged, at most."""

ExcInfo = Any
"""What `sys.exc_info` returns, or None."""


class Unanswerable(Exception):
    """
    No reply can be sent to a request.
    """


class OversizedReply(Exception):
    """
    A reply is too large to be sent.
    """


class RequestQueue(QueueOptions):
    """
    A service's request queue, as Nameko declares it, without dead letters.
    """

    def declare_dead_letters(self, channel: Any, nowait: bool = False) -> None:
        """
        Declare nothing: the caller gets an error reply, or cannot be reached.
        """


@dataclass(slots=True)
class Call:
    """
    A request, until it is acknowledged.
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
            ConfigurationError: No broker is configured, or another entrypoint takes the same
                requests.
        """
        service = self.container.service_name
        for one in self.container.entrypoints:
            if isinstance(one, nameko.rpc.Rpc) and not isinstance(one, Rpc):
                raise ConfigurationError(
                    f"{service}.{one.method_name}: Nameko's @rpc would take the requests to this"
                    " service's other methods; use rpc from nameko_eventlog.store.rpc"
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
        Take no more requests, and return when the running ones are answered.
        """
        self._stopping = True
        if self._is_started:  # the service may have failed before
            self._subscription.wake()
            self._ended.wait()

    def kill(self) -> None:
        """
        End at once; unacknowledged requests go back to the queue.
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
        Acknowledge answered requests, and hand out new ones.
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
                # this request may have killed the process: run it once more at most
                self._subscription.acknowledge([call.message])
            self._running += 1
            self.container.spawn_managed_thread(
                partial(self._handle, call), identifier="rpc request"
            )

    def _handle(self, call: Call) -> None:
        try:
            self._answer(call)
        except ContainerBeingKilled:
            return  # the request goes back to the queue when the connection closes
        except Exception as exc:
            self._drop(exc)
        self._done.append(call)
        self._subscription.wake()

    def _answer(self, call: Call) -> None:
        """
        Run the method, and reply.

        Raises:
            Exception: No reply can be sent.
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
        except BaseException as exc:  # Nameko does not report an eventlet.Timeout
            if compat.is_being_killed(self.container):
                raise ContainerBeingKilled from exc
            if not call.is_answered:
                self._reply(call, None, (type(exc), exc, None))

    def _read(self, message: ReceivedMessage) -> tuple[Rpc, list[Any], dict[str, Any]]:
        """
        Return the entrypoint to call, and its arguments.

        Raises:
            BadRequest: The request is wrong; the reply says why.
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
            raise MalformedRequest(f"the request must be a mapping, not {type(body).__name__}")
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
            What was sent: a different exception, if the result or exception could not be encoded.

        Raises:
            Exception: No reply can be sent.
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
        Return the request's serializer, if it is accepted, since the caller can read it.
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
            "dropped %d RPC requests to %s that could not be answered; reason of the last: %s",
            self._dropped,
            self.container.service_name,
            describe_error(exc),
        )
        self._dropped, self._quiet_until = 0, monotonic() + QUIET_SECONDS


class Rpc(nameko.rpc.Rpc):
    """
    Fires with RPC requests; a subclass of Nameko's entrypoint, so that extensions recognise it.
    """

    rpc_consumer = RequestConsumer()

    def setup(self) -> None:
        """
        Take requests for this method.
        """
        self.rpc_consumer.register(self)

    def stop(self) -> None:
        """
        Wait until the requests to all methods are answered.
        """
        self.rpc_consumer.stop()


def _encode(payload: dict[str, Any], serializer: str) -> tuple[bytes, str, str]:
    content_type, content_encoding, body = kombu.serialization.dumps(payload, serializer)
    encoded = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
    if len(encoded) > limits.RPC_REPLY_BYTES:
        raise OversizedReply(
            f"the reply has {len(encoded)} bytes, more than {limits.RPC_REPLY_BYTES}: request less"
        )
    return encoded, content_type, content_encoding


rpc = Rpc.decorator
