"""
Connections to a broker, with TLS certificates checked against the host name.

py-amqp verifies a certificate's authority, and its host name only if it is given one. kombu can
pass one, but that of the first of several hosts, and ``127.0.0.1`` for ``localhost``.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

from amqp.exceptions import MessageNacked as MessageNacked
from kombu import Connection
from kombu.transport import pyamqp
from nameko.exceptions import ConfigurationError

from nameko_eventlog.addresses import broker_address, masked, without_secrets
from nameko_eventlog.amqp.settings import ConnectionSettings


CONNECT_TIMEOUT = 5.0
"""Seconds for connecting, and for each answer of the handshake."""


class NamedConnection(Connection):
    """
    A connection that, with TLS, checks the certificate's name for each of several hosts.

    Its arguments are those of `kombu.Connection`. ``server_hostname`` in ``ssl`` is the name that
    the certificate must have; the default is the host in the address. ``cert_reqs: 0`` turns the
    check off.
    """

    ssl: Any
    transport_options: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._own_options = self.transport_options
        self._name_host()

    def switch(self, conn_str: str) -> None:
        """
        Switch to another host, which has another certificate.
        """
        super().switch(conn_str)
        self._name_host()

    def _name_host(self) -> None:
        transport = self.get_transport_cls()
        if not issubclass(transport, pyamqp.Transport):
            return  # other transports have other options
        host = str(self.hostname or "localhost")
        if self.ssl or issubclass(transport, pyamqp.SSLTransport):
            self.ssl = with_server_name(self.ssl, host)
        if self._own_options.get("ssl"):  # py-amqp prefers these
            self.transport_options = {
                **self._own_options,
                "ssl": with_server_name(self._own_options["ssl"], host),
            }


def with_server_name(options: Any, host: str) -> dict[str, Any]:
    """
    Return TLS options for py-amqp that check the host name, unless *options* turn that off.

    Args:
        options: A mapping; anything else counts as no options.
        host: The host in the address: a name, or an IP address.
    """
    named = dict(options) if isinstance(options, Mapping) else {}
    if named.get("server_hostname") is not None or named.get("cert_reqs") == ssl.CERT_NONE:
        return named
    # certificates have neither the dot of an absolute name nor the zone of a link-local address
    named["server_hostname"] = host.partition("%")[0].removesuffix(".")
    if named.get("context"):  # py-amqp makes a context from it, which does not check by default
        named["context"] = {"check_hostname": True, **named["context"]}
    return named


def make_connection(
    settings: ConnectionSettings,
    uri: str | None = None,
    heartbeat: float = 0,
    **transport_options: Any,
) -> Connection:
    """
    Make a connection. It is opened when it is first used.

    Args:
        settings: How to connect.
        uri: The address of another broker than that in the settings, or None.
        heartbeat: Seconds between heartbeats; 0 for none.
        **transport_options: Added to those in the settings.
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
    Check a broker's address as Nameko allows it: a string, or a list of addresses to try in turn.

    Returns:
        One string, as kombu expects it.

    Raises:
        ConfigurationError: It is not an address, kombu does not know its transport, or its
            password is not quoted. The message does not show the password.
    """
    try:
        uri = broker_address(value)
    except ValueError as exc:
        raise ConfigurationError(
            f"invalid broker address for event logs {masked(value)!r}: it must be {exc}"
        ) from None
    for one in uri.split(";"):
        try:
            Connection(one).get_transport_cls()
        except Exception as exc:
            raise ConfigurationError(
                f"invalid broker address for event logs {masked(one)!r}: it must be"
                f" amqp://USER:PASSWORD@HOST/VHOST ({without_secrets(repr(exc), one)})"
            ) from None
    return uri
