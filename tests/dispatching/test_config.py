"""
The configuration: defaults, checks, and messages that help.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nameko.exceptions import ConfigurationError

from nameko_eventlog import EventLogDispatcher, compat
from nameko_eventlog.config import Config, parse_config
from nameko_eventlog.store.config import parse_store_config
from tests.dispatching.services import FooService


KEYS = [field.name for field in dataclasses.fields(Config)]

RIGHT = {
    "auto_capture": [True, False],
    "entrypoints_to_exclude": [[], ["a"], ("a", "b")],
    "event_type": ["log_event", "x" * 255],
    "capture_stages": [[], ["fired", "completed", "failed"]],
    "capture_types": [[], ["Rpc", "nameko.rpc.Rpc"]],
    "capture_arguments": [True, False],
    "redact": [[], ["password"]],
    "max_event_bytes": [1, 10**9],
    "timespec": ["seconds", "milliseconds", "microseconds"],
    "uri": ["memory://"],
    "buffer_size": [1],
    "buffer_bytes": [1],
    "spool": ["/var/lib/foo"],
    "spool_max_bytes": [1],
    "confirm_timeout": [0.1, 10],
    "flush_timeout": [0, 0.5, 10],
    "unroutable": ["warn", "hold", "ignore"],
    "fan_in_exchange": ["eventlog"],
}

WRONG = {
    "auto_capture": ["yes", 1, [], {}],
    "entrypoints_to_exclude": ["name", [1], [""], {"a": 1}, 5],
    "event_type": ["", 5, ["log_event"], "x" * 256, True],
    "capture_stages": ["fired", ["began"], [["fired"]], 1],
    "capture_types": ["Rpc", [int], 5],
    "capture_arguments": ["no", 0],
    "redact": ["password", [5]],
    "max_event_bytes": [0, -1, 1.5, "1048576", True],
    "timespec": ["nanoseconds", 3, ["seconds"]],
    "uri": ["", 5],
    "buffer_size": [0, "many", True],
    "buffer_bytes": [0, 1.0],
    "spool": ["", 5],
    "spool_max_bytes": [0, "1G"],
    "confirm_timeout": [0, -1, "10", True, float("nan"), float("inf"), 10**400],
    "flush_timeout": [-1, "0", False, float("nan"), float("inf")],
    "unroutable": ["raise", True],
    "fan_in_exchange": ["", 5, False],
}


def pairs(table: dict[str, list[Any]]) -> list[Any]:
    """
    Return the key and the value of each case.
    """
    return [(key, value) for key, values in table.items() for value in values]


class TestValues:
    """
    What a key may be.
    """

    @pytest.mark.parametrize("config", [{}, {"EVENTLOG_DISPATCHER": None}])
    def test_defaults(self, config: dict[str, Any]) -> None:
        """
        Everything is optional, the section itself as well.
        """
        assert Config() == parse_config(config)

    @pytest.mark.parametrize("key", KEYS)
    def test_none_is_the_default(self, key: str) -> None:
        """
        None means the default, but for the exchange, which it turns off.
        """
        config = parse_config({"EVENTLOG_DISPATCHER": {key: None}})

        expected = None if key == "fan_in_exchange" else getattr(Config(), key)
        assert expected == getattr(config, key)

    @pytest.mark.parametrize(("key", "value"), pairs(RIGHT))
    def test_right_values(self, key: str, value: Any) -> None:
        """
        A value of the right kind is taken; lists become tuples.
        """
        config = parse_config({"EVENTLOG_DISPATCHER": {key: value}})

        assert (tuple(value) if isinstance(value, list) else value) == getattr(config, key)

    @pytest.mark.parametrize(("key", "value"), pairs(WRONG))
    def test_wrong_values(self, key: str, value: Any) -> None:
        """
        A value of the wrong kind is refused by key, with the value and what was expected.
        """
        with pytest.raises(ConfigurationError) as raised:
            parse_config({"EVENTLOG_DISPATCHER": {key: value}})

        message = str(raised.value)
        assert message.startswith(f"EVENTLOG_DISPATCHER.{key} must be ")
        assert message.endswith(f", not {value!r}")

    @pytest.mark.parametrize("section", ["auto_capture", ["auto_capture"], True, 5])
    def test_section_of_the_wrong_kind(self, section: Any) -> None:
        """
        The section is a mapping.
        """
        with pytest.raises(ConfigurationError, match="EVENTLOG_DISPATCHER must be a mapping, not"):
            parse_config({"EVENTLOG_DISPATCHER": section})

    def test_some_wrong_values(self) -> None:
        """
        All that is wrong is told, a line for each.
        """
        section = {"auto_capture": "yes", "uri": "memory://", "spol": 1, "redact": "password"}

        with pytest.raises(ConfigurationError) as raised:
            parse_config({"EVENTLOG_DISPATCHER": section})

        assert [
            "EVENTLOG_DISPATCHER.auto_capture must be true or false, not 'yes'",
            "EVENTLOG_DISPATCHER has no key 'spol'; did you mean 'spool'?",
            "EVENTLOG_DISPATCHER.redact must be a list of names, not 'password'",
        ] == str(raised.value).splitlines()

    @given(
        st.dictionaries(
            st.sampled_from(KEYS) | st.text() | st.integers(),
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats()
            | st.text()
            | st.lists(st.text())
            | st.dictionaries(st.text(), st.integers()),
        )
    )
    def test_anything(self, section: dict[Any, Any]) -> None:
        """
        Whatever the section holds, it is a configuration or a `ConfigurationError`.
        """
        try:
            config = parse_config({"EVENTLOG_DISPATCHER": section})
        except ConfigurationError:
            return
        assert isinstance(config, Config)


class TestUnknownKeys:
    """
    Keys that are not in the table.
    """

    @pytest.mark.parametrize(
        ("key", "nearest"),
        [
            ("auto_captrue", "auto_capture"),
            ("AUTO_CAPTURE", "auto_capture"),
            ("exclude_entrypoints", "entrypoints_to_exclude"),
            ("max_event_byte", "max_event_bytes"),
            ("flush-timeout", "flush_timeout"),
        ],
    )
    def test_misspelt(self, key: str, nearest: str) -> None:
        """
        A misspelt key gets the nearest one proposed.
        """
        with pytest.raises(ConfigurationError) as raised:
            parse_config({"EVENTLOG_DISPATCHER": {key: True}})

        expected = f"EVENTLOG_DISPATCHER has no key {key!r}; did you mean {nearest!r}?"
        assert expected == str(raised.value)

    @pytest.mark.parametrize("key", ["xyzzy", 5, None, ("a",)])
    def test_like_none_of_them(self, key: Any) -> None:
        """
        For a key that is not similar to any, the message lists all keys.
        """
        with pytest.raises(ConfigurationError) as raised:
            parse_config({"EVENTLOG_DISPATCHER": {key: True}})

        assert str(raised.value).startswith(
            f"EVENTLOG_DISPATCHER has no key {key!r}; valid keys are"
        )
        assert all(name in str(raised.value) for name in KEYS)


class TestStart:
    """
    What stops the service at start.
    """

    @pytest.mark.parametrize(
        ("section", "message"),
        [
            ({"auto_captur": True}, "did you mean 'auto_capture'"),
            ({"timespec": "days"}, "EVENTLOG_DISPATCHER.timespec must be one of .*, not 'days'"),
            (
                {"uri": "nosuch://host"},
                "invalid broker address for event logs 'nosuch://host'.*No such transport",
            ),
            (
                {"uri": "amqp://u:secret@host:port/"},
                "EVENTLOG_DISPATCHER.uri must be amqp://.*, not 'amqp://u:.*@host:port/'",
            ),
        ],
    )
    def test_wrong_configuration(self, start_foo: Any, section: Any, message: str) -> None:
        """
        A wrong configuration stops the service at start, and stopping it then is quiet.
        """
        with pytest.raises(ConfigurationError, match=message) as raised:
            start_foo(section)

        assert "secret" not in str(raised.value)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"use_confirms": False}, "use_confirms=False.*remove the option"),
            ({"retry": False}, "retry=False.*remove the option"),
            ({"mandatory": True}, "mandatory=True.*remove the option"),
            ({"delivery_mode": 1}, "delivery_mode=1.*remove the option"),
            ({"retry_policy": {}}, "retry_policy={}.*has no effect"),
            ({"expiraton": 5}, "expiraton=5.*has no effect"),
            ({"serializer": "nosuch"}, "serializer 'nosuch' cannot encode"),
            ({"headers": ["a"]}, r"headers=\['a'\].*must be a mapping"),
            ({"headers": {1: "a"}}, "a mapping of strings to values that AMQP can represent"),
            ({"headers": {"a": datetime.date(2026, 1, 1)}}, "values that AMQP can represent"),
            ({"headers": {"a": [float("nan")]}}, "values that AMQP can represent"),
            ({"expiration": "5s"}, "expiration='5s'.*number of seconds"),
            ({"expiration": -1}, "expiration=-1.*number of seconds"),
            ({"priority": 256}, "priority=256.*0 to 255"),
            ({"priority": True}, "priority=True.*0 to 255"),
            (
                {"compression": "nosuch"},
                "compression='nosuch'.*name of one of kombu's",
            ),
        ],
    )
    def test_wrong_options(self, start_foo: Any, options: Any, message: str) -> None:
        """
        A constructor option that contradicts the relay, or is no option, is refused by name.
        """

        class Service(FooService):
            eventlog = EventLogDispatcher(**options)

        with pytest.raises(ConfigurationError, match=message):
            start_foo(service=Service)

    @pytest.mark.parametrize(
        "options",
        [
            {"use_confirms": True, "retry": True, "mandatory": False, "delivery_mode": 2},
            {"use_confirms": None, "priority": None, "headers": None, "serializer": None},
        ],
    )
    def test_options_that_say_what_is_so(self, start_foo: Any, options: Any) -> None:
        """
        An option that says what is so anyway, or nothing, is let pass.
        """

        class Service(FooService):
            eventlog = EventLogDispatcher(**options)

        foo = start_foo(service=Service)
        foo.run(lambda service: service.eventlog("paid"))

        assert ["paid"] == [body["event_type"] for body in foo.bodies(1)]

    def test_no_broker(self) -> None:
        """
        A service without a broker does not start; Nameko 3 itself has a default one.
        """

        class Provider:
            options: dict[str, Any] = {}
            publisher_options = options
            amqp_uri = None

            class container:  # noqa: N801
                config: dict[str, Any] = {}
                serializer = "json"

        with pytest.raises(
            ConfigurationError, match="no broker is configured for event logs: set AMQP_URI"
        ):
            compat.publisher_settings(Provider, None)


class TestSections:
    @pytest.mark.parametrize(
        ("key", "parse", "name"),
        [
            ("EVENTLOG_DISPACHER", parse_config, "EVENTLOG_DISPATCHER"),
            ("eventlog_dispatcher", parse_config, "EVENTLOG_DISPATCHER"),
            ("EVENTLOGSTORE", parse_store_config, "EVENTLOG_STORE"),
        ],
    )
    def test_misspelt(self, key: str, parse: Callable[[Any], Any], name: str) -> None:
        """
        A section whose name is misspelt is refused: the service would run on the defaults.
        """
        with pytest.raises(ConfigurationError) as raised:
            parse({key: {}})

        assert f"unknown section {key!r}; did you mean {name!r}?" == str(raised.value)
        parse({key: {}, name: {}})  # its own, then

    @pytest.mark.parametrize("key", ["EVENTLOG_STORE_URI", "EVENTLOG", "LOGGING", 5])
    def test_others(self, key: Any) -> None:
        """
        Other keys are others' business, whatever they are.
        """
        parse_config({key: {}})
        parse_store_config({key: {}})
