"""
`EventLog`, which log calls pass to a sink, and the names of the context attributes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


CONTEXT_FIELDS = (
    "service_name",
    "entrypoint_protocol",
    "entrypoint_name",
    "call_id",
    "call_stack",
)
"""The names of the worker context's attributes, the same everywhere."""


@dataclass(slots=True)
class EventLog:
    """
    One record of something that happened, on its way to a sink.

    Args:
        event_type: What happened; not empty.
        event_data: Details, or None. Any values are allowed: the sink replaces those that it
            cannot send.
        metadata: Extra top-level attributes of the body, or None.
        timestamp: When it happened, in seconds since the epoch; None means now.
        is_flat: Whether *event_data* is known to be a dict of strings, integers, finite
            floats, booleans and None under string keys, so that nothing in it needs checking.

    .. versionadded:: 0.1.0
    """

    event_type: str
    event_data: Mapping[str, Any] | None = None
    metadata: Mapping[str, Any] | None = None
    timestamp: float | None = None
    is_flat: bool = False


class SharedMetadata(dict[str, Any]):
    """
    Metadata that many event logs share.

    It never changes, so that a sink may cache its encoding.
    """
