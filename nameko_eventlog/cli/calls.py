"""
The commands for calls: `calls` and `latencies`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import click
from rich.table import Table
from rich.text import Text

from nameko_eventlog.cli.filters import Duration, Moment, Words, parameters
from nameko_eventlog.cli.settings import NOTHING, config_option, handle_errors, store_config
from nameko_eventlog.cli.terminal import column, console, json_line, local_time, printable
from nameko_eventlog.store.answers import FoundCall, Latency
from nameko_eventlog.store.call_filters import ORDERS
from nameko_eventlog.store.latencies import PERCENTILES
from nameko_eventlog.store.outcomes import COMPLETED, EXPECTED, FAILED, OUTCOMES, RUNNING
from nameko_eventlog.store.parameters import MAX_LIMIT
from nameko_eventlog.store.queries import EventLogQuery


F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--service", "-s", type=Words(), multiple=True, help="The service's name; repeat for more."
    ),
    click.option(
        "--entrypoint", "-e", type=Words(), multiple=True, help="The entrypoint's method name."
    ),
    click.option("--since", type=Moment(), help="From when: how long ago (2h), or ISO 8601."),
    click.option("--until", type=Moment(), help="Before when: the same."),
)
_COLOURS = {COMPLETED: "green", FAILED: "red", EXPECTED: "yellow", RUNNING: "dim"}
_WIDEST = max(map(len, OUTCOMES))
_DURATION = 11  # cells
_LEAST = 0.01  # calls a second


def _name_options(command: F) -> F:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command()
@_name_options
@click.option("--caller", type=Words(), multiple=True, help="The calling service.")
@click.option(
    "--outcome", type=click.Choice(OUTCOMES), multiple=True, help="How it ended; repeat for more."
)
@click.option("--min-duration", type=Duration(), help="As long as that, or longer: 500ms, 2s.")
@click.option("--max-duration", type=Duration(), help="As long as that, or shorter.")
@click.option(
    "--order", type=click.Choice(ORDERS), default="newest", show_default=True, help="Which first."
)
@click.option("--limit", "-n", default=50, show_default=True, help="How many, at most.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@config_option
@handle_errors
def calls(
    path: str,
    order: str,
    limit: int,
    as_json: bool,
    min_duration: timedelta | None,
    max_duration: timedelta | None,
    **options: Any,
) -> None:
    """
    Find calls by service, entrypoint, outcome, duration and time.
    """
    if limit < 1:
        raise click.UsageError(f"--limit {limit}: pass a number above 0")
    filters = parameters(options)
    for name, value in (("min_duration", min_duration), ("max_duration", max_duration)):
        if value is not None:
            filters[name] = value.total_seconds()
    found = 0
    out = console()
    cursor = None
    with EventLogQuery(store_config(path).uri) as store:
        while found < limit:
            page = store.calls(
                order=order, limit=min(limit - found, MAX_LIMIT), cursor=cursor, **filters
            )
            for call in page["calls"]:
                found += 1
                if as_json:
                    click.echo(json_line(call))
                else:
                    out.print(_line(call), soft_wrap=True)
            cursor = page["cursor"]
            if cursor is None:
                break
    if not found:
        if not as_json:
            click.echo("no calls found", err=True)
        sys.exit(NOTHING)


def _line(call: FoundCall) -> Text:
    line = Text(no_wrap=True, overflow="ignore")
    line.append(local_time(call["started"]), style="dim")
    line.append(f" {_duration(call['duration']):>{_DURATION}}", style="magenta")
    line.append(f" {column(call['outcome'], _WIDEST)}", style=_COLOURS[call["outcome"]])
    where = ".".join(filter(None, (call["service_name"], call["entrypoint_name"])))
    line.append(f" {printable(where)}", style="cyan")
    line.append(f"  {printable(call['call_id'])}", style="dim")
    return line


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.1f} ms" if seconds < 10 else f"{seconds:.1f} s"


@click.command(short_help="Print how long calls take, by default those of the last 24 hours.")
@_name_options
@click.option("--bucket", type=Duration(), help="By time, in spans of this length: 1h.")
@click.option("--limit", "-n", default=50, show_default=True, help="How many entrypoints.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@config_option
@handle_errors
def latencies(
    path: str, bucket: timedelta | None, limit: int, as_json: bool, **options: Any
) -> None:
    """
    Print of each entrypoint how often it is called, how often that fails, and how long it takes:
    in the last 24 hours, unless --since is given.
    """
    seconds = None if bucket is None else int(bucket.total_seconds())
    if seconds is not None and seconds < 1:
        raise click.UsageError("--bucket: pass 1s or more")
    with EventLogQuery(store_config(path).uri) as store:
        found = store.latencies(bucket=seconds, limit=limit, **parameters(options))
    if not found:
        click.echo("no calls found", err=True)
        sys.exit(NOTHING)
    if as_json:
        for one in found:
            click.echo(json_line(one))
        return
    console(is_wide=True).print(_table(found))


def _table(found: list[Latency]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("entrypoint", style="cyan", no_wrap=True)
    if found[0]["time"] is not None:
        table.add_column("from", style="dim", no_wrap=True)
    for name in ("calls", "a second", "failed", "expected", *PERCENTILES):
        table.add_column(name, justify="right", no_wrap=True)
    for one in found:
        where = ".".join(filter(None, (one["service_name"], one["entrypoint_name"])))
        times = [] if one["time"] is None else [local_time(one["time"])[:19]]
        numbers = (
            str(one["calls"]),
            f"{one['rate']:.2f}" if one["rate"] >= _LEAST else f"<{_LEAST}",
            str(one["failures"]),
            str(one["expected"]),
        )
        percentiles = (_duration(one["p50"]), _duration(one["p95"]), _duration(one["p99"]))
        table.add_row(printable(where), *times, *numbers, *percentiles)
    return table
