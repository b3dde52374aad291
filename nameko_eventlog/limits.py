"""
What bounds what comes from outside: bytes, nodes, seconds, connections, elements.

One place, so that an operator can read what a message, a request or a query may cost at most.
The reference, docs/reference/limits.md, lists each with its value; a test compares the two.
"""

from __future__ import annotations


# Received messages

BODY_BYTES = 32 << 20
"""The largest body that is decoded, after it was decompressed."""

# Sent messages

TABLE_VALUES = 100_000
"""The most values in a worker's context data; a frame of AMQP's has no room for so many."""

# Queries

# Web page

# Spool

# Command line

REPLAY_LINE_BYTES = 64 << 20
"""The longest line of a file that `spool replay` reads."""

REPLAY_REFUSALS = 1_000
"""The most refused lines of a file that `spool replay` tells of one by one."""
