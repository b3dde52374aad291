"""
Rules of retention: which event logs each selects, and how they are read.
"""

from __future__ import annotations

from typing import Any

import pytest
from nameko.exceptions import ConfigurationError

from nameko_eventlog.store.config import StoreConfig, parse_store_config
from nameko_eventlog.store.rules import Rule, choose


def parse(**section: Any) -> StoreConfig:
    return parse_store_config({"EVENTLOG_STORE": section})


class TestMatches:
    @pytest.mark.parametrize(
        ("rule", "selected"),
        [
            (Rule(1), [0, 1, 2, 3, 4]),
            (Rule(1, service=("shop",)), [0, 1, 2]),
            (Rule(1, service=("audit", "web")), [3, 4]),
            (Rule(1, event_type=("entrypoint_*",)), [0, 1, 3]),
            (Rule(1, event_type=("paid", "*_fired")), [0, 2, 3]),
            (Rule(1, level=("ERR",)), [1]),
            (Rule(1, level=("35",)), [4]),
            (Rule(1, level=("warn+",)), [1, 3, 4]),
            (Rule(1, level=("debug", "error+")), [1, 2]),
            (Rule(1, service=("shop",), event_type=("entrypoint_*",), level=("info+",)), [1]),
        ],
    )
    def test_names(self, rule: Rule, selected: list[int]) -> None:
        """
        All filters of a rule must select the name, each by one of its values.
        """
        names = [
            ("shop", "entrypoint_fired", None),
            ("shop", "entrypoint_failed", "error"),
            ("shop", "paid", "debug"),
            ("web", "entrypoint_fired", "warning"),
            ("audit", "read", "level 35"),
        ]

        assert selected == [at for at, one in enumerate(names) if rule.matches(*one)]

    def test_first(self) -> None:
        """
        The first rule that matches decides.
        """
        first = choose([Rule(7, level=("debug",)), Rule(None, service=("shop",))])

        assert 0 == first("shop", "paid", "debug")
        assert 1 == first("shop", "paid", None)
        assert first("web", "paid", None) is None


class TestParse:
    def test_right(self) -> None:
        """
        A filter is one value or a list, a level also a number.
        """
        config = parse(
            retention=[
                {"event_type": "entrypoint_*", "days": 7},
                {"level": ["error+", 35], "service": None, "days": 365},
                {"service": "audit", "days": None},
                {"days": 0.5},
            ]
        )

        assert config.rules == (
            Rule(7, event_type=("entrypoint_*",)),
            Rule(365, level=("error+", "35")),
            Rule(None, service=("audit",)),
            Rule(0.5),
        )

    def test_short_form(self) -> None:
        """
        ``retention_days`` is a rule without filters.
        """
        assert (Rule(30),) == parse(retention_days=30).rules
        assert () == parse().rules

    @pytest.mark.parametrize(
        ("retention", "said"),
        [
            ([], "must be a list of rules, like [{level: debug, days: 7}, {days: 90}], not []"),
            ("90d", "must be a list of rules"),
            ([90], "[0] must be a mapping, like {level: debug, days: 7}, not 90"),
            ([None], "[0] must be a mapping"),
            ([{"levle": "debug", "days": 7}], "[0] has no key 'levle'; did you mean 'level'?"),
            (
                [{"level": "debug"}],
                (
                    "[0] must have the key days, a number or null for forever, not only"
                    " {'level': 'debug'}"
                ),
            ),
            (
                [{"days": 90}, {"level": "debug", "days": 7}],
                (
                    "[0] must be the last rule, because it has no service, event_type or level and"
                    " so decides about all event logs, not {'days': 90}"
                ),
            ),
            (
                [{"days": 0}],
                (
                    "[0].days must be a number of days, above 0 and below 36500, or null for"
                    " forever, not 0"
                ),
            ),
            ([{"days": True}], "[0].days must be a number of days"),
            (
                [{"service": 5, "days": 7}],
                "[0].service must be the name of a service, or a list of them, not 5",
            ),
            (
                [{"event_type": [], "days": 7}],
                (
                    "[0].event_type must be an event type, with * for any text, or a list of them,"
                    " not []"
                ),
            ),
            (
                [{"level": "loud+", "days": 7}],
                (
                    "[0].level must be a level such as error or warning+, or a list of them, not"
                    " 'loud+'"
                ),
            ),
            ([{"level": [], "days": 7}], "[0].level must be a level"),
            ([{"level": -1, "days": 7}], "[0].level must be a level"),
        ],
    )
    def test_wrong(self, retention: Any, said: str) -> None:
        """
        What is wrong is told with its key, its value and what to write.
        """
        with pytest.raises(ConfigurationError) as raised:
            parse(retention=retention)

        assert str(raised.value).startswith("EVENTLOG_STORE.retention")
        assert said in str(raised.value)

    def test_all_of_it(self) -> None:
        """
        Each mistake has a line, those elsewhere in the section as well.
        """
        with pytest.raises(ConfigurationError) as raised:
            parse(retention=[{"days": "x", "level": ""}, {"days": 7}, {"dasy": 1}], quorum=1)

        assert [
            "EVENTLOG_STORE.retention[0].days",
            "EVENTLOG_STORE.retention[0].level",
            "EVENTLOG_STORE.retention[1]",
            "EVENTLOG_STORE.retention[2]",
            "EVENTLOG_STORE.quorum",
        ] == [line.split()[0] for line in str(raised.value).splitlines()]

    def test_both(self) -> None:
        """
        ``retention_days`` and ``retention`` together are a mistake.
        """
        with pytest.raises(ConfigurationError) as raised:
            parse(retention_days=90, retention=[{"level": "debug", "days": 7}])

        assert (
            "EVENTLOG_STORE.retention_days must not be 90 beside EVENTLOG_STORE.retention: add the"
            " rule {days: 90} at the end of retention instead"
        ) == str(raised.value)
