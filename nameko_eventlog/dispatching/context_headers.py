"""
The message headers that carry a worker's context to the consumers of its event logs.
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
    Makes the message headers that continue a worker's context in the consumer's worker.

    It makes new headers after the worker's context data have changed, at any depth. Headers that
    it returned never change: they are copies.

    Args:
        worker_ctx: The worker's context. It is not kept: it is a key of a weak mapping whose
            value holds this object, and would never be freed.
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
        Return the headers, or the previous ones if the context data cannot be read.
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
            report("could not make the message headers of a worker")
        return self._made
