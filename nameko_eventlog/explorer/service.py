"""
`EventLogExplorer`: the stored event logs as web pages.
"""

from __future__ import annotations

import json
import logging
import mimetypes
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from functools import partial
from importlib.resources import files
from typing import Any

import msgspec
from nameko.extensions import DependencyProvider
from werkzeug.wrappers import Request, Response

from nameko_eventlog import compat
from nameko_eventlog.explorer import charts, service_map
from nameko_eventlog.explorer.rendering import (
    body_lines,
    call_name,
    make_environment,
    raised,
    suggestions,
)
from nameko_eventlog.explorer.serving import page
from nameko_eventlog.explorer.views import (
    NAMES,
    PAGE,
    RANGE,
    View,
    event_log_file_url,
    map_url,
    stream_url,
    typed_time,
)
from nameko_eventlog.limits import AHEAD_SECONDS, PAGE_SECONDS, SHOWN_BODY_BYTES
from nameko_eventlog.store.answers import FAILURE_LEVELS, WARNING_LEVELS
from nameko_eventlog.store.background import spawn
from nameko_eventlog.store.config import parse_store_config
from nameko_eventlog.store.databases import DatabaseError
from nameko_eventlog.store.levels import expand_levels
from nameko_eventlog.store.parameters import InvalidQuery
from nameko_eventlog.store.reading import Readers
from nameko_eventlog.store.sql.waiting import wait_in_real_threads


_log = logging.getLogger("nameko_eventlog.explorer")

# the coloured parts of the histogram, from the bottom up
_LEVELS = {"error": FAILURE_LEVELS, "warning": WARNING_LEVELS}

_RANGES = {"Last hour": "1h", "Last day": "24h", "Last week": "7d"}

_AROUND = timedelta(minutes=1)

# how far ahead of now event logs are counted; the store dates none so far ahead
_AHEAD = timedelta(days=1)

# calls of the call stack in its line
_MOST_OF_STACK = 20

_ASSETS = ("explorer.css", "explorer.js", "icon.svg")


class Pages(DependencyProvider):
    """
    Renders the store's answers.
    """

    _is_set_up = False

    def setup(self) -> None:
        """
        Read the configuration.

        Raises:
            ConfigurationError: It is invalid.
        """
        config = parse_store_config(compat.service_config(self.container))
        wait_in_real_threads()
        self._readers = Readers(config.uri, PAGE_SECONDS)
        self.ask = self._readers.ask
        self._environment = make_environment()
        self._is_set_up = True

    def stop(self) -> None:
        """
        Close the connections; Nameko also calls this after a failed `setup`.
        """
        if self._is_set_up:
            self._readers.close()

    def get_dependency(self, worker_ctx: Any) -> Pages:
        """
        Return this provider itself.
        """
        return self

    def ask_all(self, *calls: Callable[[], Any]) -> list[Any]:
        """
        Make several calls at once, and return all results.
        """
        return [wait() for wait in [spawn(call) for call in calls]]

    def render(self, template: str, status: int = 200, **values: Any) -> Response:
        """
        Return a page.
        """
        html = self._environment.get_template(template).render(values)
        return Response(html, status, content_type="text/html; charset=utf-8")

    def answer(self, make: Callable[[], Response]) -> Response:
        """
        Return the page from *make*, or a page that explains why there is none.
        """
        try:
            return make()
        except InvalidQuery as exc:
            return self.render("problem.html", 400, title="Invalid query", why=str(exc))
        except DatabaseError as exc:
            _log.warning("%s", exc)
            why = exc.reason
            return self.render("problem.html", 503, title="The database cannot be used", why=why)


class EventLogExplorer:
    """
    Shows event logs: ``nameko run nameko_eventlog.explorer --config config.yaml``.

    .. versionadded:: 0.1.0
    """

    name = "eventlog_explorer"
    pages = Pages()

    @page("/")
    def stream(self, request: Request) -> Response:
        """
        Show a page of event logs, and their numbers over time.
        """
        return self.pages.answer(partial(self._stream, View.read(request.args)))

    @page("/event-log")
    def event_log(self, request: Request) -> Response:
        """
        Show one event log.
        """
        return self.pages.answer(partial(self._event_log, request))

    @page("/event-log.json")
    def body(self, request: Request) -> Response:
        """
        Return one event log as a JSON file.
        """

        def make() -> Response:
            row = self._row(request)
            if row is None:
                return self._not_found("event log", request.args.get("id", ""))
            is_body = request.args.get("part") == "body"
            content: bytes | str
            if "omitted_bytes" in row:  # as stored, without decoding it
                content = self.pages.ask("get_json", row["message_id"]) or "null"
                if not is_body:
                    names = ("message_id", "time", "time_note")
                    parts = {name: json.dumps(row[name]) for name in names if name in row}
                    parts["body"] = content
                    content = f"{{{', '.join(f'{json.dumps(k)}: {v}' for k, v in parts.items())}}}"
            else:
                wanted = row["body"] if is_body else row
                content = msgspec.json.format(msgspec.json.encode(wanted))
            return Response(
                content,
                content_type="application/json",
                headers={"Content-Disposition": "attachment; filename=event-log.json"},
            )

        return self.pages.answer(make)

    @page("/trace")
    def trace(self, request: Request) -> Response:
        """
        Show all calls that share an origin with a call.
        """

        def make() -> Response:
            call_id = request.args.get("call", "")
            found = self.pages.ask("trace", call_id)
            if found is None:
                return self._not_found("call", call_id)
            spans, length, are_cut = charts.waterfall(found)
            return self.pages.render(
                "trace.html",
                trace=found,
                name=call_name(spans[0].call),
                began=next((call["started"] for call in found["calls"] if call["started"]), None),
                services=len({call["service_name"] for call in found["calls"]}),
                failed=sum(call["status"] == "failed" for call in found["calls"]),
                spans=spans,
                length=length,
                are_cut=are_cut,
                asked=call_id,
                chart=charts,
            )

        return self.pages.answer(make)

    @page("/map")
    def service_map(self, request: Request) -> Response:
        """
        Show which services call which.
        """
        given = View.read(request.args).filters
        view = View(tuple((name, text) for name, text in given if name in RANGE))
        return self.pages.answer(partial(self._service_map, view))

    @page("/static/<string:name>")
    def asset(self, request: Request, name: str) -> Response:
        """
        Return one of the package's own files.
        """
        if name not in _ASSETS:
            return self._not_found("file", name)
        content = files("nameko_eventlog.explorer").joinpath("static").joinpath(name).read_bytes()
        return Response(
            content,
            content_type=mimetypes.guess_type(name)[0] or "application/octet-stream",
            headers={"Cache-Control": "max-age=300"},
        )

    def _stream(self, view: View) -> Response:
        given = view.parameters()
        since, until = _range(given)
        bucket = charts.bucket_of(since, until)
        counted = {**given, "since": since, "until": until}
        count = partial(
            self.pages.ask, "count", group_by="time", bucket=bucket, limit=1000, **counted
        )
        asked, _ = expand_levels(given["level"]) if "level" in given else (None, None)
        levels = {
            name: [level for level in of if asked is None or level in asked]
            for name, of in _LEVELS.items()
        }
        found, total, *by_level = self.pages.ask_all(
            partial(
                self.pages.ask, "query", order=view.order, limit=PAGE, cursor=view.cursor, **given
            ),
            count,
            *(partial(count, level=some) if some else list for some in levels.values()),
        )
        counts: dict[str, Any] = dict(zip(levels, by_level, strict=True))
        counts["other"] = _rest(total, by_level)
        ahead = 0
        if "until" not in given:
            late = datetime.now(timezone.utc) + timedelta(seconds=AHEAD_SECONDS)
            beyond = {**given, "since": max(late, since), "until": late + _AHEAD}
            ahead = _sum(self.pages.ask("count", group_by="level", **beyond))
        unseen = []
        names = {name: given[name] for name in NAMES if name in given}
        is_empty = not found["event_logs"] and view.cursor is None
        if names and (is_empty or any(len(values) > 1 for values in names.values())):
            unseen = self.pages.ask("unseen", **names)
        return self.pages.render(
            "stream.html",
            unseen=unseen,
            view=view,
            rows=found["event_logs"],
            following=found["cursor"] and view.page_url(found["cursor"], given),
            bars=charts.histogram(view, since, until, bucket, counts),
            total=_sum(total),
            totals={level: _sum(groups) for level, groups in counts.items()},
            since=since,
            until=until,
            chart=charts,
            ahead=ahead,
            ahead_url=ahead and view.url(since=typed_time(late), until=typed_time(late + _AHEAD)),
            suggestions=suggestions(found["event_logs"]),
        )

    def _service_map(self, view: View) -> Response:
        since, until = _range(view.parameters())
        asked = {name: "".join(view.values(name)[:1]) for name in RANGE}
        links = self.pages.ask("service_map", since=since, until=until)
        times = typed_time(since), typed_time(until)
        return self.pages.render(
            "map.html",
            asked=asked,
            ranges=[
                (text, map_url(since=ago), {"since": ago, "until": ""} == asked)
                for text, ago in _RANGES.items()
            ],
            since=since,
            until=until,
            drawing=service_map.draw(links, *times),
            links=[(link, service_map.link_url(link, *times)) for link in links],
            size=service_map,
        )

    def _event_log(self, request: Request) -> Response:
        row = self._row(request)
        if row is None:
            return self._not_found("event log", request.args.get("id", ""))
        body = row["body"]
        stack = body.get("call_stack") or []
        lines, is_cut = body_lines(row)
        at = datetime.fromisoformat(row["time"])
        return self.pages.render(
            "event_log.html",
            row=row,
            body=body,
            raised=raised(body),
            stack=stack[-_MOST_OF_STACK:],
            above=len(stack[:-_MOST_OF_STACK]),
            caller=stack[-2] if len(stack) > 1 else None,
            lines=lines,
            is_cut=is_cut,
            omitted=row.get("omitted_bytes"),
            file_url=event_log_file_url(row["message_id"]),
            around=stream_url(
                {
                    "since": (at - _AROUND).isoformat(timespec="milliseconds"),
                    "until": (at + _AROUND).isoformat(timespec="milliseconds"),
                }
            ),
        )

    def _row(self, request: Request) -> Any:
        message_id = request.args.get("id", "")
        return self.pages.ask("get", message_id, most_bytes=SHOWN_BODY_BYTES)

    def _not_found(self, what: str, which: str) -> Response:
        return self.pages.render(
            "problem.html",
            404,
            title=f"No such {what}",
            why=f"{which[:200]!r} is not in the store. Retention may have deleted it, or it has"
            " not arrived yet.",
        )


def _range(given: dict[str, Any]) -> tuple[datetime, datetime]:
    """
    Return the requested time range; without a beginning, it is a day long.

    Raises:
        InvalidQuery: It begins in the future, and has no end.
    """
    now = datetime.now(timezone.utc)
    since, until = given.get("since"), given.get("until") or now
    if since is not None and since >= now and "until" not in given:
        raise InvalidQuery("since", typed_time(since), "pass a time in the past, or until as well")
    return since or until - timedelta(days=1), until


def _sum(groups: list[Any]) -> int:
    return sum(group["count"] for group in groups)


def _rest(total: list[Any], parts: list[list[Any]]) -> list[dict[str, Any]]:
    taken: dict[str, int] = {}
    for part in parts:
        for group in part:
            taken[group["group"]] = taken.get(group["group"], 0) + group["count"]
    # the parts are counted separately, and may include event logs that arrived in between
    rest = [(one["group"], one["count"] - taken.get(one["group"], 0)) for one in total]
    return [{"group": group, "count": count} for group, count in rest if count > 0]
