"""
Messages as a broker delivers them.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from datetime import datetime, timezone
from time import time
from typing import Any

import pytest

from nameko_eventlog.consuming import ReceivedMessage
from nameko_eventlog.delivery.identifiers import UUID7Generator
from tests.databases import EVERY, empty_database


Make = Callable[..., ReceivedMessage]


def body(**attributes: Any) -> dict[str, Any]:
    """
    Make a body; what is given stands in the place of the usual.
    """
    return {
        "service_name": "shop",
        "entrypoint_protocol": "Rpc",
        "entrypoint_name": "pay",
        "call_id": "shop.pay.2",
        "call_stack": ["web.get.1", "shop.pay.2"],
        "event_type": "order_paid",
        "timestamp": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "data": {},
        **attributes,
    }


_ids = UUID7Generator()


def make_message(content: Any, **changes: Any) -> ReceivedMessage:
    """
    Make a message: of a body, or of bytes; ``message_id=None`` is an old sender's.
    """
    properties: dict[str, Any] = {"message_id": _ids.make(time())}
    if "message_id" in changes:
        given = changes.pop("message_id")
        properties = {} if given is None else {"message_id": given}
    values: dict[str, Any] = {
        "body": content if isinstance(content, bytes) else json.dumps(content).encode(),
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "headers": {},
        "properties": properties,
        "exchange": "shop.events",
        "routing_key": "log_event",
        "redelivered": False,
        "delivery_tag": 1,
    }
    return ReceivedMessage(**{**values, **changes})


@pytest.fixture
def message() -> Make:
    """
    `make_message`.
    """
    return make_message


@pytest.fixture(params=EVERY)
def database(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
    """
    The test runs with the address of an empty database of each kind.
    """
    return empty_database(request, tmp_path)
