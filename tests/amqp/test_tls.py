"""
A broker that speaks TLS, with a certificate of a private authority.
"""

from __future__ import annotations

import gc
import pathlib
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import eventlet
import pytest
import yaml
from click.testing import CliRunner

from nameko_eventlog import event_log_handler
from nameko_eventlog.amqp import frame_reading, frame_writing
from nameko_eventlog.amqp.connections import make_connection
from nameko_eventlog.amqp.settings import ConnectionSettings
from nameko_eventlog.cli.commands import cli
from nameko_eventlog.delivery import BrokerDelivery
from tests.conftest import global_config
from tests.delivery.conftest import (
    Lines,
    Received,
    check_sum,
    hang_up,
    make_message,
    settled,
)
from tests.proxy import Proxy
from tests.rabbitmq import Broker
from tests.waiting import wait_until


Make = Callable[..., BrokerDelivery]


@pytest.fixture(scope="module")
def tls_broker() -> Iterator[Broker]:
    """
    The broker.
    """
    with Broker(tls=True) as broker:
        yield broker


@pytest.fixture
def tls_uri(tls_broker: Broker) -> str:
    """
    An empty vhost, by TLS.
    """
    vhost = tls_broker.add_vhost()
    return f"amqp://guest:guest@localhost:{tls_broker.tls_port}/{vhost}"


@pytest.fixture
def tls_received(tls_broker: Broker, tls_uri: str) -> Iterator[Received]:
    """
    A durable queue there, read without TLS.
    """
    received = Received(tls_broker.vhost_uri(tls_uri.rpartition("/")[2]))
    yield received
    received.close()


def options(broker: Broker) -> dict[str, Any]:
    """
    What ``AMQP_SSL`` says.
    """
    return {"ca_certs": str(broker.certificates / "ca.pem"), "cert_reqs": ssl.CERT_REQUIRED}


class TestDelivery:
    @pytest.mark.parametrize("quick", [True, False])
    def test_arrives(
        self,
        tls_broker: Broker,
        tls_uri: str,
        tls_received: Received,
        make_delivery: Make,
        monkeypatch: pytest.MonkeyPatch,
        quick: bool,
    ) -> None:
        """
        Event logs of all sizes arrive, over a connection that is lost in between as well.
        """
        monkeypatch.setattr(frame_writing, "works", lambda: quick)
        monkeypatch.setattr(frame_reading, "works", lambda: quick)
        delivery = make_delivery(tls_uri, settings={"ssl": options(tls_broker)})
        for number in range(3000):
            delivery.accept(make_message(number, headers={"a": "x" * (number % 500)}))
        delivery.deliver(make_message(3000))
        hang_up(delivery)
        delivery.deliver(make_message(3001))
        wait_until(settled(delivery))

        assert list(range(3002)) == tls_received.wait_for(3002)
        assert isinstance(delivery._relay._target.socket, ssl.SSLSocket)
        assert 3002 == check_sum(delivery)["confirmed"]

    def test_frozen(
        self,
        tls_broker: Broker,
        tls_uri: str,
        tls_received: Received,
        make_delivery: Make,
        said: Lines,
    ) -> None:
        """
        A frozen connection is lost like any other, though TLS waits for a goodbye.
        """
        proxy = Proxy(tls_broker.tls_port)
        delivery = make_delivery(
            tls_uri.replace(str(tls_broker.tls_port), str(proxy.port)),
            settings={"ssl": options(tls_broker)},
            confirm_timeout=0.5,
        )
        delivery.deliver(make_message(1))
        proxy.frozen = True
        delivery.accept(make_message(2))
        wait_until(lambda: said.saying("connection to broker"))
        proxy.frozen = False

        assert [1, 2] == tls_received.wait_for(2)
        wait_until(lambda: said.saying("connected to broker"))
        assert not said.saying("relay failed")
        delivery.stop(1)
        proxy.close()

    # eventlet leaves a socket whose handshake has failed to the garbage collector
    @pytest.mark.filterwarnings("ignore:unclosed.*GreenSSLSocket:ResourceWarning")
    def test_unknown_authority(
        self, tls_broker: Broker, tls_uri: str, make_delivery: Make, said: Lines
    ) -> None:
        """
        A certificate of an authority that is not trusted is a lost broker, and says why.
        """
        delivery = make_delivery(tls_uri, settings={"ssl": {"cert_reqs": ssl.CERT_REQUIRED}})
        delivery.accept(make_message(1))
        wait_until(lambda: said.saying("connection to broker"))

        assert "certificate verify failed" in said.saying("connection to broker")[0]
        assert 1 == check_sum(delivery)["waiting"]
        delivery.stop(0)
        gc.collect()


class Front:
    """
    A host with a certificate of its own, which passes TLS connections on to a broker.

    Args:
        broker: It has the authority that signs the certificate.
        *names: What the certificate is of: ``DNS:localhost``, ``IP:127.0.0.1``.
    """

    def __init__(self, broker: Broker, *names: str) -> None:
        folder = broker.certificates
        stem = names[0].replace(":", "-")
        subprocess.run(
            [
                *["openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-days", "2"],
                *["-pkeyopt", "ec_paramgen_curve:prime256v1"],
                *["-subj", "/CN=front", "-CA", "ca.pem", "-CAkey", "ca.key"],
                *["-keyout", f"{stem}.key", "-out", f"{stem}.pem"],
                *["-addext", f"subjectAltName={','.join(names)}"],
                *["-addext", "basicConstraints=critical,CA:FALSE"],
            ],
            cwd=folder,
            check=True,
            capture_output=True,
        )
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(folder / f"{stem}.pem", folder / f"{stem}.key")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._target = ("127.0.0.1", broker.port)
        self._threads = [eventlet.spawn(self._accept)]
        self._sockets: list[Any] = [self._listener]

    def close(self) -> None:
        """
        Cut all connections, and take no more.
        """
        for thread in self._threads:
            thread.kill()
        for one in self._sockets:
            one.close()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            self._threads.append(eventlet.spawn(self._serve, client))

    def _serve(self, client: Any) -> None:
        client = self._context.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
        self._sockets.append(client)
        try:
            client.do_handshake()
        except OSError:  # the client does not like the certificate
            return
        target = socket.create_connection(self._target)
        self._sockets.append(target)
        self._threads.append(eventlet.spawn(self._pass_on, target, client))
        self._pass_on(client, target)

    @staticmethod
    def _pass_on(source: Any, target: Any) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def front(tls_broker: Broker) -> Iterator[Callable[..., Front]]:
    """
    Make a host: ``front("DNS:localhost")``.
    """
    made: list[Front] = []

    def make(*names: str) -> Front:
        made.append(Front(tls_broker, *names))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.filterwarnings("ignore:unclosed.*GreenSSLSocket:ResourceWarning")
class TestHostName:
    """
    A certificate that a trusted authority has signed, for this host or for another.
    """

    @pytest.fixture(autouse=True)
    def collected(self) -> Iterator[None]:
        """
        Collect what eventlet leaves of handshakes that failed.
        """
        yield
        gc.collect()

    @pytest.fixture
    def vhost(self, tls_uri: str) -> str:
        """
        An empty vhost.
        """
        return tls_uri.rpartition("/")[2]

    def connect(self, broker: Broker, uri: str, **options: Any) -> Any:
        """
        Connect as every part does.
        """
        settings = ConnectionSettings(
            "", ssl={"ca_certs": str(broker.certificates / "ca.pem"), **options}
        )
        with make_connection(settings, uri) as connection:
            connection.transport.establish_connection().close()
            return connection.ssl

    @pytest.mark.parametrize(
        ("name", "host"),
        [
            *(("DNS:broker.example.com", "localhost"), ("DNS:broker.example.com", "127.0.0.1")),
            *(("DNS:127.0.0.1", "127.0.0.1"), ("IP:127.0.0.1", "localhost")),
            ("DNS:*.localhost", "localhost"),
        ],
    )
    @pytest.mark.parametrize("scheme", ["amqps", "amqp"])
    def test_other(
        self, tls_broker: Broker, front: Any, vhost: str, name: str, host: str, scheme: str
    ) -> None:
        """
        That of another host is refused.
        """
        uri = f"{scheme}://guest:guest@{host}:{front(name).port}/{vhost}"

        with pytest.raises(ssl.SSLCertVerificationError, match="certificate is not valid for"):
            self.connect(tls_broker, uri)

    @pytest.mark.parametrize(
        ("name", "host"),
        [
            *(("DNS:localhost", "localhost"), ("DNS:localhost", "localhost.")),
            *(("DNS:localhost", "LOCALHOST"), ("IP:127.0.0.1", "127.0.0.1")),
        ],
    )
    def test_right(self, tls_broker: Broker, front: Any, vhost: str, name: str, host: str) -> None:
        """
        That of this host is taken, whether it is a name or an IP address.
        """
        assert self.connect(tls_broker, f"amqps://guest:guest@{host}:{front(name).port}/{vhost}")

    @pytest.mark.parametrize(
        "options", [{"server_hostname": "broker.example.com"}, {"cert_reqs": 0}]
    )
    def test_said_otherwise(
        self, tls_broker: Broker, front: Any, vhost: str, options: dict[str, Any]
    ) -> None:
        """
        What AMQP_SSL says of the name, or of checking nothing, counts.
        """
        port = front("DNS:broker.example.com").port

        assert self.connect(tls_broker, f"amqps://guest:guest@127.0.0.1:{port}/{vhost}", **options)

    @pytest.mark.parametrize("option", ["ssl", "context"])
    def test_other_places(self, tls_broker: Broker, front: Any, vhost: str, option: str) -> None:
        """
        Options for TLS in TRANSPORT_OPTIONS, and those of a context, are checked as well.
        """
        authority = str(tls_broker.certificates / "ca.pem")
        options = {
            "ssl": {"transport_options": {"ssl": {"ca_certs": authority}}},
            "context": {"ssl": {"context": {"cafile": authority}}},
        }
        uri = f"amqp://guest:guest@localhost:{front('DNS:broker.example.com').port}/{vhost}"
        settings = ConnectionSettings("", **options[option])

        with (
            pytest.raises(ssl.SSLCertVerificationError, match="certificate is not valid for"),
            make_connection(settings, uri) as connection,
        ):
            connection.transport.establish_connection()

    def test_several_hosts(
        self,
        tls_broker: Broker,
        tls_received: Received,
        front: Any,
        vhost: str,
        make_delivery: Make,
        said: Lines,
    ) -> None:
        """
        Each of several hosts is checked for its own name, at each change to it.
        """
        first, second = front("DNS:localhost"), front("IP:127.0.0.1")
        uri = (
            f"amqps://guest:guest@localhost:{first.port}/{vhost}"
            f";amqps://guest:guest@127.0.0.1:{second.port}/{vhost}"
        )
        delivery = make_delivery(uri, settings={"ssl": options(tls_broker)})
        delivery.deliver(make_message(1))
        first.close()
        delivery.deliver(make_message(2))

        assert [1, 2] == tls_received.wait_for(2)
        assert not said.saying("certificate verify failed")

    def test_several_hosts_one_wrong(self, tls_broker: Broker, front: Any, vhost: str) -> None:
        """
        A host whose certificate is that of the host before it is refused.
        """
        right, wrong = front("DNS:localhost"), front("DNS:localhost")
        uri = (
            f"amqps://guest:guest@localhost:{right.port}/{vhost}"
            f";amqps://guest:guest@127.0.0.1:{wrong.port}/{vhost}"
        )
        settings = ConnectionSettings(
            "", ssl={"ca_certs": str(tls_broker.certificates / "ca.pem")}
        )
        with make_connection(settings, uri) as connection:
            connection.transport.establish_connection().close()
            connection.maybe_switch_next()
            with pytest.raises(ssl.SSLCertVerificationError, match="certificate is not valid for"):
                connection.transport.establish_connection()
            connection.maybe_switch_next()
            connection.transport.establish_connection().close()

            assert "localhost" == connection.ssl["server_hostname"]

    def test_relay(
        self, tls_broker: Broker, front: Any, vhost: str, make_delivery: Make, said: Lines
    ) -> None:
        """
        The relay says what is wrong, and event logs wait.
        """
        uri = f"amqps://guest:guest@localhost:{front('DNS:broker.example.com').port}/{vhost}"
        delivery = make_delivery(uri, settings={"ssl": options(tls_broker)})
        delivery.accept(make_message(1))
        wait_until(lambda: said.saying("connection to broker"))

        assert "certificate is not valid for 'localhost'" in said.saying("connection to broker")[0]
        assert 1 == check_sum(delivery)["waiting"]
        delivery.stop(0)

    def test_consumer(
        self, tls_broker: Broker, front: Any, vhost: str, run_service: Any, said: Lines
    ) -> None:
        """
        A consumer says what is wrong, and goes on trying.
        """

        class Service:
            name = "downstream"

            @event_log_handler("foo")
            def handle(self, body: Any) -> None:
                """
                Do nothing.
                """

        uri = f"amqps://guest:guest@localhost:{front('DNS:broker.example.com').port}/{vhost}"
        config = {"AMQP_URI": uri, "AMQP_SSL": options(tls_broker)}
        with global_config(config):
            run_service(Service, config)
            wait_until(lambda: said.saying("cannot consume queue"))

        assert "certificate is not valid for 'localhost'" in said.saying("cannot consume queue")[0]

    @pytest.mark.parametrize(
        ("command", "code"), [(["check"], 1), (["tail"], 3), (["spool", "replay", "LOG"], 3)]
    )
    def test_commands(
        self,
        tls_broker: Broker,
        front: Any,
        vhost: str,
        tmp_path: pathlib.Path,
        command: list[str],
        code: int,
    ) -> None:
        """
        The commands end with what is wrong.
        """
        uri = f"amqps://guest:guest@localhost:{front('DNS:broker.example.com').port}/{vhost}"
        authority = str(tls_broker.certificates / "ca.pem")
        config = {"AMQP_URI": uri, "AMQP_SSL": {"ca_certs": authority, "cert_reqs": 2}}
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        log = tmp_path / "undelivered.jsonl"
        log.write_text(
            '{"exchange": "foo.events", "routing_key": "log_event", "body": "{}",'
            ' "content_type": "application/json", "content_encoding": "utf-8"}\n'
        )
        args = [str(log) if one == "LOG" else one for one in command]
        result = CliRunner().invoke(cli, [*args, "--config", str(path)])

        assert code == result.exit_code, result.output
        assert "certificate is not valid for 'localhost'" in result.output
