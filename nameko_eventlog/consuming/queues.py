"""
The queue that a consumer has, its dead letters', and what they are bound to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kombu import Exchange, Queue

from nameko_eventlog.amqp.route import ROUTING_KEY


@dataclass(frozen=True, slots=True)
class QueueOptions:
    """
    What a queue of event logs is like.

    Args:
        name: Its name, the same for all instances of the consumer, which compete for it.
        exchanges: What it is bound to.
        routing_key: The Nameko event type under which they travel.
        quorum: Whether it is a quorum queue: it survives the loss of a node, and counts
            deliveries across restarts of the consumer.
        max_length: How many messages it holds; beyond, the oldest are dropped, or the next are
            refused: the broker's policies say. None for no bound.
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
        The name of the queue for what could not be handled.
        """
        return f"{self.name}.dead-letters"

    @property
    def alone(self) -> str | None:
        """
        The name of the queue for what is handled alone; quorum queues have one.
        """
        return f"{self.name}.alone" if self.quorum else None

    def declare(self, channel: Any, nowait: bool = False) -> None:
        """
        Declare the queues, and bind the first one.

        Args:
            channel: A channel of kombu's.
            nowait: Whether the broker's answers are not waited for; it closes the channel if it
                refuses one.

        Raises:
            Exception: What the broker answers: 406 if there is such a queue of another kind.
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
        Declare the queue of dead letters, and that of what is handled alone.

        Args:
            channel: A channel of kombu's.
            nowait: Whether the broker's answer is not waited for.

        Raises:
            Exception: What the broker answers.
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
    Tell whether a broker cannot bind exchanges to one another, as the fan-in exchange needs it.
    """
    return uri.startswith(("memory:", "filesystem:"))
