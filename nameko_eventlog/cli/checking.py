"""
The command `check`: whether a configuration is valid and works.
"""

from __future__ import annotations

import difflib
import inspect
import logging.config
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

import click
from nameko.exceptions import ConfigurationError

from nameko_eventlog import compat
from nameko_eventlog.addresses import masked, masked_text, masked_value, without_secrets
from nameko_eventlog.amqp.connections import broker_uri, make_connection
from nameko_eventlog.amqp.settings import ConnectionSettings
from nameko_eventlog.cli.settings import (
    NOTHING,
    UNREACHABLE,
    config_option,
    handle_errors,
    read_config,
)
from nameko_eventlog.cli.terminal import printable
from nameko_eventlog.config import CONFIG_KEY, Config, parse_config
from nameko_eventlog.consuming.queues import lacks_fan_in
from nameko_eventlog.delivery.spool import private_files
from nameko_eventlog.extras import MissingExtra
from nameko_eventlog.store.config import CONFIG_KEY as STORE_KEY
from nameko_eventlog.store.config import parse_store_config
from nameko_eventlog.store.databases import DatabaseError, parse_uri, shown_address
from nameko_eventlog.store.probing import Probe, try_tables


T = TypeVar("T")

EXPLORER_KEY = "EVENTLOG_EXPLORER"
"""As in ``explorer.config``, which cannot be imported without its extra."""

_SECTIONS = (CONFIG_KEY, STORE_KEY, EXPLORER_KEY, "LOGGING", "AMQP_URI")

Finding = tuple[str, str, str]
"""What was checked; "ok", "wrong" or "unreachable"; and a description."""


@click.command(short_help="Validate the configuration; try broker, database, spool.")
@config_option
@handle_errors
def check(path: str) -> None:
    """
    Validate the configuration, then try the broker, the database and the spool.
    """
    findings = list(_findings(read_config(path)))
    marks = {"ok": ("ok   ", "green"), "wrong": ("WRONG", "red"), "unreachable": ("FAILS", "red")}
    for what, state, description in findings:
        mark, colour = marks[state]
        click.echo(f"{click.style(mark, fg=colour)}  {what}: {printable(description)}")
    states = {state for _, state, _ in findings}
    if "wrong" in states:
        sys.exit(NOTHING)
    if "unreachable" in states:
        sys.exit(UNREACHABLE)


def _findings(config: Mapping[str, Any]) -> Iterator[Finding]:
    misspelt = list(_misspelt(config))
    yield from misspelt
    wrong = {key for key, _, _ in misspelt}
    config = {key: value for key, value in config.items() if str(key) not in wrong}
    yield from _container(config)
    dispatcher, found = _section(config, CONFIG_KEY, parse_config)
    yield from found
    sends = CONFIG_KEY in config or not {STORE_KEY, EXPLORER_KEY} & set(config)
    if not sends and config.get("LOGGING") is None:
        yield "LOGGING", "ok", "not set: store and explorer use Nameko's default logging"
    else:
        faults = list(_logging_faults(config, sends))
        for fault in faults:
            yield "LOGGING", "wrong", fault
        if not faults:
            forwarded = ", and log calls are forwarded" if sends else ""
            yield "LOGGING", "ok", f"valid{forwarded}"
    if not sends and "AMQP_URI" not in config and EXPLORER_KEY in config:
        yield "AMQP_URI", "ok", "not set: the explorer does not need it, the store does"
    else:
        yield from _broker(config, dispatcher)
    if dispatcher is not None and dispatcher.spool is not None:
        yield _spool(dispatcher.spool)
    if STORE_KEY in config:
        store, found = _section(config, STORE_KEY, parse_store_config)
        yield from found
        if store is not None:
            yield from _database(store.uri)
    if EXPLORER_KEY in config:
        yield from _explorer(config)


def _container(config: Mapping[str, Any]) -> Iterator[Finding]:
    """
    Yield a finding if Nameko cannot make a service with this configuration.
    """
    service = type("Check", (), {"name": "check"})
    try:
        with compat.container(service, config):
            pass
    except Exception as exc:
        yield (
            "configuration",
            "wrong",
            f"Nameko rejects it: {masked_text(str(exc) or repr(exc))}",
        )


def _misspelt(config: Mapping[str, Any]) -> Iterator[Finding]:
    for key in config:
        nearest = difflib.get_close_matches(str(key).upper(), _SECTIONS, n=1, cutoff=0.8)
        if nearest and key not in _SECTIONS and nearest[0] not in config:
            yield str(key), "wrong", f"unknown section; did you mean {nearest[0]!r}?"


def _section(
    config: Mapping[str, Any], name: str, parse: Callable[[Mapping[str, Any]], T]
) -> tuple[T | None, list[Finding]]:
    try:
        parsed = parse(config)
    except ConfigurationError as exc:
        return None, [(name, "wrong", _unnamed(fault, name)) for fault in str(exc).splitlines()]
    return parsed, [(name, "ok", "valid" if name in config else "not set: the defaults apply")]


def _unnamed(fault: str, name: str) -> str:
    """
    Return *fault* without the section's name, with which the printed line begins.
    """
    return fault.removeprefix(f"{name}.").removeprefix(f"{name} ")


def _explorer(config: Mapping[str, Any]) -> list[Finding]:
    try:
        from nameko_eventlog.explorer.config import parse_explorer_config
    except MissingExtra as exc:
        return [(EXPLORER_KEY, "wrong", str(exc))]
    except ImportError as exc:
        install = "pip install 'nameko-eventlog[explorer]'"
        return [(EXPLORER_KEY, "wrong", f"not checked: {exc}: {install}")]
    return _section(config, EXPLORER_KEY, parse_explorer_config)[1]


def _logging_faults(config: Mapping[str, Any], sends: bool) -> Iterator[str]:
    section = config.get("LOGGING")
    if section is None:
        yield (
            "missing, so no log call is forwarded: add a handler with"
            " class: logging_ext.EventLogHandler, and a logger that uses it"
        )
        return
    if not isinstance(section, Mapping):
        yield f"it must be a mapping, not {masked_value('LOGGING', section)}"
        return
    before = list(_handlers())
    try:
        logging.config.dictConfig(_without_opening(section))
        yield from _handlers_faults(sends)
    except Exception as exc:
        cause = f" ({exc.__cause__})" if exc.__cause__ else ""
        yield masked_text(f"dictConfig rejects it: {exc}{cause}")
    finally:
        _remove_handlers(before)


def _handlers_faults(sends: bool) -> Iterator[str]:
    handlers = list(dict.fromkeys(handler for _, handler in _handlers()))
    for handler in handlers:
        if isinstance(handler, logging.FileHandler) and not _can_be_written(handler.baseFilename):
            yield f"the file {handler.baseFilename!r} cannot be written"
    if sends and not any(_forwards(handler) for handler in handlers):
        yield (
            "no logger has a handler of class logging_ext.EventLogHandler: log calls are not"
            " forwarded (except those of structlog, with EventLogProcessor)"
        )


def _without_opening(section: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return *section* with its file handlers changed so that no file is created or truncated.
    """
    resolve = logging.config.DictConfigurator({}).resolve
    handlers = section.get("handlers")
    if not isinstance(handlers, Mapping):
        return dict(section)
    changed = dict(handlers)
    for name, options in handlers.items():
        try:
            cls = options["class"]
            cls = resolve(cls) if isinstance(cls, str) else cls
            is_file = issubclass(cls, logging.FileHandler)
        except Exception:  # dictConfig will report it
            is_file = False
        if not is_file:
            continue
        takes = inspect.signature(cls).parameters
        instead: dict[str, Any] = {"mode": "a"} if "mode" in options else {}
        if "delay" in takes or any(one.kind is one.VAR_KEYWORD for one in takes.values()):
            instead["delay"] = True
        elif "filename" in options:  # the user's own class, which opens its file at once
            instead["filename"] = os.devnull
        changed[name] = {**options, **instead}
    return {**section, "handlers": changed}


def _handlers() -> Iterator[tuple[logging.Logger, logging.Handler]]:
    known = list(logging.root.manager.loggerDict.values())
    for logger in (logging.root, *(one for one in known if isinstance(one, logging.Logger))):
        for handler in list(logger.handlers):
            yield logger, handler


def _remove_handlers(before: list[tuple[logging.Logger, logging.Handler]]) -> None:
    """
    Remove the service's handlers, so that the other checks do not write to its log.
    """
    for logger, handler in _handlers():
        if (logger, handler) not in before:
            logger.removeHandler(handler)
            handler.close()


def _can_be_written(path: str) -> bool:
    if os.path.exists(path):
        return os.access(path, os.W_OK) and not os.path.isdir(path)
    folder = os.path.dirname(path)
    return os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)


def _forwards(handler: logging.Handler) -> bool:
    from logging_ext import EventLogHandler

    return isinstance(handler, EventLogHandler)


def _broker(config: Mapping[str, Any], dispatcher: Config | None) -> Iterator[Finding]:
    if not config.get("AMQP_URI"):
        is_read_only = STORE_KEY in config and CONFIG_KEY not in config
        alone = f"; for the explorer alone, add a section {EXPLORER_KEY}: {{}} instead"
        alone = alone if is_read_only else ""
        yield "AMQP_URI", "wrong", f"missing: set AMQP_URI: amqp://USER:PASSWORD@HOST/VHOST{alone}"
        return
    uris: dict[str, None] = {}
    try:
        settings = compat.connection_settings(config)
        uris[settings.uri] = None
        if dispatcher is not None and dispatcher.uri is not None:
            uris[broker_uri(dispatcher.uri)] = None
    except ConfigurationError as exc:
        yield "broker", "wrong", str(exc)
    for uri in uris:
        if STORE_KEY in config and lacks_fan_in(uri) and not _named_services(config):
            yield (
                STORE_KEY,
                "wrong",
                f"{masked(uri)} has no fan-in exchange: name the services in {STORE_KEY}.services",
            )
    for uri in uris:
        yield _connect(uri, settings)


def _named_services(config: Mapping[str, Any]) -> bool:
    section = config[STORE_KEY]
    return isinstance(section, Mapping) and bool(section.get("services"))


def _connect(uri: str, settings: ConnectionSettings) -> Finding:
    try:
        connection = make_connection(settings, uri)
        errors = (*connection.connection_errors, *connection.channel_errors, OSError)
    except Exception as exc:
        why = without_secrets(repr(exc), uri)
        return "broker", "wrong", f"{masked(uri)} cannot be used: {why}"
    try:
        with connection:
            # unlike `connect`, without a pause before another attempt
            connection.ensure_connection(
                max_retries=1,
                interval_start=0,
                interval_step=0,
                reraise_as_library_errors=False,
            )
            connection.channel().close()
    except errors as exc:
        return (
            "broker",
            "unreachable",
            f"{masked(uri)}: {_failure(exc, uri)}{_advice(exc)}",
        )
    return "broker", "ok", f"{masked(uri)} answers"


def _failure(exc: BaseException, uri: str) -> str:
    # py-amqp begins with the failed method, which is (0, 0) if there was none
    return without_secrets(str(exc) or repr(exc), uri).removeprefix("(0, 0): ")


def _advice(exc: BaseException) -> str:
    text = str(exc) or repr(exc)
    for sign, advice in (
        (
            "ACCESS_REFUSED",
            "the user or the password is wrong: rabbitmqctl add_user, change_password",
        ),
        (
            "NOT_ALLOWED",
            "no such vhost, or no permissions in it: rabbitmqctl add_vhost, set_permissions",
        ),
        (
            "unable to get local issuer",
            "name the CA that signed the certificate, AMQP_SSL: {ca_certs: FILE}",
        ),
        (
            "WRONG_VERSION_NUMBER",
            "this port does not use TLS: use amqp://, or the broker's TLS port",
        ),
        (
            "reset by peer",
            "the broker closed the connection: a TLS port needs amqps://",
        ),
        ("No such file", "a file that AMQP_SSL names does not exist"),
        (
            "certificate is not valid for",
            "use the certificate's name in the address, or AMQP_SSL: {server_hostname: NAME}",
        ),
        ("refused", "nothing listens there: start the broker, or correct host and port"),
        ("Name or service", "this host does not exist"),
        ("timed out", "it does not answer: check the firewall and the host"),
    ):
        if sign.lower() in text.lower():
            return f": {advice}"
    return ""


def _spool(directory: str) -> Finding:
    path = nearest = pathlib.Path(directory).absolute()
    while not os.path.lexists(nearest):
        nearest = nearest.parent
    owner = ""
    if nearest == path:
        try:
            # opened as services do; root may check for the user who owns it
            fd = private_files.open_spool(path, any_owner=os.geteuid() == 0)
        except NotADirectoryError:
            return "spool", "wrong", f"{directory!r} is not a directory"
        except OSError as exc:
            return "spool", "wrong", f"{directory!r} cannot be used: {exc.strerror}"
        with private_files.closing(fd):
            status = os.fstat(fd)
        if private_files.is_removable(status):
            return "spool", "wrong", private_files.removable(path, status)
        if status.st_uid not in (0, os.geteuid()):
            owner = f" by user {status.st_uid}: its services must run as that user"
    elif not nearest.is_dir():
        return "spool", "wrong", f"{str(nearest)!r} is not a directory"
    if not os.access(nearest, os.W_OK | os.X_OK):
        return (
            "spool",
            "wrong",
            f"{str(nearest)!r} is not writable: chown it to the service's user",
        )
    state = "is writable" if nearest == path else "will be created"
    return "spool", "ok", f"{directory!r} {state}{owner}"


def _database(uri: str) -> Iterator[Finding]:
    url = parse_uri(uri)
    if url.get_backend_name() == "sqlite":
        database = pathlib.Path(str(url.database))
        if not database.exists():
            folder = database.resolve().parent
            if not os.access(folder, os.W_OK):
                yield "database", "wrong", f"{str(folder)!r} is not writable, or does not exist"
            else:
                yield "database", "ok", f"{shown_address(url)} will be created by the store"
            return
    finding = _try("database", f"{shown_address(url)} answers", Probe(uri))
    yield finding
    if finding[1] == "ok":
        yield _try("tables", None, partial(try_tables, uri))


def _try(what: str, fine: str | None, call: Callable[[], Any]) -> Finding:
    try:
        found = call()
    except MissingExtra as exc:
        return what, "wrong", str(exc)
    except DatabaseError as exc:
        return what, "unreachable", str(exc)
    return what, "ok", found if fine is None else fine
