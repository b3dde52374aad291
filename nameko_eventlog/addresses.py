"""
Addresses of brokers and databases: check them before they are parsed, and mask their secrets.

No address is assumed to be well-formed. If a password is not quoted, a parser may end it too
early, and treat the rest as a host, a port or a path, which error messages then show. So masking
covers everything from the first possible beginning of a password to its last possible end, and an
address whose password may be cut is rejected before anything connects to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote, unquote_plus

from nameko_eventlog.describing import shortened


MASK = "***"
"""Replaces a secret."""

QUOTING = (
    "in the user name and the password write %40 for @, %2F for /, %3A for :, %3F for ?,"
    " %23 for #, %3B for ;, %5B for [, %5D for ], %20 for a space"
)
"""How to fix an address whose password is not quoted."""

BROKER = "amqp://USER:PASSWORD@HOST/VHOST, or a list of such addresses"
"""The expected form of a broker's address."""

_MOST_SHOWN = 1000  # characters of a value in a message
_SHORTEST_SECRET = 3  # characters: shorter texts occur anywhere

_SECRET_NAME = re.compile(r"pass|pwd|\bpw\b|secret|token|key|auth|cred|sig", re.IGNORECASE)
_ADDRESS_NAME = re.compile(r"ur[il]|dsn|address|broker", re.IGNORECASE)
_PARAMETER = re.compile(r"(?:^|[?&;\s])([^=&?;\s]+)\s*=")
# addresses without user and password: SQLite's, kombu's sqlalchemy+sqlite
_FILE = re.compile(r"\s*(?:[\w.-]+\+)?sqlite(?:\+\w+)?:///", re.IGNORECASE)
_NAME = re.compile(r"(?<!\w)(\w+)\s*=")
_SECRET_WORD = re.compile(r"pass|(?:pwd|secret|token)\Z", re.IGNORECASE)
# each pattern scans a text once: texts from outside may be long
_BEGIN = re.compile(r"(?<![\w.+-])[\w.+-]*:(?=\S)|(?<![\w%])[\w%]*=")
_COLON = re.compile(r":|%3a", re.IGNORECASE)  # escaped if user:password was quoted as a whole
_PORT = re.compile(r"\d*(?=[/?]|\Z)")
_BRACKETS = re.compile(r"\[[0-9a-fA-F:.]*\](?::\d*)?(?=[/?]|\Z)")
_HOSTS = re.compile(
    r"(?:\[[0-9a-fA-F:.%]*\]|[^\s:\[\],]*)(?::\d*)?(?:,[^\s:\[\],]*(?::\d*)?)*", re.ASCII
)
_NOT_QUOTED = re.compile(r"[@\[\]\s\x00-\x1f]")


def masked(address: Any) -> str:
    """
    Return one or more addresses with passwords and other secrets masked.

    Args:
        address: Any configured value: a string, a list of strings.
    """
    if isinstance(address, (list, tuple)):
        return ";".join(map(masked, address))
    text = str(address)
    several = text.split(";")
    if len(several) > 1 and all(_is_well_formed(one) for one in several):
        return ";".join(map(_masked, several))
    return _masked(text)


def masked_text(text: str) -> str:
    """
    Return a text from another library, such as an error message, with any secrets masked.

    If an address begins in it, the rest of the text is treated as part of that address.
    """
    if not _looks_like_address(text):
        return text
    begin = _BEGIN.search(text)
    at = begin.start() if begin else 0
    return text[:at] + masked(text[at:])


def masked_value(name: Any, value: Any) -> str:
    """
    Return the ``repr`` of a configured value with secrets masked.

    Args:
        name: The key of the value.
        value: The value.
    """
    return shortened(_masked_value(name, value), _MOST_SHOWN)


def without_secrets(text: str, address: Any) -> str:
    """
    Return a text about an address, with that address's secrets masked.

    Args:
        text: The text, such as that of an exception.
        address: The address, as configured.
    """
    shown = masked(address)
    for secret in sorted(set(_secrets(address)), key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET and secret not in shown:
            text = text.replace(secret, MASK)
    return masked_text(text)


def check_quoted(address: str) -> None:
    """
    Reject an address whose password is not quoted, so that parsers would end it too early.

    Raises:
        ValueError: It is not well-formed. The message says how to fix it, and shows nothing of it.
    """
    if not _is_well_formed(address):
        raise ValueError(QUOTING)


def broker_address(value: Any) -> str:
    """
    Check the address of a broker: one address, several separated by ``;``, or a list.

    Returns:
        One string, with ``;`` between several addresses.

    Raises:
        ValueError: It is invalid. The message says what was expected, and shows nothing of it.
    """
    given = value if isinstance(value, (list, tuple)) else [value]
    if not given or not all(isinstance(one, str) and one for one in given):
        raise ValueError(BROKER)
    several = [one for some in given for one in some.split(";")]
    for one in several:
        if "://" not in one:
            raise ValueError(f"{BROKER}; {QUOTING}")
        try:
            check_quoted(one)
        except ValueError as exc:
            raise ValueError(f"{BROKER}; {exc}") from None
    return ";".join(several)


def _looks_like_address(text: str) -> bool:
    if "://" in text or "@" in text:
        return True
    return any(_SECRET_WORD.search(found[1]) for found in _NAME.finditer(text))


def _is_well_formed(text: str) -> bool:
    if _FILE.match(text):
        return True
    scheme, separator, rest = text.partition("://")
    if not separator or not re.fullmatch(r"[A-Za-z][\w+.-]*", scheme, re.ASCII):
        return False
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    behind = rest[len(authority) :]
    user, _, hosts = authority.rpartition("@")
    return (
        "#" not in rest
        and "@" not in behind
        and not _NOT_QUOTED.search(user)
        and _HOSTS.fullmatch(hosts) is not None
    )


def _masked(text: str) -> str:
    begin = _behind_scheme(text)
    parameter = _secret_parameter(text)
    if _FILE.match(text):
        return text if parameter is None else text[:parameter] + MASK
    colon = text.find(":", begin)
    at = text.rfind("@")
    if at < begin:  # no user, or no host
        is_host = colon < 0 or _PORT.match(text, colon + 1) or _BRACKETS.match(text, begin)
        ends = [parameter, None if is_host else colon + 1]
        end = min((one for one in ends if one is not None), default=None)
        return text if end is None else text[:end] + MASK
    if parameter is not None and parameter < at:  # the @ may belong to either secret
        return text[: parameter if colon < 0 else min(parameter, colon + 1)] + MASK
    end = len(text) if parameter is None else parameter
    behind = text[at:end] + ("" if parameter is None else MASK)
    password = _COLON.search(text, begin, at)
    return (text[: password.end()] + MASK if password else text[:at]) + behind


def _behind_scheme(text: str) -> int:
    scheme = re.match(r"\s*[\w+.-]*://", text)
    return scheme.end() if scheme else 0


def _secret_parameter(text: str) -> int | None:
    """
    Return where the value of the first parameter with a secret-like name begins, or None.
    """
    for found in _PARAMETER.finditer(text):
        if _SECRET_NAME.search(unquote_plus(found[1])):
            return found.end()
    return None


def _masked_value(name: Any, value: Any) -> str:
    if isinstance(name, str) and _SECRET_NAME.search(name):
        return MASK
    if isinstance(value, Mapping):
        items = (
            f"{_masked_value(None, key)}: {_masked_value(key, one)}" for key, one in value.items()
        )
        return f"{{{', '.join(items)}}}"
    if type(value) is list and value:
        return f"[{', '.join(_masked_value(name, one) for one in value)}]"
    if not isinstance(value, str):
        return masked_text(repr(value))
    is_address = isinstance(name, str) and _ADDRESS_NAME.search(name)
    return repr(masked(value) if is_address or _looks_like_address(value) else value)


def _secrets(address: Any) -> Iterator[str]:
    if isinstance(address, (list, tuple)):
        for one in address:
            yield from _secrets(one)
        return
    text = str(address)
    for one in {text, *text.split(";")}:
        begin = _behind_scheme(one)
        found: list[str] = []
        if not _FILE.match(one):
            found += _COLON.split(one[begin : max(one.rfind("@"), 0)], maxsplit=1)[1:]
        parameter = _secret_parameter(one)
        if parameter is not None:
            found += one[parameter:], *one[parameter:].split("&")
        for secret in found:
            yield secret
            yield unquote(secret)
            yield from re.split(r"[@/:?#;&=\s]", secret)
