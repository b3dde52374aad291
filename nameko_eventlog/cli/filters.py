"""
The options that select event logs, and their meaning for event logs that are not stored.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, TypeVar

import click

from nameko_eventlog.store.call_ids import names_of
from nameko_eventlog.store.comparing import fold, is_at, is_contained, is_in, needle_of
from nameko_eventlog.store.dating import NOTES
from nameko_eventlog.store.levels import normal_level
from nameko_eventlog.store.packing import searched_part
from nameko_eventlog.store.parameters import Filters
from nameko_eventlog.store.patterns import Patterns
from nameko_eventlog.store.typed import parse_duration, parse_equality, parse_moment


F = TypeVar("F", bound=Callable[..., Any])


def as_typed(text: str) -> str:
    """
    Decode an argument as UTF-8, which terminals send, whatever the locale.

    In the locale ``C``, Python decodes bytes beyond ASCII as lone surrogates (PEP 383).
    """
    try:
        return os.fsencode(text).decode()
    except UnicodeError:
        return text


class Words(click.types.StringParamType):
    """
    Text in UTF-8.
    """

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """
        Decode the text.
        """
        return as_typed(super().convert(value, param, ctx))


class Duration(click.ParamType):  # type: ignore[type-arg]
    """
    ``90s``, ``5m``, ``2h``, ``7d``, ``1w``.
    """

    name = "duration"

    def convert(self, value: Any, param: Any, ctx: Any) -> timedelta:
        """
        Parse the duration.
        """
        if isinstance(value, timedelta):
            return value
        try:
            return parse_duration(str(value))
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


class Moment(click.ParamType):  # type: ignore[type-arg]
    """
    How long ago, ``2h``, or ISO 8601; local time if it has no offset.
    """

    name = "time"

    def convert(self, value: Any, param: Any, ctx: Any) -> datetime:
        """
        Parse the time.
        """
        if isinstance(value, datetime):
            return value
        try:
            return parse_moment(str(value))
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


class Equality(click.ParamType):  # type: ignore[type-arg]
    """
    ``customer.id=5``: a path and a JSON value, or text.
    """

    name = "path=value"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, Any]:
        """
        Split the path and the value.
        """
        if isinstance(value, tuple):
            return value
        try:
            return parse_equality(as_typed(str(value)))
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


class Json(click.ParamType):  # type: ignore[type-arg]
    """
    A JSON object.
    """

    name = "json"

    def convert(self, value: Any, param: Any, ctx: Any) -> dict[str, Any]:
        """
        Decode the object.
        """
        if isinstance(value, dict):
            return value
        try:
            found = json.loads(as_typed(value))
        except ValueError:
            found = None
        except RecursionError:
            self.fail("it is nested too deeply", param, ctx)
        if not isinstance(found, dict):
            shown = repr(value) if len(value) <= 100 else f"{value[:100]!r}…"
            self.fail(
                f'{shown} is not a JSON object, like {{"items": [{{"sku": 5}}]}}', param, ctx
            )
        return found


_OPTIONS = (
    click.option(
        "--service", "-s", type=Words(), multiple=True, help="The service's name; repeat for more."
    ),
    click.option(
        "--entrypoint", "-e", type=Words(), multiple=True, help="The entrypoint's method name."
    ),
    click.option(
        "--type",
        "-t",
        "event_type",
        type=Words(),
        multiple=True,
        help="The event type; * is any text.",
    ),
    click.option(
        "--level",
        "-l",
        type=Words(),
        multiple=True,
        help="The level; warning+: that or above.",
    ),
    click.option("--caller", type=Words(), multiple=True, help="The calling service."),
    click.option("--call", "call_id", type=Words(), multiple=True, help="The call id."),
    click.option(
        "--origin", "origin_call_id", type=Words(), multiple=True, help="The origin's call id."
    ),
    click.option(
        "--data", type=Equality(), multiple=True, help="The value at a path of the data."
    ),
    click.option("--data-contains", type=Json(), help="An object that the data contain."),
    click.option("--metadata", type=Equality(), multiple=True, help="The same for metadata."),
    click.option("--metadata-contains", type=Json(), help="The same for metadata."),
    click.option(
        "--text", type=Words(), help="A text in the event type, data or metadata, in any case."
    ),
)
_TIMES = (
    click.option("--since", type=Moment(), help="From when: how long ago (2h), or ISO 8601."),
    click.option("--until", type=Moment(), help="Before when: the same."),
    click.option(
        "--time-note",
        type=click.Choice(NOTES),
        multiple=True,
        help="What is wrong with the sender's clock.",
    ),
)


def filter_options(command: F) -> F:
    """
    Add the options of all filters except the times to a command.
    """
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def time_options(command: F) -> F:
    """
    Add ``--since``, ``--until`` and ``--time-note``, which only the store knows, to a command.
    """
    for option in reversed(_TIMES):
        command = option(command)
    return command


def parameters(options: dict[str, Any]) -> dict[str, Any]:
    """
    Return the parameters of `EventLogQuery.query` for the options given.
    """
    found: dict[str, Any] = {}
    for name, value in options.items():
        if value is None or value == ():
            continue
        if name in ("data", "metadata"):
            found[name] = dict(value)
        else:
            found[name] = list(value) if isinstance(value, tuple) else value
    return found


def matcher(options: dict[str, Any]) -> Callable[[Any], bool]:
    """
    Return a function that tells whether the options select a body.

    Raises:
        InvalidQuery: An option is invalid.
    """
    filters = Filters.parse(**parameters(options))
    columns = {name: values for name, values in filters.columns.items() if name != "level"}
    types = Patterns(filters.patterns) if filters.patterns else None
    needle = needle_of(filters.text) if filters.text else None

    def is_wanted(body: Any) -> bool:
        if not isinstance(body, dict):
            return False
        seen = {**body, "origin_call_id": None, "caller": None}
        stack = body.get("call_stack")
        if isinstance(stack, list) and stack:  # a sender may put anything there
            seen["origin_call_id"] = stack[0]
            if len(stack) > 1:
                seen["caller"] = names_of(str(stack[-2]))[0]
        if not filters.takes_level(normal_level(body.get("level"))):
            return False
        if not all(seen.get(name) in values for name, values in columns.items()):
            return False
        if types is not None and not types.fullmatch(str(body.get("event_type"))):
            return False
        if needle is not None and not (
            is_in(needle, searched_part(body))
            or fold(filters.text or "") in fold(str(body.get("event_type")))
        ):
            return False
        return all(
            any(is_at(body, keys, value) for keys in ways) for ways, value in filters.equalities
        ) and all(is_contained(part, body) for part in filters.containments)

    return is_wanted
