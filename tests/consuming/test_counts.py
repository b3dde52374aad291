"""
What `consumer_stats` says.
"""

from __future__ import annotations

import logging
from typing import Any

import pytest

from nameko_eventlog import consumer_stats
from tests.consuming.conftest import Handled, Shop, Start, lengths, pay, send
from tests.consuming.test_subscription import rubbish
from tests.waiting import wait_until


class TestConsumerStats:
    def test_counts(
        self,
        rabbit_config: Any,
        run_service: Any,
        start: Start,
        handled: Handled,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """
        Each delivery is counted once, by what became of it, until the service has stopped.
        """
        caplog.set_level(logging.INFO, "nameko_eventlog")

        def fail_first(body: Any) -> None:
            if len(handled.calls) == 1:
                raise ValueError("not yet")

        handled.failing = fail_first
        log = start(rabbit_config, "shop", event_types=["paid"])
        pay(run_service(Shop, rabbit_config), 0, 10)  # every other one
        send(rabbit_config, rubbish())
        expected = {
            "received": 11,
            "handled": 5,
            "skipped": 5,
            "dead_letters": 1,
            "isolated": 0,
            "returned": 0,
            "waiting": 0,
            "running": 0,
            "retries": 1,
            "held_seconds": 0,
        }
        wait_until(lambda: consumer_stats().get("log.handle") == expected)
        log.stop()

        assert (0, 1) == lengths(rabbit_config)
        assert {} == consumer_stats()
        assert "event logs for log.handle: 11 received, 5 handled, 5 skipped" in caplog.text
