"""
Differences between Nameko 2 and 3, and uses of Nameko's internals.

Nameko 2 passes its configuration through the container, Nameko 3 has a global one. They store a
publisher's options under different names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import eventlet
import nameko
from eventlet.greenthread import GreenThread
from kombu import Exchange
from kombu.compression import get_encoder
from nameko.constants import (
    AMQP_SSL_CONFIG_KEY,
    AMQP_URI_CONFIG_KEY,
    DEFAULT_HEARTBEAT,
    HEARTBEAT_CONFIG_KEY,
    LOGIN_METHOD_CONFIG_KEY,
    TRANSPORT_OPTIONS_CONFIG_KEY,
)
from nameko.containers import ServiceContainer
from nameko.exceptions import ConfigurationError
from nameko.rpc import get_rpc_exchange
from nameko.standalone.events import get_event_exchange

from nameko_eventlog.addresses import masked_value
from nameko_eventlog.amqp.connections import broker_uri
from nameko_eventlog.amqp.settings import ConnectionSettings, PublisherSettings
from nameko_eventlog.amqp.tables import is_table
from nameko_eventlog.checking import is_seconds


IS_NAMEKO_3 = hasattr(nameko, "config")

_HONOURED = {"serializer", "headers", "expiration", "priority", "compression"}
_CONNECTION = {"uri", "ssl", "login_method"}
_FIXED = {"use_confirms": True, "retry": True, "mandatory": False, "delivery_mode": 2}


def _is_priority(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 255


def _is_compression(value: Any) -> bool:
    try:
        get_encoder(value)
    except Exception:
        return False
    return True


_EXPECTED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "headers": ("a mapping of strings to values that AMQP can represent", is_table),
    "expiration": ("a number of seconds, 0 or more", is_seconds),
    "priority": ("an integer from 0 to 255", _is_priority),
    "compression": ("the name of one of kombu's compressions", _is_compression),
}


def service_config(container: Any) -> Mapping[str, Any]:
    """
    Return the configuration of the service in *container*.
    """
    config: Mapping[str, Any] = nameko.config if IS_NAMEKO_3 else container.config
    return config


def read_config_file(path: str) -> Any:
    """
    Read a ``config.yaml`` like ``nameko run``, with environment variables substituted.

    Raises:
        OSError: It cannot be read.
        yaml.YAMLError: It is not valid YAML.
        ConfigurationError: Variables are nested.
    """
    import yaml

    if IS_NAMEKO_3:
        from nameko.cli.utils.config import setup_yaml_parser
    else:
        from nameko.cli.main import setup_yaml_parser
    setup_yaml_parser()
    with open(path, encoding="utf-8") as file:
        return yaml.safe_load(file)


@contextmanager
def container(service: type, config: Mapping[str, Any]) -> Iterator[Any]:
    """
    Make a container of *service* for the ``with`` block.
    """
    if IS_NAMEKO_3:
        with nameko.config.patch(dict(config)):
            yield ServiceContainer(service)
    else:
        yield ServiceContainer(service, dict(config))


def event_exchange(container: Any, service: str | None = None) -> Exchange:
    """
    Return the exchange of a service's Nameko events, by default of the service in *container*.
    """
    name = container.service_name if service is None else service
    return named_event_exchange(service_config(container), name)


def named_event_exchange(config: Mapping[str, Any], service: str) -> Exchange:
    """
    Return the exchange of a service's Nameko events.
    """
    return get_event_exchange(service) if IS_NAMEKO_3 else get_event_exchange(service, config)


def rpc_exchange(container: Any) -> Exchange:
    """
    Return the exchange of RPC requests and replies.
    """
    return get_rpc_exchange() if IS_NAMEKO_3 else get_rpc_exchange(service_config(container))


def worker_thread(container: Any, worker_ctx: Any) -> Any:
    """
    Return the green thread of a worker that was just spawned.
    """
    return container._worker_threads[worker_ctx]


def declared_before(provider: Any, kind: Any) -> list[Any]:
    """
    Return the dependency providers of *kind* that a service declares before *provider*.
    """
    container = provider.container
    names = [name for cls in reversed(container.service_cls.__mro__) for name in vars(cls)]
    order = {name: number for number, name in reversed(list(enumerate(names)))}
    place = order.get(provider.attr_name, -1)
    return [
        other
        for other in container.dependencies
        if isinstance(other, kind) and order.get(other.attr_name, -1) < place
    ]


def before_exit(container: Any, worker_ctx: Any, on_exit: Callable[[Any, Any], None]) -> None:
    """
    Call *on_exit* with the green thread and the context of the running worker when it ends.

    It is linked before Nameko's own function, which re-raises a `BaseException` that is not an
    ``Exception``, and then no later link is called. A nested worker in another worker's green
    thread has no such link.
    """
    thread = eventlet.getcurrent()
    exited = container._handle_worker_thread_exited
    if isinstance(thread, GreenThread) and thread.unlink(exited, worker_ctx):
        thread.link(on_exit, worker_ctx)
        thread.link(exited, worker_ctx)


def thread_error(thread: Any) -> BaseException | None:
    """
    Return the exception that ended a green thread, or None.
    """
    try:
        thread.wait()  # returns or raises at once, because the thread has ended
    except BaseException as exc:
        return exc
    return None


def before_end(container: Any, on_stop: Callable[[], None], on_kill: Callable[[], None]) -> None:
    """
    Call *on_stop* before *container* stops, and *on_kill* before it is killed.

    Nameko stops dependency providers last, after all entrypoints have stopped and all workers have
    ended.
    """
    container_stop, container_kill = container.stop, container.kill

    def stop() -> None:
        on_stop()
        container_stop()

    def kill(*args: Any, **kwargs: Any) -> None:
        on_kill()
        container_kill(*args, **kwargs)

    container.stop, container.kill = stop, kill


def is_being_killed(container: Any) -> bool:
    """
    Tell whether *container* and its workers are being killed.
    """
    return bool(container._being_killed)


def worker_context(worker_ctx: Any) -> dict[str, Any]:
    """
    Return the five attributes of a worker's context.
    """
    entrypoint = worker_ctx.entrypoint
    return {
        "service_name": worker_ctx.service_name,
        "entrypoint_protocol": type(entrypoint).__name__,
        "entrypoint_name": entrypoint.method_name,
        "call_id": worker_ctx.call_id,
        "call_stack": list(worker_ctx.call_id_stack),
    }


def publisher_settings(provider: Any, uri: str | None) -> PublisherSettings:
    """
    Return the settings that Nameko's publisher would use.

    Args:
        provider: A bound dependency provider, a subclass of Nameko's ``Publisher``.
        uri: The address of another broker for event logs, or None for the service's broker.

    Raises:
        ConfigurationError: No broker is configured, or an option of the constructor contradicts
            how event logs are delivered.
    """
    config = service_config(provider.container)
    options = dict(provider.publisher_options if IS_NAMEKO_3 else provider.options)
    if IS_NAMEKO_3:
        options["uri"] = provider.amqp_uri  # the option, AMQP_URI, or its default
    for name, value in options.items():
        if name in _FIXED:
            if value is not None and value != _FIXED[name]:
                raise ConfigurationError(
                    f"{type(provider).__name__}({name}={value!r}): event logs are always published"
                    f" with {name}={_FIXED[name]!r}; remove the option"
                )
        elif name not in _HONOURED | _CONNECTION:
            raise ConfigurationError(
                f"{type(provider).__name__}({name}={value!r}): the option has no effect on event"
                " logs; remove it"
            )
    uri = uri or options.get("uri") or config.get(AMQP_URI_CONFIG_KEY)
    if not uri:
        raise ConfigurationError(
            f"no broker is configured for event logs: set {AMQP_URI_CONFIG_KEY}, or uri in"
            " EVENTLOG_DISPATCHER"
        )
    uri = broker_uri(uri)
    for name, (expected, is_right) in _EXPECTED.items():
        value = options.get(name)
        if value is not None and not is_right(value):
            raise ConfigurationError(
                f"{type(provider).__name__}({name}={value!r}): {name} must be {expected}"
            )
    return PublisherSettings(
        ConnectionSettings(
            uri,
            options.get("ssl", config.get(AMQP_SSL_CONFIG_KEY)),
            options.get("login_method", config.get(LOGIN_METHOD_CONFIG_KEY)),
            config.get(HEARTBEAT_CONFIG_KEY, DEFAULT_HEARTBEAT),
            _transport_options(config),
        ),
        serializer=options.get("serializer") or provider.container.serializer,
        headers=dict(options.get("headers") or {}),
        expiration=options.get("expiration"),
        priority=options.get("priority"),
        compression=options.get("compression"),
    )


def _transport_options(config: Mapping[str, Any]) -> dict[str, Any]:
    options = config.get(TRANSPORT_OPTIONS_CONFIG_KEY)
    if options is not None and not isinstance(options, Mapping):
        raise ConfigurationError(
            f"{TRANSPORT_OPTIONS_CONFIG_KEY} must be a mapping, not {masked_value(None, options)}"
        )
    return dict(options or {})


def consumer_settings(container: Any) -> ConnectionSettings:
    """
    Return the connection settings of the service in *container*.

    Raises:
        ConfigurationError: No broker is configured.
    """
    return connection_settings(service_config(container))


def connection_settings(config: Mapping[str, Any]) -> ConnectionSettings:
    """
    Return the connection settings in a configuration.

    Raises:
        ConfigurationError: No broker is configured.
    """
    uri = config.get(AMQP_URI_CONFIG_KEY)
    if not uri:
        raise ConfigurationError(
            f"no broker is configured to receive event logs from: set {AMQP_URI_CONFIG_KEY}"
        )
    return ConnectionSettings(
        broker_uri(uri),
        config.get(AMQP_SSL_CONFIG_KEY),
        config.get(LOGIN_METHOD_CONFIG_KEY),
        config.get(HEARTBEAT_CONFIG_KEY, DEFAULT_HEARTBEAT),
        _transport_options(config),
    )
