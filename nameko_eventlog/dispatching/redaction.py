"""
Redaction: replace the values of the keys that ``redact`` names.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nameko.constants import HEADER_PREFIX

from nameko_eventlog.amqp.settings import PublisherSettings
from nameko_eventlog.amqp.tables import UNCHANGING, copied


REDACTED = "[redacted]"
"""Replaces a redacted value."""


def redacted(value: Any, redact: frozenset[str]) -> Any:
    """
    Return a copy of *value* in which the values of the keys in *redact* are `REDACTED`.

    Args:
        value: A value that `copied` returned.
        redact: The keys, in lower case.
    """
    kind = type(value)
    if kind is dict:
        return {
            key: REDACTED
            if is_named(key, redact)
            else (element if type(element) in UNCHANGING else redacted(element, redact))
            for key, element in value.items()
        }
    if kind is list or kind is tuple:
        return kind(redacted(element, redact) for element in value)
    return value


def is_named(key: Any, names: frozenset[str]) -> bool:
    """
    Tell whether *key*, in lower case, is among *names*.
    """
    if isinstance(key, str):
        return str.lower(key) in names
    return isinstance(key, bytes) and key.decode("utf-8", "replace").lower() in names


def redacted_headers(settings: PublisherSettings, redact: frozenset[str]) -> PublisherSettings:
    """
    Return *settings* with the publisher's own headers redacted.

    Args:
        settings: The publisher's settings.
        redact: Keys, in lower case, without or with the prefix of Nameko's context headers.
    """
    names = redact | {f"{HEADER_PREFIX}.{key}" for key in redact}
    return replace(settings, headers=redacted(copied(settings.headers), names))
