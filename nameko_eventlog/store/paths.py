"""
Paths to values in bodies, ``customer.id``; keys may contain dots, too: ``http.method``.

A path is read in every way in which its dots may separate keys or belong to them. A key in quotes,
written as a JSON string, is taken literally: ``customer."first.name"``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice

import msgspec

from nameko_eventlog.limits import PATH_READINGS
from nameko_eventlog.store.rows import escape_unstorable


Keys = tuple[str, ...]

_KEY = re.compile(r'"(?:[^"\\]|\\.)*"|[^".=]*', re.DOTALL)
_KEYS = re.compile(rf"(?:{_KEY.pattern})(?:\.(?:{_KEY.pattern}))*", re.DOTALL)
_BARE = re.compile(r'[^".=\s]+')


def read_path(path: str) -> tuple[Keys, ...]:
    """
    Return the ways to read a path; in the first one each dot separates two keys.

    If a path has so many dots that there are more than `PATH_READINGS` ways, return only those in
    which at most one key contains dots, and begin with those where it is the last key.
    """
    parts = path.split(".")
    if 2 ** (len(parts) - 1) <= PATH_READINGS:
        ways = _all_ways(parts)
    else:
        ways = list(islice(_one_key(parts), PATH_READINGS))
    quoted = _read_quoted(path)
    return tuple(ways) if quoted is None else (quoted, *ways)


def _all_ways(parts: Sequence[str]) -> list[Keys]:
    first, *more = parts
    if not more:
        return [(first,)]
    rest = _all_ways(more)
    return [
        *((first, *keys) for keys in rest),
        *((f"{first}.{keys[0]}", *keys[1:]) for keys in rest),
    ]


def _one_key(parts: Sequence[str]) -> Iterator[Keys]:
    yield tuple(parts)
    for end in range(len(parts), 1, -1):
        for begin in range(end - 1):
            yield (*parts[:begin], ".".join(parts[begin:end]), *parts[end:])


def _read_quoted(path: str) -> Keys | None:
    """
    Return the keys of a path that has keys in quotes, or None.
    """
    if '"' not in path:
        return None
    keys: list[str] = []
    at = -1
    while at < len(path):  # a dot or the end follows each key
        key = _KEY.match(path, at + 1)
        if key is None or path[key.end() : key.end() + 1] not in ("", "."):
            return None
        try:
            text = msgspec.json.decode(key[0], type=str) if key[0][:1] == '"' else key[0]
        except (msgspec.DecodeError, UnicodeError):
            return None
        keys.append(escape_unstorable(text))
        at = key.end()
    return tuple(keys)


def split_path(text: str) -> tuple[str, str, str]:
    """
    Split ``PATH=VALUE`` as `str.partition` does, at the first ``=`` outside quotes.
    """
    path = _KEYS.match(text)
    if path is not None and text[path.end() : path.end() + 1] == "=":
        return path[0], "=", text[path.end() + 1 :]
    return text.partition("=")


def write_path(keys: Sequence[str]) -> str:
    """
    Return the path of *keys*, with quotes around keys that need them.
    """
    return ".".join(
        key if _BARE.fullmatch(key) else msgspec.json.encode(key).decode() for key in keys
    )
