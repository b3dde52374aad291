"""
The commands for the store's database: `query`, `trace`, `count` and `purge`.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import Any

import click
from rich.cells import cell_len
from rich.progress import Progress
from rich.text import Text
from rich.tree import Tree

from nameko_eventlog.cli.filters import Duration, Words, filter_options, parameters, time_options
from nameko_eventlog.cli.settings import (
    NOTHING,
    Failure,
    config_option,
    handle_errors,
    store_config,
)
from nameko_eventlog.cli.terminal import (
    column,
    console,
    json_line,
    local_time,
    printable,
    row_line,
)
from nameko_eventlog.limits import SHOWN_CALLS, SHOWN_DEPTH
from nameko_eventlog.store.answers import Call, EventLogRow
from nameko_eventlog.store.archives.columns import csv_cell
from nameko_eventlog.store.databases import DatabaseError
from nameko_eventlog.store.parameters import MAX_LIMIT
from nameko_eventlog.store.queries import GROUPS, EventLogQuery
from nameko_eventlog.store.retention import count_before
from nameko_eventlog.store.retention import purge as purge_steps
from nameko_eventlog.store.rules import Rule


_CSV = (
    "message_id", "time", "service_name", "entrypoint_protocol", "entrypoint_name", "call_id",
    "event_type", "level", "data",
)  # fmt: skip

_BAR = 40  # cells of the longest bar


@click.command()
@filter_options
@time_options
@click.option("--limit", "-n", default=50, show_default=True, help="How many, at most.")
@click.option("--all", "is_all", is_flag=True, help="All event logs, without a limit.")
@click.option("--oldest", is_flag=True, help="Oldest first.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--csv", "as_csv", is_flag=True, help="Comma-separated values.")
@config_option
@handle_errors
def query(
    path: str, limit: int, is_all: bool, oldest: bool, as_json: bool, as_csv: bool, **options: Any
) -> None:
    """
    Print stored event logs.
    """
    if as_json and as_csv:
        raise click.UsageError("pass --json or --csv, not both")
    if limit < 1:
        raise click.UsageError(f"--limit {limit}: pass a number above 0")
    found = 0
    out = console()
    writer = csv.writer(sys.stdout)
    if as_csv:
        writer.writerow(_CSV)
    with EventLogQuery(store_config(path).uri) as store:
        rows = _rows(store, parameters(options), oldest, None if is_all else limit)
        for row in rows:
            found += 1
            if not as_json and not as_csv:
                out.print(row_line(row), soft_wrap=True)
                continue
            if "omitted_bytes" in row:  # a list leaves out large bodies
                row = store.get(row["message_id"]) or row
            if as_json:
                click.echo(json_line(row))
            else:
                writer.writerow([_cell(row, name) for name in _CSV])
        warn_unseen(store, parameters(options), is_empty=not found)
    if not found:
        if not as_json and not as_csv:
            click.echo("no event logs found", err=True)
        sys.exit(NOTHING)


def warn_unseen(store: EventLogQuery, filters: dict[str, Any], *, is_empty: bool) -> None:
    """
    Print on standard error which filter values no event log has, if the database answers.

    With a single value for each filter, there can be such values only if nothing was found.
    """
    if not is_empty and not any(
        isinstance(values, list) and len(values) > 1 for values in filters.values()
    ):
        return
    with suppress(DatabaseError):  # the query itself was answered
        for one in store.unseen(**filters):
            name = one["filter"].replace("_", " ")
            near = " or ".join(repr(printable(other)) for other in one["near"])
            hint = f"; did you mean {near}?" if near else ""
            shown = repr(printable(one["value"]))
            click.echo(f"no stored event log has {name} {shown}{hint}", err=True)


def _rows(
    store: EventLogQuery, filters: dict[str, Any], oldest: bool, limit: int | None
) -> Iterator[EventLogRow]:
    cursor = None
    while limit is None or limit > 0:
        size = MAX_LIMIT if limit is None else min(limit, MAX_LIMIT)
        page = store.query(
            order="oldest" if oldest else "newest", limit=size, cursor=cursor, **filters
        )
        yield from page["event_logs"]
        cursor = page["cursor"]
        if cursor is None:
            return
        if limit is not None:
            limit -= len(page["event_logs"])


def _cell(row: EventLogRow, name: str) -> str:
    value = row[name] if name in ("message_id", "time") else row["body"].get(name)  # type: ignore[literal-required]
    return csv_cell(value)


@click.command()
@click.argument("call_id", type=Words())
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.option("--logs/--no-logs", default=True, help="With the event logs of each call.")
@config_option
@handle_errors
def trace(path: str, call_id: str, as_json: bool, logs: bool) -> None:
    """
    Print all calls that share an origin with CALL_ID, as a tree.
    """
    with EventLogQuery(store_config(path).uri) as store:
        found = store.trace(call_id)
    if found is None:
        raise Failure(f"no stored event log belongs to the call {call_id!r}", NOTHING)
    if as_json:
        click.echo(json_line(found))
        return
    branches: list[Tree] = []
    roots: list[Tree] = []
    for call in found["calls"][:SHOWN_CALLS]:
        branch = Tree(_call_line(call, call_id))
        if logs:
            for row in call["event_logs"]:
                branch.add(row_line(row))
        del branches[min(call["depth"], SHOWN_DEPTH) :]
        if branches:
            branches[-1].children.append(branch)
        else:
            roots.append(branch)
        branches.append(branch)
    # rich would cut the lines of a tree at the terminal's width; the terminal wraps them
    out = console(is_wide=True)
    for root in roots:
        out.print(root, soft_wrap=True)
    if found["truncated"]:
        click.echo("there are more event logs than a trace shows", err=True)
    if len(found["calls"]) > SHOWN_CALLS:
        click.echo(
            f"showing {SHOWN_CALLS} of {len(found['calls'])} calls: --json prints all of them",
            err=True,
        )


def _call_line(call: Call, asked: str) -> Text:
    name = f"{call['service_name']}.{call['entrypoint_name']}"
    line = Text(printable(name), style="bold cyan" if call["call_id"] == asked else "cyan")
    if call["duration"] is not None:
        line.append(f"  {call['duration'] * 1000:.1f} ms", style="magenta")
    if call["status"] is not None:
        line.append(f"  {call['status']}", style="red" if call["status"] == "failed" else "green")
    if call["depth"] > SHOWN_DEPTH:
        line.append(f"  (depth {call['depth']})", style="dim")
    if not call["known"]:
        line.append("  (known only from its children)", style="dim")
    line.append(f"  {printable(call['call_id'])}", style="dim")
    return line


@click.command(short_help="Count stored event logs, by default those of the last 24 hours.")
@filter_options
@time_options
@click.option(
    "--by",
    type=click.Choice([*GROUPS, "time"]),
    default="event_type",
    show_default=True,
    help="How to group.",
)
@click.option("--bucket", type=Duration(), default="1h", help="The length of a group by time.")
@click.option("--limit", "-n", default=50, show_default=True, help="How many groups, at most.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@config_option
@handle_errors
def count(
    path: str, by: str, bucket: timedelta, limit: int, as_json: bool, **options: Any
) -> None:
    """
    Count stored event logs: those of the last 24 hours, unless --since is given.
    """
    seconds = int(bucket.total_seconds())
    if seconds < 1:
        raise click.UsageError("--bucket: pass 1s or more")
    with EventLogQuery(store_config(path).uri) as store:
        groups = store.count(
            group_by=by,
            bucket=seconds,
            limit=limit,
            **parameters(options),
        )
        warn_unseen(store, parameters(options), is_empty=not groups)
    if not groups:
        click.echo("no event logs found", err=True)
        sys.exit(NOTHING)
    if as_json:
        for group in groups:
            click.echo(json_line(group))
        return
    names = [
        local_time(str(group["group"]))[: 19 if seconds % 60 else 16]
        if by == "time"
        else str(group["group"] or "-")
        for group in groups
    ]
    most = max(group["count"] for group in groups)
    digits = len(str(most))
    out = console()
    room = out.width - digits - 4  # with two spaces between
    widest = min(max(cell_len(printable(name)) for name in names), max(room - _BAR, room // 2))
    longest = max(1, min(_BAR, room - widest))
    bar = "█" if out.encoding.startswith("utf") else "#"
    for name, group in zip(names, groups, strict=True):
        line = Text(f"{column(name, widest)}  {group['count']:>{digits}}  ")
        line.append(bar * max(1, round(group["count"] / most * longest)), style="cyan")
        out.print(line, soft_wrap=True)


@click.command()
@click.option(
    "--older-than",
    type=Duration(),
    help="The age: 30d. Default: the configured retention_days.",
)
@click.option(
    "--service", "-s", type=Words(), multiple=True, help="Only this service; repeat for more."
)
@click.option(
    "--type",
    "-t",
    "event_type",
    type=Words(),
    multiple=True,
    help="Only this event type; * is any text.",
)
@click.option(
    "--level",
    "-l",
    type=Words(),
    multiple=True,
    help="Only this level; warning+: that or above.",
)
@click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")
@config_option
@handle_errors
def purge(path: str, older_than: timedelta | None, yes: bool, **filters: tuple[str, ...]) -> None:
    """
    Delete old event logs, and old rejects, in small steps. With a filter, rejects are kept.
    """
    config = store_config(path)
    rule = Rule(None, **filters) if any(filters.values()) else None
    if older_than is None:
        if config.retention_days is None:
            raise click.UsageError("pass --older-than 30d, or set EVENTLOG_STORE.retention_days")
        older_than = timedelta(days=config.retention_days)
    try:
        before = datetime.now(timezone.utc) - older_than
    except OverflowError:
        raise click.UsageError(f"--older-than {older_than}: too long ago") from None
    total = count_before(config.uri, before, rule)
    if not total:
        click.echo("nothing is older")
        return
    what = "event logs and rejects" if rule is None else "event logs"
    if not yes:
        click.confirm(
            f"delete {total} {what} from before {before:%Y-%m-%d %H:%M} UTC?",
            abort=True,
        )
    deleted = 0
    with Progress(console=console(), disable=not sys.stdout.isatty()) as progress:
        task = progress.add_task("deleting", total=total)
        for step in purge_steps(config.uri, before, rule):
            deleted += step
            progress.advance(task, step)
    click.echo(f"{deleted} {what} deleted")
