"""
Trees of calls.
"""

from __future__ import annotations

from typing import Any

import pytest

from nameko_eventlog.store import EventLogQuery, InvalidQuery
from nameko_eventlog.store.answers import EventLogRow
from nameko_eventlog.store.traces import build_trace
from nameko_eventlog.store.writing import EventLogWriter
from tests.store.conftest import Make, body


def row(second: int, **attributes: Any) -> EventLogRow:
    """
    Make a stored event log.
    """
    stack = attributes["call_stack"]
    attributes.setdefault("call_id", stack[-1] if stack else None)
    return {
        "message_id": f"{second:04}",
        "time": f"2026-11-24T08:00:{second:02}.500+00:00",
        "body": body(**attributes),
    }


class TestBuildTrace:
    def test_tree(self) -> None:
        """
        Parents first, siblings by their begin; what nobody tells of is there by its children.
        """
        trace = build_trace(
            "a.x.1",
            [
                row(9, call_stack=["a.x.1", "b.y.2"]),
                row(1, call_stack=["a.x.1", "c.z.3"]),
                row(3, call_stack=["a.x.1", "b.y.2", "d.v.4", "e.w.5"]),
            ],
            False,
        )

        assert [
            ("a.x.1", 0, False),
            ("c.z.3", 1, True),
            ("b.y.2", 1, True),
            ("d.v.4", 2, False),
            ("e.w.5", 3, True),
        ] == [(call["call_id"], call["depth"], call["known"]) for call in trace["calls"]]
        assert ("d", "v") == (
            trace["calls"][3]["service_name"],
            trace["calls"][3]["entrypoint_name"],
        )

    def test_ends(self) -> None:
        """
        Durations and outcomes are those that auto capture has noted.
        """
        trace = build_trace(
            "a.x.1",
            [
                row(1, call_stack=["a.x.1"], event_type="entrypoint_fired"),
                row(2, call_stack=["a.x.1"], event_type="entrypoint_failed", duration=1.0),
                row(3, call_stack=["a.x.1"], event_type="mine", duration=99),
                row(5, call_stack=["a.x.1", "b.y.2"], event_type="done", duration=2.0),
                row(6, call_stack=["a.x.1", "b.y.3"], duration="long"),
            ],
            False,
        )

        assert [
            ("failed", 1.0, "2026-11-24T08:00:01.500+00:00"),
            ("completed", 2.0, "2026-11-24T08:00:03.500+00:00"),
            (None, None, "2026-11-24T08:00:06.500+00:00"),
        ] == [(call["status"], call["duration"], call["started"]) for call in trace["calls"]]

    def test_told_late(self) -> None:
        """
        A call whose first event log comes just before its end began when its duration says.
        """
        trace = build_trace(
            "a.x.1",
            [
                row(8, call_stack=["a.x.1"], event_type="nearly"),
                row(9, call_stack=["a.x.1"], event_type="entrypoint_completed", duration=5.0),
                row(3, call_stack=["b.y.2"], event_type="early", call_id="b.y.2"),
                row(9, call_stack=["b.y.2"], event_type="entrypoint_completed", duration=5.0),
            ],
            False,
        )

        assert ["2026-11-24T08:00:04.500+00:00", "2026-11-24T08:00:03.500+00:00"] == [
            call["started"] for call in trace["calls"]
        ]

    def test_circle(self) -> None:
        """
        Call stacks that contradict each other end up as some tree, each call once.
        """
        trace = build_trace(
            "a",
            [
                row(1, call_stack=["b", "c"]),
                row(2, call_stack=["c", "b"]),
                row(3, call_stack=["a", "a"]),
                row(4, call_stack=[], call_id="d"),
            ],
            False,
        )

        assert ["a", "b", "c", "d"] == sorted(call["call_id"] for call in trace["calls"])


class TestTrace:
    def test_services(self, database: str, message: Make) -> None:
        """
        All of an origin's calls, whichever of them was asked for, and no others.
        """
        stacks = [["a.x.1"], ["a.x.1", "b.y.2"], ["a.x.1", "b.y.2", "c.z.3"], ["o.o.0", "p.p.0"]]
        writer = EventLogWriter(database, ["json"])
        writer.write([message(body(call_stack=s, call_id=s[-1])) for s in stacks])
        writer.close()

        with EventLogQuery(database) as query:
            for call_id in ("a.x.1", "b.y.2", "c.z.3"):
                trace = query.trace(call_id)
                assert trace is not None
                assert ["a.x.1", "b.y.2", "c.z.3"] == [one["call_id"] for one in trace["calls"]]
                assert not trace["truncated"]
            assert query.trace("nobody") is None
            with pytest.raises(InvalidQuery, match="call_id=''"):
                query.trace("")

    def test_known_by_children(self, database: str, message: Make) -> None:
        """
        A call without event logs of its own is found by its children's.
        """
        writer = EventLogWriter(database, ["json"])
        stacks = [["a.x.1", "b.y.2", "c.z.3"], ["a.x.1", "d.v.4", "e.w.5"]]
        writer.write([message(body(call_stack=s, call_id=s[-1])) for s in stacks])
        writer.close()

        with EventLogQuery(database) as query:
            for asked in ("a.x.1", "b.y.2", "d.v.4"):
                trace = query.trace(asked)
                assert trace is not None
                assert {"a.x.1", "b.y.2", "c.z.3", "d.v.4", "e.w.5"} == {
                    call["call_id"] for call in trace["calls"]
                }

    def test_no_call_id(self, database: str, message: Make) -> None:
        """
        A body without a call id, which may be stored, is in the trace of its call stack.
        """
        others = body(call_stack=["s.m.1"])
        del others["call_id"]
        writer = EventLogWriter(database, ["json"])
        assert [] == writer.write([message(others)])
        writer.close()

        with EventLogQuery(database) as query:
            trace = query.trace("s.m.1")

        assert trace is not None
        assert [("s.m.1", False)] == [(one["call_id"], one["known"]) for one in trace["calls"]]

    @pytest.mark.parametrize("stack", [None, []])
    def test_no_call_stack(self, database: str, message: Make, stack: Any) -> None:
        """
        A call without a call stack is found, beside what others tell that it has led to.
        """
        alone, child = "lonely.x.1", "shop.pay.2"
        writer = EventLogWriter(database, ["json"])
        writer.write([message(body(call_id=alone, call_stack=stack)) for _ in range(2)])
        with EventLogQuery(database) as query:
            trace = query.trace(alone)
            assert trace is not None
            assert [(alone, None, 2)] == [
                (one["call_id"], one["parent_call_id"], len(one["event_logs"]))
                for one in trace["calls"]
            ]

            writer.write([message(body(call_id=child, call_stack=[alone, child]))])
            for asked in (alone, child):
                trace = query.trace(asked)
                assert trace is not None
                assert [(alone, 2), (child, 1)] == [
                    (one["call_id"], len(one["event_logs"])) for one in trace["calls"]
                ]
        writer.close()

    def test_cut_stacks(self, database: str, message: Make) -> None:
        """
        Nameko keeps ten calls of a stack: deeper ones are put together from those above them.
        """
        chain = [f"s.m.{number}" for number in range(35)]
        writer = EventLogWriter(database, ["json"])
        writer.write(
            [
                message(body(call_stack=chain[max(0, at - 10) : at + 1], call_id=chain[at]))
                for at in range(len(chain))
            ]
        )
        writer.close()

        with EventLogQuery(database) as query:
            for asked in (chain[0], chain[17], chain[-1]):
                trace = query.trace(asked)
                assert trace is not None
                assert chain == [call["call_id"] for call in trace["calls"]]
                assert list(range(35)) == [call["depth"] for call in trace["calls"]]

    def test_truncated(
        self, database: str, message: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        A trace ends somewhere, and says so.
        """
        monkeypatch.setattr("nameko_eventlog.store.trace_search.TRACE_ROWS", 50)
        writer = EventLogWriter(database, ["json"])
        writer.write([message(body()) for _ in range(60)])
        writer.close()

        with EventLogQuery(database) as query:
            trace = query.trace("shop.pay.2")

        assert trace is not None
        assert trace["truncated"]
        assert 50 == sum(len(call["event_logs"]) for call in trace["calls"])
