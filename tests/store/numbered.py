"""
Numbered event logs: sent, and found again.
"""

from __future__ import annotations

import json
from typing import Any

import amqp
from kombu import Connection

from nameko_eventlog.store import DatabaseError, EventLogQuery
from tests.nameko_version import event_exchange
from tests.store.conftest import body


def send(config: dict[str, Any], first: int, count: int, has_id: bool = True) -> None:
    """
    Send numbered event logs.
    """
    options = {"confirm_publish": True}  # else a channel that is closed may lose them
    with Connection(config["AMQP_URI"], transport_options=options) as connection:
        channel = connection.connection.channel()
        for number in range(first, first + count):
            properties = {"message_id": f"m{number}"} if has_id else {}
            channel.basic_publish(
                amqp.Message(
                    json.dumps(body(data={"number": number})),
                    content_type="application/json",
                    content_encoding="utf-8",
                    **properties,
                ),
                exchange=event_exchange("shop").name,
                routing_key="log_event",
            )


def numbers(uri: str) -> list[int]:
    """
    Return the numbers of all rows.
    """
    with EventLogQuery(uri) as query:
        try:
            found = query.query(limit=1000)["event_logs"]
        except DatabaseError:  # the store was not quick enough to make the tables
            return []
    return sorted(one["body"]["data"]["number"] for one in found)


def left(config: dict[str, Any]) -> tuple[int, int]:
    """
    How many messages the queue has to give, and how many dead letters there are.
    """
    with Connection(config["AMQP_URI"]) as connection:
        return tuple(
            connection.default_channel.queue_declare(name, passive=True)[1]
            for name in ("eventlog-store", "eventlog-store.dead-letters")
        )
