"""
``EVENTLOG_EXPLORER``: who may read the pages, and where they are served.
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
"""Nameko's own default is all addresses of the machine."""

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
        config: The whole configuration, as in ``config.yaml``.

    Raises:
        ConfigurationError: If a key is unknown, a value is invalid, or everybody on the network
            could read the pages without ``allow_anonymous``.
    """
    parsed = ExplorerConfig(**checking.parse_section(config, CONFIG_KEY, _CHECKS))
    if (parsed.username is None) != (parsed.password_hash is None):
        raise ConfigurationError(
            f"{CONFIG_KEY} needs both username and password_hash, and has only one of them"
        )
    if parsed.password_hash and not _is_password_hash(parsed.password_hash):
        # the message omits the value, which may be the password itself
        raise ConfigurationError(
            f"{CONFIG_KEY}.password_hash must be a result of generate_password_hash of"
            " werkzeug.security, like scrypt:32768:8:1$...$..."
        )
    if parsed.password_hash and (excess := _excess(parsed.password_hash)):
        raise ConfigurationError(
            f"{CONFIG_KEY}.password_hash needs {excess} for each login: use the default parameters"
            " of generate_password_hash of werkzeug.security"
        )
    address = config.get(WEB_SERVER_CONFIG_KEY) or DEFAULT_ADDRESS
    if not re.fullmatch(r"(.*:)?\d+", str(address)):  # as Nameko does
        raise ConfigurationError(f"{WEB_SERVER_CONFIG_KEY} must be HOST:PORT, not {address!r}")
    if parsed.username is None and not parsed.allow_anonymous and not is_loopback(address):
        raise ConfigurationError(
            f"{WEB_SERVER_CONFIG_KEY} is {address!r}, where others can reach the explorer: set"
            f" {CONFIG_KEY}.username and {CONFIG_KEY}.password_hash, or bind to"
            f" {DEFAULT_ADDRESS}, or set {CONFIG_KEY}.allow_anonymous: true"
        )
    return parsed


def _is_password_hash(text: str) -> bool:
    if not _PASSWORD_HASH.fullmatch(text):
        return False
    if _excess(text):
        return True
    try:
        check_password_hash(text, "")
    except (ValueError, OverflowError, MemoryError):  # otherwise raised at each login
        return False
    return True


def _excess(text: str) -> str | None:
    """
    Return the cost of a hash, if its parameters make it too expensive.
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
    Tell whether only this machine can reach a server bound to ``HOST:PORT``.
    """
    host, _, _ = str(address).rpartition(":")
    return _names_loopback(host)


def is_loopback_host(host: str) -> bool:
    """
    Tell whether the ``Host`` of a request, with or without a port, is a loopback name.
    """
    return _names_loopback(re.sub(r":\d*$", "", host) if not host.endswith("]") else host)


def _names_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
