"""
Limits for input from outside: bytes, values, seconds, connections.

They are in one place, so that an operator can see the most that a message, a request or a query
can cost. docs/reference/limits.md lists them with their values, and a test compares the two.
"""

from __future__ import annotations


# Received messages

BODY_BYTES = 32 << 20
"""The largest body that is decoded, after decompression."""

RPC_REQUEST_BYTES = 1 << 20
"""The largest RPC request that the store reads."""

RPC_REPLY_BYTES = 16 << 20
"""The largest RPC reply that the store sends: RabbitMQ 4 accepts no more."""

BODY_VALUES = 1 << 20
"""
The most values in a body: commas and opening brackets in JSON, bytes in any other content type.
"""

YAML_VALUES = 1 << 16
"""The most values in a YAML body; YAML takes a hundred times as long to parse as JSON."""

BODY_DEPTH = 200
"""The deepest nesting of a stored body, or of a YAML body: twice the depth of ours."""

INTEGER_DIGITS = 4300
"""The most digits of an integer in JSON: Python's own limit, even if that is turned off."""

LZMA_BYTES = 40 << 20
"""The most memory for decompressing an lzma or zstd body: enough for lzma's presets up to 8."""

CONTEXT_BYTES = 1 << 15
"""The most context data, as text, that a worker takes over from a message's headers."""

DECODED_BYTES = 1 << 27
"""The weight of decoded bodies above which a handler gets no more until some are done."""

HELD_BYTES = 1 << 25
"""The weight of received messages above which a consumer reads no more."""

TRANSACTION_BYTES = 1 << 24
"""The weight of decoded messages above which a transaction of the store takes no more."""

REMEMBERED_IDS = 65_536
"""The most remembered message ids of calls that outlived their connection."""

# Sent messages

TABLE_VALUES = 100_000
"""The most values in a worker's context data; an AMQP frame has no room for so many."""

# Queries

FILTER_VALUES = 200
"""The most values, list elements and keys in the filters of a query."""

FILTER_CHARACTERS = 10_000
"""The most characters in the values and keys of a query's filters."""

SEARCH_CHARACTERS = 1_000
"""The longest text to search for in bodies."""

PATTERN_WILDCARDS = 20
"""The most ``*`` in an event type."""

PATH_READINGS = 16
"""The most readings of a path whose dots may separate keys or be part of them: all for four."""

NEAR_NAMES = 1_000
"""The most names that are compared with an unknown name, to suggest similar ones."""

NEAR_CHARACTERS = 100
"""The longest unknown name for which similar ones are suggested."""

NEAR_VALUES = 5
"""The most unknown names in a query for which similar ones are suggested."""

DISTINCT_NAMES = 10_000
"""The most event types that a wildcard is matched with; else the last 24 hours are searched."""

PAGE_ROWS = 1_000
"""The most event logs or counts in a page."""

PAGE_BYTES = 4 << 20
"""The most bytes of bodies in a page; a fuller page ends early, with a cursor."""

LISTED_BODY_BYTES = 32 << 10
"""The largest body in a list; a larger body is listed with its size, without its data."""

TRACE_ROWS = 10_000
"""The most event logs in a trace."""

TRACE_BYTES = 8 << 20
"""The most bytes of bodies in a trace."""

TRACE_CALLS = 10_000
"""The most calls in a trace."""

TRACE_STEPS = 1_000
"""The most queries for assembling a trace whose call stacks are cut."""

QUERY_SECONDS = 30.0
"""The longest query by the store's RPC methods and by the command line."""

PAGE_SECONDS = 10.0
"""How long a page of the explorer waits for the database."""

QUERIES_AT_ONCE = 4
"""The most concurrent queries in a process."""

AHEAD_SECONDS = 300
"""
How far into the future a query without ``until`` reaches, and the store accepts times: an event
log with a later time gets the time of its arrival.
"""

# Web page

SHOWN_BODY_BYTES = 1 << 20
"""The largest body that an event log's page shows; a larger body can be downloaded."""

CONNECTIONS = 128
"""
The most concurrent connections to the explorer. If the process may open few files, it is half of
those left after the first 64, but at least 8.
"""

CONNECTIONS_PER_ADDRESS = 32
"""The most concurrent connections from one client address, but no more than half of all."""

HEADER_SECONDS = 10.0
"""How long to wait for the request line and headers of a request."""

IDLE_SECONDS = 30.0
"""How long a connection is kept open for the next request."""

ANSWER_SECONDS = 60.0
"""How long a request may wait in the queue, for a password check, and for the database."""

SENDING_SECONDS = 30.0
"""How long a client may take to receive a response, in addition to the time for its size."""

LINGER_SECONDS = 1.0
"""How long a client that was refused may go on sending, before its connection is closed."""

SENDING_RATE = 64 << 10
"""The slowest rate, in bytes per second, that determines the time for a response's size."""

LARGE_ANSWER_BYTES = 1 << 20
"""The size above which a response counts as large."""

LARGE_ANSWERS = 4
"""The most large responses that are sent concurrently."""

ACCEPT_PAUSE_SECONDS = 0.1
"""How long to accept no connection after the system had no resources for one."""

REQUEST_LINE_BYTES = 8 << 10
"""The longest request line."""

REQUEST_HEADER_BYTES = 32 << 10
"""The total size of a request's headers."""

REQUEST_HEADERS = 100
"""The most headers in a request."""

REQUEST_BODY_BYTES = 0
"""The largest body of a request: no page accepts one."""

PASSWORD_CHECKS_AT_ONCE = 1
"""The most password hashes that are computed concurrently."""

PASSWORD_CHECKS_WAITING = 64
"""The most requests that wait for a password check."""

PASSWORD_CHECKS_WAITING_PER_ADDRESS = 8
"""The most requests from one address that wait for a password check."""

PASSWORD_GUESSES_AT_ONCE = 10
"""The most passwords from one address that are checked without a pause."""

PASSWORD_PAUSE_SECONDS = 2.0
"""The pause between further password checks from that address: 30 a minute."""

PASSWORD_ADDRESSES = 10_000
"""The most addresses whose password checks are counted."""

PASSWORDS_KNOWN_WRONG = 1_000
"""The most wrong passwords that are rejected without computing their hash again."""

PASSWORDS_TURNED_AWAY = 20_000
"""The most passwords that are remembered as turned away, and preferred at the next attempt."""

PASSWORD_HASH_BYTES = 128 << 20
"""The most memory for scrypt, in bytes times its parallelization."""

PASSWORD_HASH_ITERATIONS = 10_000_000
"""The most iterations of PBKDF2."""

CROSS_SITE_NAVIGATIONS_AT_ONCE = 10
"""The most pages that other sites may open without a click before the reader must confirm."""

CROSS_SITE_PAUSE_SECONDS = 6.0
"""The pause between further such pages: 10 a minute."""

# Spool

SPOOL_LINE_BYTES = 64 << 20
"""The longest line of a spool file; an event log that needs more waits in memory."""

# Command line

SHOWN_CALLS = 1_000
"""The most calls that `trace` prints."""

SHOWN_DEPTH = 40
"""The deepest indentation in `trace`; for a deeper call, its depth is printed."""

REPLAY_LINE_BYTES = 64 << 20
"""The longest line of a file that `spool replay` reads."""

REPLAY_LINE_VALUES = 1 << 21
"""The most values in such a line, counting commas and brackets, including those in text."""

REPLAY_REFUSALS = 1_000
"""The most rejected lines that `spool replay` reports individually."""

EXPORT_SECONDS = 300.0
"""The longest query of `export`, for a page or a large body."""

IMPORT_LINE_BYTES = 256 << 20
"""The longest line that `import` reads; its body's text is bounded like that of a message."""

IMPORT_ROWS = 5_000
"""The most event logs in a transaction of `import`; their weight is bounded as in the store."""


def count_values(payload: bytes, content_type: str) -> int:
    """
    Return an upper bound for the number of values in *payload*, without decoding it.

    In JSON, every value follows a bracket or a comma, or is the whole payload; brackets and commas
    in text count too. In other formats every byte may be a value.
    """
    if content_type != "application/json":
        return len(payload)
    return payload.count(b",") + payload.count(b"[") + payload.count(b"{")
