"""
Auto capture: which entrypoint calls become event logs, at which stages, with which data.
"""

from __future__ import annotations

import difflib
import inspect
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from nameko.exceptions import ConfigurationError
from nameko.utils import get_redacted_args
from werkzeug.wrappers import Request

from logging_ext.tracebacks import exception_as_data
from nameko_eventlog.config import Config


_log = logging.getLogger("nameko_eventlog")


class Capture:
    """
    Decide which entrypoint calls become event logs.

    Args:
        config: The dispatcher's configuration.
        types: Entrypoint classes to capture, unless the configuration names others.
    """

    def __init__(self, config: Config, types: tuple[type, ...]) -> None:
        self._enabled = config.auto_capture
        self._exclude = frozenset(config.entrypoints_to_exclude)
        self._stages = frozenset(config.capture_stages)
        self._types = types
        self._type_names = (
            None if config.capture_types is None else frozenset(config.capture_types)
        )
        self._is_named: dict[type, bool] = {}
        self.arguments = config.capture_arguments

    def wants(self, stage: str, entrypoint: Any) -> bool:
        """
        Tell whether *stage* of a call of *entrypoint* is captured.

        Args:
            stage: ``fired``, ``completed`` or ``failed``.
            entrypoint: The bound entrypoint extension.
        """
        if not self._enabled or stage not in self._stages:
            return False
        if entrypoint.method_name in self._exclude:
            return False
        if self._type_names is None:
            return isinstance(entrypoint, self._types)
        cls = type(entrypoint)
        is_named = self._is_named.get(cls)
        if is_named is None:
            is_named = self._is_named[cls] = not _names_of(cls).isdisjoint(self._type_names)
        return is_named


def _names_of(cls: type) -> set[str]:
    """
    Return the names and dotted paths of a class and of its bases.
    """
    bases = cls.__mro__[:-1]  # not object
    return {base.__name__ for base in bases} | {
        f"{base.__module__}.{base.__qualname__}" for base in bases
    }


def warn_about_unknown_names(config: Config, service: str, entrypoints: Iterable[Any]) -> None:
    """
    Warn about names in the configuration that match no entrypoint of the service.

    Args:
        config: The dispatcher's configuration.
        service: The service's name.
        entrypoints: Its bound entrypoint extensions.
    """
    bound = list(entrypoints)
    methods = {str(entrypoint.method_name) for entrypoint in bound}
    types = {name for entrypoint in bound for name in _names_of(type(entrypoint))}
    own = sorted({type(entrypoint).__name__ for entrypoint in bound})
    for key, names, known, shown in (
        ("capture_types", config.capture_types or (), types, own),
        ("entrypoints_to_exclude", config.entrypoints_to_exclude, methods, sorted(methods)),
    ):
        for name in names:
            if name in known:
                continue
            near = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.6)
            _log.warning(
                "EVENTLOG_DISPATCHER.%s: %r matches no entrypoint of service %s; %s",
                key,
                name,
                service,
                f"did you mean {' or '.join(map(repr, near))}?"
                if near
                else f"it has {', '.join(shown) or 'none'}",
            )


def call_arguments(worker_ctx: Any) -> dict[str, Any]:
    """
    Return the arguments of a worker's call by name, redacted as Nameko does.

    Redaction works by name. Positional arguments that do not match the method's signature have no
    name, so only their number is shown. An HTTP request is shown as its method, path and query.
    """
    entrypoint, kwargs = worker_ctx.entrypoint, worker_ctx.kwargs
    args = [_describe_request(arg) if isinstance(arg, Request) else arg for arg in worker_ctx.args]
    try:
        arguments: dict[str, Any] = get_redacted_args(entrypoint, *args, **kwargs)
    except Exception as exc:
        if entrypoint.sensitive_arguments:
            return {"arguments": f"[redacted: reading them raised {type(exc).__name__}]"}
        return _unredacted_arguments(entrypoint, args, kwargs)
    return arguments


def _describe_request(request: Request) -> dict[str, Any]:
    query = request.args.to_dict(flat=False)
    return {
        "method": request.method,
        "path": request.path,
        "query": {name: v[0] if len(v) == 1 else v for name, v in query.items()},
    }


def _unredacted_arguments(entrypoint: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    try:  # without Nameko's deep copy, which some objects do not support
        method = getattr(entrypoint.container.service_cls, entrypoint.method_name)
        bound = inspect.signature(method).bind(None, *args, **kwargs)
        bound.apply_defaults()
        fitting = dict(bound.arguments)
        fitting.pop(next(iter(fitting)))  # self
        return fitting
    except Exception:
        shown = f"[redacted: {len(args)} positional, which do not match the method's signature]"
        return {"args": shown if args else [], "kwargs": dict(kwargs)}


def outcome(duration: float, entrypoint: Any, exc_info: Any) -> Mapping[str, Any]:
    """
    Return the metadata of a call that has ended.

    Args:
        duration: How long it took, in seconds.
        entrypoint: The bound entrypoint extension.
        exc_info: The triple of the exception that ended it, or None.
    """
    metadata: dict[str, Any] = {"duration": round(duration, 6)}
    if exc_info is not None:
        metadata["exception"] = exception_as_data(exc_info)
        metadata["expected"] = isinstance(exc_info[1], as_tuple(entrypoint.expected_exceptions))
    return metadata


def as_tuple(classes: Any) -> tuple[type, ...]:
    """
    Return a class, or several, as a tuple for ``isinstance``.
    """
    return (classes,) if isinstance(classes, type) else tuple(classes)


def entrypoint_types(classes: Any) -> tuple[type, ...]:
    """
    Return the class attribute ``ENTRYPOINT_TYPES_TO_LOG`` as a tuple.

    Raises:
        ConfigurationError: It is neither a class nor a tuple of classes.
    """
    try:
        types = as_tuple(classes)
        isinstance(None, types)
    except TypeError:
        raise ConfigurationError(
            "ENTRYPOINT_TYPES_TO_LOG must be an entrypoint class or a tuple of them, not"
            f" {classes!r}"
        ) from None
    return types
