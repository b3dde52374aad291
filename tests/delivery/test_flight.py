"""
What is sent and not settled.
"""

from collections import deque

from nameko_eventlog.delivery.flight import WINDOW, WINDOW_BYTES, Flight
from nameko_eventlog.delivery.message import Message
from tests.delivery.conftest import make_message


def nothing(limit: int) -> list[Message]:
    """
    Take from an empty outbox.
    """
    return []


def fly(count: int, flight: Flight, **changes: object) -> list[Message]:
    """
    Send so many messages, under the tags from 1 on.
    """
    messages = [make_message(number, **changes) for number in range(count)]
    for tag, message in enumerate(messages, 1):
        flight.send(tag, message, 100.0 + tag)
    return messages


class TestConfirm:
    def test_single(self) -> None:
        """
        A single answer stands for one message, whatever the order.
        """
        flight = Flight()
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
        flight = Flight()
        messages = fly(5, flight)
        flight.confirm(2)

        assert [messages[0], messages[2]] == flight.confirm(3, multiple=True)
        assert 104.0 == flight.sent_at
        assert messages[3:] == flight.confirm(5, multiple=True)

    def test_twice(self) -> None:
        """
        An answer for what was answered, or never sent, is for nothing.
        """
        flight = Flight()
        fly(1, flight)
        flight.confirm(1)

        assert [] == flight.confirm(1)
        assert [] == flight.confirm(9, multiple=True)


class TestNext:
    def test_order(self) -> None:
        """
        The lost come first, then the refused that are due, then the new.
        """
        flight = Flight()
        first, second, refused, late = fly(4, flight)
        flight.confirm(3)
        flight.refuse(refused, 0.0)
        flight.confirm(4)
        flight.refuse(late, 1000.0)
        flight.lose(alone=False)
        new = make_message(9)

        assert deque([first, second, refused, new]) == flight.next(10, 500.0, lambda limit: [new])

    def test_put_back(self) -> None:
        """
        What was not sent after all comes first next time, in its order.
        """
        flight = Flight()
        messages = fly(4, flight)
        flight.lose(alone=False)
        batch = flight.next(3, 0.0, nothing)
        flight.put_back(batch)

        assert deque(messages) == flight.next(10, 0.0, nothing)

    def test_window(self) -> None:
        """
        No more than a window is on its way or waits to be sent again.
        """
        flight = Flight()
        fly(WINDOW - 3, flight)
        asked: list[int] = []

        def take(limit: int) -> list[Message]:
            asked.append(limit)
            return []

        flight.next(100, 0.0, take)
        (refused,) = flight.confirm(1)
        flight.refuse(refused, 0.0)
        flight.next(100, 0.0, take)

        assert [3, 3] == asked

    def test_bytes(self) -> None:
        """
        A megabyte on its way is a full window, but a single message may be larger.
        """
        flight = Flight()
        assert not flight.is_full
        flight.send(1, make_message(body=b"x" * WINDOW_BYTES), 0.0)
        assert flight.is_full
        flight.confirm(1)

        assert not flight.is_full


class TestLose:
    def test_first_again(self) -> None:
        """
        What was lost comes before what was already waiting to be sent again.
        """
        flight = Flight()
        messages = fly(2, flight)
        waiting = make_message(9)
        flight.put_back(deque([waiting]))

        assert messages == flight.lose(alone=False)
        assert deque([*messages, waiting]) == flight.next(10, 0.0, nothing)

    def test_alone(self) -> None:
        """
        If one of them is to blame, they go one by one until one is confirmed.
        """
        flight = Flight()
        first, second, third, _ = fly(4, flight)
        flight.lose(alone=True)
        assert deque([first]) == flight.next(10, 0.0, nothing)
        flight.send(1, first, 0.0)
        assert flight.is_full
        assert deque() == flight.next(10, 0.0, nothing)
        flight.confirm(1)

        assert deque([second, third]) == flight.next(10, 0.0, nothing)

    def test_again_and_again(self) -> None:
        """
        Losses with nothing confirmed between them end with one message at a time.
        """
        flight = Flight()
        fly(1000, flight)
        sizes = []
        for _ in range(4):
            flight.lose(alone=False)
            batch = flight.next(1000, 0.0, nothing)
            sizes.append(len(batch))
            for tag, message in enumerate(batch, 1):
                flight.send(tag, message, 0.0)

        assert [125, 15, 1, 1] == sizes

    def test_nothing_sent(self) -> None:
        """
        A connection that is lost with nothing on its way says nothing about messages.
        """
        flight = Flight()

        assert [] == flight.lose(alone=True)
        assert not flight.is_full

    def test_drop(self) -> None:
        """
        What was given up is not sent again.
        """
        flight = Flight()
        first, second = fly(2, flight)
        flight.lose(alone=False)
        flight.drop(first)

        assert [second] == flight.clear()


class TestRefuse:
    def test_backoff(self) -> None:
        """
        Each refusal of a message doubles its pause, to some seconds.
        """
        flight = Flight()
        (message,) = fly(1, flight)
        pauses = []
        for _ in range(8):
            flight.refuse(message, 0.0)
            due = flight._refused[0][0]
            pauses.append(due)
            assert deque() == flight.next(10, due - 0.01, nothing)
            assert deque([message]) == flight.next(10, due, nothing)

        assert 0.05 <= pauses[0] <= 0.15
        assert 2.5 <= pauses[7] <= 7.5

    def test_clear(self) -> None:
        """
        Clearing returns everything once.
        """
        flight = Flight()
        first, second, third = fly(3, flight)
        flight.confirm(1)
        flight.refuse(first, 0.0)
        flight.confirm(2)
        flight.put_back(deque([second]))

        assert [third, second, first] == flight.clear()
        assert [] == flight.clear()
