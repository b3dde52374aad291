"""
Senders whose clocks are wrong for a while, and the store's rows.
"""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
from kombu import Connection

from nameko_eventlog.delivery import identifiers
from nameko_eventlog.dispatching import body
from nameko_eventlog.standalone import event_log_dispatcher
from nameko_eventlog.store import EventLogQuery, EventLogStore
from nameko_eventlog.store.rejecting import Rejects
from nameko_eventlog.store.times import parse_time
from tests.waiting import wait_until


EACH = 100


class TestWrongForTwoSeconds:
    @pytest.mark.parametrize(
        ("wrong_by", "is_old"),
        [(3 * 86_400, False), (3 * 86_400, True), (-40 * 365 * 86_400, False)],
    )
    def test_sum(
        self,
        rabbit_config: dict[str, Any],
        database: str,
        run_service: Any,
        monkeypatch: pytest.MonkeyPatch,
        wrong_by: float,
        is_old: bool,
    ) -> None:
        """
        All event logs are stored, those after the correction in their places, also those of a
        sender whose ids go on from the wrong time; the wrong ones are kept from when they arrive.
        """
        if is_old:
            monkeypatch.setattr(identifiers, "STEP_BACK", math.inf)
        section = {"uri": database, "services": ["shop"], "batch_seconds": 0.05}
        run_service(EventLogStore, {**rabbit_config, "EVENTLOG_STORE": section})
        begun = int(time.time()) * 1000
        sender = {**rabbit_config, "EVENTLOG_DISPATCHER": {"timespec": "milliseconds"}}
        with event_log_dispatcher(sender, "shop") as eventlog:
            for offset in (0, wrong_by, 0):
                for module in (body, identifiers):
                    clock = lambda offset=offset: time.time() + offset  # noqa: E731
                    monkeypatch.setattr(module, "time", clock)
                for _ in range(EACH):
                    eventlog("counted", {"number": eventlog.stats()["accepted"]})
            assert 3 * EACH == eventlog.stats()["accepted"]

        with EventLogQuery(database) as query:
            wait_until(lambda: query.count(group_by="service", limit=5) == counted(3 * EACH))
            rows = query.query(limit=1000, order="oldest")["event_logs"]
            wrong = query.query(limit=1000, time_note=["ahead", "past"])["event_logs"]
        ended = int(time.time() * 1000)
        number = [row["body"]["data"]["number"] for row in rows]
        right = [one for one in number if not EACH <= one < 2 * EACH]
        assert list(range(3 * EACH)) == sorted(number)
        assert [*range(EACH), *range(2 * EACH, 3 * EACH)] == right
        assert all(begun <= parse_time(row["time"]) <= ended for row in rows)
        assert set(range(EACH, 2 * EACH)) == {row["body"]["data"]["number"] for row in wrong}
        kept = Rejects(database)
        assert [] == kept.list()
        kept.close()
        with Connection(rabbit_config["AMQP_URI"]) as connection:
            channel = connection.default_channel
            assert 0 == channel.queue_declare("eventlog-store", passive=True)[1]


def counted(number: int) -> list[dict[str, Any]]:
    """
    Return what `EventLogQuery.count` answers for one service.
    """
    return [{"group": "shop", "count": number}]
