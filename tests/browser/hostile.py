"""
What somebody hostile sends: each text wherever a text may be.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

from nameko_eventlog.consuming import ReceivedMessage
from tests.browser.contents import Body, make_body, make_message


CANARY = "window.canary = 1"

TEXTS = {
    "script": f"<script>{CANARY}</script>",
    "closing": f"</title></style></textarea></script><script>{CANARY}</script>",
    "attribute": f'"><img src=x onerror="{CANARY}">',
    "single": f"' autofocus onfocus='{CANARY}' x='",
    "url": f"javascript:{CANARY}",
    "data url": "data:text/html,<script>parent.canary = 1</script>",
    "template": "{{ 7 * 7 }}{% raw %}{# #}${7*7}",
    "svg": f"<svg onload='{CANARY}'><use href='data:x'/></svg>",
    "meta": "<meta http-equiv=refresh content='0;url=//evil.example'><base href=//evil.example>",
    "escapes": "\x1b[31mred\x1b[0m\x1b]8;;http://evil.example\x07x\x1b\\ \x9b2J\x08\x08\x7f",
    "override": "invoice\u202efdp.exe\u2066\u2067\u202b",
    "arabic": "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627 (1)",
    "nul": "a\x00b\\u0000\ud800",
    "lines": "one\r\ntwo\u2028three\u2029four\ttab\vv",
    "zero width": "pay\u200bment\u200d\u200d\ufeff\u2060\u00ad_made\u3164",
    "combining": "pay" + "\u0301\u0489\u0336" * 400 + "ment",
    "wide": "\ufdfd\U00012031" * 100,
    "long": "x" * 1_000_000,
    "long words": "lorem ipsum " * 80_000,
    "percent": "%00%2e%2e/%s%n&amp;&lt;script&gt;#?=+ ",
    "dom": "rows",
    "path": "../../etc/passwd",
}


def nested(depth: int) -> Any:
    """
    Return mappings in lists in mappings.
    """
    value: Any = "bottom"
    for level in range(depth):
        value = [value] if level % 2 else {f"level {level}": value}
    return value


def hostile_bodies() -> list[Body]:
    """
    Return bodies: for each text one that bears it in every place, and some that are large.
    """
    same = {"call_id": "hostile.shapes.1", "call_stack": ["hostile.shapes.1"]}
    nameless = make_body(event_type="nameless", call_stack=["nameless.1", "nameless.2"])
    del nameless["call_id"]
    bodies = [
        *(
            make_body(event_type=f"tick {n}", call_id="many", call_stack=["many"])
            for n in range(3000)
        ),
        make_body(event_type="deep", data=nested(150), **same),
        make_body(event_type="wide", data={f"key {n}": n for n in range(10_000)}, **same),
        make_body(event_type="list", data={"all": list(range(20_000))}, **same),
        make_body(event_type="level", level={"a": ["b"]}, **same),
        make_body(event_type="levels", level="x" * 100_000, **same),
        make_body(event_type="data", data=["no mapping", None, True, 1.5], **same),
        make_body(event_type="nothing", data=None, **same),
        make_body(event_type="integers", data={"id": 2**63 - 1, "float": 1e308}, **same),
        make_body(event_type="durations", duration=1e8, **same),
        make_body(event_type="stack", call_id="end", call_stack=[f"c{n}" for n in range(3000)]),
        make_body(event_type="circle", call_id="c2", call_stack=["c1", "c2", "c1", "c2"]),
        nameless,
    ]
    for number, text in enumerate(TEXTS.values()):
        name = text[:400]
        bodies.append(
            make_body(
                service_name=name,
                entrypoint_protocol=name,
                entrypoint_name=name,
                call_id=f"{name}{number}",
                call_stack=[f"{name} origin", text, f"{name} parent", f"{name}{number}"],
                event_type=name,
                level=text if number % 2 else "error",
                data={text: text, "list": [text, {text: [text]}], "name": text},
                **{name: text, "exception": {"exc_type": text, "exc_value": text}},
            )
        )
    return bodies


def hostile_messages() -> Iterator[ReceivedMessage]:
    """
    Return all of them as messages; those behind the bodies bear the texts as their ids, too.
    """
    now = datetime.now(timezone.utc)
    bodies = hostile_bodies()
    for number, body in enumerate(bodies):
        at = now - timedelta(seconds=len(bodies) - number)
        body = {**body, "timestamp": at.isoformat(timespec="seconds")}
        yield make_message(body, at, number)
    for number, text in enumerate(TEXTS.values()):
        body = make_body(
            event_type=f"id {number}", service_name="ids", call_stack=[], call_id=None
        )
        yield make_message(body, now, number, text[:400])
