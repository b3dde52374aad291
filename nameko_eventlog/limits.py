"""
What bounds what comes from outside: bytes, nodes, seconds, connections, elements.

One place, so that an operator can read what a message, a request or a query may cost at most.
The reference, docs/reference/limits.md, lists each with its value; a test compares the two.
"""

from __future__ import annotations


# Received messages

BODY_BYTES = 32 << 20
"""The largest body that is decoded, after it was decompressed."""

RPC_REQUEST_BYTES = 1 << 20
"""The largest RPC request that the store reads."""

RPC_REPLY_BYTES = 16 << 20
"""The largest RPC reply that the store sends: what RabbitMQ 4 takes."""

# Queries

# Web page

# Spool

# Command line
