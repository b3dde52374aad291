"""
A day of a modest production: a hundred event logs a second, of calls between many services.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import count
from typing import Any
from uuid import UUID

from nameko_eventlog.delivery.identifiers import UUID7Generator
from nameko_eventlog.store.times import format_time


RATE = 100
"""Event logs a second."""

DAY = 86_400
"""Seconds."""

ROWS = RATE * DAY
"""The event logs of a day."""

SERVICES = (
    "gateway", "accounts", "orders", "payments", "stock", "shipping", "mail", "search", "pricing",
    "invoices", "coupons", "reviews", "media", "audit", "reports", "fraud", "loyalty", "returns",
    "suppliers", "sessions",
)  # fmt: skip

METHODS = ("get", "create", "update", "cancel", "list", "notify")
"""The entrypoints of each service."""

TYPES = (
    "validated", "cache_missed", "row_written", "rule_applied", "message_queued", "amount_changed",
    "state_changed",
)  # fmt: skip
"""What a service logs in a call, each under its own prefix: ``orders_row_written``."""

CALLED = 3
"""How many services each service calls."""

NEVER_MEET = {"service": "gateway", "event_type": "sessions_validated"}
"""Filters that each match many event logs, and none together."""

LONG_TRACE = "gateway.get.00000000-0000-4000-8000-000000000200"
"""A call that leads to 200 calls."""

_FAILING = 0.01
_FRAMES = 6


class Day:
    """
    The event logs of a day, in the order in which a broker delivers them.

    Args:
        end: When the last one is logged, in seconds since 1970.
        rows: How many there are, `RATE` a second.
    """

    def __init__(self, end: float, rows: int = ROWS) -> None:
        self.end = end
        self.begin = end - rows / RATE
        self.rows = rows
        self._random = random.Random(4711)
        self._ids = UUID7Generator()
        self._orders = count(1)

    def event_logs(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """
        Yield message ids and bodies.
        """
        waiting: list[tuple[float, int, dict[str, Any]]] = []
        numbers = count()
        at, left = self.begin, self.rows
        middle = self.begin + (self.end - self.begin) / 2
        is_long_due = True
        while True:
            while not waiting or waiting[0][0] > at:
                if is_long_due and at > middle:
                    is_long_due = False
                    trace = self._long_trace(at)
                else:
                    trace = self._trace(at)
                size = 0
                for moment, body in trace:
                    heappush(waiting, (moment, next(numbers), body))
                    size += 1
                at += size / RATE
            moment, _, body = heappop(waiting)
            body["timestamp"] = format_time(int(moment * 1000))[:19] + "+00:00"
            yield self._ids.make(moment), body
            left -= 1
            if not left:
                return

    def _trace(self, at: float) -> Iterator[tuple[float, dict[str, Any]]]:
        order = next(self._orders)
        service = self._random.choice(SERVICES[:4])
        yield from self._call(at, service, [], order, self._random.choice((0, 1, 1, 2)))

    def _long_trace(self, at: float) -> Iterator[tuple[float, dict[str, Any]]]:
        order = next(self._orders)
        stack = [LONG_TRACE]
        yield at, self._body("gateway", "get", stack, "entrypoint_fired", {})
        for number in range(199):
            service = SERVICES[1 + number % (len(SERVICES) - 1)]
            yield from self._call(at + 0.001 * number, service, stack, order, 0)

    def _call(
        self, at: float, service: str, above: list[str], order: int, depth: int
    ) -> Iterator[tuple[float, dict[str, Any]]]:
        draw = self._random
        place = SERVICES.index(service)
        method = METHODS[min(int(draw.expovariate(0.7)), len(METHODS) - 1)]
        stack = [*above, f"{service}.{method}.{UUID(int=draw.getrandbits(128), version=4)}"]
        began = at
        yield at, self._body(service, method, stack, "entrypoint_fired", {})
        for _ in range(draw.choice((0, 1, 1, 2))):
            at += draw.expovariate(1 / 0.004)
            event_type = f"{service}_{TYPES[(place + draw.randrange(3)) % len(TYPES)]}"
            yield at, self._logged(service, method, stack, event_type, order)
        for child in range(draw.choice((1, 2)) if depth else 0):
            called = SERVICES[(place + 1 + child * 5 + draw.randrange(CALLED)) % len(SERVICES)]
            for at, body in self._call(at + 0.001, called, stack, order, depth - 1):  # noqa: B020
                yield at, body
        at += draw.lognormvariate(-4.5, 1)
        if draw.random() < _FAILING:
            yield at, self._failed(service, method, stack, at - began, order)
        else:
            extra = {"duration": round(at - began, 6)}
            yield at, self._body(service, method, stack, "entrypoint_completed", extra)

    def _body(
        self,
        service: str,
        method: str,
        stack: list[str],
        event_type: str,
        extra: dict[str, Any],
        data: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        return {
            "service_name": service,
            "entrypoint_protocol": "HttpRequestHandler" if service == "gateway" else "Rpc",
            "entrypoint_name": method,
            "call_id": stack[-1],
            "call_stack": stack,
            **extra,
            "timestamp": "",
            "event_type": event_type,
            "data": data or {},
        }

    def _logged(
        self, service: str, method: str, stack: list[str], event_type: str, order: int
    ) -> dict[str, Any]:
        draw = self._random
        level = "info" if draw.random() < 0.97 else "warning"
        data = {
            "order": order,
            "customer": {
                "id": draw.randrange(200_000),
                "country": draw.choice(("AT", "DE", "FR")),
            },
            "amount": draw.randrange(100, 100_000) / 100,
            "items": draw.randrange(1, 9),
        }
        extra = {"level": level, "logger": f"{service}.{method}"}
        if draw.random() < 0.3:
            extra["message"] = f"order {order} of customer {data['customer']} changed"
        return self._body(service, method, stack, event_type, extra, data)

    def _failed(
        self, service: str, method: str, stack: list[str], duration: float, order: int
    ) -> dict[str, Any]:
        is_expected = self._random.random() < 0.5
        name = "NotFound" if is_expected else "RuntimeError"
        frames = [
            {
                "filename": f"/srv/{service}/handlers.py",
                "lineno": 10 * frame,
                "name": f"step_{frame}",
            }
            for frame in range(_FRAMES)
        ]
        value = f"order {order} cannot be processed"
        exception = [{"exc_type": name, "exc_value": value, "frames": frames}]
        extra = {"duration": round(duration, 6), "expected": is_expected, "exception": exception}
        return self._body(service, method, stack, "entrypoint_failed", extra)
