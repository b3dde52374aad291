"""
``EVENTLOG_EXPLORER``: who may read the page, and where it is served.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nameko.constants import WEB_SERVER_CONFIG_KEY
from nameko.exceptions import ConfigurationError
from werkzeug.security import check_password_hash

from nameko_eventlog import checking, limits


CONFIG_KEY = "EVENTLOG_EXPLORER"

DEFAULT_ADDRESS = "127.0.0.1:8000"
"""Nameko's own default is every address of the machine."""

_PASSWORD_HASH = re.compile(r"(scrypt|pbkdf2)(:[\w:]+)?\$[^$]+\$[0-9a-f]+")


@dataclass(frozen=True, slots=True)
class ExplorerConfig:
    """
    The configuration of the explorer; the reference in the docs says what each key means.
    """

    username: str | None = None
    password_hash: str | None = None
    allow_anonymous: bool = False


_CHECKS: dict[str, checking.Check] = {
    "username": checking.text,
    "password_hash": checking.text,
    "allow_anonymous": checking.boolean,
}


def parse_explorer_config(config: Mapping[str, Any]) -> ExplorerConfig:
    """
    Read the explorer's configuration.

    Args:
        config: The whole of it, as in ``config.yaml``.

    Raises:
        ConfigurationError: If a key is unknown, a value of the wrong kind, or the page would be
            there for everybody on the network without this being said.
    """
    parsed = ExplorerConfig(**checking.parse_section(config, CONFIG_KEY, _CHECKS))
    if (parsed.username is None) != (parsed.password_hash is None):
        raise ConfigurationError(
            f"{CONFIG_KEY} needs username and password_hash together, and has one of them"
        )
    if parsed.password_hash and not _is_password_hash(parsed.password_hash):
        # without the value, which may be the password itself
        raise ConfigurationError(
            f"{CONFIG_KEY}.password_hash must be what generate_password_hash of werkzeug.security"
            " returns, like scrypt:32768:8:1$...$..."
        )
    if parsed.password_hash and (excess := _excess(parsed.password_hash)):
        raise ConfigurationError(
            f"{CONFIG_KEY}.password_hash takes {excess} for each password that somebody tries: use"
            " what generate_password_hash of werkzeug.security returns by default"
        )
    address = config.get(WEB_SERVER_CONFIG_KEY) or DEFAULT_ADDRESS
    if not re.fullmatch(r"(.*:)?\d+", str(address)):  # as Nameko reads it
        raise ConfigurationError(f"{WEB_SERVER_CONFIG_KEY} must be HOST:PORT, not {address!r}")
    if parsed.username is None and not parsed.allow_anonymous and not is_loopback(address):
        raise ConfigurationError(
            f"{WEB_SERVER_CONFIG_KEY} is {address!r}, where others reach the explorer: set"
            f" {CONFIG_KEY}.username and {CONFIG_KEY}.password_hash, or bind to"
            f" {DEFAULT_ADDRESS}, or say {CONFIG_KEY}.allow_anonymous: true"
        )
    return parsed


def _is_password_hash(text: str) -> bool:
    if not _PASSWORD_HASH.fullmatch(text):
        return False
    if _excess(text):
        return True
    try:
        check_password_hash(text, "")
    except (ValueError, OverflowError, MemoryError):  # at each login, otherwise
        return False
    return True


def _excess(text: str) -> str | None:
    """
    Return what the parameters of a hash ask for, if that is too much to be tried out.
    """
    method, *parameters = text.partition("$")[0].split(":")
    try:
        numbers = [int(one) for one in parameters[0 if method == "scrypt" else 1 :]]
    except ValueError:
        return None
    if method == "scrypt" and len(numbers) == 3:
        needed = 128 * numbers[0] * numbers[1] * numbers[2]
        if needed > limits.PASSWORD_HASH_BYTES:
            return f"{needed:,} bytes of memory, more than {limits.PASSWORD_HASH_BYTES:,}"
    if method == "pbkdf2" and numbers and numbers[0] > limits.PASSWORD_HASH_ITERATIONS:
        return f"{numbers[0]:,} iterations, more than {limits.PASSWORD_HASH_ITERATIONS:,}"
    return None


def is_loopback(address: str) -> bool:
    """
    Tell whether nobody but this machine reaches what is bound to ``HOST:PORT``.
    """
    host, _, _ = str(address).rpartition(":")
    return _names_loopback(host)


def is_loopback_host(host: str) -> bool:
    """
    Tell whether the ``Host`` of a request, with or without a port, names this machine alone.
    """
    return _names_loopback(re.sub(r":\d*$", "", host) if not host.endswith("]") else host)


def _names_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
