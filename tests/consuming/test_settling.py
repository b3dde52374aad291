"""
Which acknowledgements say what is settled.
"""

from hypothesis import given
from hypothesis import strategies as st

from nameko_eventlog.consuming import Settling


class TestSettle:
    def test_in_order(self) -> None:
        """
        One acknowledgement stands for all that is settled in order.
        """
        settling = Settling()
        for tag in range(1, 6):
            settling.add(tag)

        assert [(3, True)] == settling.settle([1, 2, 3])
        assert 2 == len(settling)

    def test_singly(self) -> None:
        """
        Where no acknowledgement stands for more than one delivery, each has its own.
        """
        settling = Settling(is_singly=True)
        for tag in range(1, 6):
            settling.add(tag)

        assert [(1, False), (2, False), (3, False)] == settling.settle([3, 2, 1])
        assert 2 == len(settling)

    def test_behind_a_slow_one(self) -> None:
        """
        What is settled behind an unsettled one is acknowledged singly, and once.
        """
        settling = Settling()
        for tag in range(1, 5):
            settling.add(tag)

        assert [(2, False), (4, False)] == settling.settle([4, 2])
        assert [] == settling.settle([2, 99])
        assert [(3, True)] == settling.settle([1, 3])
        assert 0 == len(settling)

    @given(st.permutations(range(1, 12)), st.lists(st.integers(1, 4), min_size=11, max_size=11))
    def test_exactly_once(self, order: list[int], sizes: list[int]) -> None:
        """
        In whichever order: a broker that keeps count is told of each delivery once, and never
        of one that is not settled.
        """
        settling, acknowledged, settled = Settling(), set[int](), set[int]()
        for tag in range(1, 12):
            settling.add(tag)
        rest = list(order)
        for size in sizes:
            some, rest = rest[:size], rest[size:]
            settled |= set(some)
            for tag, all_before in settling.settle(some):
                stands_for = set(range(1, tag + 1)) if all_before else {tag}
                new = stands_for - acknowledged
                assert tag in new
                acknowledged |= new
            assert acknowledged == settled
