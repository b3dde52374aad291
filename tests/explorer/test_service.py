"""
The explorer's pages, over HTTP and a real database.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from html import unescape
from typing import Any
from urllib.parse import quote

import pytest
import yaml
from nameko.exceptions import ConfigurationError
from werkzeug.security import generate_password_hash

from nameko_eventlog import limits
from nameko_eventlog.explorer.config import (
    DEFAULT_ADDRESS,
    ExplorerConfig,
    is_loopback,
    parse_explorer_config,
)
from nameko_eventlog.explorer.protocol import HEADERS
from nameko_eventlog.explorer.rendering import visible
from nameko_eventlog.store.answers import FAILURE_LEVELS, WARNING_LEVELS
from tests.explorer.conftest import Explorer
from tests.rabbitmq import free_ports
from tests.waiting import wait_until


Start = Callable[..., Explorer]
Stored = Callable[..., list[str]]

# cheap, where the password is not what is tested
HASH = generate_password_hash("secret", "pbkdf2:sha256:1000")

TRACE: tuple[dict[str, Any], ...] = (
    {
        "service_name": "web",
        "entrypoint_name": "get",
        "call_id": "web.get.1",
        "call_stack": ["web.get.1"],
    },
    {
        "call_id": "shop.pay.2",
        "call_stack": ["web.get.1", "shop.pay.2"],
        "event_type": "entrypoint_failed",
        "duration": 0.25,
        "exception": {"exc_type": "ValueError"},
    },
    {
        "service_name": "mail",
        "entrypoint_name": "send",
        "call_id": "mail.send.4",
        "call_stack": ["web.get.1", "queue.put.3", "mail.send.4"],
    },
)


def accepts(address: str) -> bool:
    """
    Tell whether something listens, without asking for anything.
    """
    host, _, port = address.partition(":")
    with socket.socket() as client:
        return client.connect_ex((host, int(port))) == 0


def links(page: str) -> list[str]:
    """
    Return where a page leads.
    """
    return [unescape(one) for one in re.findall(r'href="([^"]*)"', page)]


def summary(page: str) -> str:
    """
    Return the data of a stream's first row, as it is read.
    """
    cell = page.partition('<td class="data">')[2].partition("</td>")[0]
    return unescape(re.sub("<[^>]*>", "", cell)).strip()


def types(page: str) -> list[str]:
    """
    Return the event types of a stream's rows, from above.
    """
    rows = page.partition('<tbody id="rows">')[2]
    return re.findall(r'<td class="type"><a href="[^"]*"><bdi>([^<]*)</bdi></a></td>', rows)


class TestStream:
    def test_rows(self, explorer: Start, stored: Stored) -> None:
        """
        The newest first, with level, where, what and a summary of the data.
        """
        stored({"event_type": "first"}, {"level": "error", "data": {"order": 4711, "who": "a"}})
        page = explorer().get("/").text

        assert ["order_paid", "first"] == types(page)
        assert "order=4711 who=a" == summary(page)
        assert 'class="error"' in page
        assert "shop" in page

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ("event_type=order_*", ["order_sent", "order_paid"]),
            ("event_type=login&event_type=order_paid", ["login", "order_paid"]),
            ("service=web", ["login"]),
            ("level=error", ["order_sent"]),
            ("call_id=c", ["login"]),
            ("data=customer.id%3D5", ["order_paid"]),
            ("data_contains=" + quote('{"items": [{"sku": 1}]}'), ["order_sent"]),
            ("metadata=meta%3Dx", ["login"]),
            ("text=SKU", ["order_sent"]),
            ("since=1h&order=oldest", ["order_paid", "order_sent", "login"]),
            ("until=1h", []),
            ("service=&text=+", ["login", "order_sent", "order_paid"]),
        ],
    )
    def test_filters(
        self, explorer: Start, stored: Stored, query: str, expected: list[str]
    ) -> None:
        """
        The URL bears all that `query` knows, so that a view can be sent to somebody.
        """
        stored(
            {"event_type": "order_paid", "level": "info", "data": {"customer": {"id": 5}}},
            {"event_type": "order_sent", "level": "error", "data": {"items": [{"sku": 1}]}},
            {"event_type": "login", "service_name": "web", "meta": "x", "call_id": "c"},
        )

        assert expected == types(explorer().get(f"/?{query}").text)

    def test_chips(self, explorer: Start, stored: Stored) -> None:
        """
        Each filter that is on can be left out.
        """
        stored({})
        page = explorer().get("/?service=shop&level=error&order=oldest").text

        assert "/?level=error&order=oldest" in links(page)
        assert "/?service=shop&order=oldest" in links(page)
        assert "No event log matches" in page

    def test_pages(self, explorer: Start, stored: Stored) -> None:
        """
        The link at the end leads to what comes behind, which new rows do not move.
        """
        stored(*({"event_type": f"type_{number}"} for number in range(150)))
        running = explorer()
        first = running.get("/?service=shop").text
        (following,) = (one for one in links(first) if "cursor=" in one)
        stored({"event_type": "new"})
        second = running.get(following).text

        assert [f"type_{number}" for number in range(149, 49, -1)] == types(first)
        assert [f"type_{number}" for number in range(49, -1, -1)] == types(second)
        assert not any("cursor=" in one for one in links(second))

    @pytest.mark.parametrize(
        "query", ["since=24h", "since=1w&until=0s&text=type", "since=1h&order=oldest"]
    )
    def test_pages_of_range(self, explorer: Start, stored: Stored, query: str) -> None:
        """
        A range that goes with the time stays where it was on the first page, to the last one.
        """
        expected = {f"type_{number}" for number in range(250)}
        stored(*({"event_type": one} for one in sorted(expected)))
        running = explorer()
        path, seen = f"/?service=shop&{query}", []
        while path:
            page = running.get(path)
            assert 200 == page.status
            seen += types(page.text)
            path = next((one for one in links(page.text) if "cursor=" in one), "")

        assert 250 == len(seen)
        assert expected == set(seen)

    def test_title(self, explorer: Start, stored: Stored) -> None:
        """
        Tabs are told apart by their filters.
        """
        stored({})
        running = explorer()

        assert "<title>Event logs - nameko-eventlog</title>" in running.get("/").text
        page = running.get("/?service=shop&call_id=c").text
        assert "<title>service shop, call id c - nameko-eventlog</title>" in page

    def test_placeholder(self, explorer: Start, stored: Stored) -> None:
        """
        The search says that it looks a day back only where it does.
        """
        stored({})
        running = explorer()

        assert 'placeholder="Search the last 24 hours' in running.get("/").text
        assert 'placeholder="Search:' in running.get("/?since=7d").text

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("4720", '"4720"'),
            ("true", '"true"'),
            ('"x"', '"\\"x\\""'),
            ("card 4720", "card 4720"),
            ("[" * 150, "[" * 150),
        ],
    )
    def test_as_typed(self, explorer: Start, stored: Stored, text: str, shown: str) -> None:
        """
        Data is shown as one types it into the filter: text that reads as a number has quotes.
        """
        stored({"data": {"payment": text}})
        running = explorer()

        assert f"payment={shown}" == summary(running.get("/").text)
        assert ["order_paid"] == types(running.get(f"/?data={quote(f'payment={shown}')}").text)

    def test_captured(self, explorer: Start, stored: Stored) -> None:
        """
        Of captured calls, which have no data, it shows how long they took and what they raised.
        """
        failure = {"exc_type": "LookupError", "exc_value": "order 13 has no address"}
        stored(
            {"event_type": "completed", "duration": 0.0085},
            {"event_type": "entrypoint_failed", "duration": 2, "exception": [failure, {}]},
            {"event_type": "odd", "duration": True, "exception": [{"exc_type": 5}]},
        )
        running = explorer()

        def describe_error(name: str) -> str:
            return summary(running.get(f"/?event_type={name}").text)

        assert "duration=8.5 ms" == describe_error("completed")
        expected = "duration=2.00 s exception=LookupError: order 13 has no address"
        assert expected == describe_error("entrypoint_failed")
        assert "" == describe_error("odd")

    def test_failed(self, explorer: Start, stored: Stored) -> None:
        """
        A call that failed is red in the stream and in its trace, though it has no level.
        """
        (message_id, *_) = stored(
            {"event_type": "entrypoint_failed"}, {"exception": [{"exc_type": "E"}]}, {}
        )
        running = explorer()
        page = running.get("/").text

        assert f'<tr id="row-{message_id}" class="error">' in page
        assert 2 == page.count('" class="error">')
        trace = running.get("/trace?call=shop.pay.2").text
        assert 2 == trace.count('class="tick error"')
        assert 1 == trace.count('class="tick other"')

    def test_times(self, explorer: Start, stored: Stored) -> None:
        """
        A point in time in a chip is one that a browser shows in the zone of its reader.
        """
        stored({})
        page = explorer().get("/?since=2026-01-01T08:00%2B02:00&until=0s").text
        chips = page.partition('<ul class="chips"')[2].partition("</ul>")[0]

        assert '<time datetime="2026-01-01T06:00:00.000+00:00"' in chips
        assert "<bdi>0s</bdi>" in chips

    def test_histogram(self, explorer: Start, stored: Stored) -> None:
        """
        Its bars say how many there are, of which levels, and narrow the range.
        """
        stored({"level": "info"}, {"level": "error"}, {"level": "warning"}, {})
        running = explorer()
        page = running.get("/?service=shop").text

        found = re.findall(r'aria-label="[^"]*: (\d+)([^"]*)"', page)
        assert 4 == sum(int(number) for number, _ in found)
        assert {"error", "warning", "other"} <= set(re.findall(r'rect class="(\w+)"', page))
        bars = [one for one in links(page) if "since=" in one and "until=" in one]
        assert 4 == sum(len(types(running.get(one).text)) for one in dict.fromkeys(bars))
        assert all("service=shop" in one for one in bars)

    def test_empty(self, explorer: Start, stored: Stored) -> None:
        """
        Without event logs it says how one gets some.
        """
        stored()

        assert "The store is empty" in explorer().get("/").text

    def test_unseen(self, explorer: Start, stored: Stored) -> None:
        """
        Names that no event log has are told, with links to similar ones.
        """
        stored({"level": "ERROR"})
        running = explorer()
        page = running.get("/?service=shp&level=error%2B&caller=nowhere").text

        assert "No stored event log has service <bdi>shp</bdi>; did you mean" in page
        assert "No stored event log has caller <bdi>nowhere</bdi>." in page
        assert "of level" not in page
        assert "/?level=error%2B&caller=nowhere&service=shop" in links(page) or (
            "/?service=shop&caller=nowhere&level=error%2B" in links(page)
        )
        assert "unseen" not in running.get("/?service=shop&level=ERR").text

    @pytest.mark.parametrize(
        ("query", "said"),
        [
            ("since=yesterday", "since='yesterday': 'yesterday' is not a time"),
            ("data=5", "data='5': '5' is not PATH=VALUE"),
            ("data_contains=%7B", "data_contains='{'"),
            ("order=up", "order='up'"),
            ("cursor=x", "cursor='x'"),
            ("since=1h&until=2h", "until='2h': pass a time after since, which is '1h'"),
            ("data=order=1&data=order=2", "data='order=2': given twice"),
            ("data=order=1&data=order=true", "data='order=true': given twice"),
            ("metadata=a=1&metadata=a=2", "metadata='a=2': given twice"),
            ("text=a&text=b", "text='b': given twice"),
            ("since=1h&since=2h", "since='2h': given twice"),
            ("until=1h&until=2h", "until='2h': given twice"),
            ("data_contains={}&data_contains=5", "data_contains='5': given twice"),
            *((f"data_contains={'[' * deep}", "data_contains=") for deep in (100, 900, 3000)),
            *((f"data=a={'[' * deep}{']' * deep}", "data=") for deep in (300, 900, 3000)),
            *((f"data_contains={'[' * deep}{']' * deep}", "data_c") for deep in (300, 900, 3000)),
            ("until=0001-01-01T05:00Z", "until='0001-01-01T05:00Z': the store has nothing from"),
            ("until=2000-01-01T00:00Z", "until='2000-01-01T00:00Z': the store has nothing from"),
            (
                "since=9000-01-01T00:00Z",
                "since='9000-01-01T00:00:00Z': pass a time in the past, or until as well",
            ),
        ],
    )
    def test_wrong(self, explorer: Start, stored: Stored, query: str, said: str) -> None:
        """
        What cannot be asked is named, with its value.
        """
        stored({})
        answer = explorer().get(f"/?{query}")

        assert 400 == answer.status
        assert said in unescape(answer.text)

    @pytest.mark.parametrize(
        "query",
        ["text=a&text=a", "since=1h&since=1h", "data=a=1&data=a=%201", "service=a&service=b"],
    )
    def test_same_twice(self, explorer: Start, stored: Stored, query: str) -> None:
        """
        The same twice is once, and of a filter that takes several each counts.
        """
        stored({})

        assert 200 == explorer().get(f"/?{query}").status

    @pytest.mark.parametrize("path", ["/", "/map"])
    @pytest.mark.parametrize(
        "query",
        [
            "since=0001-01-02",
            "since=0001-01-01T00:00Z&until=9999-12-31T23:59Z",
            "since=100000w",
            "until=9999-12-31T23:59Z",
            "until=2000-01-01T00:00:01Z",
        ],
    )
    def test_long_ago(self, explorer: Start, stored: Stored, path: str, query: str) -> None:
        """
        Any time range can be asked for, and so can those that its page leads to.
        """
        stored(TRACE[1])
        running = explorer()
        answer = running.get(f"{path}?{query}")

        assert 200 == answer.status
        if "since" in query:
            assert "entrypoint_failed" in answer.text or "web calls shop" in answer.text
        for link in links(answer.text):
            if "since=" in link:
                assert 200 == running.get(link).status, link

    def test_levels(self, explorer: Start, stored: Stored) -> None:
        """
        The legend leads to all levels of a colour.
        """
        levels = ("error", "ERROR", "fatal", "warn", "Warning", "info")
        stored(*({"level": level} for level in levels))
        page = explorer().get("/").text

        for some in (FAILURE_LEVELS, WARNING_LEVELS):
            assert "/?" + "&".join(f"level={level}" for level in some) in links(page)
        assert ["3", "2", "1"] == re.findall(r"</i>\w+ <b>(\d+)</b>", page)

    def test_quiet(
        self, explorer: Start, stored: Stored, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """
        Who asks for nonsense gets to read so, and does not fill the log.
        """
        stored({})
        running = explorer()
        capfd.readouterr()
        for query in ("order=up", "cursor=x", "since=1h&until=2h"):
            assert 400 == running.get(f"/?{query}").status

        assert ("", "") == capfd.readouterr()

    def test_no_database(self, explorer: Start, caplog: pytest.LogCaptureFixture) -> None:
        """
        Without a database it says what is wrong, without where the database is, which the log
        says; and does not make one.
        """
        answer = explorer().get("/")

        assert 503 == answer.status
        assert "the store creates it when it starts" in answer.text
        assert "eventlog.db" not in answer.text
        assert "eventlog.db" in caplog.text


class TestEventLog:
    def test_body(self, explorer: Start, stored: Stored) -> None:
        """
        The whole body, with links to what it mentions, which lead to something.
        """
        (message_id,) = stored({**TRACE[1], "data": {"customer": {"id": 5, "a.b": 1}, "tags": []}})
        running = explorer()
        page = running.get(f"/event-log?id={message_id}").text

        assert "/trace?call=shop.pay.2" in links(page)
        assert "/?call_id=web.get.1" in links(page)  # the caller
        assert "/?service=shop" in links(page)
        assert any("since=" in one and "until=" in one for one in links(page))
        assert "/?data=customer.id%3D5" in links(page)
        assert "/?data=customer.%22a.b%22%3D1" in links(page)
        for link in links(page):
            if link.startswith("/"):
                assert 200 == running.get(link).status, link

    def test_order(self, explorer: Start, stored: Stored) -> None:
        """
        What it is about comes first in its body: the data, and the metadata.
        """
        (message_id,) = stored({"tenant": "tea-house", "data": {"order": 4711}})
        page = explorer().get(f"/event-log?id={message_id}").text
        keys = re.findall(r'<th scope="row"><bdi>(\w+)</bdi>', page)

        assert ["data", "order", "tenant"] == [key for key in keys if key in keys[:3]]
        assert keys.index("tenant") < keys.index("service_name") < keys.index("timestamp")

    @pytest.mark.parametrize(
        ("exception", "what", "where"),
        [
            (
                [
                    {
                        "exc_type": "CardDeclined",
                        "exc_value": "no <money>",
                        "frames": [
                            {"filename": "a.py", "lineno": 1, "name": "a"},
                            {"filename": "b.py", "lineno": 2, "name": "b"},
                        ],
                    },
                    {"exc_type": "Cause"},
                ],
                "CardDeclined: no &lt;money&gt;",
                "b.py:2 in b",
            ),
            ({"exc_type": "CardDeclined"}, "CardDeclined", ""),
            ([{"exc_type": 5, "exc_value": "x", "frames": [None]}], "x", ""),
        ],
    )
    def test_raised(
        self, explorer: Start, stored: Stored, exception: Any, what: str, where: str
    ) -> None:
        """
        An exception, and where it was raised, are told above it.
        """
        (message_id,) = stored({"exception": exception})
        page = explorer().get(f"/event-log?id={message_id}").text
        (told,) = re.findall(r'<p class="raised">(.*)</p>', page)

        assert f"<strong><bdi>{what}</bdi></strong>" in told
        assert (f"<bdi>{where}</bdi></span>" in told) is bool(where)

    @pytest.mark.parametrize("exception", [[], "text", 5, [5], {"exc_type": None}])
    def test_nothing_raised(self, explorer: Start, stored: Stored, exception: Any) -> None:
        """
        What is no exception is a value like any other.
        """
        (message_id,) = stored({"exception": exception})
        answer = explorer().get(f"/event-log?id={message_id}")

        assert 200 == answer.status
        assert 'class="raised"' not in answer.text

    def test_file(self, explorer: Start, stored: Stored) -> None:
        """
        It can be had as a file.
        """
        (message_id,) = stored({"data": {"a": "<b>"}})
        answer = explorer().get(f"/event-log.json?id={message_id}")

        assert {"a": "<b>"} == json.loads(answer.content)["body"]["data"]
        assert "attachment" in answer.headers["Content-Disposition"]

    @pytest.mark.parametrize("path", ["/event-log?id=x", "/event-log.json?id=x", "/trace?call=x"])
    def test_unknown(self, explorer: Start, stored: Stored, path: str) -> None:
        """
        What is not there is said to be missing.
        """
        stored({})
        answer = explorer().get(path)

        assert 404 == answer.status
        assert "is not in the store" in answer.text

    @pytest.mark.parametrize("path", ["/event-log", "/trace"])
    def test_no_id(self, explorer: Start, stored: Stored, path: str) -> None:
        """
        An id has to be given.
        """
        stored({})

        assert 400 == explorer().get(path).status


class TestTrace:
    def test_calls(self, explorer: Start, stored: Stored) -> None:
        """
        All calls of an origin: durations, failures, and those known by what they called.
        """
        stored(*TRACE)
        running = explorer()
        page = running.get("/trace?call=mail.send.4").text

        assert "4 calls" in page
        assert "250.0 ms" in page
        assert re.search(r'<li class="failed">\s*<div class="call depth1">', page)
        assert re.search(r'<li class="open unknown">', page)
        assert re.search(r'<li class="open asked">', page)
        assert ["web.get", "queue.put", "mail.send", "shop.pay"] == re.findall(
            r'<div class="call[^>]*>\s*<a [^>]*><bdi>([^<]*)', page
        )

    def test_short(self, explorer: Start, stored: Stored) -> None:
        """
        The bar of a call is wider than the tick of its event log, however short it was, and is
        within the drawing.
        """
        stored(
            {**TRACE[0], "event_type": "entrypoint_completed", "duration": 60},
            {**TRACE[1], "duration": 0.0001},
            {**TRACE[1], "call_id": "c", "call_stack": ["web.get.1", "c"], "duration": 0.0001},
        )
        page = explorer().get("/trace?call=web.get.1").text
        bars = re.findall(r'class="span" x="([\d.]+)" y="\d+" width="([\d.]+)"', page)

        assert 3 == len(bars)
        for x, width in bars:
            assert float(width) >= 8
            assert float(x) + float(width) <= 1000


class TestHostile:
    @pytest.mark.parametrize(
        "text",
        [
            "<script>alert(1)</script>",
            '"><img src=x onerror=alert(1)>',
            "javascript:alert(1)",
            "{{ 7 * 7 }}{% raw %}",
            "\x1b[31mred\x1b[0m",
            "\u202egnp.exe",
            "x" * 1_000_000,
        ],
    )
    def test_escaped(self, explorer: Start, stored: Stored, text: str) -> None:
        """
        Event data is text, wherever it stands, and nothing else.
        """
        short = text[:400]
        (message_id,) = stored(
            {
                "service_name": short,
                "event_type": short,
                "entrypoint_name": short,
                "call_id": short,
                "call_stack": [short],
                "level": short,
                "data": {text: text, "list": [text]},
                short: text,
            }
        )
        running = explorer()
        paths = ("/", f"/event-log?id={message_id}", f"/trace?call={quote(short)}")
        for path in (*paths, f"/?service={quote(short)}", f"/?cursor={quote(short)}"):
            page = running.get(path).text
            assert len(page) < 500_000
            for tag in ("<img src=x", "<script>", "\x1b", "\u202e"):
                assert tag not in page, path
            assert 1 == page.count("<script")
            assert all(one[:1] in ("/", "#") for one in links(page))
            assert 1 == page.count("<img")  # ours

    def test_in_forms(self, explorer: Start, stored: Stored) -> None:
        """
        A filter stands in the form as it was given: nothing is made visible in what is sent again.
        """
        stored({})
        given = "a\u202eb\u200b\r\n\"'<c>&d"
        page = explorer().get(f"/?service={quote(given)}").text

        (value,) = re.findall(r'name="service" value="([^"]+)"', page)
        assert given == unescape(value)
        assert re.fullmatch("[ -~]+", value)

    def test_bounded(self, explorer: Start, stored: Stored) -> None:
        """
        Bodies of many keys and traces of many calls are cut, and so said; the file has all.
        """
        stack = ["x" * 400, "y" * 1_000_000, *(f"c{number}" for number in range(3000))]
        (wide, high) = stored(
            {"data": {f"key {number}": number for number in range(10_000)}},
            {"call_id": "c2999", "call_stack": stack},
        )
        running = explorer()
        for path, said in (
            (f"/event-log?id={wide}", "The body is cut"),
            (f"/event-log?id={high}", "The body is cut"),
            ("/trace?call=c2999", "Not all calls or event logs are drawn."),
        ):
            page = running.get(path).text
            assert said in page
            assert len(page) < 500_000

        body = json.loads(running.get(f"/event-log.json?id={wide}&part=body").content)
        assert 10_000 == len(body["data"])

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("a\u202eb", r"a\u202eb"),
            ("a\u200b\u3164\ufeffb", r"a\u200b\u3164\ufeffb"),
            ("a\x9b\x7f\rb", r"a\x9b\x7f\x0db"),
            ("e\u0301" + "\u0301" * 500 + "b", "e" + "\u0301" * 4 + "\u2026 (497 characters)b"),
            ("\u05e9\u05dc\u05d5\u05dd e\u0301 \U0001f469\u200d\U0001f680", None),
        ],
    )
    def test_visible(self, text: str, shown: str | None) -> None:
        """
        What has no shape, or grows over its neighbours, is written out; ordinary text is not.
        """
        assert (shown or text) == visible(text)

    def test_shown(self, explorer: Start, stored: Stored) -> None:
        """
        What would turn the text around it is shown as what it is.
        """
        stored({"data": {"name": "a\u202eb\x1b[0m"}})

        assert r"name=a\u202eb\x1b[0m" == summary(explorer().get("/").text)


class TestServing:
    def test_headers(self, explorer: Start, stored: Stored) -> None:
        """
        Every answer forbids what no page of ours needs, those of Nameko's own among them.
        """
        stored({})
        running = explorer(username="ops", password_hash=generate_password_hash("secret"))
        credentials = ("ops", "secret")
        answers = [
            running.get(path, credentials=credentials)
            for path in ("/", "/?since=x", "/nowhere", "/static/explorer.js")
        ]
        answers.append(running.get("/"))

        assert [200, 400, 404, 200, 401] == [one.status for one in answers]
        for answer in answers:
            for name in HEADERS.keys() - {"Cache-Control"}:
                assert HEADERS[name] == answer.headers[name]
            assert answer.headers["Set-Cookie"] is None

    @pytest.mark.parametrize(
        ("path", "method", "status"), [("/nowhere", "GET", 404), ("/map", "POST", 405)]
    )
    def test_no_page(
        self, explorer: Start, stored: Stored, path: str, method: str, status: int
    ) -> None:
        """
        What is no page is answered with one that leads back.
        """
        stored({})
        answer = explorer().get(path, method)

        assert status == answer.status
        assert "/" in links(answer.text)
        assert (status == 405) == ("GET" in (answer.headers["Allow"] or ""))

    @pytest.mark.parametrize(
        ("host", "status"),
        [
            ("evil.example", 403),
            ("evil.example:8000", 403),
            ("127.0.0.1.evil.example", 403),
            ("localhost.evil.example", 403),
            ("192.168.0.1", 403),
            ("8000", 403),
            ("", 403),
            ("localhost", 200),
            ("LOCALHOST:8000", 200),
            ("127.0.0.1:9", 200),
            ("127.9.9.9", 200),
            ("[::1]", 200),
            ("[::1]:8000", 200),
            ("x" * 64, 400),
            ("a..b", 400),
            ("\xff\xfe" * 40, 400),
        ],
    )
    def test_host(self, explorer: Start, stored: Stored, host: str, status: int) -> None:
        """
        Without credentials only names of this machine are answered: a page elsewhere that has its
        own name lead here would read everything.
        """
        stored({})
        answer = explorer().get("/", headers={"Host": host})

        assert status == answer.status
        if status == 403:
            assert "EVENTLOG_EXPLORER.allow_anonymous" in answer.text
        for name in HEADERS.keys() - {"Cache-Control"}:
            assert HEADERS[name] == answer.headers[name]

    @pytest.mark.parametrize(
        "section",
        [
            {"allow_anonymous": True},
            {"username": "ops", "password_hash": HASH},
        ],
    )
    def test_any_host(self, explorer: Start, stored: Stored, section: dict[str, Any]) -> None:
        """
        With credentials, or where everybody may read, any name is good; one that cannot be is not.
        """
        stored({})
        running = explorer(**section)
        expected = 401 if "username" in section else 200

        assert expected == running.get("/", headers={"Host": "eventlog.example"}).status
        assert 400 == running.get("/", headers={"Host": "x" * 64}).status

    @pytest.mark.parametrize(
        "given",
        ["Basic \xff\xfe!!", "Basic", "Basic !!", "Basic /w==", "Basic \xe9", "Bearer x", "x"],
    )
    def test_no_credentials(self, explorer: Start, stored: Stored, given: str) -> None:
        """
        Credentials that cannot be read are none.
        """
        stored({})
        running = explorer(username="ops", password_hash=HASH)
        answer = running.get("/", headers={"Authorization": given})

        assert 401 == answer.status
        assert HEADERS["X-Content-Type-Options"] == answer.headers["X-Content-Type-Options"]

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
    def test_methods(self, explorer: Start, stored: Stored, method: str) -> None:
        """
        There is nothing that could be changed.
        """
        stored({})

        assert 405 == explorer().get("/", method).status

    @pytest.mark.parametrize("name", ["../service.py", "%2e%2e/service.py", "x", "page.html"])
    def test_assets(self, explorer: Start, stored: Stored, name: str) -> None:
        """
        Of the package's files only those are handed out that a page needs.
        """
        stored({})

        assert 404 == explorer().get(f"/static/{name}").status

    def test_weight(self, explorer: Start, stored: Stored) -> None:
        """
        A full page weighs less than 150 kB, with all that it loads.
        """
        stored(*({"level": "info", "data": {"order": n, "text": "x" * 100}} for n in range(100)))
        running = explorer()
        names = ("explorer.css", "explorer.js", "icon.svg")
        pages = [running.get(path) for path in ("/", *(f"/static/{name}" for name in names))]

        assert all(200 == page.status for page in pages)
        assert sum(len(page.content) for page in pages) < 150_000

    def test_credentials(self, explorer: Start, stored: Stored) -> None:
        """
        With credentials in the configuration nothing is shown without them.
        """
        stored({})
        running = explorer(username="ops", password_hash=generate_password_hash("s:e\u00e9"))

        def status(*credentials: str) -> int:
            return running.get("/", credentials=credentials or None).status  # type: ignore[arg-type]

        assert 401 == status()
        assert 401 == status("ops", "wrong")
        assert 401 == status("root", "s:e\u00e9")
        assert [200, 200] == [status("ops", "s:e\u00e9") for _ in range(2)]
        assert 401 == status("ops", "wrong")
        assert 401 == running.get("/static/explorer.js").status
        assert "Basic" in running.get("/").headers["WWW-Authenticate"]

    def test_throttled(self, explorer: Start, stored: Stored) -> None:
        """
        Who guesses has to wait, and is let in with the right password; who was right before does
        not wait.
        """
        stored({})
        running = explorer(username="ops", password_hash=HASH)
        began = time.monotonic()
        guesses = [
            running.get("/", credentials=("ops", f"{number}")).status
            for number in range(limits.PASSWORD_GUESSES_AT_ONCE + 1)
        ]
        assert [401] * len(guesses) == guesses
        assert 200 == running.get("/", credentials=("ops", "secret")).status
        assert time.monotonic() - began >= limits.PASSWORD_PAUSE_SECONDS
        began = time.monotonic()
        assert 200 == running.get("/", credentials=("ops", "secret")).status
        assert time.monotonic() - began < limits.PASSWORD_PAUSE_SECONDS


class TestProcess:
    def test_ends(self, uri: str, stored: Stored, tmp_path: pathlib.Path) -> None:
        """
        It ends at once when it is told to, though nobody has asked for anything.
        """
        stored({})
        address = f"127.0.0.1:{free_ports(1)[0]}"
        config = tmp_path / "config.yaml"
        config.write_text(
            yaml.safe_dump(
                {
                    "AMQP_URI": "memory://",
                    "WEB_SERVER_ADDRESS": address,
                    "EVENTLOG_STORE": {"uri": uri},
                }
            )
        )
        command = [sys.executable, "-m", "nameko", "run", "--config", str(config)]
        with subprocess.Popen(
            [*command, "nameko_eventlog.explorer"],
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            try:
                wait_until(lambda: accepts(address))
                process.terminate()
                assert 0 == process.wait(5)
            finally:
                process.kill()


class TestConfiguration:
    @pytest.mark.parametrize("address", ["0.0.0.0:8000", "8000", "192.168.0.1:80"])
    def test_open_address(self, explorer: Start, address: str) -> None:
        """
        Where others reach it, it does not start without credentials.
        """
        with pytest.raises(ConfigurationError) as raised:
            explorer(address)

        assert (
            f"WEB_SERVER_ADDRESS is {address!r}, where others can reach the explorer: set"
            " EVENTLOG_EXPLORER.username and EVENTLOG_EXPLORER.password_hash, or bind to"
            " 127.0.0.1:8000, or set EVENTLOG_EXPLORER.allow_anonymous: true"
        ) == str(raised.value)

    @pytest.mark.parametrize("address", ["localhost", "127.0.0.1:http", "http://localhost"])
    def test_no_address(self, address: str) -> None:
        """
        An address without a port is named as that, by `check`; Nameko names it at the start.
        """
        with pytest.raises(ConfigurationError) as raised:
            parse_explorer_config({"WEB_SERVER_ADDRESS": address})

        assert f"WEB_SERVER_ADDRESS must be HOST:PORT, not {address!r}" == str(raised.value)

    def test_said_explicitly(self, explorer: Start, stored: Stored) -> None:
        """
        Unless it is told that everybody may read.
        """
        stored({})
        running = explorer(f"0.0.0.0:{free_ports(1)[0]}", allow_anonymous=True)
        running.address = running.address.replace("0.0.0.0", "127.0.0.1")

        assert 200 == running.get("/").status

    @pytest.mark.parametrize(
        ("section", "said"),
        [
            ({"username": "ops"}, "needs both username and password_hash"),
            ({"password_hash": "scrypt:1:1:1$a$b"}, "needs both username and password_hash"),
            ({"user": "ops"}, "did you mean 'username'"),
            ({"allow_anonymous": "yes"}, "must be true or false, not 'yes'"),
        ],
    )
    def test_wrong(self, explorer: Start, section: dict[str, Any], said: str) -> None:
        """
        What is wrong in the configuration is named.
        """
        with pytest.raises(ConfigurationError, match=said):
            explorer(**section)

    @pytest.mark.parametrize(
        "given",
        [
            "hunter2",
            "scrypt:foo$hunter2$00",
            "scrypt:3:8:1$hunter2$00",
            "pbkdf2:nope$hunter2$00",
            "pbkdf2:sha256:99999999999999999$hunter2$00",
        ],
    )
    def test_no_hash(self, explorer: Start, given: str) -> None:
        """
        A password in the place of its hash is refused, and not repeated; and so is a hash that no
        password can be checked against.
        """
        with pytest.raises(ConfigurationError, match="generate_password_hash") as raised:
            explorer(username="ops", password_hash=given)

        assert "hunter2" not in str(raised.value)

    def test_default_address(self) -> None:
        """
        Without an address it is on loopback.
        """
        assert ExplorerConfig() == parse_explorer_config({})
        assert is_loopback(DEFAULT_ADDRESS)


class TestMap:
    def test_map(self, explorer: Start, stored: Stored) -> None:
        """
        Each service and each arrow says what there was, and leads to those event logs.
        """
        stored(*TRACE)
        running = explorer()
        page = running.get("/map").text

        assert "web calls shop: 1 call, 1 failed" in page
        assert "queue calls mail: 1 call" in page
        assert "known only as a caller" in page  # queue
        leads = {
            "web calls shop": ["entrypoint_failed"],
            "queue calls mail": ["order_paid"],
            "shop: 1 call": ["entrypoint_failed"],
            "queue": ["order_paid"],
        }
        for label, expected in leads.items():
            found = re.search(rf'href="([^"]*)"[^>]* aria-label="{label}', page)
            assert found is not None, label
            assert expected == types(running.get(unescape(found[1])).text)

    def test_range(self, explorer: Start, stored: Stored) -> None:
        """
        The time range is in the URL; what cannot be read as one is named.
        """
        stored(*TRACE)
        running = explorer()

        assert "web calls shop" in running.get("/map?since=1h").text
        assert "No calls in this time" in running.get("/map?since=2h&until=1h").text
        answer = running.get("/map?since=yesterday")
        assert 400 == answer.status
        assert "since='yesterday'" in unescape(answer.text)
        assert "given twice" in running.get("/map?since=1h&since=2h").text

    def test_long_name(self, explorer: Start, stored: Stored) -> None:
        """
        A long name is cut to what a box has room for, and is whole in its tooltip.
        """
        stored({**TRACE[1], "service_name": "w" * 40})
        page = explorer().get("/map").text

        (name,) = (one for one in re.findall(r'class="name"[^>]*>([^<]*)', page) if "w" * 9 in one)
        assert f"{'w' * 16}\u2026" == name
        assert f"<title>{'w' * 40}</title>" in page
