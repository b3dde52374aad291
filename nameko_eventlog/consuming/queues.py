"""
A consumer's queues, and their bindings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kombu import Exchange, Queue

from nameko_eventlog.amqp.route import ROUTING_KEY


@dataclass(frozen=True, slots=True)
class QueueOptions:
    """
    The properties of a queue of event logs.

    Args:
        name: Its name, the same for all instances of the consumer, which compete for it.
        exchanges: What it is bound to.
        routing_key: The Nameko event type under which event logs travel.
        quorum: Whether it is a quorum queue: it survives the loss of a node, and counts
            deliveries across restarts of the consumer.
        max_length: How many messages it holds. Beyond that the broker drops the oldest or rejects
            new ones, by its policies. None for no limit.
        expires: Seconds without a consumer after which the broker deletes it, or None.
    """

    name: str
    exchanges: tuple[Exchange, ...]
    routing_key: str = ROUTING_KEY
    quorum: bool = False
    max_length: int | None = None
    expires: float | None = None

    @property
    def dead_letters(self) -> str:
        """
        The name of the queue for messages that could not be handled.
        """
        return f"{self.name}.dead-letters"

    @property
    def alone(self) -> str | None:
        """
        The name of the queue for messages that are handled alone; only quorum queues have one.
        """
        return f"{self.name}.alone" if self.quorum else None

    def declare(self, channel: Any, nowait: bool = False) -> None:
        """
        Declare the queues, and bind the main one.

        Args:
            channel: A channel of kombu's.
            nowait: Whether not to wait for the broker's answers; if it refuses a declaration, it
                closes the channel.

        Raises:
            Exception: The broker's error: 406 if the queue exists with other properties.
        """
        self.declare_dead_letters(channel, nowait)
        arguments = self._type()
        if self.max_length is not None:
            arguments["x-max-length"] = self.max_length
        if self.expires is not None:
            arguments["x-expires"] = max(1, int(self.expires * 1000))
        for exchange in self.exchanges:
            Queue(
                self.name,
                exchange,
                routing_key=self.routing_key,
                durable=True,
                queue_arguments=arguments,
            )(channel).declare(nowait=nowait)

    def declare_dead_letters(self, channel: Any, nowait: bool = False) -> None:
        """
        Declare the queue of dead letters, and that of messages that are handled alone.

        Args:
            channel: A channel of kombu's.
            nowait: Whether not to wait for the broker's answers.

        Raises:
            Exception: The broker's error.
        """
        self._declare(self.dead_letters, channel, nowait)
        if self.alone is not None:
            self._declare(self.alone, channel, nowait)

    def _declare(self, name: str, channel: Any, nowait: bool) -> None:
        queue = Queue(name, durable=True, queue_arguments=self._type())
        queue(channel).declare(nowait=nowait)

    def _type(self) -> dict[str, Any]:
        return {"x-queue-type": "quorum"} if self.quorum else {}


def lacks_fan_in(uri: str) -> bool:
    """
    Tell whether a broker cannot bind exchanges to exchanges, which the fan-in exchange needs.
    """
    return uri.startswith(("memory:", "filesystem:"))
