"""
The outbox in memory, and the ledger.
"""

from collections.abc import Callable
from typing import Any

from eventlet import patcher

from logging_ext.forwarding import Counter
from nameko_eventlog.amqp.tables import SharedTable
from nameko_eventlog.delivery.outbox import Ledger, Level, MemoryOutbox
from nameko_eventlog.delivery.waiting import GreenWaiter
from tests.delivery.conftest import make_message


def in_threads(count: int, action: Callable[[], Any]) -> None:
    """
    Run *action* in so many OS threads at once.
    """
    threading = patcher.original("threading")
    threads = [threading.Thread(target=action) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class TestLedger:
    def test_sum(self) -> None:
        """
        What was accepted is confirmed, waiting or undelivered; what was withdrawn is nothing.
        """
        ledger = Ledger()
        for _ in range(6):
            ledger.enter()
        ledger.confirmed.increment()
        ledger.confirmed.increment()
        ledger.undelivered.increment()
        ledger.withdrawn.increment()
        ledger.republished.increment()

        assert {
            "accepted": 5,
            "confirmed": 2,
            "waiting": 2,
            "undelivered": 1,
            "republished": 1,
        } == ledger.stats()

    def test_threads(self) -> None:
        """
        OS threads that count at once lose nothing, and nobody ever sees a negative count.
        """
        ledger = Ledger()
        seen: list[int] = []

        def count() -> None:
            for _ in range(5000):
                ledger.enter()
                ledger.confirmed.increment()
                seen.append(ledger.stats()["waiting"])

        in_threads(4, count)

        assert 20_000 == ledger.stats()["accepted"] == ledger.stats()["confirmed"]
        assert 0 <= min(seen)


class TestMemoryOutbox:
    def test_order(self) -> None:
        """
        First in, first out, and what was taken stays kept until it is settled.
        """
        outbox = MemoryOutbox(10, 10**6, Ledger())
        messages = [make_message(number) for number in range(3)]
        assert [Level.LOW] * 3 == [outbox.put(message) for message in messages]

        assert messages[:2] == outbox.take(2)
        assert 3 == outbox.waiting
        outbox.settle(messages[0], Counter())
        assert 2 == outbox.waiting
        assert messages[2:] == outbox.take(10)

    def test_bounded_by_number(self) -> None:
        """
        It takes no more than ``buffer_size``, those on their way included.
        """
        outbox = MemoryOutbox(2, 10**6, Ledger())
        outbox.put(make_message())
        outbox.put(make_message())
        (taken,) = outbox.take(1)

        assert Level.FULL is outbox.put(make_message())
        assert 2 == outbox.waiting
        outbox.settle(taken, Counter())
        assert Level.FULL is not outbox.put(make_message())
        assert Level.FULL is outbox.level

    def test_bounded_by_bytes(self) -> None:
        """
        It takes no more than ``buffer_bytes``, but for a single message of any size.
        """
        outbox = MemoryOutbox(100, 2000, Ledger())
        assert Level.FULL is not outbox.put(make_message(body=b"x" * 5000))
        assert Level.FULL is outbox.put(make_message())
        outbox.settle(outbox.take(1)[0], Counter())

        assert Level.LOW is outbox.level
        put = [outbox.put(make_message(body=b"", headers={}, event_type="")) for _ in range(6)]
        assert Level.FULL not in put[:5]
        assert Level.FULL is put[5]

    def test_headers_are_counted(self) -> None:
        """
        What is in the headers counts, however deep, and until the message is settled.
        """
        outbox = MemoryOutbox(100, 100_000, Ledger())
        context = {"nameko.basket": [{"name": "x" * 9_000, "count": 1}]}
        put = [outbox.put(make_message(headers=dict(context))) for _ in range(20)]
        assert 9 == outbox.waiting
        assert Level.FULL is put[-1]
        for message in outbox.take(5):
            outbox.settle(message, Counter())

        assert Level.FULL is not outbox.put(make_message(headers=context))

    def test_shared_headers_count_once(self) -> None:
        """
        The headers that the messages of a worker share count once, until the last is settled.
        """
        outbox = MemoryOutbox(1000, 100_000, Ledger())
        workers = [SharedTable({"nameko.basket": "x" * 10_000}) for _ in range(5)]
        for _ in range(10):
            for headers in workers:
                assert Level.FULL is not outbox.put(make_message(headers=headers))
        assert 70_000 < outbox._bytes < 80_000
        messages = outbox.take(50)
        for message in messages[:-5]:
            outbox.settle(message, Counter())
        assert 50_000 < outbox._bytes < 55_000
        outbox.settle(messages[-1], Counter())
        assert 40_000 < outbox._bytes < 45_000

    def test_what_is_rejected_does_not_count(self) -> None:
        """
        Headers of a message that found no room are not counted for the next one.
        """
        outbox = MemoryOutbox(100, 20_000, Ledger())
        headers = SharedTable({"nameko.basket": "x" * 15_000})
        outbox.put(make_message(body=b"x" * 10_000))
        assert Level.FULL is outbox.put(make_message(headers=headers))
        assert Level.FULL is outbox.put(make_message(headers=headers))
        assert 0 == headers.holders

    def test_levels(self) -> None:
        """
        It is high from half full on, and nearly full from nine tenths on.
        """
        outbox = MemoryOutbox(20, 10**6, Ledger())
        levels = [outbox.put(make_message()) for _ in range(21)]

        assert [Level.LOW] * 11 == levels[:11]
        assert [Level.HIGH] * 8 == levels[11:19]
        assert [Level.NEARLY_FULL, Level.FULL] == levels[19:]

    def test_turns(self) -> None:
        """
        After every hundred messages of which the relay has taken none, it is to have a turn.
        """
        outbox = MemoryOutbox(1_000, 10**6, Ledger())

        def turns(number: int) -> list[int]:
            levels = [outbox.put(make_message()) for _ in range(number)]
            assert {Level.LOW, Level.GATHERED} >= set(levels)
            return [at for at, level in enumerate(levels) if level is Level.GATHERED]

        assert [100, 200] == turns(250)
        for message in outbox.take(30):
            outbox.settle(message, Counter())
        assert [100] == turns(200)

    def test_withdrawn(self) -> None:
        """
        What its waiter has claimed back is neither taken nor kept.
        """
        outbox = MemoryOutbox(2, 10**6, Ledger())
        message, other = make_message(waiter=GreenWaiter()), make_message()
        outbox.put(message)
        outbox.put(other)
        assert message.waiter is not None
        assert message.waiter.take_back()
        outbox.withdraw(message)

        assert 1 == outbox.waiting
        assert [other] == outbox.take(10)
        outbox.withdraw(message)
        assert 1 == outbox.waiting

    def test_claimed_before_it_is_withdrawn(self) -> None:
        """
        A message whose waiter has claimed it back is let go of by the relay's taking as well.
        """
        outbox = MemoryOutbox(2, 10**6, Ledger())
        message = make_message(waiter=GreenWaiter())
        outbox.put(message)
        assert message.waiter is not None
        message.waiter.take_back()

        assert [] == outbox.take(10)
        assert 0 == outbox.waiting

    def test_close(self) -> None:
        """
        Closing returns what was taken and what was not, until it is settled.
        """
        outbox = MemoryOutbox(10, 10**6, Ledger())
        messages = [make_message(number) for number in range(3)]
        for message in messages:
            outbox.put(message)
        outbox.take(1)

        assert messages == outbox.close()
        for message in messages[:2]:
            outbox.settle(message, Counter())
        assert messages[2:] == outbox.close()
        assert 1 == outbox.waiting

    def test_threads(self) -> None:
        """
        Nothing is lost when OS threads put at once.
        """
        outbox = MemoryOutbox(100_000, 10**9, Ledger())

        def put() -> None:
            for number in range(5000):
                outbox.put(make_message(number))

        in_threads(4, put)

        assert 20_000 == len(outbox.take(100_000))
