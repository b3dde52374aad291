"""
A RabbitMQ of the tests' own: installed binaries, private everything else.

Run as a script it says whether those binaries are there (``--check``) or keeps a
broker up until interrupted, for trying things by hand.
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import glob
import http.client
import itertools
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Iterator


# Where packages put the real scripts. Debian's ``rabbitmq-server`` on the PATH is
# a wrapper that changes to the user ``rabbitmq`` and to the system's own files.
_SCRIPT_FOLDERS = (
    "/usr/lib/rabbitmq/bin",
    "/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin",
    "/usr/local/lib/rabbitmq/sbin",
    "/opt/rabbitmq/sbin",
    "/opt/homebrew/opt/rabbitmq/sbin",
    "/usr/local/opt/rabbitmq/sbin",
)

# Ends the broker and removes its files when the pipe on its standard input
# closes, which happens however the process that holds the other end ended.
_WATCHDOG = """
import os, shutil, signal, sys
for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(signum, signal.SIG_IGN)
running = set()
for line in sys.stdin:
    change, pid = line.split()
    (running.add if change == "+" else running.discard)(int(pid))
for pid in running:
    try:
        os.killpg(pid, signal.SIGKILL)
    except OSError:
        pass
shutil.rmtree(sys.argv[1], ignore_errors=True)
"""


def _thread_states(group: int) -> list[str]:
    """
    Return the state of each thread in a process group: a signal reaches them one by one.
    """
    states = []
    for path in glob.glob("/proc/[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # behind the name, which may have any character: state, parent, group
            if int(pathlib.Path(path).read_text().rpartition(")")[2].split()[2]) != group:
                continue
            for thread in glob.glob(f"{path[:-5]}/task/*/stat"):
                states.append(pathlib.Path(thread).read_text().rpartition(")")[2].split()[0])
    return states


# What each start and each test makes it say.
_CHATTER = re.compile(
    r"accepting AMQP connection|authenticated and granted access|\[info\].*closing AMQP"
    r"|Feature flag|\[info\].*(vhost|message store|Recovering \d+ queues|permissions for user)"
)

_PORTS = random.SystemRandom().sample(range(10_000, 32_000), 22_000)


class BrokerError(RuntimeError):
    """
    The private broker is missing, or does not do what it is told.
    """


def find_scripts() -> pathlib.Path:
    """
    Find the folder that holds RabbitMQ's own scripts.

    Returns:
        The folder with ``rabbitmq-server``, ``rabbitmqctl`` and ``rabbitmq-env``.

    Raises:
        BrokerError: There is none.
    """
    candidates = [f"{os.environ['RABBITMQ_HOME']}/sbin"] if "RABBITMQ_HOME" in os.environ else []
    for pattern in _SCRIPT_FOLDERS:
        candidates += sorted(glob.glob(pattern))
    on_path = shutil.which("rabbitmq-server")
    if on_path is not None:
        candidates.append(os.path.dirname(os.path.realpath(on_path)))
    for candidate in map(pathlib.Path, candidates):
        # The wrappers have no rabbitmq-env beside them.
        if (candidate / "rabbitmq-env").exists() and (candidate / "rabbitmq-server").exists():
            return candidate
    raise BrokerError(
        "RabbitMQ is not installed: no rabbitmq-server with rabbitmq-env beside it. "
        "Install the package rabbitmq-server, or set RABBITMQ_HOME to its folder."
    )


def find_epmd() -> str:
    """
    Find Erlang's port mapper, which the node and rabbitmqctl meet at.
    """
    on_path = shutil.which("epmd")
    if on_path is not None:
        return on_path
    found = sorted(glob.glob("/usr/*/erlang/erts-*/bin/epmd"))
    if not found:
        raise BrokerError("Erlang's epmd is not installed; it comes with rabbitmq-server.")
    return found[-1]


def free_ports(count: int) -> list[int]:
    """
    Find ports on the loopback interface that nobody listens on; each is given out once a process.

    They are none of those that Linux gives to the near ends of connections: one of these could
    sit on the port of a server that is down for a while, and keep it from coming back.
    """
    ports: list[int] = []
    while len(ports) < count:
        port = _PORTS.pop()
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            ports.append(port)
    return ports


def with_port(uri: str, port: int) -> str:
    """
    Return *uri* with another port.
    """
    parts = urllib.parse.urlsplit(uri)
    host, _, _ = parts.netloc.rpartition(":")
    return parts._replace(netloc=f"{host}:{port}").geturl()


class Broker:
    """
    A RabbitMQ node that shares nothing with the system's.

    It listens on free loopback ports, has its own port mapper and keeps its
    files in a temporary folder. Its data and ports outlive `stop` and `kill`,
    so that the next `start` brings the same broker back; `close` ends it all,
    and so does the end of the process that made it, SIGKILL included.

    Args:
        startup_timeout: Seconds to wait for it to accept connections.
        tls: Whether it speaks TLS as well, on `tls_port`, with a certificate that the authority
            in `certificates` / ``ca.pem`` has signed.
        peer: A running broker whose cluster it joins at its first start. It must be closed
            after this one, whose port mapper it is.
    """

    def __init__(
        self, startup_timeout: float = 90.0, tls: bool = False, peer: Broker | None = None
    ) -> None:
        self.startup_timeout = startup_timeout
        self._tls = tls
        self._scripts = find_scripts()
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="eventlog-rabbitmq-"))
        ports = free_ports(5)
        self.port, self.api_port, self.tls_port, self._dist_port, self._epmd_port = ports
        self._peer = peer
        if peer is not None:
            self._epmd_port = peer._epmd_port
        self.certificates = self.folder / "certificates"
        self.node = f"eventlog{self.port}@localhost"
        self._epmd: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._vhosts = (f"v{number}" for number in itertools.count(1))
        self._watchdog = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _WATCHDOG, str(self.folder)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        self._environment = self._write_configuration()
        atexit.register(self.close)

    def __enter__(self) -> Broker:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def uri(self) -> str:
        """
        The AMQP URI of the default vhost.
        """
        return self.vhost_uri("")

    def vhost_uri(self, vhost: str) -> str:
        """
        The AMQP URI of a vhost.
        """
        return f"amqp://guest:guest@127.0.0.1:{self.port}/{urllib.parse.quote(vhost, safe='')}"

    @property
    def running(self) -> bool:
        """
        Whether the broker's process is there.
        """
        return self._server is not None and self._server.poll() is None

    @property
    def log(self) -> str:
        """
        What the broker has said so far, in the order in which its files were last written.
        """
        paths = sorted(self.folder.glob("log/*"), key=lambda path: path.stat().st_mtime)
        texts = [path.read_text("utf-8", "replace") for path in paths]
        return "\n".join(texts)

    @property
    def recent_log(self) -> str:
        """
        The last lines of it, without the connections and vhosts that come and go with each test.
        """
        lines = (self.folder / "log" / "broker.log").read_text("utf-8", "replace").splitlines()
        return "\n".join([line for line in lines if line and not _CHATTER.search(line)][-30:])

    def start(self) -> None:
        """
        Start the broker and wait until it serves AMQP and its HTTP API.

        Raises:
            BrokerError: It ended, or the deadline passed; with its log.
        """
        if self.running:
            return
        if self._peer is None and (self._epmd is None or self._epmd.poll() is not None):
            # In the foreground: the one that Erlang starts by itself is a daemon
            # that nobody knows the process id of.
            self._epmd = self._spawn(
                find_epmd(), "-port", str(self._epmd_port), "-address", "127.0.0.1"
            )
        self._server = self._spawn(str(self._scripts / "rabbitmq-server"))
        deadline = time.monotonic() + self.startup_timeout
        while not self._ready():
            if self._server.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise BrokerError(
                    f"RabbitMQ did not start in {self.startup_timeout} s. Its log ends:"
                    f"\n{self.log[-4000:]}"
                )
            time.sleep(0.05)

    def stop(self) -> None:
        """
        Stop the broker as an operator would: it says goodbye to its clients.
        """
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """
        Kill the broker (SIGKILL).
        """
        self._end(signal.SIGKILL)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """
        Freeze the broker (SIGSTOP): connections stay, nothing is answered.
        """
        if self._server is None:
            raise BrokerError("The broker is not running.")
        os.killpg(self._server.pid, signal.SIGSTOP)
        try:
            deadline = time.monotonic() + 5
            while any(state not in "TZ" for state in _thread_states(self._server.pid)):
                if time.monotonic() > deadline:
                    raise BrokerError("The broker does not stop for SIGSTOP.")
                time.sleep(0.001)
            yield
        finally:
            os.killpg(self._server.pid, signal.SIGCONT)

    def close(self) -> None:
        """
        End the broker and its port mapper, and remove its files.
        """
        atexit.unregister(self.close)
        self.kill()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()
            self._forget(self._epmd)
            self._epmd = None
        if self._watchdog.stdin is not None:
            self._watchdog.stdin.close()
        self._watchdog.wait()

    def ctl(self, *args: str, timeout: float = 60.0) -> str:
        """
        Run ``rabbitmqctl`` on the broker; a second or two each.

        Returns:
            Its output.

        Raises:
            BrokerError: It failed; with what it said.
        """
        done = subprocess.run(
            [str(self._scripts / "rabbitmqctl"), "--quiet", "--node", self.node, *args],
            env=self._environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if done.returncode != 0:
            raise BrokerError(f"rabbitmqctl {' '.join(args)}: {done.stdout}{done.stderr}")
        return done.stdout

    def api(self, method: str, path: str, body: object = None) -> object:
        """
        Ask the broker's HTTP API; milliseconds, where rabbitmqctl takes seconds.

        Args:
            method: The HTTP method.
            path: Below ``/api/``, its parts quoted: ``queues/v1/foo``.
            body: What to send as JSON.

        Returns:
            The decoded answer, None for an empty one.

        Raises:
            BrokerError: The API refused.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.api_port, timeout=30)
        try:
            connection.request(
                method,
                f"/api/{path}",
                body=None if body is None else json.dumps(body),
                headers={
                    "Authorization": "Basic " + base64.b64encode(b"guest:guest").decode(),
                    "Content-Type": "application/json",
                },
            )
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        if response.status >= 400:
            raise BrokerError(f"{method} {path}: {response.status} {answer!r}")
        return json.loads(answer) if answer else None

    def add_vhost(self) -> str:
        """
        Make an empty vhost that nobody has used yet, and return its name.
        """
        vhost = next(self._vhosts)
        self.api("PUT", f"vhosts/{vhost}")
        # The API gives the user who asks all permissions of a new vhost (3.x).
        return vhost

    def delete_vhost(self, vhost: str) -> None:
        """
        Delete a vhost with all that is in it; its clients get disconnected.
        """
        self.api("DELETE", f"vhosts/{vhost}")

    @contextlib.contextmanager
    def user(self, name: str, vhost: str, configure: str, write: str, read: str) -> Iterator[None]:
        """
        Have a user with the password ``secret``, who has these permissions in a vhost.
        """
        self.api("PUT", f"users/{name}", {"password": "secret", "tags": ""})
        try:
            permissions = {"configure": configure, "write": write, "read": read}
            self.api("PUT", f"permissions/{vhost}/{name}", permissions)
            yield
        finally:
            self.api("DELETE", f"users/{name}")

    def _write_configuration(self) -> dict[str, str]:
        for name in ("home", "mnesia", "log", "generated"):
            (self.folder / name).mkdir()
        (self.folder / "enabled_plugins").write_text("[rabbitmq_management].\n")
        (self.folder / "env.conf").write_text("")
        (self.folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            "management.tcp.ip = 127.0.0.1\n"
            f"management.tcp.port = {self.api_port}\n"
            # Statistics cost CPU, which the benchmarks would see.
            "management.disable_stats = true\n"
            "management_agent.disable_metrics_collector = true\n"
            "disk_free_limit.absolute = 10MB\n"
            "log.console = false\n"
            "log.file = broker.log\n"
            "log.file.level = info\n"
            + (self._configure_tls() if self._tls else "")
            + (self._configure_cluster(self._peer) if self._peer is not None else "")
            # Of a cluster: who sees less than half of it serves nobody.
            + "cluster_partition_handling = pause_minority\n"
        )
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("RABBITMQ_", "ERL_"))
        }
        environment.update(
            HOME=str(self.folder / "home"),
            ERL_EPMD_PORT=str(self._epmd_port),
            RABBITMQ_NODENAME=self.node,
            RABBITMQ_NODE_PORT=str(self.port),
            RABBITMQ_DIST_PORT=str(self._dist_port),
            RABBITMQ_MNESIA_BASE=str(self.folder / "mnesia"),
            RABBITMQ_LOG_BASE=str(self.folder / "log"),
            RABBITMQ_PID_FILE=str(self.folder / "pid"),
            RABBITMQ_CONFIG_FILE=str(self.folder / "rabbitmq.conf"),
            RABBITMQ_ADVANCED_CONFIG_FILE=str(self.folder / "advanced.config"),
            RABBITMQ_CONF_ENV_FILE=str(self.folder / "env.conf"),
            RABBITMQ_GENERATED_CONFIG_DIR=str(self.folder / "generated"),
            RABBITMQ_ENABLED_PLUGINS_FILE=str(self.folder / "enabled_plugins"),
            # The node listens for other nodes; nobody but this machine may knock.
            RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-kernel inet_dist_use_interface {127,0,0,1}",
        )
        return environment

    def _configure_tls(self) -> str:
        self.certificates.mkdir()
        subject = ["-subj", "/CN=localhost", "-days", "2", "-nodes", "-newkey", "rsa:2048"]
        for command in (
            ["req", "-x509", "-keyout", "ca.key", "-out", "ca.pem", *subject],
            [
                *["req", "-x509", "-keyout", "server.key", "-out", "server.pem", *subject],
                *["-CA", "ca.pem", "-CAkey", "ca.key"],
                *["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
                *["-addext", "basicConstraints=critical,CA:FALSE"],
            ],
        ):
            subprocess.run(
                ["openssl", *command], cwd=self.certificates, check=True, capture_output=True
            )
        return (
            f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}\n"
            f"ssl_options.cacertfile = {self.certificates / 'ca.pem'}\n"
            f"ssl_options.certfile = {self.certificates / 'server.pem'}\n"
            f"ssl_options.keyfile = {self.certificates / 'server.key'}\n"
            "ssl_options.verify = verify_none\n"
        )

    def _configure_cluster(self, peer: Broker) -> str:
        # Nodes of a cluster know each other by this.
        cookie = self.folder / "home" / ".erlang.cookie"
        shutil.copy(peer.folder / "home" / ".erlang.cookie", cookie)
        return (
            "cluster_formation.peer_discovery_backend = classic_config\n"
            f"cluster_formation.classic_config.nodes.1 = {peer.node}\n"
            f"cluster_formation.classic_config.nodes.2 = {self.node}\n"
        )

    def _spawn(self, *command: str) -> subprocess.Popen[bytes]:
        with open(self.folder / "log" / "console.log", "ab") as output:
            process = subprocess.Popen(
                command,
                env=self._environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # A process group of its own: the script and the Erlang machine it
                # starts get the signals of `_end`, and Ctrl-C of the tests does not.
                start_new_session=True,
            )
        self._tell_watchdog("+", process)
        return process

    def _forget(self, process: subprocess.Popen[bytes]) -> None:
        self._tell_watchdog("-", process)

    def _tell_watchdog(self, change: str, process: subprocess.Popen[bytes]) -> None:
        if self._watchdog.stdin is not None:
            self._watchdog.stdin.write(f"{change} {process.pid}\n".encode())
            self._watchdog.stdin.flush()

    def _end(self, signum: int) -> None:
        if self._server is None:
            return
        server, self._server = self._server, None
        patience = 10 if signum == signal.SIGKILL else 60
        deadline = time.monotonic() + patience
        while _signal_group(server.pid, signum):
            # The script may be gone before the Erlang machine is: the group is
            # there as long as one of them is.
            server.poll()
            if time.monotonic() < deadline:
                signum = signum if signum == signal.SIGKILL else 0
            elif signum != signal.SIGKILL:
                signum, deadline = signal.SIGKILL, time.monotonic() + 10
            else:
                break  # What is left are zombies that nobody collects.
            time.sleep(0.02)
        server.wait()
        self._forget(server)

    def _ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as client:
                client.sendall(b"AMQP\x00\x00\x09\x01")
                if client.recv(1) != b"\x01":
                    return False
            self.api("GET", "whoami")
        except (OSError, http.client.HTTPException, BrokerError):
            return False
        return True


def _signal_group(group: int, signum: int) -> bool:
    try:
        os.killpg(group, signum)
    except ProcessLookupError:
        return False
    return True


def main() -> int:
    """
    Check for the binaries, or run a broker in the foreground.
    """
    try:
        scripts = find_scripts()
        find_epmd()
    except BrokerError as error:
        print(error, file=sys.stderr)
        return 1
    if "--check" in sys.argv[1:]:
        print(f"RabbitMQ: {scripts}")
        return 0
    with Broker() as broker:
        print(f"AMQP_URI={broker.uri}  (Ctrl-C ends it)", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main())
