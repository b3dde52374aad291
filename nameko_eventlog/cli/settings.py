"""
What all commands share: the configuration, errors, and exit codes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, TypeVar

import click
import yaml
from nameko.exceptions import ConfigurationError

from nameko_eventlog import compat
from nameko_eventlog.addresses import masked_value
from nameko_eventlog.cli.terminal import printable
from nameko_eventlog.store.config import StoreConfig, parse_store_config
from nameko_eventlog.store.databases import DatabaseError
from nameko_eventlog.store.parameters import InvalidQuery


NOTHING = 1
"""Exit code: nothing was found, or something is wrong."""

USAGE = 2
"""Exit code: the command, or the configuration, cannot be understood."""

UNREACHABLE = 3
"""Exit code: the broker or the database cannot be used."""

F = TypeVar("F", bound=Callable[..., Any])


class Failure(click.ClickException):
    """
    Ends a command with a message and an exit code.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__("\n".join(map(printable, message.split("\n"))))
        self.exit_code = exit_code  # type: ignore[misc]


def read_config(path: str) -> Mapping[str, Any]:
    """
    Read the configuration.

    Raises:
        Failure: It cannot be read.
    """
    try:
        config = compat.read_config_file(path)
    except FileNotFoundError:
        raise Failure(
            f"{path!r} does not exist: pass --config with the file that `nameko run` reads", USAGE
        ) from None
    except (OSError, UnicodeDecodeError) as exc:
        raise Failure(f"{path} cannot be read: {exc}", USAGE) from None
    except yaml.YAMLError as exc:
        raise Failure(f"{path} is not valid YAML: {_yaml_fault(exc)}", USAGE) from None
    except ConfigurationError as exc:
        raise Failure(f"{path}: {exc}", USAGE) from None
    if config is None:
        return {}
    if not isinstance(config, Mapping):
        raise Failure(f"{path} must be a mapping, not {masked_value(None, config)[:100]}", USAGE)
    return config


def _yaml_fault(exc: yaml.YAMLError) -> str:
    """
    Return what is wrong, and where, without quoting the line, which may contain a password.
    """
    mark = getattr(exc, "problem_mark", None)
    where = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
    problem = getattr(exc, "problem", None) or type(exc).__name__
    return re.sub("'([^'<]*)'", _quoted, problem) + where


def _quoted(match: re.Match[str]) -> str:
    return match[0] if len(match[1]) < 2 else "'…'"  # a YAML sign, or a possible secret


def store_config(path: str) -> StoreConfig:
    """
    Read the store's configuration.

    Raises:
        Failure: The configuration is wrong.
    """
    try:
        return parse_store_config(read_config(path))
    except ConfigurationError as exc:
        raise Failure(f"{path}: {exc}", USAGE) from None


def config_option(command: F) -> F:
    """
    Add the option ``--config`` to a command.
    """
    return click.option(
        "--config",
        "path",
        default="config.yaml",
        show_default=True,
        metavar="FILE",
        help="The configuration, as `nameko run` reads it.",
    )(command)


def handle_errors(command: F) -> F:
    """
    Turn a command's exceptions into a message and an exit code.
    """

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except InvalidQuery as exc:
            raise Failure(str(exc), USAGE) from None
        except DatabaseError as exc:
            raise Failure(str(exc), UNREACHABLE) from None
        except ConfigurationError as exc:
            raise Failure(str(exc), USAGE) from None

    return run  # type: ignore[return-value]
