"""
Any values through kombu's serializers, and what a consumer gets.
"""

from __future__ import annotations

import collections
import enum
import json
import math
import types
import uuid
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any

import kombu.serialization
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nameko.exceptions import ConfigurationError

from logging_ext import EventLog
from nameko_eventlog import EventLogTypeError, EventLogValueError
from nameko_eventlog.dispatching.body import Body, BodyEncoder, Head
from nameko_eventlog.dispatching.serialization import Serializer
from nameko_eventlog.plain_json import is_plain, looks_tagged


CONTEXT = {
    "service_name": "foo",
    "entrypoint_protocol": "Rpc",
    "entrypoint_name": "foo_method",
    "call_id": "foo.foo_method.1",
    "call_stack": ["bla.bla_method.1", "foo.foo_method.1"],
}

# lone surrogates among them; a pair of them is one character to any JSON decoder
any_text = st.text(alphabet=st.characters(exclude_categories=()), max_size=20).map(
    lambda text: json.loads(json.dumps(text))
)
json_like = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(2**200), max_value=2**200)
    | st.floats(allow_nan=False, allow_infinity=False)
    | any_text,
    lambda children: (
        st.lists(children, max_size=5)
        | st.lists(children, max_size=5).map(tuple)
        | st.dictionaries(any_text, children, max_size=5)
    ),
    max_leaves=30,
)
mappings = st.dictionaries(any_text, json_like, max_size=6)
tags = st.sampled_from(["__type__", "__value__", "datetime", "uuid", "bytes", "nonsense"])
hostile = st.recursive(
    json_like
    | st.floats()
    | st.binary(max_size=20)
    | st.sets(st.integers(), max_size=3)
    | st.datetimes()
    | st.decimals()
    | st.uuids()
    | st.just(object())
    | st.complex_numbers(),
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(tags | st.integers() | st.none(), children, max_size=3)
        | st.fixed_dictionaries({"__type__": tags | children, "__value__": children})
    ),
    max_leaves=15,
)


def encoder(
    serializer: str = "json",
    *redact: str,
    max_event_bytes: int = 1_048_576,
    timespec: str = "seconds",
) -> BodyEncoder:
    """
    Return an encoder.
    """
    return BodyEncoder(Serializer(serializer), redact, max_event_bytes, timespec)


def decoded(body: Body) -> Any:
    """
    Return what a consumer gets.
    """
    return kombu.serialization.loads(
        body.payload, body.content_type, body.content_encoding, accept={body.content_type}
    )


def logged(data: Any, encode: BodyEncoder | None = None, metadata: Any = None) -> Any:
    """
    Return the decoded body of a log line's event log.
    """
    event = EventLog("paid", data, metadata, 0.0)
    return decoded((encode or encoder()).encode(Head(CONTEXT), event))


def dispatched(data: Any, encode: BodyEncoder | None = None, metadata: Any = None) -> Any:
    """
    Return the decoded body of a manual dispatch.
    """
    return decoded((encode or encoder()).encode_manual(Head(CONTEXT), "paid", data, metadata))


def refusal(data: Any, metadata: Any = None, serializer: str = "json") -> str:
    """
    Return what a manual dispatch says of *data*.
    """
    with pytest.raises((EventLogTypeError, EventLogValueError)) as raised:
        dispatched(data, encoder(serializer), metadata)
    return str(raised.value)


class Hostile:
    """
    An object whose every method raises.
    """

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    __str__ = __repr__


class Proxy:
    """
    An object that is unbound, as werkzeug's proxies may be.
    """

    @property
    def __class__(self) -> type:  # type: ignore[override]
        raise RuntimeError("working outside of request context")

    def __repr__(self) -> str:
        return "<Proxy unbound>"


class BrokenList(list[Any]):
    """
    A list that cannot be read.
    """

    def __iter__(self) -> Iterator[Any]:
        raise RuntimeError("no elements")

    def __repr__(self) -> str:
        return "BrokenList"


class BrokenZone(tzinfo):
    """
    A time zone of anybody's making.
    """

    def utcoffset(self, when: datetime | None) -> timedelta:
        raise RuntimeError("no offset")


class Color(enum.Enum):
    """
    What no serializer knows.
    """

    RED = 1


class Name(str, enum.Enum):
    """
    What JSON knows as a string.
    """

    BOB = "bob"


class Money:
    """
    What kombu's JSON encodes by itself.
    """

    def __init__(self, json: Any) -> None:
        self._json = json

    def __json__(self) -> Any:
        return self._json

    def __repr__(self) -> str:
        return "Money"


class TestFastPath:
    """
    msgspec and kombu's own encoder.
    """

    @given(mappings, mappings, any_text.filter(bool))
    def test_same_as_kombu(
        self, data: dict[str, Any], metadata: dict[str, Any], event_type: str
    ) -> None:
        """
        A consumer decodes the same, whichever of the two encoded the body.
        """
        event = EventLog(event_type, data, metadata, 0.0)
        slow = encoder()
        slow._serializer.has_fast_path = False

        expected = decoded(slow.encode(Head(CONTEXT), event))
        assert expected == decoded(encoder().encode(Head(CONTEXT), event))
        assert expected["event_type"] == event_type

    @given(mappings)
    def test_manual_is_the_same(self, data: dict[str, Any]) -> None:
        """
        A manual dispatch and a log line with the same data give the same data.
        """
        if not is_plain(data):
            return
        assert logged(data)["data"] == dispatched(data)["data"]

    @given(st.dictionaries(any_text | st.integers() | tags, hostile, max_size=4))
    def test_no_data_kills_a_consumer(self, data: dict[Any, Any]) -> None:
        """
        Whatever is logged, the body is one that kombu's decoder takes, without a NaN.
        """
        body = logged(data, metadata=data)

        # what the decoder would take for a tagged value of its own is there as a repr, whole
        assert (1 if looks_tagged(data) else len(data)) == len(body["data"])
        assert not _unreal(body)

    @given(st.dictionaries(any_text | st.integers() | tags, hostile, max_size=4))
    def test_manual_dispatch_is_taken_or_refused(self, data: dict[Any, Any]) -> None:
        """
        Whatever is dispatched by hand, it is refused with a reason or decodes.
        """
        try:
            body = dispatched(data)
        except (EventLogTypeError, EventLogValueError) as exc:
            assert str(exc).startswith("event_data")  # noqa: PT017 - data of all kinds
        else:
            assert data.keys() == body["data"].keys()

    def test_plain_bodies_take_it(self) -> None:
        """
        A body of plain types is encoded without kombu, which the missing blanks show.
        """
        event = EventLog("paid", {"a": [1, 2.5, None, {"b": "c"}]}, {"level": "info"}, 0.0)

        payload = encoder().encode(Head(CONTEXT), event).payload

        assert payload.endswith(
            b'"level":"info","timestamp":"1970-01-01T00:00:00+00:00","event_type":"paid",'
            b'"data":{"a":[1,2.5,null,{"b":"c"}]}}'
        )

    @pytest.mark.parametrize(
        "value",
        [
            {1: 2},
            {"a": float("nan")},
            {"a": {1}},
            {"a": {"b": b"c"}},
            {"a": datetime(2017, 6, 12, tzinfo=timezone.utc)},
            {"a": Name.BOB},
            {"a": list(range(20_000))},
            {"__type__": 1, "__value__": 2},
            {"a": [[{"__type__": 1, "__value__": 2}]]},
        ],
    )
    def test_what_is_not_plain(self, value: dict[Any, Any]) -> None:
        """
        What msgspec encodes otherwise than kombu, or what is too large to look at, is not plain.
        """
        assert not is_plain(value)

    def test_redacted_keys_are_not_plain(self) -> None:
        """
        What has something to redact is not plain.
        """
        assert not is_plain({"a": [{"PassWord": 1}]}, frozenset({"password"}))
        assert is_plain({"a": [{"PassWord": 1}]}, frozenset({"secret"}))


def _unreal(value: Any) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, dict):
        return any(map(_unreal, value.values()))
    return isinstance(value, list) and any(map(_unreal, value))


class TestReplaced:
    """
    What a log line's event log has in the place of what cannot be sent.
    """

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (float("nan"), "nan"),
            (float("-inf"), "-inf"),
            ({3}, "{3}"),
            (1j, "1j"),
            (Color.RED, "<Color.RED: 1>"),
            (Hostile(), "<Hostile object whose repr raised RuntimeError>"),
            (BrokenList([1]), "BrokenList"),
            (bytearray(b"a"), "bytearray(b'a')"),
            (collections.deque([1]), "deque([1])"),
            ([10**5000], ["<int object whose repr raised ValueError>"]),
            (Money({1, 2}), "Money"),
            (Money(float("inf")), "Money"),
            (Money([{"a": float("nan")}]), "Money"),
            (Money({"__type__": "x", "__value__": 1}), "Money"),
            ({"__type__": "x", "__value__": 1}, "{'__type__': 'x', '__value__': 1}"),
            (datetime(2017, 1, 1, tzinfo=BrokenZone()), None),
        ],
    )
    def test_repr(self, value: Any, expected: str | None) -> None:
        """
        A value that cannot be sent is replaced by its repr, at any depth, and it alone.
        """
        body = logged({"good": 1, "deep": [{"bad": value}]})

        shown = repr(value) if expected is None else expected
        assert {"good": 1, "deep": [{"bad": shown}]} == body["data"]

    @pytest.mark.parametrize(
        "value",
        [
            datetime(2017, 6, 12, 13, 48, tzinfo=timezone.utc),
            datetime(2017, 6, 12),  # noqa: DTZ001 - naive ones are users' data, too
            date(2017, 6, 12),
            time(13, 48),
            Decimal("1.10"),
            uuid.UUID(int=7),
            uuid.UUID("0190163d-8694-739b-aea5-966c26f8ad91"),
            b"bytes",
            b"\xff",
            2**200,
            -(2**63) - 1,
            "\ud800",
        ],
    )
    def test_what_kombu_knows(self, value: Any) -> None:
        """
        What kombu's JSON brings back as what it was comes back as that.
        """
        assert {"value": value} == logged({"value": value})["data"]
        assert {"value": value} == dispatched({"value": value})["data"]

    def test_what_becomes_plain(self) -> None:
        """
        What kombu's JSON encodes as a plain type comes back as that type.
        """
        point = collections.namedtuple("point", "x y")(1, 2)
        data = {
            "enum": Name.BOB,
            "point": point,
            "proxy": types.MappingProxyType({"a": 1}),
            "order": collections.OrderedDict(a=1),
            "money": Money({"amount": 5}),
        }
        expected = {
            "enum": "bob",
            "point": [1, 2],
            "proxy": {"a": 1},
            "order": {"a": 1},
            "money": {"amount": 5},
        }

        assert expected == logged(data)["data"]
        assert expected == dispatched(data)["data"]

    @pytest.mark.parametrize(
        ("data", "expected"),
        [
            ({1: "a"}, {"1": "a"}),
            ({1: "a", "1": "b"}, {"1#2": "a", "1": "b"}),
            ({None: 1, True: 2, 1.5: 3}, {"None": 1, "True": 2, "1.5": 3}),
            ({(1, 2): 1}, {"(1, 2)": 1}),
            ({b"key": 1}, {"b'key'": 1}),
            ({Name.BOB: 1}, {"bob": 1}),
            ({"a": {Hostile: 1}}, {"a": {repr(Hostile): 1}}),
        ],
    )
    def test_keys(self, data: Any, expected: Any) -> None:
        """
        A key that is no string becomes its repr, and pushes no other key out.
        """
        assert expected == logged(data)["data"]

    def test_proxy(self) -> None:
        """
        An object whose class cannot even be asked for is replaced, or refused, like any other.
        """
        assert {"a": "<Proxy unbound>"} == logged({"a": Proxy()})["data"]
        assert refusal({"a": Proxy()}).startswith("event_data.a is <Proxy unbound>, of type Proxy")

    def test_cycle(self) -> None:
        """
        What contains itself is cut where it does.
        """
        cycle: dict[str, Any] = {"a": 1}
        cycle["self"] = [cycle]

        assert {"a": 1, "self": ["[contains itself: cut]"]} == logged(cycle)["data"]

    def test_shared_is_no_cycle(self) -> None:
        """
        What is in several places is sent in each of them, in a cycle's company as well.
        """
        shared = {"a": [1]}
        data = {"x": shared, "y": [shared, shared], "decimal": Decimal(1)}
        assert data == logged(data)["data"]

        cycle: list[Any] = [shared, {2}, shared]
        cycle.append(cycle)

        expected = [{"a": [1]}, "{2}", {"a": [1]}, "[contains itself: cut]"]
        assert {"c": expected, "d": shared} == logged({"c": cycle, "d": shared})["data"]

    def test_depth(self) -> None:
        """
        10,000 levels are cut after 100.
        """
        deep: Any = {}
        for _ in range(10_000):
            deep = {"d": deep}

        value, levels = logged(deep)["data"], 0
        while isinstance(value, dict):
            value, levels = value["d"], levels + 1
        assert (100, "[nesting beyond 100 levels cut]") == (levels, value)

    def test_mapping_that_cannot_be_read(self) -> None:
        """
        A mapping whose items raise is replaced as a whole, on top as well.
        """

        class Broken(collections.UserDict[str, Any]):
            def items(self) -> Any:
                raise RuntimeError("no items")

            def __repr__(self) -> str:
                return "Broken"

        assert {"a": "Broken"} == logged({"a": Broken()})["data"]
        assert {"value": "Broken"} == logged(Broken(a=1))["data"]

    def test_what_lives_only_while_it_is_read(self) -> None:
        """
        Values made anew by each reading are not mistaken for one another.
        """

        class Lazy(list[Any]):
            def __iter__(self) -> Iterator[Any]:
                return iter([{"n": super(Lazy, self).__len__()}])

        data = {"set": {1}, "lists": [Lazy(range(n)) for n in range(50)]}

        assert [[{"n": n}] for n in range(50)] == logged(data)["data"]["lists"]


class TestRefused:
    """
    What a manual dispatch says.
    """

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (
                {"items": [1, 2, 3, {"owner": {5}}]},
                (
                    "event_data.items[3].owner is {5}, of type set, which the serializer cannot"
                    " encode; pass a value that it can encode"
                ),
            ),
            (
                {"a": [float("nan")]},
                "event_data.a[0] is nan, which JSON cannot represent; pass None or a string",
            ),
            (
                {"a": {"b": {3: 4}}},
                (
                    "event_data.a.b has the key 3; keys must be strings that the serializer can"
                    " encode"
                ),
            ),
            (
                {"a": {"__type__": "x", "__value__": 1}},
                (
                    "event_data.a has only the keys '__type__' and '__value__', which kombu's JSON"
                    " decoder interprets as a tagged value; rename one of them"
                ),
            ),
            (
                {"a": Hostile()},
                (
                    "event_data.a is <Hostile object whose repr raised RuntimeError>, of type"
                    " Hostile, which the serializer cannot encode; pass a value that it can encode"
                ),
            ),
        ],
    )
    def test_message(self, data: Any, message: str) -> None:
        """
        It names the argument and the path, shows the value and says what to do.
        """
        assert message == refusal(data)

    def test_metadata(self) -> None:
        """
        It says so of metadata as well.
        """
        assert refusal({}, {"a": [{1}]}).startswith("metadata.a[0] is {1}, of type set")

    def test_cycle(self) -> None:
        """
        It names the place where a value contains itself.
        """
        cycle: dict[str, Any] = {}
        cycle["self"] = [cycle]

        expected = "event_data.self[0] contains itself; pass a copy without the cycle"
        assert expected == refusal(cycle)

    def test_depth(self) -> None:
        """
        It names the place where the nesting goes too deep.
        """
        deep: Any = {}
        for _ in range(10_000):
            deep = {"d": deep}

        message = refusal(deep)
        assert message == f"event_data{'.d' * 100} is nested more than 100 levels deep; flatten it"

    def test_long_values_are_cut(self) -> None:
        """
        A message does not hold a large value whole.
        """
        assert len(refusal({"a": set(range(10_000))})) < 400


class TestSerializers:
    """
    Serializers other than kombu's JSON.
    """

    @pytest.mark.parametrize("name", ["yaml", "pickle"])
    @given(data=mappings)
    def test_same_data(self, name: str, data: dict[str, Any]) -> None:
        """
        Plain data arrives as it was, but for tuples in YAML.
        """
        body = dispatched(data, encoder(name))

        assert _listed(data) == _listed(body["data"])

    @pytest.mark.parametrize("name", ["yaml", "pickle"])
    @given(data=st.dictionaries(any_text | st.integers() | tags, hostile, max_size=4))
    def test_hostile_data(self, name: str, data: dict[Any, Any]) -> None:
        """
        A log line's event log goes out and decodes, whatever its data.
        """
        assert "paid" == logged(data, encoder(name))["event_type"]

    def test_each_by_what_it_knows(self) -> None:
        """
        What a serializer knows goes through it; what it does not becomes a repr.
        """
        data = {"set": {1}, "function": lambda: None, "color": Color.RED}

        pickled = logged(data, encoder("pickle"))["data"]
        assert ({1}, Color.RED) == (pickled["set"], pickled["color"])
        assert pickled["function"].startswith("<function ")
        written = logged(data, encoder("yaml"))["data"]
        assert ({1}, "<Color.RED: 1>") == (written["set"], written["color"])

    def test_what_cannot_be_decoded(self) -> None:
        """
        What can be encoded and not decoded would kill the consumer: it becomes a repr.
        """
        assert "Undecodable" == logged({"a": Undecodable()}, encoder("pickle"))["data"]["a"]
        assert refusal({"a": Undecodable()}, serializer="pickle").startswith("event_data.a is Un")

    @pytest.mark.parametrize("name", ["yaml", "pickle"])
    def test_tags_are_json_only(self, name: str) -> None:
        """
        What kombu's JSON takes for a tagged value is nothing special elsewhere.
        """
        data = {"a": {"__type__": "x", "__value__": 1}}

        assert data == dispatched(data, encoder(name))["data"]

    def test_strings_and_integers_that_one_does_not_take(self, strict: str) -> None:
        """
        A string or an integer that a serializer refuses is replaced, in the context as well.
        """
        context = {**CONTEXT, "call_stack": ["a\ud800"]}
        event = EventLog("paid\ud800", {"a\ud800": "b\ud800", "n": 2**70, "f": 1.5}, {"m": "c"}, 0)

        body = decoded(encoder(strict).encode(Head(context), event))

        assert {
            **CONTEXT,
            "call_stack": ["'a\\ud800'"],
            "m": "c",
            "timestamp": "1970-01-01T00:00:00+00:00",
            "event_type": "'paid\\ud800'",
            "data": {"'a\\ud800'": "'b\\ud800'", "n": "1180591620717411303424", "f": 1.5},
        } == body

    @pytest.mark.parametrize(
        ("event_type", "data", "message"),
        [
            ("paid", {"a": ["b\ud800"]}, r"event_data.a\[0\] is 'b\\ud800', of type str"),
            ("paid", {"a": {"b\ud800": 1}}, r"event_data.a has the key 'b\\ud800'"),
            ("paid", {"a": 2**70}, "event_data.a is 1180591620717411303424"),
            ("paid\ud800", {}, r"event_log.event_type is 'paid\\ud800'"),
        ],
    )
    def test_manual_dispatch_names_them(
        self, strict: str, event_type: str, data: Any, message: str
    ) -> None:
        """
        A manual dispatch names the string or the integer that the serializer refuses.
        """
        with pytest.raises(EventLogTypeError, match=message):
            encoder(strict).encode_manual(Head(CONTEXT), event_type, data, None)

    def test_serializer_that_fails_on_the_whole(self, strict: str) -> None:
        """
        A manual dispatch that fails for no value's sake says what the serializer said.
        """
        with pytest.raises(EventLogTypeError, match=r"cannot be encoded: .*five is too many"):
            dispatched({"a": {"too": 1, "many": 2}, "b": 5, "c": 6, "d": 7}, encoder(strict))

    def test_unknown(self) -> None:
        """
        A serializer that there is not is a `ConfigurationError`.
        """
        with pytest.raises(ConfigurationError, match="the serializer 'nosuch' cannot encode"):
            Serializer("nosuch")


class Undecodable:
    """
    What can be pickled and not unpickled.
    """

    def __reduce__(self) -> Any:
        return int, ("not a number",)

    def __repr__(self) -> str:
        return "Undecodable"


@pytest.fixture
def strict() -> Iterator[str]:
    """
    The name of a serializer that is as strict as msgpack.
    """

    def dumps(value: Any) -> str:
        if len(value.get("data", ())) == 4:
            raise ValueError("five is too many")
        text = json.dumps(value, ensure_ascii=False, default=_refuse)
        text.encode("utf-8")
        json.loads(text, parse_int=_parse_int)
        return text

    kombu.serialization.register("strict", dumps, json.loads, "application/x-strict")
    yield "strict"
    kombu.serialization.unregister("strict")


def _refuse(value: Any) -> Any:
    raise TypeError(f"not {value!r}")


def _parse_int(text: str) -> int:
    if abs(int(text)) >= 2**64:
        raise OverflowError(text)
    return int(text)


def _listed(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_listed(element) for element in value]
    if isinstance(value, dict):
        return {key: _listed(element) for key, element in value.items()}
    return value
