"""
Secrets left out: the values of the keys that ``redact`` names.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nameko.constants import HEADER_PREFIX

from nameko_eventlog.amqp.settings import PublisherSettings
from nameko_eventlog.amqp.tables import UNCHANGING, copied


REDACTED = "[redacted]"
"""What stands in the place of what is redacted."""


def redacted(value: Any, redact: frozenset[str]) -> Any:
    """
    Return a copy in which the values of the keys in *redact*, in lower case, are `REDACTED`.

    Args:
        value: What `copied` has returned.
        redact: The keys.
    """
    kind = type(value)
    if kind is dict:
        return {
            key: REDACTED
            if is_named(key, redact)
            else (one if type(one) in UNCHANGING else redacted(one, redact))
            for key, one in value.items()
        }
    if kind is list or kind is tuple:
        return kind(redacted(one, redact) for one in value)
    return value


def is_named(key: Any, names: frozenset[str]) -> bool:
    """
    Tell whether *key* is one of *names*, which are in lower case.
    """
    if isinstance(key, str):
        return str.lower(key) in names
    return isinstance(key, bytes) and key.decode("utf-8", "replace").lower() in names


def redacted_headers(settings: PublisherSettings, redact: frozenset[str]) -> PublisherSettings:
    """
    Return *settings* with the publisher's own headers redacted.

    Args:
        settings: How a service's events are published.
        redact: Keys, in lower case, with or without the prefix of Nameko's context.
    """
    names = redact | {f"{HEADER_PREFIX}.{key}" for key in redact}
    return replace(settings, headers=redacted(copied(settings.headers), names))
