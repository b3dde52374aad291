"""
Moving a message to another of the consumer's queues: published, and confirmed by the broker.
"""

from __future__ import annotations

import logging
from typing import Any

import eventlet
from kombu import Producer

from nameko_eventlog.amqp.connections import MessageNacked
from nameko_eventlog.amqp.received import ReceivedMessage
from nameko_eventlog.consuming.dead_letters import make_least_dead_letter
from nameko_eventlog.consuming.isolation import REASON
from nameko_eventlog.consuming.queues import QueueOptions


_log = logging.getLogger("nameko_eventlog")

CONFIRM_SECONDS = 30.0
"""How long to wait for the confirm of a moved message."""


class Mover:
    """
    Publishes messages to the queue of dead letters, and to that of messages handled alone.

    Args:
        channel: A channel of kombu's with confirms.
        options: The consumer's queues.
        errors: The exceptions of a lost connection or a closed channel.
    """

    def __init__(
        self, channel: Any, options: QueueOptions, errors: tuple[type[Exception], ...]
    ) -> None:
        self._channel = channel
        self._options = options
        self._errors = errors
        self._is_returned = False

    def move(self, message: ReceivedMessage, letter: dict[str, Any], queue: str) -> bool:
        """
        Publish *letter*, made from *message*, to a queue.

        Returns:
            Whether the queue has it: the broker may refuse it, or the queue may be gone.

        Raises:
            Exception: The connection is lost.
        """
        self._is_returned = False
        too_late = TimeoutError(f"a dead letter was not confirmed within {CONFIRM_SECONDS:g} s")
        try:
            with eventlet.Timeout(CONFIRM_SECONDS, too_late):
                try:
                    self._publish(letter, queue)
                except (*self._errors, MessageNacked):
                    raise
                except Exception:  # a part of the message cannot be sent again
                    _log.debug("a dead letter could not be sent complete", exc_info=True)
                    reason = str(letter["headers"][REASON])
                    self._publish(make_least_dead_letter(message, reason), queue)
        except MessageNacked:
            return False
        if self._is_returned:
            self._options.declare_dead_letters(self._channel)
            return False
        return True

    def _publish(self, letter: dict[str, Any], queue: str) -> None:
        Producer(self._channel, on_return=self._note_return).publish(
            exchange="",
            routing_key=queue,
            mandatory=True,  # otherwise it would be confirmed, and lost, without its queue
            **letter,
        )

    def _note_return(self, *_: Any) -> None:
        self._is_returned = True
