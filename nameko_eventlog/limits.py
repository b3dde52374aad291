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

REMEMBERED_IDS = 65_536
"""Message ids, of calls that outlived their connection, that are known when they come again."""

# Sent messages

TABLE_VALUES = 100_000
"""The most values in a worker's context data; a frame of AMQP's has no room for so many."""

# Queries

FILTER_VALUES = 200
"""How many values, list elements and keys the filters of a query have in all."""

FILTER_CHARACTERS = 10_000
"""How many characters the values and keys of a query's filters have in all."""

SEARCH_CHARACTERS = 1_000
"""The longest text that is looked for in bodies."""

PATTERN_WILDCARDS = 20
"""How many ``*`` an event type may have."""

PATH_READINGS = 16
"""In how many ways a path is read, whose dots may separate keys or stand in them: all of four."""

NEAR_NAMES = 1_000
"""How many names are compared with one that no event log has."""

NEAR_CHARACTERS = 100
"""The longest name that is compared in that way."""

NEAR_VALUES = 5
"""For how many values of a query that no event log has names like them are looked for."""

DISTINCT_NAMES = 10_000
"""How many event types are looked up for a wildcard; of more, the last 24 hours are searched."""

PAGE_ROWS = 1_000
"""The longest page of event logs, and of counts."""

PAGE_BYTES = 4 << 20
"""How much of bodies a page holds: it ends before, with a cursor."""

LISTED_BODY_BYTES = 32 << 10
"""The largest body that is in a list; a larger one is there without its data, but its size."""

TRACE_ROWS = 10_000
"""How many event logs a trace holds."""

TRACE_BYTES = 8 << 20
"""How much of bodies a trace holds."""

TRACE_CALLS = 10_000
"""How many calls a trace holds."""

TRACE_STEPS = 1_000
"""How many questions put a trace together, where call stacks have been cut."""

QUERY_SECONDS = 30.0
"""How long a query of the store's RPC methods, and of the command line, may take."""

PAGE_SECONDS = 10.0
"""How long a page of the explorer waits for the database."""

QUERIES_AT_ONCE = 4
"""How many queries a process works on at the same time."""

AHEAD_SECONDS = 300
"""
How far ahead of now a query goes that has no ``until``, and how far the store believes a time:
what is dated later is stored as of its arrival.
"""

# Web page

SHOWN_BODY_BYTES = 1 << 20
"""The largest body that the page of an event log shows; of a larger one there is the download."""

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

PASSWORDS_TURNED_AWAY = 20_000
"""Passwords that found no place, and come before others when they are tried again."""

PASSWORD_HASH_BYTES = 128 << 20
"""What scrypt may take for one password, in bytes of memory times its parallelization."""

PASSWORD_HASH_ITERATIONS = 10_000_000
"""Iterations of PBKDF2 for one password."""

CROSS_SITE_NAVIGATIONS_AT_ONCE = 10
"""Pages that other sites may open, without a click, before the reader is asked first."""

CROSS_SITE_PAUSE_SECONDS = 6.0
"""The pause between two of them after that: 10 a minute."""

# Spool

SPOOL_LINE_BYTES = 64 << 20
"""The longest line of a spool's file; an event log that needs more waits in memory."""

# Command line

SHOWN_CALLS = 1_000
"""How many calls `trace` prints."""

SHOWN_DEPTH = 40
"""How deep `trace` indents them; a deeper one says how deep it is."""

REPLAY_LINE_BYTES = 64 << 20
"""The longest line of a file that `spool replay` reads."""

REPLAY_LINE_VALUES = 1 << 21
"""The most values in such a line, with those in the text of the body: commas and brackets."""

REPLAY_REFUSALS = 1_000
"""The most refused lines of a file that `spool replay` tells of one by one."""


def count_values(payload: bytes, content_type: str) -> int:
    """
    Return how many values *payload* has at the most, in a fraction of the time of decoding it.

    In JSON a value follows a bracket or a comma, or is the whole; those in text count, too.
    Elsewhere each byte may be one.
    """
    if content_type != "application/json":
        return len(payload)
    return payload.count(b",") + payload.count(b"[") + payload.count(b"{")
