"""
query, trace, count, purge and rejects, on a database of their own.
"""

from __future__ import annotations

import csv
import io
import json
import pathlib
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import pytest
import yaml

from nameko_eventlog.store.queries import EventLogQuery
from nameko_eventlog.store.writing import EventLogWriter
from tests.cli.conftest import Cli
from tests.store.conftest import Make, body
from tests.store.recomputed import check_summaries


Stored = Callable[..., None]


class TestQuery:
    def test_lines(self, run: Cli, stored: Stored) -> None:
        """
        The newest first, one a line: time, level, where, what, data.
        """
        stored({"level": "info", "data": {"order": 1}}, {"event_type": "order_sent"})

        first, second = run("query").stdout.splitlines()

        assert first.endswith("shop.pay  order_sent")
        assert second.endswith('info     shop.pay  order_paid  {"order": 1}')

    def test_json(self, run: Cli, stored: Stored) -> None:
        """
        JSON lines are what `EventLogQuery` answers.
        """
        stored({"data": {"name": "☃"}}, {})

        lines = run("query", "--json", "--oldest").stdout.splitlines()

        assert ["☃", None] == [json.loads(line)["body"]["data"].get("name") for line in lines]

    def test_csv(self, run: Cli, stored: Stored) -> None:
        """
        CSV has a head, and data as JSON.
        """
        stored({"data": {"a": "x,y\n"}})

        head, row = csv.reader(io.StringIO(run("query", "--csv").stdout))

        assert ["message_id", "time", "service_name"] == head[:3]
        assert {"a": "x,y\n"} == json.loads(row[-1])

    def test_filters(self, run: Cli, stored: Stored) -> None:
        """
        The options are the filters of `EventLogQuery`.
        """
        stored(
            {"event_type": "order_paid", "level": "info", "data": {"customer": {"id": 5}}},
            {"event_type": "order_sent", "level": "error", "data": {"items": [{"sku": 1}]}},
            {"event_type": "login", "service_name": "web", "meta": "x", "call_id": "c"},
        )

        def types(*options: str) -> list[str]:
            lines = run("query", "--json", "--oldest", *options).stdout.splitlines()
            return [json.loads(line)["body"]["event_type"] for line in lines]

        assert ["order_paid", "order_sent"] == types("-t", "order_*")
        assert ["order_paid", "login"] == types("-t", "login", "-t", "order_paid")
        assert ["login"] == types("-s", "web")
        assert ["order_sent"] == types("--level", "error")
        assert ["login"] == types("--call", "c")
        assert ["order_paid"] == types("--data", "customer.id=5")
        assert ["order_sent"] == types("--data-contains", '{"items": [{"sku": 1}]}')
        assert ["login"] == types("--metadata", "meta=x")
        assert ["login"] == types("--metadata-contains", '{"meta": "x"}')
        assert ["order_sent"] == types("--text", "SKU")
        assert [] == types("--until", "2020-01-01")
        assert 3 == len(types("--since", "2h"))

    def test_unseen(self, run: Cli, stored: Stored) -> None:
        """
        What no event log has is told on standard error, with similar names; a level is found
        however it is written.
        """
        stored({"level": "Error", "data": {"http.method": "GET", "http": {"code": 5}}})

        assert (
            "no stored event log has service 'shp'; did you mean 'shop'?\n"
            "no stored event log has event type 'ordr_*'; did you mean 'order_paid'?\n"
            "no event logs found\n"
        ) == run("query", "-s", "shp", "-t", "ordr_*").stderr
        assert "no stored event log has level 'eror'; did you mean 'error'?" in (
            run("count", "--level", "eror").stderr
        )
        for found in (
            ("--level", "ERR"),
            ("--level", "warn+"),
            ("--level", "40"),
            ("--data", "http.method=GET"),
            ("--data", '"http.method"=GET'),
            ("--data", "http.code=5"),
        ):
            answer = run("query", "--json", *found)
            assert (0, "") == (answer.exit_code, answer.stderr), found
        assert 1 == run("query", "--level", "critical+").exit_code

    def test_all(self, run: Cli, stored: Stored) -> None:
        """
        --all goes through all pages, --limit ends in the midst of one.
        """
        stored(*[{"data": {"n": number}} for number in range(2100)])

        assert 2100 == len(run("query", "--all").stdout.splitlines())
        assert 1500 == len(run("query", "-n", "1500").stdout.splitlines())

    def test_control_characters(self, run: Cli, stored: Stored) -> None:
        """
        What a terminal would obey is shown as text, wherever it stands.
        """
        evil = "\x1b[2J\x9b31m\u202e\r"
        stored({"event_type": evil, "data": {evil: evil}, "level": evil, "service_name": evil})

        for options in ((), ("--json",), ("--csv",)):
            said = run("query", *options).stdout
            assert not set("\x1b\x9b\u202e") & set(said)
        assert "\\x1b[2J\\x9b31m\\u202e\\x0d" in run("query").stdout

    @pytest.mark.parametrize(
        ("args", "code", "said"),
        [
            (("query", "-s", "nobody"), 1, "no event logs found"),
            (("query", "--since", "tomorrow"), 2, "'tomorrow' is not a time: pass how long ago"),
            (("query", "--data", "x"), 2, "'x' is not PATH=VALUE"),
            (("query", "--data-contains", "[]"), 2, "'[]' is not a JSON object"),
            (("query", "--json", "--csv"), 2, "--json or --csv, not both"),
            (("query", "--limit", "0"), 2, "--limit 0: pass a number above 0"),
            (("query", "--text", ""), 2, "text='': pass a non-empty string"),
            (("query", "--config", "nope.yaml"), 2, "'nope.yaml' does not exist"),
            (("trace", "nobody"), 1, "no stored event log belongs to the call 'nobody'"),
            (("count", "-s", "nobody"), 1, "no event logs found"),
            (("count", "--bucket", "5x"), 2, "'5x' is not a duration"),
            (("purge",), 2, "pass --older-than 30d, or set EVENTLOG_STORE.retention_days"),
            (("rejects", "show", "5"), 1, "there is no reject 5"),
            (("rejects", "show", "9" * 30), 2, "is not in the range"),
            (("rejects", "retry", "9" * 30), 2, "is not in the range"),
            (("rejects", "list", "-n", "-1"), 2, "is not in the range"),
            (("purge", "--older-than", "3000000d"), 2, "too long ago"),
            (("count", "--bucket", "0.5s"), 2, "--bucket: pass 1s or more"),
        ],
    )
    def test_mistakes(
        self, run: Cli, stored: Stored, args: tuple[str, ...], code: int, said: str
    ) -> None:
        """
        A mistake is told in a sentence, with an exit code.
        """
        stored({})

        result = run(*args)

        assert code == result.exit_code
        assert said in result.stderr

    def test_no_database(self, run: Cli) -> None:
        """
        A database that is not there is not made.
        """
        result = run("query")

        assert 3 == result.exit_code
        assert "does not exist: the store creates it when it starts" in result.stderr

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("a: [", "is not valid YAML"),
            ("a: [1\nb: 2", "expected ',' or ']', but got ':', line 2, column 2"),
            ("[1]", "must be a mapping"),
            ("EVENTLOG_STORE: 5", "a mapping"),
            ("EVENTLOG_STORE: {batch_size: 0, quorum: 1}", "\nEVENTLOG_STORE.quorum must be"),
        ],
    )
    def test_config(self, folder: pathlib.Path, run: Cli, text: str, said: str) -> None:
        """
        So is a mistake in the config.yaml.
        """
        (folder / "config.yaml").write_text(text)

        result = run("query")

        assert 2 == result.exit_code
        assert said in result.stderr

    def test_environment(
        self, folder: pathlib.Path, run: Cli, stored: Stored, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        Variables of the environment stand in for values, as for `nameko run`.
        """
        stored({})
        (folder / "config.yaml").write_text("EVENTLOG_STORE:\n  uri: ${WHERE:sqlite:///x}\n")
        monkeypatch.setenv("WHERE", f"sqlite:///{folder}/eventlog.db")

        assert 0 == run("query").exit_code


class TestTrace:
    def test_tree(self, run: Cli, stored: Stored) -> None:
        """
        Calls hang below the calls that made them, with durations, their event logs below them.
        """
        top, call = "web.get.1", "shop.pay.2"
        stored(
            {"call_stack": [top, call]},
            {"call_stack": [top, call], "event_type": "entrypoint_completed", "duration": 0.25},
            {
                "call_stack": [top, call, "stock.take.3"],
                "call_id": "stock.take.3",
                "service_name": "stock",
                "entrypoint_name": "take",
                "event_type": "entrypoint_failed",
                "duration": 0.1,
            },
        )

        lines = run("trace", call, "--no-logs").stdout.splitlines()

        assert [
            "web.get  (known only from its children)  web.get.1",
            "└── shop.pay  250.0 ms  completed  shop.pay.2",
            "    └── stock.take  100.0 ms  failed  stock.take.3",
        ] == lines
        assert 6 == len(run("trace", call).stdout.splitlines())
        assert 3 == len(json.loads(run("trace", call, "--json").stdout)["calls"])


class TestCount:
    def test_bars(self, run: Cli, stored: Stored) -> None:
        """
        Each group has its number, and a bar.
        """
        stored({}, {}, {"event_type": "login"})

        assert [
            "order_paid  2  ████████████████████████████████████████",
            "login       1  ████████████████████",
        ] == run("count").stdout.splitlines()

    def test_json(self, run: Cli, stored: Stored) -> None:
        """
        The same as JSON lines, and by time.
        """
        stored({}, {})

        lines = run("count", "--by", "time", "--bucket", "1d", "--json").stdout.splitlines()

        assert 2 == sum(json.loads(line)["count"] for line in lines)
        assert "2  ███" in run("count", "--by", "time", "--bucket", "7d").stdout


class TestPurge:
    def test_old(
        self,
        run: Cli,
        stored: Stored,
        folder: pathlib.Path,
        message: Make,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """
        What is older goes, when it was asked for: event logs, and rejects.
        """
        old = datetime.now(timezone.utc) - timedelta(days=40)
        writer = EventLogWriter(f"sqlite:///{folder}/eventlog.db", ["json"])
        writer.write(
            [message(body(timestamp=old.isoformat()), message_id=f"m{n}") for n in range(2500)]
        )
        with monkeypatch.context() as then:
            then.setattr(
                "nameko_eventlog.store.writing.now_ms", lambda: int(old.timestamp() * 1000)
            )
            assert 1 == len(writer.write([message(b"rubbish")]))
        writer.close()
        stored({})

        asked = run("purge", "--older-than", "30d", input="n\n")
        assert 1 == asked.exit_code
        assert "delete 2501 event logs and rejects from before" in asked.stdout
        assert (
            "2501 event logs and rejects deleted"
            in run("purge", "--older-than", "30d", "--yes").stdout
        )
        assert "nothing is older" in run("purge", "--older-than", "30d").stdout
        with EventLogQuery(f"sqlite:///{folder}/eventlog.db") as query:
            assert 1 == len(query.query()["event_logs"])

    def test_filters(self, run: Cli, folder: pathlib.Path, message: Make) -> None:
        """
        With filters, only the event logs that all of them select go, and rejects stay.
        """
        old = (datetime.now(timezone.utc) - timedelta(days=40)).isoformat()
        uri = f"sqlite:///{folder}/eventlog.db"
        writer = EventLogWriter(uri, ["json"])
        writer.write(
            [
                message(body(timestamp=old, service_name=name, event_type=kind, level=level))
                for name in ("shop", "web")
                for kind in ("entrypoint_fired", "order_paid")
                for level in ("debug", "error")
            ]
        )
        writer.write([message(b"rubbish")])
        writer.close()
        older = ("purge", "--older-than", "30d", "--yes")

        assert "nothing is older" in run(*older, "--service", "billing").stdout
        one = run(*older, "--service", "shop", "--type", "entrypoint_*", "--level", "WARN+").stdout
        assert "1 event logs deleted" in one
        assert "3 event logs deleted" in run(*older, "--level", "error").stdout
        assert "4 event logs and rejects deleted" in run(*older).stdout
        check_summaries(uri)


class TestRejects:
    def test_retry(
        self, run: Cli, folder: pathlib.Path, message: Make, configure: Callable[..., None]
    ) -> None:
        """
        Rejects are listed with their reasons, shown whole, and stored when they can be: as ACCEPT
        says now, and from when they arrived if they tell no time.
        """
        writer = EventLogWriter(f"sqlite:///{folder}/eventlog.db", ["json"])
        writer.write(
            [
                message(b"\xff\x1b", message_id="bad"),
                message(
                    yaml.safe_dump(body(timestamp="yesterday")).encode(),
                    content_type="application/x-yaml",
                    message_id="other",
                ),
            ]
        )
        writer.close()

        listed = run("rejects", "list").stdout
        assert "application/x-yaml' is not accepted" in listed
        assert "cannot be decoded" in listed
        shown = json.loads(run("rejects", "show", "1").stdout)
        assert ("bad", "base64") == (shown["properties"]["message_id"], shown["body_encoding"])
        assert (
            "other" == json.loads(run("rejects", "show", "2").stdout)["properties"]["message_id"]
        )

        assert "2: still cannot be stored" in run("rejects", "retry", "2").stderr
        configure(ACCEPT=["json", "yaml"])
        result = run("rejects", "retry", "1", "2")
        assert 1 == result.exit_code
        assert "2: stored" in result.stdout
        assert "1: still cannot be stored" in result.stderr
        (row,) = run("query", "--time-note", "unreadable").stdout.splitlines()
        assert "(sender's clock: unreadable)" in row
        (row,) = run("query", "--json").stdout.splitlines()
        assert ("unreadable", "yesterday") == (
            json.loads(row)["time_note"],
            json.loads(row)["body"]["timestamp"],
        )
        counted = run("count", "--by", "time_note", "--json").stdout
        assert {"group": "unreadable", "count": 1} == json.loads(counted)
        assert 0 < run("query", "--time-note", "late").exit_code
        assert 1 == len(run("rejects", "list").stdout.splitlines())
