"""
Connections to a broker, whose certificate must be of the host that was asked for.

py-amqp checks a certificate's authority, and its host name only if it is told one. kombu tells it
one on demand, but that of the first of several hosts, and ``127.0.0.1`` for ``localhost``.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

from kombu import Connection
from kombu.transport import pyamqp
from nameko.exceptions import ConfigurationError

from nameko_eventlog.addresses import broker_address, masked, without_secrets
from nameko_eventlog.amqp.settings import ConnectionSettings


CONNECT_TIMEOUT = 5.0
"""Seconds for connecting, and for each answer of the handshake."""


class NamedConnection(Connection):
    """
    A connection that checks the host name of each of its hosts, where it speaks TLS.

    Its arguments are those of `kombu.Connection`. In ``ssl``, ``server_hostname`` is the name that
    the certificate must be of, by default that of the address; ``cert_reqs: 0`` checks nothing.
    """

    ssl: Any
    transport_options: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._own_options = self.transport_options
        self._name_host()

    def switch(self, conn_str: str) -> None:
        """
        Go to another host, with a certificate of its own.
        """
        super().switch(conn_str)
        self._name_host()

    def _name_host(self) -> None:
        transport = self.get_transport_cls()
        if not issubclass(transport, pyamqp.Transport):
            return  # others than AMQP's have options of their own
        host = str(self.hostname or "localhost")
        if self.ssl or issubclass(transport, pyamqp.SSLTransport):
            self.ssl = with_server_name(self.ssl, host)
        if self._own_options.get("ssl"):  # py-amqp takes these in place of the others
            self.transport_options = {
                **self._own_options,
                "ssl": with_server_name(self._own_options["ssl"], host),
            }


def with_server_name(options: Any, host: str) -> dict[str, Any]:
    """
    Return options of py-amqp's TLS that check the host name, unless they say otherwise.

    Args:
        options: A mapping, or anything else for none.
        host: As an address has it: a name, or an IP address.
    """
    named = dict(options) if isinstance(options, Mapping) else {}
    if named.get("server_hostname") is not None or named.get("cert_reqs") == ssl.CERT_NONE:
        return named
    # absolute names end in a dot, addresses of a link in its name: no certificate has either
    named["server_hostname"] = host.partition("%")[0].removesuffix(".")
    if named.get("context"):  # py-amqp makes one of these, which does not check by itself
        named["context"] = {"check_hostname": True, **named["context"]}
    return named


def make_connection(
    settings: ConnectionSettings,
    uri: str | None = None,
    heartbeat: float = 0,
    **transport_options: Any,
) -> Connection:
    """
    Make a connection, which is opened when it is used.

    Args:
        settings: How to connect.
        uri: A broker other than that of the settings.
        heartbeat: Seconds; 0 for none.
        **transport_options: Added to those of the settings.
    """
    return NamedConnection(
        settings.uri if uri is None else uri,
        ssl=settings.ssl,
        login_method=settings.login_method,
        heartbeat=heartbeat,
        connect_timeout=CONNECT_TIMEOUT,
        transport_options={**settings.transport_options, **transport_options},
    )


def broker_uri(value: Any) -> str:
    """
    Take a broker's address as Nameko does: a string, or a list of those to try in turn.

    Returns:
        One string, as kombu takes it.

    Raises:
        ConfigurationError: If it is none, kombu does not know its transport, or its password was
            not quoted; nothing of that is shown.
    """
    try:
        uri = broker_address(value)
    except ValueError as exc:
        raise ConfigurationError(
            f"the broker of event logs cannot be at {masked(value)!r}: it must be {exc}"
        ) from None
    for one in uri.split(";"):
        try:
            Connection(one).get_transport_cls()
        except Exception as exc:
            raise ConfigurationError(
                f"the broker of event logs cannot be at {masked(one)!r}: it must be"
                f" amqp://USER:PASSWORD@HOST/VHOST ({without_secrets(repr(exc), one)})"
            ) from None
    return uri
