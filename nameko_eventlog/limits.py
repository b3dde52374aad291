"""
What bounds what comes from outside: bytes, nodes, seconds, connections, elements.

One place, so that an operator can read what a message, a request or a query may cost at most.
The reference, docs/reference/limits.md, lists each with its value; a test compares the two.
"""

from __future__ import annotations


# Received messages

BODY_BYTES = 32 << 20
"""The largest body that is decoded, after it was decompressed."""

BODY_VALUES = 1 << 20
"""
The most values in a body: commas and opening brackets in JSON, bytes in any other content type.
"""

YAML_VALUES = 1 << 16
"""The most values in a body of YAML, which takes a hundred times as long to read as JSON."""

BODY_DEPTH = 200
"""How deep a stored body, or one of YAML, may be nested: twice what ours are cut to."""

INTEGER_DIGITS = 4300
"""The most digits of an integer in JSON: Python's own limit, also where that is turned off."""

LZMA_BYTES = 40 << 20
"""The memory that a body compressed by lzma may ask for: its presets to 8."""

CONTEXT_BYTES = 1 << 15
"""The most context, as text, that a worker continues from a message's headers."""

DECODED_BYTES = 1 << 27
"""The weight of decoded bodies from which on a handler is handed no more until some are done."""

HELD_BYTES = 1 << 25
"""The weight of received messages from which on a consumer reads no more."""

TRANSACTION_BYTES = 1 << 24
"""The weight of decoded messages from which on a transaction of the store takes no more."""

# Queries

# Web page

# Spool

# Command line


def count_values(payload: bytes, content_type: str) -> int:
    """
    Return how many values *payload* has at the most, in a fraction of the time of decoding it.

    In JSON a value follows a bracket or a comma, or is the whole; those in text count, too.
    Elsewhere each byte may be one.
    """
    if content_type != "application/json":
        return len(payload)
    return payload.count(b",") + payload.count(b"[") + payload.count(b"{")
