"""
What is sent and not settled.
"""

from nameko_eventlog.delivery.entry import OutboxEntry
from nameko_eventlog.delivery.in_flight import WINDOW, WINDOW_BYTES, InFlight
from tests.delivery.conftest import make_message


def nothing(limit: int) -> list[OutboxEntry]:
    """
    Take from an empty outbox.
    """
    return []


def fly(count: int, flight: InFlight, **changes: object) -> list[OutboxEntry]:
    """
    Send so many messages, under the tags from 1 on.
    """
    messages = [make_message(number, **changes) for number in range(count)]
    send(messages, flight)
    return messages


def send(messages: list[OutboxEntry], flight: InFlight, at: float = 100.0) -> None:
    """
    Send *messages*, under the tags from 1 on.
    """
    flight.next(len(messages), 0.0, lambda limit: messages)
    for tag, _ in enumerate(messages, 1):
        flight.send(tag, at + tag)


class TestConfirm:
    def test_single(self) -> None:
        """
        A single answer stands for one message, whatever the order.
        """
        flight = InFlight()
        messages = fly(3, flight)

        assert [messages[1]] == flight.confirm(2)
        assert 101.0 == flight.sent_at
        assert [messages[2]] == flight.confirm(3)
        assert [messages[0]] == flight.confirm(1)
        assert flight.sent_at is None

    def test_multiple(self) -> None:
        """
        A multiple one stands for those up to its tag that are still unanswered.
        """
        flight = InFlight()
        messages = fly(5, flight)
        flight.confirm(2)

        assert [messages[0], messages[2]] == flight.confirm(3, multiple=True)
        assert 104.0 == flight.sent_at
        assert messages[3:] == flight.confirm(5, multiple=True)

    def test_twice(self) -> None:
        """
        An answer for what was answered, or never sent, is for nothing.
        """
        flight = InFlight()
        fly(1, flight)
        flight.confirm(1)

        assert [] == flight.confirm(1)
        assert [] == flight.confirm(9, multiple=True)


class TestNext:
    def test_order(self) -> None:
        """
        The lost come first, then the refused that are due, then the new.
        """
        flight = InFlight()
        first, second, refused, late = fly(4, flight)
        refused.refusals, late.refusals = 1, 9
        flight.restore([first, second, refused, late], 0.0)
        new = make_message(9)

        assert [first, second, refused, new] == flight.next(10, 0.2, lambda limit: [new])

    def test_kept(self) -> None:
        """
        What was not sent after all comes first next time, in its order.
        """
        flight = InFlight()
        messages = [make_message(number) for number in range(4)]
        assert messages[:3] == flight.next(3, 0.0, lambda limit: messages[:limit])
        flight.send(1, 0.0)

        assert messages[1:] == flight.next(10, 0.0, lambda limit: messages[3:])

    def test_window(self) -> None:
        """
        No more than a window is on its way.
        """
        flight = InFlight()
        fly(WINDOW - 3, flight)
        asked: list[int] = []

        def take(limit: int) -> list[OutboxEntry]:
            asked.append(limit)
            return []

        flight.next(100, 0.0, take)

        assert [3] == asked

    def test_bytes(self) -> None:
        """
        A megabyte on its way is a full window, but a single message may be larger.
        """
        flight = InFlight()
        assert not flight.is_full
        send([make_message(body=b"x" * WINDOW_BYTES)], flight)
        assert flight.is_full
        flight.confirm(1)

        assert not flight.is_full


class TestLose:
    def test_alone(self) -> None:
        """
        If one of them is to blame, they go one by one until one is confirmed.
        """
        flight = InFlight()
        messages = fly(4, flight)
        first, second, third, _ = messages
        assert messages == flight.lose(alone=True)
        flight.restore(messages, 0.0)
        assert [first] == flight.next(10, 0.0, nothing)
        flight.send(1, 0.0)
        assert flight.is_full
        assert [] == flight.next(10, 0.0, nothing)
        flight.confirm(1)

        assert [second, third] == flight.next(10, 0.0, nothing)

    def test_again_and_again(self) -> None:
        """
        Losses with nothing confirmed between them end with one message at a time.
        """
        flight = InFlight()
        messages = fly(1000, flight)
        sizes = []
        for _ in range(4):
            flight.lose(alone=False)
            flight.restore(messages, 0.0)
            batch = flight.next(1000, 0.0, nothing)
            sizes.append(len(batch))
            for tag, _message in enumerate(batch, 1):
                flight.send(tag, 0.0)

        assert [125, 15, 1, 1] == sizes

    def test_nothing_sent(self) -> None:
        """
        A connection that is lost with nothing on its way says nothing about messages.
        """
        flight = InFlight()

        assert [] == flight.lose(alone=True)
        assert not flight.is_full


def refuse(flight: InFlight, tag: int, now: float) -> None:
    """
    Let the broker refuse what was sent under *tag*.
    """
    for message in flight.confirm(tag, taken=False):
        flight.refuse(message, now)


class TestRefuse:
    def test_backoff(self) -> None:
        """
        Each refusal of a message doubles its pause, to some seconds.
        """
        flight = InFlight()
        (message,) = fly(1, flight)
        refuse(flight, 1, 0.0)
        pauses, now = [], 0.0
        for tag in range(2, 10):
            began = now
            while not flight.may_retry(now):
                now += 0.01
            pauses.append(now - began)
            assert [message] == flight.next(10, now, nothing)
            flight.send(tag, now)
            refuse(flight, tag, now)

        assert 0.05 <= pauses[0] <= 0.16
        assert 2.5 <= pauses[7] <= 7.6

    def test_new_ones_pass(self) -> None:
        """
        However many are refused, new ones are sent, and one retry in a pause that grows.
        """
        flight = InFlight()
        fly(WINDOW, flight)
        for tag in range(1, WINDOW + 1):
            refuse(flight, tag, 0.0)
        sent, retries, now = WINDOW, 0, 0.0
        while now < 60:
            new = [make_message(sent)]
            batch = flight.next(100, now, lambda limit, new=new: new)  # type: ignore[misc]
            assert new[0] is batch[-1]
            retries += len(batch) - 1
            for _ in batch:
                sent += 1
                flight.send(sent, now)
                refuse(flight, sent, now)
            now += 0.1

        assert 10 < retries < 40
        assert WINDOW + 600 == flight.refused

    def test_room_again(self) -> None:
        """
        Each retry that is taken lets one more be tried at once.
        """
        flight = InFlight()
        fly(100, flight)
        for tag in range(1, 101):
            refuse(flight, tag, 0.0)
        sizes, tag = [], 100
        while flight.refused:
            batch = flight.next(100, 1.0, nothing)
            sizes.append(len(batch))
            for _ in batch:
                tag += 1
                flight.send(tag, 1.0)
            flight.confirm(tag, multiple=True)

        assert [1, 2, 4, 8, 16, 32, 37] == sizes

    def test_bounded(self) -> None:
        """
        When so many wait aside, by number or by bytes, no new ones are taken.
        """
        for flight in (InFlight(most_aside=3), InFlight(most_aside_bytes=3 * 13)):
            fly(4, flight)
            for tag in (1, 2):
                refuse(flight, tag, 0.0)
            assert not flight.is_aside_full
            refuse(flight, 3, 0.0)
            assert flight.is_aside_full
            assert [] == flight.next(10, 0.0, lambda limit: [make_message(9)])

    def test_retry_soon(self) -> None:
        """
        When there is little time left, pauses end.
        """
        flight = InFlight()
        (message,) = fly(1, flight)
        message.refusals = 9
        flight.restore([message], 0.0)
        assert not flight.may_retry(1.0)
        flight.retry_soon()

        assert [message] == flight.next(10, 1.0, nothing)


class TestRestore:
    def test_everything(self) -> None:
        """
        Whatever was known before, what the outbox has is sent again, in its order.
        """
        flight = InFlight()
        messages = fly(5, flight)
        refuse(flight, 2, 0.0)
        flight.confirm(3)
        flight.next(1, 0.0, lambda limit: [make_message(9)])
        flight.restore(messages, 0.0)

        assert (0, 1) == (flight.sent, flight.refused)
        assert messages[:1] + messages[2:] == flight.next(10, 0.0, nothing)
        assert [*messages[:1], *messages[2:], messages[1]] == flight.next(10, 1.0, nothing)
