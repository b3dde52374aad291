"""
One connection to the broker: opening it, publishing in batches, reading confirms.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from time import monotonic
from typing import Any

import eventlet
from eventlet import patcher
from kombu.compression import compress

from nameko_eventlog.addresses import masked
from nameko_eventlog.amqp import frame_writing
from nameko_eventlog.amqp.connections import make_connection
from nameko_eventlog.amqp.frame_reading import Reader, open_reader
from nameko_eventlog.amqp.frame_writing import FrameGatherer, PropertiesEncoder, Publisher
from nameko_eventlog.amqp.message import Message, properties, sent_headers
from nameko_eventlog.amqp.route import Declarations, Route, reply_code
from nameko_eventlog.amqp.settings import PublisherSettings


_os_socket = patcher.original("socket")

OPEN_TIMEOUT = 30.0
"""Seconds for opening a connection, which takes a dozen round trips."""

ANSWER_TIMEOUT = 10.0
"""Seconds for an operation in which py-amqp may wait, such as sending a heartbeat."""

CLOSE_TIMEOUT = 0.5
"""Seconds for closing a connection."""

_NO_USER_TIMEOUT = {socket.TCP_USER_TIMEOUT: 0} if hasattr(socket, "TCP_USER_TIMEOUT") else {}

# reply codes that do not blame the message: connection forced, access refused, no such exchange,
# resource locked, internal error
_NOT_THE_MESSAGE = frozenset({0, 320, 403, 404, 405, 541})


OnConfirm = Callable[[int, bool, bool], None]
"""
Called with a delivery tag, whether it covers all earlier tags, and whether the messages were
accepted (True) or refused (False).
"""

OnReturn = Callable[[str], None]
"""
Called with the message id of a mandatory message that no queue receives, before its confirm.
"""


class BrokerTimeout(OSError):
    """
    The broker did not respond in time, and the connection counts as lost.

    It is not a ``TimeoutError``: py-amqp treats that as "nothing to read".
    """


class Broker:
    """
    A broker, and at most one connection to it.

    Only the relay's OS thread may use it; ``abandon`` may be called from any thread.

    Args:
        settings: How to connect and to publish.
        route: Where to publish.
        on_confirm: Called when the broker has confirmed or refused messages.
        on_return: Called when the broker has returned a message.
    """

    errors: tuple[type[BaseException], ...]
    """Raised when a connection is lost or cannot be made, by a wrong password for example."""

    transient_errors: tuple[type[BaseException], ...]
    """Those of publishing that do not blame the message: it is published again."""

    next_tag: int
    """The delivery tag of the next message; the first one is 1."""

    confirms: bool
    """Whether the broker confirms. If not, messages count as confirmed when they are sent."""

    blocked_since: float | None
    """When an alarm began to block publishing, by ``time.monotonic()``, or None."""

    unblocked_at: float
    """When the last alarm ended."""

    def __init__(
        self,
        settings: PublisherSettings,
        route: Route,
        on_confirm: OnConfirm,
        on_return: OnReturn,
    ) -> None:
        self._settings = settings
        self._route = route
        self._on_confirm = on_confirm
        self._on_return = on_return
        self.blocked_since = None
        self.unblocked_at = 0.0
        self._blocked_before = 0.0
        self._frames = FrameGatherer()
        self._properties = PropertiesEncoder(settings, route.service)
        self._publisher: Publisher | None = None
        self._reader: Reader | None = None
        options: dict[str, Any] = {
            # py-amqp's default of one second would end the connection whenever a broker with an
            # alarm does not read, or the network is slow
            "socket_settings": {
                **_NO_USER_TIMEOUT,
                **(settings.connection.transport_options.get("socket_settings") or {}),
            },
            # the relay collects confirms itself, many at a time
            "confirm_publish": False,
            "on_blocked": self._blocked,
            "on_unblocked": self._unblocked,
        }
        self._is_quick = frame_writing.works()
        if self._is_quick:
            options["frame_writer"] = self._frames.make
        self._client = make_connection(
            settings.connection, heartbeat=settings.connection.heartbeat, **options
        )
        self._address = self._next_address()
        self._declarations = Declarations(route, self._client)
        self._transport: Any = None
        self._connection: Any = None
        self._channel: Any = None
        self._declaring: Any = None  # its own channel, because a refusal closes it
        self._abandoned = False
        self.next_tag = 1
        self.confirms = False
        self.frame_max = 131_072
        self.errors = (
            *self._client.connection_errors,
            *self._client.channel_errors,
            OSError,
        )
        self.transient_errors = (
            *self._client.recoverable_connection_errors,
            *self._client.recoverable_channel_errors,
            OSError,
        )

    @property
    def blocked_seconds(self) -> float:
        """
        How many seconds alarms have blocked publishing, in total.
        """
        now = 0.0 if self.blocked_since is None else monotonic() - self.blocked_since
        return self._blocked_before + now

    @property
    def address(self) -> str:
        """
        The address of the broker that was last connected to, without the password.
        """
        return self._address

    def open(self) -> None:
        """
        Connect, and declare the exchanges and bindings of the route.

        Raises:
            Exception: One of `errors`.
        """
        self._address = self._next_address()
        timeout = BrokerTimeout(f"no answer within {OPEN_TIMEOUT} s")
        with eventlet.Timeout(OPEN_TIMEOUT, timeout):
            try:
                self._connect()
            except self.errors:
                self.close(orderly=False)
                self._client.maybe_switch_next()  # a uri may name several hosts
                raise
            self._declarations.make(self._channel, self._open_channel)
            if self.confirms:
                self._declaring = self._transport.create_channel(self._connection)

    def _next_address(self) -> str:
        return masked(self._client.as_uri(include_password=False))

    def _connect(self) -> None:
        self._end_block()
        self._transport = self._client.transport
        self._connection = connection = self._transport.establish_connection()
        if self._abandoned:
            self.abandon()
            raise BrokerTimeout("the process forked while connecting")
        if hasattr(connection, "frame_writer"):
            self._reader = open_reader(connection)
        self.frame_max = getattr(connection, "frame_max", None) or self.frame_max
        self._open_channel()

    def _open_channel(self) -> Any:
        self._channel = self._transport.create_channel(self._connection)
        self.next_tag = 1
        self.confirms = hasattr(self._channel, "confirm_select")
        if self.confirms:
            self._channel.confirm_select()
            self._channel.events["basic_ack"].add(self._acked)
            self._channel.events["basic_nack"].add(self._nacked)
            self._channel.events["basic_return"].add(self._returned)
            if self._is_quick:
                route = self._route
                self._publisher = Publisher(
                    self._channel, route.exchange.name, route.routing_key, self._frames
                )
        return self._channel

    @property
    def socket(self) -> Any:
        """
        The connection's socket, readable when there is something to `read`.

        None if the transport has no socket; then poll `read`.
        """
        return getattr(self._connection, "sock", None) if self.confirms else None

    @property
    def is_open(self) -> bool:
        """
        Whether there is a connection with a channel to publish on.
        """
        if self._connection is None:
            return False
        return not self.confirms or self._channel.connection is not None

    def is_above_a_frame(self, message: Message) -> bool:
        """
        Tell whether the message's properties exceed a frame, which AMQP forbids.

        RabbitMQ closes the connection then, and its reply may be lost.
        """
        for _ in range(2):  # twice, because a signal handler may have raised the first time
            with suppress(Exception):
                # they follow class, weight and body size, in one frame
                return 12 + 8 + len(self._properties.encode(message)) > self.frame_max
        return True

    def publish(self, message: Message, mandatory: bool) -> None:
        """
        Send *message* under the delivery tag `next_tag`, and raise that by one.

        Args:
            message: The message.
            mandatory: Whether the broker returns it if no queue receives it.

        Raises:
            Exception: One of `transient_errors`; or an error of encoding, and then nothing of the
                message was sent.
        """
        settings = self._settings
        body: Any = message.body
        if settings.compression is not None:
            body, _ = compress(body, settings.compression)
        if self._publisher is not None:
            self._publisher.publish(body, self._properties.encode(message), mandatory)
            self.next_tag += 1
            return
        amqp_properties = properties(message, settings, self._route.service)
        self._channel.basic_publish(
            self._channel.prepare_message(
                body,
                priority=amqp_properties.pop("priority", None),
                content_type=amqp_properties.pop("content_type"),
                content_encoding=amqp_properties.pop("content_encoding"),
                headers=sent_headers(message, settings),
                properties=amqp_properties,
            ),
            exchange=self._route.exchange.name,
            routing_key=self._route.routing_key,
            mandatory=mandatory,
        )
        self.next_tag += 1

    def batch(self) -> AbstractContextManager[None]:
        """
        Collect the messages sent in the ``with`` block, and write them at its end.
        """
        return self._frames.batch()

    def read(self, limit: int) -> int:
        """
        Handle the methods that the broker has sent, without waiting for more.

        Args:
            limit: The most methods.

        Returns:
            How many were handled; if *limit*, more may be available.

        Raises:
            Exception: One of `errors`.
        """
        if self._reader is None:
            return 0
        with eventlet.Timeout(ANSWER_TIMEOUT, BrokerTimeout("timeout while reading")):
            try:
                return self._reader.read(limit)
            except self._client.channel_errors as exc:
                if not self._declarations.is_refusal(exc):
                    raise
                self._declarations.log_refusal(exc)
                return limit

    def declare(self) -> None:
        """
        Repeat the declarations, without waiting for an answer.

        Raises:
            Exception: One of `errors`.
        """
        if self._declaring is not None:
            with eventlet.Timeout(ANSWER_TIMEOUT, BrokerTimeout("timeout while declaring")):
                self._declarations.repeat(self._declaring)

    def check_heartbeat(self) -> None:
        """
        Send a heartbeat if it is time, and check for the broker's. Call it every second.

        Raises:
            Exception: One of `errors`; the broker may have been silent for too long.
        """
        if not self._client.supports_heartbeats:
            return
        timeout = BrokerTimeout("timeout while sending a heartbeat")
        with eventlet.Timeout(ANSWER_TIMEOUT, timeout):
            self._transport.heartbeat_check(self._connection)

    def close(self, orderly: bool) -> None:
        """
        Close the connection, if there is one.

        Args:
            orderly: Whether to send AMQP's close method and wait for the answer.
        """
        connection, self._connection, self._channel = self._connection, None, None
        self._publisher = self._reader = self._declaring = None
        self._end_block()
        if connection is None:
            return
        is_remote = hasattr(connection, "collect")
        try:
            with suppress(*self.errors), eventlet.Timeout(CLOSE_TIMEOUT, BrokerTimeout("close")):
                if orderly or not is_remote:
                    self._transport.close_connection(connection)
        finally:
            if is_remote:
                # whatever it raises, the connection is gone
                with suppress(Exception), eventlet.Timeout(CLOSE_TIMEOUT, BrokerTimeout("close")):
                    connection.collect()

    def abandon(self) -> None:
        """
        In a forked child, leave the connection to the parent.

        The child's file descriptor is redirected to another socket, so that code that still runs
        here can neither write to the parent's connection nor shut it down.
        """
        self._abandoned = True
        sock = getattr(self._connection, "sock", None)
        if sock is not None and sock.fileno() >= 0:
            with _os_socket.socket() as unconnected:
                os.dup2(unconnected.fileno(), sock.fileno())

    def _acked(self, tag: int, multiple: bool) -> None:
        self._on_confirm(tag, multiple, True)

    def _nacked(self, tag: int, multiple: bool) -> None:
        self._on_confirm(tag, multiple, False)

    def _returned(self, *args: Any) -> None:
        self._on_return(str(args[-1].properties.get("message_id", "")))

    def _blocked(self, reason: str) -> None:
        if self.blocked_since is None:
            self.blocked_since = monotonic()

    def _unblocked(self) -> None:
        self._end_block()
        self.unblocked_at = monotonic()

    def _end_block(self) -> None:
        self._blocked_before = self.blocked_seconds
        self.blocked_since = None


def blames_message(exc: BaseException) -> bool:
    """
    Tell whether the broker closed a channel or a connection because of a message.
    """
    return reply_code(exc) not in _NOT_THE_MESSAGE
