"""
Dead letters: what is logged about them, and how they get back.
"""

from __future__ import annotations

import pathlib
import re
from typing import Any

import pytest
from nameko.testing.utils import get_extension

from nameko_eventlog import EventLogConsumer
from tests.consuming.conftest import Handled, Shop, Start, lengths, pay
from tests.waiting import wait_until


ROOT = pathlib.Path(__file__).parents[2]
QUEUE = "eventlog-log.handle"


def refuse(body: Any) -> None:
    """
    Fail for good, with a text that would be a line of its own.
    """
    raise ValueError(f"no {body['data']['number']}\nERROR forged")


class TestDeadLetters:
    def test_logged(
        self,
        rabbit_config: Any,
        run_service: Any,
        start: Start,
        handled: Handled,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """
        A line names the queue, the message and the reason; the next one comes a minute later at
        the earliest, and says how many there were.
        """
        handled.failing = refuse
        log = start(rabbit_config, "shop", max_attempts=1)
        consumer = get_extension(log, EventLogConsumer)
        shop = run_service(Shop, rabbit_config)

        def lines() -> list[str]:
            found = [record.getMessage() for record in caplog.records]
            return [line for line in found if "dead letters to queue" in line]

        pay(shop, 0)
        wait_until(lambda: len(lines()) == 1)  # it comes when the broker has the dead letter
        pay(shop, 1, 2)
        wait_until(lambda: consumer.stats()["dead_letters"] == 3)
        assert (0, 3) == lengths(rabbit_config)
        (first,) = lines()
        monkeypatch.setattr("nameko_eventlog.consuming.turns.LOG_SECONDS", 0)
        pay(shop, 3)
        wait_until(lambda: len(lines()) == 2)

        assert first.startswith(
            f"log.handle: moved 1 dead letters to queue {QUEUE}.dead-letters; the last one,"
            " message id '0"
        )
        assert r"was not handled: ValueError('no 0\nERROR forged')" in first
        assert "log.handle: moved 3 dead letters to queue" in lines()[1]

    def test_moved_back(
        self, rabbit_config: Any, run_service: Any, start: Start, handled: Handled
    ) -> None:
        """
        The script of the docs moves them back into the handler's queue, each once.
        """
        page = (ROOT / "docs/how-to/consuming.md").read_text("utf-8")
        namespace: dict[str, Any] = {}
        snippet = re.search(r"```python\n(import kombu\n.*?)```", page, re.DOTALL)
        assert snippet
        exec(snippet[1], namespace)
        handled.failing = refuse
        start(rabbit_config, "shop", max_attempts=1)
        pay(run_service(Shop, rabbit_config), 0, 3)
        wait_until(lambda: lengths(rabbit_config) == (0, 3))
        before = list(handled.calls)

        handled.failing = lambda body: None
        handled.calls.clear()

        assert 3 == namespace["retry_dead_letters"](rabbit_config["AMQP_URI"], QUEUE)
        wait_until(lambda: len(handled.calls) == 3)
        assert before == handled.calls
        assert (0, 0) == lengths(rabbit_config)
