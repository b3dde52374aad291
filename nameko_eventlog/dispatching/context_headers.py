"""
The message headers that carry a worker's context to whoever consumes its event logs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nameko.constants import CALL_ID_STACK_CONTEXT_KEY, HEADER_PREFIX

from nameko_eventlog.amqp.tables import SharedTable, copied
from nameko_eventlog.dispatching.redaction import redacted
from nameko_eventlog.reporting import report


class ContextHeaders:
    """
    The message headers with which a consumer's worker continues a worker's context.

    They are made anew when the worker's context data have changed, at any depth. What was returned
    never changes: it is a copy.

    Args:
        worker_ctx: The worker's context, which is not kept: what it is the key of in a weak
            mapping would keep it alive.
        redact: Keys of the context data, in lower case, whose values are redacted, at any depth.
    """

    __slots__ = ("_call_stack", "_data", "_made", "_made_of", "_redact")

    def __init__(self, worker_ctx: Any, redact: frozenset[str] = frozenset()) -> None:
        self._data: Mapping[str, Any] = worker_ctx.data
        self._redact = redact
        self._call_stack = list(worker_ctx.call_id_stack)
        self._made: Mapping[str, Any] = {}
        self._made_of: Mapping[str, Any] | None = None

    def make(self) -> Mapping[str, Any]:
        """
        Return the headers: the last ones, if the context data cannot be read any more.
        """
        try:
            if self._made_of != self._data:
                made_of = copied(self._data)
                context = redacted(made_of, self._redact) if self._redact else made_of
                context = {**context, CALL_ID_STACK_CONTEXT_KEY: self._call_stack}
                self._made = SharedTable(
                    {
                        f"{HEADER_PREFIX}.{key}": value
                        for key, value in context.items()
                        if value is not None
                    }
                )
                self._made_of = made_of
        except Exception:
            report("the message headers of a worker could not be made")
        return self._made
