"""
What tail wants, held to what query finds.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nameko_eventlog.cli.filters import as_typed, matcher, parameters
from nameko_eventlog.store import EventLogQuery
from nameko_eventlog.store.parameters import Filters
from nameko_eventlog.store.writing import EventLogWriter
from tests.cli.conftest import Cli
from tests.cli.test_tailing import command
from tests.store.conftest import Make, body


BODIES = [
    body(level="info", data={"items": [5, {"sku": "x"}], "customer": {"id": 5}, "n": 0}),
    body(service_name="web", call_id="web.get.1", call_stack=["web.get.1"], data={"n": 1}),
    body(event_type="login", level="error", data={"n": 2, "text": 'say "hi"\n', "tags": []}),
    body(entrypoint_name="refund", call_stack=["a.b.1", "eu.c.d.2", "shop.pay.2"], data={"n": 3}),
    body(meta={"tags": ["a", "b"]}, call_id=None, call_stack=None, data={"n": 4, "0": "ÄRGER"}),
]

OPTIONS: list[dict[str, Any]] = [
    {"service": ("web",)},
    {"entrypoint": ("refund", "nothing")},
    {"event_type": ("login",)},
    {"event_type": ("log*", "nothing*")},
    {"caller": ("eu.c",)},
    {"level": ("info", "error")},
    {"call_id": ("web.get.1",)},
    {"origin_call_id": ("a.b.1",)},
    {"data": (("customer.id", 5),)},
    {"data": (("items.0", 5),)},
    {"data": (("items.-1.sku", "x"),)},
    {"data": (("0", "ÄRGER"),)},
    {"data_contains": {"items": [{"sku": "x"}]}},
    {"metadata": (("meta.tags.1", "b"),)},
    {"metadata_contains": {"meta": {"tags": ["b"]}}},
    {"text": 'SAY "HI"\n'},
    {"text": "ÄRGER"},
]


class TestMatcher:
    @pytest.fixture
    def query(self, database: str, message: Make) -> Iterator[EventLogQuery]:
        """
        A store with `BODIES`.
        """
        writer = EventLogWriter(database, ["json"])
        assert [] == writer.write([message(one) for one in BODIES])
        writer.close()
        with EventLogQuery(database) as query:
            yield query

    def test_as_query(self, query: EventLogQuery) -> None:
        """
        Each option leaves what `query` finds: some, not all.
        """
        for options in OPTIONS:
            page = query.query(order="oldest", **parameters(options))
            found = [row["body"]["data"]["n"] for row in page["event_logs"]]
            is_wanted = matcher(options)

            assert 0 < len(found) < len(BODIES), options
            assert (options, sorted(found)) == (
                options,
                [one["data"]["n"] for one in BODIES if is_wanted(one)],
            )

    def test_all_filters(self) -> None:
        """
        `OPTIONS` has every filter there is but for those that tail does not take, the times and
        what the store alone knows: a new one that tail forgets changes nothing, and fails above.
        """
        known = set(Filters.parse.__kwdefaults__ or {})

        assert known - {"since", "until", "time_note"} == {name for one in OPTIONS for name in one}

    @pytest.mark.parametrize("call_stack", [5, {"a": 1}, "ab", [], [[]], [None, 1], True, 0.5])
    @pytest.mark.parametrize("options", [{}, {"caller": ("a",)}, {"origin_call_id": ("a",)}])
    def test_foreign(self, call_stack: Any, options: dict[str, Any]) -> None:
        """
        Whatever others have put there for a call stack, it is no error.
        """
        is_wanted: Callable[[Any], bool] = matcher(options)

        assert (not options) == is_wanted(body(call_stack=call_stack))


class TestJson:
    @pytest.mark.parametrize("option", ["--data-contains", "--metadata-contains"])
    @pytest.mark.parametrize("command", ["query", "tail"])
    @pytest.mark.parametrize("start", ["[", '{"a": '])
    @pytest.mark.parametrize("depth", [300, 950, 5000])
    def test_deep(
        self,
        run: Cli,
        configure: Callable[..., None],
        command: str,
        option: str,
        start: str,
        depth: int,
    ) -> None:
        """
        What is nested too deeply is a usage error, whatever finds that out.
        """
        configure(AMQP_URI="memory://")
        end = {"[": "]", '{"a": ': "}"}[start] * depth

        result = run(command, option, f"{start * depth}1{end}")

        assert 2 == result.exit_code
        assert result.stdout == ""
        assert "Error: " in result.stderr

    def test_long(self, run: Cli) -> None:
        """
        What is no JSON object is not told of at length.
        """
        result = run("query", "--data-contains", "x" * 100_000)

        assert 2 == result.exit_code
        assert "xxx'… is not a JSON object" in result.stderr
        assert len(result.stderr) < 1000


class TestEquality:
    def test_deep(self, run: Cli) -> None:
        """
        What is nested too deeply is a usage error.
        """
        result = run("query", "--data", f"a={'[' * 5000}")

        assert 2 == result.exit_code
        assert "nested too deeply" in result.stderr


class TestWords:
    @pytest.mark.parametrize(
        "args",
        [
            ("query", "--text", "☃"),
            ("query", "--service", "s☃"),
            ("query", "--data", "☃=☃"),
            ("query", "--data-contains", '{"☃": "☃"}'),
            ("trace", "a.b.☃"),
        ],
    )
    def test_locale(
        self, folder: pathlib.Path, stored: Callable[..., None], args: tuple[str, ...]
    ) -> None:
        """
        Arguments are UTF-8, also where the locale is ``C``.
        """
        stored(
            {
                "service_name": "s☃",
                "data": {"☃": "☃"},
                "call_id": "a.b.☃",
                "call_stack": ["a.b.☃"],
            }
        )
        environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        with command(*args, "--json", folder=folder, **environment) as process:
            found = process.stdout.read()

        assert 0 == process.returncode
        assert 1 == len(found.splitlines())

    def test_as_typed(self) -> None:
        """
        What is no UTF-8 stays as it is.
        """
        assert ["☃", "\udcff", "\ud800"] == [as_typed(one) for one in ("☃", "\udcff", "\ud800")]
