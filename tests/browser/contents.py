"""
What is in the databases: an afternoon of a small shop, and single event logs.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

from nameko_eventlog.consuming import ReceivedMessage
from nameko_eventlog.store.writing import EventLogWriter


Body = dict[str, Any]

SHOP = ("web", "shop", "stock", "payments", "mailer")

_GOODS = (
    ("tea-assam", "Assam, 250 g", 8.9),
    ("tea-sencha", "Sencha, 100 g", 12.5),
    ("pot-glass", "Glass teapot", 34.0),
    ("cup-blue", "Blue cup", 9.5),
    ("tin-large", "Large tin", 6.2),
)
_NAMES = ("Ada", "Grace", "Edsger", "Barbara", "Alan", "Katherine", "Donald", "Radia", "Niklaus")


def make_message(body: Body, at: datetime, number: int, message_id: str = "") -> ReceivedMessage:
    """
    Make a message as the broker delivers it.
    """
    time_ms = f"{int(at.timestamp() * 1000):012x}"
    random_part = f"{random.Random(number).getrandbits(48):012x}"
    return ReceivedMessage(
        body=json.dumps(body).encode(),
        content_type="application/json",
        content_encoding="utf-8",
        headers={},
        properties={
            "message_id": message_id
            or f"{time_ms[:8]}-{time_ms[8:]}-7{number % 4096:03x}-8{number // 4096 % 4096:03x}"
            f"-{random_part}"
        },
        exchange=f"{body['service_name'][:100]}.events",
        routing_key="log_event",
        redelivered=False,
        delivery_tag=number,
    )


def store(uri: str, messages: Iterable[ReceivedMessage]) -> list[str]:
    """
    Write them as the store does, and return their message ids.
    """
    messages = list(messages)
    writer = EventLogWriter(uri, ["json"])
    writer.prepare()
    for begin in range(0, len(messages), 500):
        assert [] == writer.write(messages[begin : begin + 500])
    writer.close()
    return [message.properties["message_id"] for message in messages]


def make_body(**attributes: Any) -> Body:
    """
    Make a body; what is given stands in the place of the usual.
    """
    return {
        "service_name": "shop",
        "entrypoint_protocol": "Rpc",
        "entrypoint_name": "place_order",
        "call_id": "shop.place_order.2",
        "call_stack": ["web.post_order.1", "shop.place_order.2"],
        "event_type": "order_placed",
        "timestamp": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "level": "info",
        "data": {},
        **attributes,
    }


def store_bodies(uri: str, *bodies: Body) -> list[str]:
    """
    Write bodies, a second apart, the last one now.
    """
    now = datetime.now(timezone.utc)
    messages = []
    for number, body in enumerate(bodies):
        at = now - timedelta(seconds=len(bodies) - 1 - number)
        body = {**body, "timestamp": at.isoformat(timespec="seconds")}
        messages.append(make_message(body, at, number))
    return store(uri, messages)


def shop_messages(now: datetime, hours: float = 7.0) -> Iterator[ReceivedMessage]:
    """
    Make what five services tell within some hours: a calm morning, a busy noon, and an hour in
    which the bank is slow.

    The last order is 4711, and fails.
    """
    shop = _Shop(random.Random(4711))
    begin = now - timedelta(hours=hours)
    minutes = int(hours * 60)
    number = 4711 - sum(shop.orders_in(minute / minutes) for minute in range(minutes)) + 1
    for minute in range(minutes):
        moment = begin + timedelta(minutes=minute)
        trouble = 0.62 < minute / minutes < 0.72
        if minute % 15 == 0:
            shop.synchronise(moment)
        for _ in range(shop.orders_in(minute / minutes)):
            at = moment + timedelta(seconds=shop.random.uniform(0, 59))
            shop.order(number, at if number < 4711 else now - timedelta(seconds=9), trouble)
            number += 1
    for count, (at, body) in enumerate(sorted(shop.told, key=lambda pair: pair[0])):
        if at <= now:
            yield make_message(body, at, count)


class _Shop:
    """
    The services, and what they have told.
    """

    def __init__(self, random: random.Random) -> None:
        self.random = random
        self.told: list[tuple[datetime, Body]] = []

    def orders_in(self, part: float) -> int:
        """
        Return how many orders come in a minute of the afternoon.
        """
        busy = 0.5 + 1.6 * math.exp(-(((part - 0.45) / 0.16) ** 2)) + 1.1 * part**6
        return int(busy) + (1 if math.sin(part * 997) > 0.2 else 0)

    def synchronise(self, at: datetime) -> None:
        """
        A timer of the stock's.
        """
        call = self._call([], "stock", "synchronise", "Timer")
        self._tell(at, call, "stock_synchronised", {"articles": self.random.randint(310, 340)})

    def order(self, number: int, at: datetime, trouble: bool) -> None:
        """
        One order, through all services.
        """
        some = self.random
        goods = some.sample(_GOODS, some.randint(1, 3))
        items = [{"sku": sku, "quantity": some.randint(1, 3)} for sku, _, _ in goods]
        total = round(
            sum(
                price * item["quantity"] for (_, _, price), item in zip(goods, items, strict=True)
            ),
            2,
        )
        customer = {"id": some.randint(100, 999), "name": some.choice(_NAMES)}
        declined = number == 4711 or some.random() < (0.3 if trouble else 0.012)
        slow = some.uniform(1.2, 3.2) if trouble else some.uniform(0.08, 0.35)

        web = self._call([], "web", "post_order", "HttpRequestHandler")
        shop = self._call(web["call_stack"], "shop", "place_order", "Rpc")
        stock = self._call(shop["call_stack"], "stock", "reserve", "Rpc")
        payments = self._call(shop["call_stack"], "payments", "charge", "Rpc")
        # the bank tells nothing itself; what it calls does
        bank = self._call(payments["call_stack"], "bank", "authorise", "Rpc")
        fraud = self._call(bank["call_stack"], "fraud", "score", "Rpc")

        def after(seconds: float) -> datetime:
            return at + timedelta(seconds=seconds)

        self._tell(at, web, "order_received", {"order": number, "customer": customer})
        self._tell(after(0.012), shop, "order_checked", {"order": number, "items": items})
        if some.random() < 0.08:
            low = {"sku": items[0]["sku"], "left": some.randint(0, 4)}
            self._tell(after(0.03), stock, "stock_low", low, level="warning")
        self._tell(after(0.041), stock, "stock_reserved", {"order": number, "items": len(items)})
        self._end(after(0.044), stock, 0.027)
        if number == 4711 or some.random() < 0.15:
            score = {"order": number, "score": round(some.uniform(0.02, 0.4), 2)}
            self._tell(after(0.06 + slow * 0.4), fraud, "fraud_scored", score)
            self._end(after(0.06 + slow * 0.45), fraud, slow * 0.3)
        if trouble:
            waited = {"bank": "north", "waited": round(slow, 2)}
            self._tell(after(0.05 + slow * 0.7), payments, "bank_slow", waited, level="warning")
        done = 0.06 + slow
        if declined:
            failure = {"exc_type": "CardDeclined", "exc_value": "insufficient funds"}
            told = {"order": number, "amount": total, "reason": "insufficient funds"}
            self._tell(after(done - 0.004), payments, "payment_failed", told, level="error")
            self._end(after(done), payments, slow, exception=failure)
            self._tell(after(done + 0.01), shop, "order_rejected", {"order": number}, "warning")
            remote = {"exc_type": "RemoteError", "exc_value": "CardDeclined insufficient funds"}
            self._end(after(done + 0.016), shop, done + 0.01, exception=remote)
            self._end(after(done + 0.02), web, done + 0.02)
            return
        charged = {"order": number, "amount": total, "currency": "EUR"}
        self._tell(after(done - 0.004), payments, "payment_charged", charged)
        self._end(after(done), payments, slow)
        self._tell(after(done + 0.01), shop, "order_placed", {"order": number, "total": total})
        self._end(after(done + 0.014), shop, done + 0.008)
        self._end(after(done + 0.02), web, done + 0.02)
        mailer = self._call(shop["call_stack"], "mailer", "confirm_order", "EventHandler")
        self._tell(
            after(done + 0.09), mailer, "mail_sent", {"order": number, "to": customer["id"]}
        )
        self._end(after(done + 0.13), mailer, 0.1)

    def _call(self, above: list[str], service: str, entrypoint: str, protocol: str) -> Body:
        call_id = f"{service}.{entrypoint}.{self._uuid()}"
        return {
            "service_name": service,
            "entrypoint_protocol": protocol,
            "entrypoint_name": entrypoint,
            "call_id": call_id,
            "call_stack": [*above, call_id],
        }

    def _tell(
        self,
        at: datetime,
        call: Body,
        event_type: str,
        data: Body,
        level: str = "info",
        **more: Any,
    ) -> None:
        body = {
            **call,
            "event_type": event_type,
            "timestamp": at.isoformat(timespec="seconds"),
            "level": level,
            "logger": f"{call['service_name']}.{call['entrypoint_name']}",
            "tenant": "tea-house",
            **more,
            "data": data,
        }
        self.told.append((at, body))

    def _end(
        self, at: datetime, call: Body, duration: float, exception: Body | None = None
    ) -> None:
        failed = {} if exception is None else {"exception": exception, "expected": True}
        body = {
            **call,
            "event_type": "entrypoint_failed" if failed else "entrypoint_completed",
            "timestamp": at.isoformat(timespec="seconds"),
            "tenant": "tea-house",
            "duration": round(duration, 4),
            **failed,
            "data": {},
        }
        self.told.append((at, body))

    def _uuid(self) -> str:
        text = f"{self.random.getrandbits(128):032x}"
        return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-a{text[17:20]}-{text[20:]}"
