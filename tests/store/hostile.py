"""
Messages that nobody should send.
"""

from __future__ import annotations

import json

from hypothesis import strategies as st

from nameko_eventlog.consuming import ReceivedMessage
from tests.store.conftest import body


TEXT = st.text(max_size=20) | st.text("\0\ud800\udfff'\"\\é☃🐍", max_size=10)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)
BODIES = st.dictionaries(st.sampled_from([*body(), "level", "meta"]), JSON, max_size=5).map(
    lambda changes: json.dumps({**body(), **changes}).encode(errors="surrogatepass")
)
HOSTILE_MESSAGES = st.builds(
    ReceivedMessage,
    body=BODIES | JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=50),
    content_type=st.sampled_from(
        ["application/json", "application/x-yaml", "text/plain", "", None]
    ),
    content_encoding=st.sampled_from(["utf-8", "latin-1", "binary", "nonsense", None]),
    headers=st.dictionaries(TEXT, JSON, max_size=2)
    | st.just({"compression": "application/x-gzip"}),
    properties=st.dictionaries(
        st.sampled_from(["message_id", "type", "app_id"]), TEXT, max_size=3
    ),
    exchange=TEXT,
    routing_key=TEXT,
    redelivered=st.booleans(),
    delivery_tag=st.just(1),
)
