"""
`spool replay FILE`: what an outsider has got into a log is not published.
"""

from __future__ import annotations

import functools
import json
import logging
import pathlib
import time
from collections.abc import Callable
from typing import Any

import kombu
import pytest
from kombu import Connection

import logging_ext
from nameko_eventlog.amqp.message import as_json
from nameko_eventlog.cli import replaying, spools
from nameko_eventlog.config import Config
from nameko_eventlog.delivery.marks import Marker, replay_secret
from nameko_eventlog.limits import REPLAY_REFUSALS
from tests.cli.conftest import Cli, configure, folder, run
from tests.delivery.conftest import SETTINGS, make_message
from tests.nameko_version import event_exchange


__all__ = ["configure", "folder", "run"]

KEY = "a key of sixteen characters or more"
LOGGER = "nameko_eventlog.undelivered"

marker = functools.cache(Marker)  # a key takes 50 ms
RPC = (
    '{"exchange":"nameko-rpc","routing_key":"payments.refund","properties":{"content_type":'
    '"application/json","content_encoding":"utf-8","reply_to":"x","correlation_id":"1"},'
    '"body":"{\\"args\\":[5],\\"kwargs\\":{}}","body_encoding":"utf-8"}'
)


def written(number: int = 0, key: str | None = KEY, **changes: Any) -> str:
    """
    Return what our logger writes; without a mark if *key* is None.
    """
    body = json.dumps({"event_type": "paid", "number": number}).encode()
    message = make_message(
        **{"body": body, "message_id": f"id-{number}", "event_type": "paid", **changes}
    )
    mark = None if key is None else marker(key).mark
    return as_json(message, SETTINGS, "shop", "shop.events", "log_event", "stopped", mark)


def changed(path: str, value: Any, key: str | None = KEY) -> str:
    """
    Return such a line with something else in it, marked as if it were ours.
    """
    whole = json.loads(written(key=None))
    *above, name = path.split(".")
    place = whole
    for part in above:
        place = place[part]
    place[name] = value
    line = json.dumps(whole)
    return line if key is None else marker(key).mark(line)


@pytest.fixture
def queue(rabbit_config: dict[str, Any], configure: Callable[..., None]) -> kombu.Queue:
    """
    A queue for the shop's event logs, and one for calls of its.
    """
    configure(AMQP_URI=rabbit_config["AMQP_URI"], EVENTLOG_DISPATCHER={"replay_key": KEY})
    queue = kombu.Queue("q", event_exchange("shop"), routing_key="log_event", durable=True)
    calls = kombu.Exchange("nameko-rpc", type="topic", durable=True)
    others = kombu.Queue("others", calls, routing_key="#")
    with Connection(rabbit_config["AMQP_URI"]) as connection:
        for one in (queue, others):
            one(connection.default_channel).declare()
    return queue


Replay = Callable[..., tuple[Any, list[Any]]]


@pytest.fixture
def replay(
    run: Cli, folder: pathlib.Path, queue: kombu.Queue, rabbit_config: dict[str, Any]
) -> Replay:
    """
    Replay lines, and return the command's result and the numbers that arrived.
    """

    def replay(*lines: str, options: tuple[str, ...] = ()) -> tuple[Any, list[Any]]:
        (folder / "log").write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
        result = run("spool", "replay", *options, "log")
        assert "Traceback" not in result.output
        found = []
        with Connection(rabbit_config["AMQP_URI"]) as connection:
            assert kombu.Queue("others")(connection.default_channel).get() is None
            bound = queue(connection.default_channel)
            while message := bound.get(no_ack=True):
                found.append(json.loads(message.body)["number"])
        return result, found

    return replay


def formatted(formatter: logging.Formatter, name: str, message: str, **extra: Any) -> str:
    """
    Return a line as *formatter* writes it.
    """
    record = logging.LogRecord(name, logging.ERROR, "path", 1, "%s", (message,), None)
    record.__dict__.update(extra)
    return formatter.format(record)


FORMATTERS = {
    "bare": logging.Formatter("%(message)s"),
    "basic": logging.Formatter(logging.BASIC_FORMAT),
    "text": logging.Formatter("%(asctime)s %(levelname)s [%(process)d] %(name)s: %(message)s"),
    "iso": logging.Formatter("%(asctime)s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%SZ"),
    "ours": logging_ext.JsonFormatter(),
}


class TestOurs:
    @pytest.mark.parametrize("name", FORMATTERS)
    @pytest.mark.parametrize("marked", [True, False])
    def test_formats(self, replay: Replay, name: str, marked: bool) -> None:
        """
        What our logger has written is published out of text and JSON; without a mark only by
        --unmarked.
        """
        line = formatted(FORMATTERS[name], LOGGER, written(5, KEY if marked else None))
        result, found = replay("another line", line)

        assert ([5] if marked else []) == found
        assert (0 if marked else 1) == result.exit_code
        if marked:
            assert "1 published, 1 other lines skipped" in result.stdout
        else:
            assert "line 2 is refused: it has no valid mark" in result.stderr
            result, found = replay(line, options=("--unmarked",))
            assert ([5], 0) == (found, result.exit_code)

    def test_with_a_passwords_mark(
        self, replay: Replay, configure: Callable[..., None], rabbit_config: dict[str, Any]
    ) -> None:
        """
        Without a replay_key the mark is made of the broker's user and password, whatever its host.
        """
        configure(EVENTLOG_DISPATCHER={})
        uri = rabbit_config["AMQP_URI"]
        key = replay_secret(Config(), uri.replace("127.0.0.1", "elsewhere"))

        assert [1] == replay(written(1, key))[1]
        assert [] == replay(written(1, replay_secret(Config(), "amqp://a:b@127.0.0.1//")))[1]

    def test_properties(self, replay: Replay) -> None:
        """
        Priority, expiration and headers of an event log are published.
        """
        whole = json.loads(written(3, None))
        whole["properties"].update(priority=3, expiration="60000")
        _, found = replay(marker(KEY).mark(json.dumps(whole)))

        assert [3] == found


class TestOutsiders:
    @pytest.mark.parametrize("name", FORMATTERS)
    def test_messages(self, replay: Replay, name: str) -> None:
        """
        Forged lines in another logger's messages are refused with their numbers and reasons, and
        what is ours around them is published.
        """
        formatter = FORMATTERS[name]
        lines = [formatted(formatter, LOGGER, written(1))]
        for forged in (RPC, written(9, None), written(9, "another key, not ours")):
            for message in (
                "login failed for user {}",
                "{}",
                "x\n{}",
                "x\r{}",
                "x\n2026-11-30 10:00:00,000 ERROR [1] " + LOGGER + ": {}",
                "x\nERROR:" + LOGGER + ":{}",
                "{} {}",
                LOGGER + " {}",
            ):
                lines.append(formatted(formatter, "auth", message.replace("{}", forged)))
        lines.append(formatted(formatter, LOGGER, written(2)))
        result, found = replay(*lines)

        assert [1, 2] == found
        assert 1 == result.exit_code
        assert 24 == result.stderr.count(" is refused: ")
        assert "line 1 is" not in result.stderr

    def test_unmarked(self, replay: Replay) -> None:
        """
        Where marks are not asked for, the line's form decides: another logger's is refused.
        """
        lines = [
            json.dumps({"logger": "auth", "message": written(9, None)}),
            json.dumps({"logger": "auth", "data": {"a": json.loads(written(9, None))}}),
            json.dumps({"logger": LOGGER, "name": "auth", "message": written(9, None)}),
            json.dumps({"message": written(9, None)}),
            json.dumps({"logger": ["auth"], "message": written(9, None)}),
            json.dumps({"logger": "auth", "message": json.dumps({"a": written(9, None)})}),
            json.dumps({"logger": "auth", "x": LOGGER, "message": written(9, None)}).replace(
                '"x"', '"logger"'
            ),
            f"2026-11-30 ERROR auth: {LOGGER} {written(9, None)}",
            f"2026-11-30 ERROR {LOGGER} x {written(9, None)}",
            f"2026-11-30 ERROR {LOGGER} {written(9, None)} x",
            f"ERROR user {LOGGER}: {written(9, None)}",
        ]
        result, found = replay(*lines, written(1, None), options=("--unmarked",))

        assert [1] == found
        assert 1 == result.exit_code
        assert len(lines) == result.stderr.count(" is refused: ")

    def test_rpc_unmarked(self, replay: Replay) -> None:
        """
        Nothing but event logs is published, whatever the file and the options.
        """
        result, found = replay(RPC, options=("--unmarked",))

        assert ([], 1) == (found, result.exit_code)
        assert "line 1 is refused" in result.stderr

    def test_odd(self, replay: Replay) -> None:
        """
        What no event log has is refused, even with a right mark, and the rest goes on.
        """
        odd: list[tuple[str, Any]] = [
            ("exchange", "nameko-rpc"),
            ("exchange", ""),
            ("exchange", ".events"),
            ("exchange", "amq.events"),
            ("exchange", "barn.events"),
            ("exchange", "shop.events\n"),
            ("exchange", ["shop.events"]),
            ("routing_key", "order_placed"),
            ("routing_key", "#"),
            ("properties", []),
            ("properties.reply_to", "x"),
            ("properties.correlation_id", "x"),
            ("properties.user_id", "guest"),
            ("properties.cluster_id", "x"),
            ("properties.compression", "bzip2"),
            ("properties.compression", "unknown"),
            ("properties.serializer", "pickle"),
            ("properties.declare", []),
            ("properties.retry", True),
            ("properties.unknown", None),
            ("properties.delivery_mode", True),
            ("properties.delivery_mode", 1),
            ("properties.content_type", "application/x-python-serialize"),
            ("properties.content_type", "application/data"),
            ("properties.content_type", {}),
            ("properties.content_encoding", "bz2"),
            ("properties.content_encoding", "punycode"),
            ("properties.timestamp", 1e300),
            ("properties.timestamp", -1),
            ("properties.timestamp", 2**70),
            ("properties.priority", 300),
            ("properties.expiration", "-1"),
            ("properties.expiration", "9" * 5000),
            ("properties.message_id", ""),
            ("properties.message_id", "x" * 300),
            ("properties.type", "x" * 300),
            ("properties.app_id", "barn"),
            ("properties.headers", []),
            ("properties.headers", {"compression": "bzip2"}),
            ("properties.headers", {"CC": ["nameko-rpc"]}),
            ("properties.headers", {"BCC": ["x"]}),
            ("properties.headers", {"x-delay": 5}),
            ("properties.headers", {"a": 2**70}),
            ("properties.headers", {"a" * 300: 1}),
            ("body", "[" * 100_000),
            ("body", "[]"),
            ("body", "no JSON"),
            ("body", 5),
            ("body", "{}"),
            ("body_encoding", "bzip2"),
            ("unknown", 1),
        ]
        result, found = replay(*[changed(*one) for one in odd], written(1))

        assert [1] == found
        assert 1 == result.exit_code
        for number, one in enumerate(odd, 1):
            assert f"line {number} is refused" in result.stderr, one

    def test_broken(self, replay: Replay) -> None:
        """
        A line that is no whole object is refused, and nothing of it reaches the terminal raw.
        """
        lines = [
            '{"exchange"',
            '{"exchange": ' + "[" * 100_000,
            'x {"exchange": ' + '{"a":' * 100_000,
            '{"exchange": NaN}',
            '{"exchange": "\ud800"}',
            '{"exchange": 1' + "0" * 5000 + "}",
            '{"exchange": "shop.events"} \x1b[2J',
        ]
        result, found = replay(*lines, written(1))

        assert ([1], 1) == (found, result.exit_code)
        assert len(lines) == result.stderr.count(" is refused: ")
        assert "\x1b" not in result.output

    def test_changed_mark(self, replay: Replay) -> None:
        """
        A marked line that was changed, in whatever part, is no longer ours.
        """
        line = written(1)
        changes = (("paid", "sold"), ("id-1", "id-2"), ("stopped", "x"), ("foo.bar", "a"))
        result, found = replay(*[line.replace(*change) for change in changes])

        assert ([], 1) == (found, result.exit_code)
        assert 4 == result.stderr.count("it has no valid mark")

    def test_broker_refuses(self, replay: Replay) -> None:
        """
        What the broker does not take is told of with its reason, and the rest goes on.
        """
        elsewhere = json.loads(written(3, None))
        elsewhere["exchange"], elsewhere["properties"]["app_id"] = "barn.events", "barn"
        lines = [
            marker(KEY).mark(json.dumps(elsewhere)),  # an exchange that is not there
            changed("properties.expiration", "9" * 12),
            changed("properties.headers", {"a": "x" * 200_000}),
        ]
        result, found = replay(written(1), *lines, written(2))

        assert [1, 2] == found
        assert 3 == result.exit_code
        assert "line 2 is refused by the broker: " in result.stderr
        assert "line 3 is refused by the broker: " in result.stderr
        assert "line 4 is refused: its headers do not fit" in result.stderr

    def test_long(self, replay: Replay) -> None:
        """
        A line that is made to be slow, or large once it is decoded, is refused at once.
        """
        began = time.monotonic()
        lines = [
            "1" * 1_000_000 + '{"exchange":1}',
            "." * 1_000_000 + f" {LOGGER} " + '{"exchange":1}',
            "ERROR" + "1" * 1_000_000 + '{"exchange":1}',
            '{"exchange":[' + "[]," * 1_500_000 + "1]}",
            "x" + '{"exchange":[' + "{}," * 1_500_000 + "1]}",
        ]
        result, found = replay(*lines, written(1), options=("--unmarked",))

        assert ([1], 1) == (found, result.exit_code)
        assert len(lines) == result.stderr.count(" is refused: ")
        assert time.monotonic() - began < 30  # the first takes hours if it is matched

    def test_bounded(self, replay: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Neither a long line nor a great many of them cost more than a bound.
        """
        monkeypatch.setattr(replaying, "REPLAY_LINE_BYTES", 10_000)
        monkeypatch.setattr(spools, "REPLAY_REFUSALS", 5)
        result, found = replay("x" * 100_000, *[RPC] * 50, "", written(1))

        assert [1] == found
        assert "line 1 is refused: it is longer" in result.stderr
        assert 6 == len(result.stderr.splitlines())
        assert "51 lines refused" in result.stderr
        assert REPLAY_REFUSALS > 5
