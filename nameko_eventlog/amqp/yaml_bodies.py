"""
Decode YAML bodies within bounds.

In YAML, aliases and merge keys can make values that grow exponentially, and PyYAML parses integers
of any length in quadratic time.
"""

from __future__ import annotations

from typing import Any

import yaml
from yaml.constructor import ConstructorError

from nameko_eventlog import limits


_Safe: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml is ten times as fast

_LONGEST_KEY = 20  # characters of a 64-bit integer: few of these have the same hash


class _Loader(_Safe):
    """
    Loads the YAML that kombu's serializer makes, which has no merge keys.
    """

    def flatten_mapping(self, node: Any) -> None:
        """
        Reject merge keys, and integers so long that thousands of keys may have the same hash.
        """
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise ConstructorError(None, None, "merge keys are not accepted", key.start_mark)
            if key.tag == "tag:yaml.org,2002:int" and len(key.value) > _LONGEST_KEY:
                raise ConstructorError(None, None, "a key is too long a number", key.start_mark)
            if key.tag == "tag:yaml.org,2002:value":
                key.tag = "tag:yaml.org,2002:str"

    def construct_bounded_int(self, node: Any) -> int:
        """
        Construct an integer if it is not too long.
        """
        if len(node.value) > limits.INTEGER_DIGITS:
            raise ConstructorError(
                None, None, f"a number has more than {limits.INTEGER_DIGITS} digits", None
            )
        number: int = self.construct_yaml_int(node)
        return number


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_bounded_int)


def load_yaml(payload: bytes) -> Any:
    """
    Decode YAML.

    Raises:
        ValueError: It has too many values, or is nested too deep.
        yaml.YAMLError: It is not valid YAML, or has merge keys.
    """
    values = depth = 0
    for event in yaml.parse(payload, _Safe):
        if isinstance(event, yaml.NodeEvent):
            values += 1
            if values > limits.YAML_VALUES:
                raise ValueError(f"the body has more than {limits.YAML_VALUES} values in YAML")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > limits.BODY_DEPTH:
                raise ValueError(f"the body is nested deeper than {limits.BODY_DEPTH} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    return yaml.load(payload, _Loader)  # noqa: S506 - a safe loader
