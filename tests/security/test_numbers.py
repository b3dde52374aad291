"""
Numbers that are small on the wire and large, or slow, in what reads them.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable
from dataclasses import replace
from time import process_time
from typing import Any

import pytest

from nameko_eventlog.amqp.decoding import decode_json
from nameko_eventlog.limits import SHOWN_BODY_BYTES
from nameko_eventlog.store.queries import EventLogQuery
from nameko_eventlog.store.writing import EventLogWriter
from tests.security.attacks import MIB, message, repeated, with_data


LONG_AGO = "2026-01-01T00:00:00+00:00"


@pytest.fixture
def writer(database: str) -> Any:
    """
    What writes to each of the databases.
    """
    writer = EventLogWriter(database, ["json"])
    yield writer
    writer.close()


class TestDecodeJson:
    @pytest.mark.parametrize(
        "number", ["1e308", "1e300", "1.7976931348623157e308", "1" * 309 + ".5"]
    )
    def test_speed(self, number: str) -> None:
        """
        A number takes microseconds, whatever its exponent: of msgspec's own reader 0.1 ms.
        """
        body = f"[{','.join([number] * 20_000)}]".encode()
        begun = process_time()
        decode_json(body)
        assert process_time() - begun < 1

    @pytest.mark.parametrize(
        "number",
        ["0.1", "-0.0", "1e22", "1e23", "5e-324", "1e-400", "2.2250738585072011e-308", "9.5E+2"],
    )
    def test_value(self, number: str) -> None:
        """
        Each number is what Python makes of it.
        """
        expected = float(number)
        found = decode_json(number)
        assert (expected, math.copysign(1, expected)) == (found, math.copysign(1, found))


class TestStored:
    def test_written_out(self, writer: EventLogWriter, database: str) -> None:
        """
        Numbers of which PostgreSQL would write 300 MB are rejected; text is found beside them.
        """
        attack = message(zlib.compress(with_data(repeated(b"1e308", MIB))), compression="gzip")
        good = replace(attack, body=with_data(b'{"a": "b"}'), headers={})
        good = replace(good, properties={"message_id": "good"})
        (reason,) = writer.write([attack, good])
        assert "when its numbers are written out, more than" in reason
        with EventLogQuery(database) as query:
            found = query.query(text="b", since=LONG_AGO)["event_logs"]
        assert ["good"] == [one["message_id"] for one in found]

    def test_few(self, writer: EventLogWriter, database: str) -> None:
        """
        As many of them as have room are stored; PostgreSQL makes integers of some.
        """
        numbers = [1e308, -1e-300, 1.5e22, 0.1] * 1_000
        body = with_data(json.dumps({"numbers": numbers}).encode())
        assert [] == writer.write([message(body)])
        with EventLogQuery(database) as query:
            stored = query.get("attack")
        assert stored is not None
        assert numbers == list(map(float, stored["body"]["data"]["numbers"]))

    def test_compressed_by_the_database(self, writer: EventLogWriter, database: str) -> None:
        """
        A body is large if its text is, however small the database keeps it.
        """
        writer.write([message(with_data(b'{"a": "' + b"a" * (2 * MIB) + b'"}'))])
        with EventLogQuery(database) as query:
            found = query.get("attack", most_bytes=SHOWN_BODY_BYTES)
        assert found is not None
        assert "omitted_bytes" in found


class TestWriteFirst:
    def test_transactions(
        self, writer: EventLogWriter, database: str, messages: Callable[[int], Any]
    ) -> None:
        """
        Large messages of a batch are written one by one: each has the time of a transaction.
        """
        some = messages(3)
        done = 0
        numbers = []
        while done < len(some):
            number, reasons = writer.write_first(some[done:])
            assert [] == reasons
            numbers.append(number)
            done += number
        assert [1, 1, 1] == numbers
        with EventLogQuery(database) as query:
            assert 3 == len(query.query(since=LONG_AGO)["event_logs"])


@pytest.fixture
def messages() -> Callable[[int], Any]:
    """
    Make messages, each of which fills a transaction.
    """

    def make(count: int) -> Any:
        one = message(with_data(repeated(b"0", MIB // 2)))
        return [replace(one, properties={"message_id": str(n)}) for n in range(count)]

    return make
