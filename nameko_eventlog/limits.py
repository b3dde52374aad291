"""
What bounds what comes from outside: bytes, nodes, seconds, connections, elements.

One place, so that an operator can read what a message, a request or a query may cost at most.
The reference, docs/reference/limits.md, lists each with its value; a test compares the two.
"""

from __future__ import annotations


# Received messages

BODY_BYTES = 32 << 20
"""The largest body that is decoded, after it was decompressed."""

# Queries

# Web page

CONNECTIONS = 128
"""
Connections to the explorer at once; fewer where the process may open fewer files: half of what is
left of them after the first 64, but 8 at least.
"""

CONNECTIONS_PER_ADDRESS = 32
"""Connections to the explorer at once from one client address; half of all where that is less."""

HEADER_SECONDS = 10.0
"""For how long the request line and the headers of a request are waited for."""

IDLE_SECONDS = 30.0
"""For how long a connection is kept open for the next request."""

ANSWER_SECONDS = 60.0
"""For how long a request may wait for its answer: for its turn, a password check, the database."""

SENDING_SECONDS = 30.0
"""For how long a client may take to receive an answer, beside the time for its size."""

SENDING_RATE = 64 << 10
"""Bytes a second of an answer that a client has to receive beyond that."""

LARGE_ANSWER_BYTES = 1 << 20
"""The size from which an answer is a large one."""

LARGE_ANSWERS = 4
"""Large answers that are sent at once."""

ACCEPT_PAUSE_SECONDS = 0.1
"""For how long no connection is accepted when the system has no room for another one."""

REQUEST_LINE_BYTES = 8 << 10
"""The longest request line."""

REQUEST_HEADER_BYTES = 32 << 10
"""The size of all headers of a request."""

REQUEST_HEADERS = 100
"""How many headers a request has at most."""

REQUEST_BODY_BYTES = 0
"""The largest body of a request: no page takes one."""

PASSWORD_CHECKS_AT_ONCE = 1
"""Password hashes that are computed at once."""

PASSWORD_CHECKS_WAITING = 64
"""Requests that wait for a password check."""

PASSWORD_CHECKS_WAITING_PER_ADDRESS = 8
"""Requests from one address that wait for a password check."""

PASSWORD_GUESSES_AT_ONCE = 10
"""Passwords from one address that are checked without a pause."""

PASSWORD_PAUSE_SECONDS = 2.0
"""The pause between two checks of passwords from one address, after that: 30 a minute."""

PASSWORD_ADDRESSES = 10_000
"""Addresses whose password checks are counted."""

PASSWORDS_KNOWN_WRONG = 1_000
"""Wrong passwords that are refused without computing their hash again."""

PASSWORD_HASH_BYTES = 128 << 20
"""What scrypt may take for one password, in bytes of memory times its parallelization."""

PASSWORD_HASH_ITERATIONS = 10_000_000
"""Iterations of PBKDF2 for one password."""

CROSS_SITE_NAVIGATIONS_AT_ONCE = 10
"""Pages that other sites may open, without a click, before the reader is asked first."""

CROSS_SITE_PAUSE_SECONDS = 6.0
"""The pause between two of them after that: 10 a minute."""

# Spool

# Command line
