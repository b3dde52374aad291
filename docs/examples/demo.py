"""
Run ``foo``, ``bar`` and the store, call ``foo``, show what ``bar`` received, and ask the store.

``make demo`` runs this. The broker is one within the process (``memory://``), or that of the
environment variable AMQP_URI. It exits with 0 if an event log of each kind arrived; else it
says which is missing, and exits with 1.
"""

import argparse
import json
import os
import pathlib
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import uuid
import warnings


EXAMPLES = pathlib.Path(__file__).resolve().parent
CONFIG = EXAMPLES.parent.parent / "example_config.yaml"

SERVICES = ("foo", "bar", "nameko_eventlog.store")

# event type -> way in
EXPECTED = {
    "entrypoint_fired": "auto capture",
    "payment_received": "logging, in the entrypoint",
    "account_changed": "logging, three calls down",
    "payment_checked": "structlog",
    "payment_made": "the manual call",
}
FROM_TIMER = {"books_closed": "logging, in a timer"}
FROM_RPC = {"balance_asked": "logging, in an RPC method"}


class Services:
    """
    ``nameko run`` with both services, in one process.

    Args:
        uri: The broker's.
        address: Where the web server listens.
        database: Where the store keeps event logs.
    """

    def __init__(self, uri, address, database):
        environment = {
            **os.environ,
            "AMQP_URI": uri,
            "WEB_SERVER_ADDRESS": address,
            "EVENTLOG_STORE_URI": database,
            "PYTHONUNBUFFERED": "1",
        }
        environment.setdefault("EVENTLOG_AUTO_CAPTURE", "true")
        environment.setdefault("PYTHONWARNINGS", "ignore")
        self.lines = []  # of the console, parsed
        self.other = []  # what is no JSON
        self._queue = queue.Queue()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "nameko", "run", "--config", str(CONFIG), *SERVICES],
            cwd=EXAMPLES,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self._process.stdout:
            self._queue.put(line.rstrip("\n"))
        self._queue.put(None)

    @property
    def running(self):
        """
        Whether the process is there.
        """
        return self._process.poll() is None

    def look(self, seconds):
        """
        Wait for something on the console, for *seconds* at the most.
        """
        try:
            line = self._queue.get(timeout=seconds)
        except queue.Empty:
            return
        if line is None:
            time.sleep(seconds)  # it has ended; let the caller's clock go on
            return
        try:
            parsed = json.loads(line)
        except ValueError:
            self.other.append(line)
        else:
            self.lines.append((line, parsed))

    @property
    def received(self):
        """
        The bodies that ``bar`` received.
        """
        return [
            line["data"]["body"]
            for _, line in self.lines
            if line.get("event_type") == "event_log_received"
        ]

    def stop(self):
        """
        Stop the services as an operator does, and return the exit code.
        """
        if self.running:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(8)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def free_port():
    """
    Return a port that nobody listens on.
    """
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def call_http(services, url, deadline):
    """
    Call ``foo`` as soon as it listens.
    """
    while time.monotonic() < deadline and services.running:
        request = urllib.request.Request(url, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=5) as response:
                return f"{response.status} {response.read().decode()}"
        except urllib.error.HTTPError as exc:
            return f"{exc.code} {exc.read().decode()}"
        except OSError:
            services.look(0.1)
    return None


def call_rpc(uri, account):
    """
    Call ``foo`` by RPC.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # eventlet says on import that it is deprecated
        from nameko.standalone import rpc

        if hasattr(rpc, "ClusterRpcClient"):  # Nameko 3
            client = rpc.ClusterRpcClient(uri=uri, timeout=5)
        else:
            client = rpc.ClusterRpcProxy({"AMQP_URI": uri}, timeout=5)
        with client as services:
            return services.foo.balance(account)


def mine(bodies, payment):
    """
    Return the bodies that belong to this run: its call's, and the latest of the others.
    """
    call_ids = {body["call_id"] for body in bodies if body["data"].get("payment") == payment}
    chosen = []
    others = {}
    for body in bodies:
        if body["call_id"] in call_ids:
            chosen.append(body)
        elif body["event_type"] == "balance_asked":
            if body["data"].get("account") == payment:
                others.setdefault(body["event_type"], body)
        elif body["entrypoint_protocol"] == "Timer":
            others[body["event_type"]] = body
    return chosen + list(others.values())


def trace_of(database, bodies):
    """
    Return what the store knows of the payment's call, or None.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nameko_eventlog.store import DatabaseError, EventLogQuery

    call_id = next((body["call_id"] for body in bodies if body["entrypoint_name"] == "pay"), None)
    try:
        with EventLogQuery(database) as store:
            return call_id and store.trace(call_id)
    except DatabaseError:
        return None


def ask_store(database, *arguments):
    """
    Run ``nameko-eventlog`` as one would by hand, and return whether it found something.
    """
    print("==> nameko-eventlog " + " ".join(arguments))
    command = pathlib.Path(sys.executable).with_name("nameko-eventlog")
    done = subprocess.run(
        [str(command), *arguments, "--config", str(CONFIG)],
        env={**os.environ, "EVENTLOG_STORE_URI": database, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        encoding="utf-8",
    )
    for line in (done.stdout or done.stderr).splitlines():
        print(f"  {line}")
    return done.returncode == 0


def show(body, way_in):
    """
    Print an event log, readable.
    """
    data = ", ".join(f"{name}={value!r}" for name, value in body["data"].items())
    print(f"  {body['event_type']:<17} {way_in}")
    print(f"      {body['timestamp']}  {data or '(no data)'}")
    print(
        f"      {body['service_name']}.{body['entrypoint_name']}"
        f" ({body['entrypoint_protocol']})  call_id {body['call_id']}"
    )
    beside = {name: body[name] for name in ("level", "logger", "tenant") if name in body}
    if beside:
        print("      " + "  ".join(f"{name} {value}" for name, value in beside.items()))


def main():
    """
    Run the demo, and return the exit code.
    """
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20, help="for event logs to arrive")
    deadline = time.monotonic() + parser.parse_args().seconds

    uri = os.environ.get("AMQP_URI") or "memory://"
    with_rpc = not uri.startswith("memory:")  # Nameko's RPC does not work there
    expected = {**EXPECTED, **FROM_TIMER, **(FROM_RPC if with_rpc else {})}
    payment = f"p-{uuid.uuid4().hex[:8]}"
    address = f"127.0.0.1:{free_port()}"

    shown = "the broker of AMQP_URI" if with_rpc else "memory://, a broker within the process"
    print(f"==> nameko run --config example_config.yaml {' '.join(SERVICES)}   ({shown})")
    folder = tempfile.TemporaryDirectory()
    database = f"sqlite:///{folder.name}/eventlog.db"
    services = Services(uri, address, database)
    try:
        # An event that is published before bar has its queue is dropped: wait for the timer's.
        while not services.received and services.running and time.monotonic() < deadline:
            services.look(0.1)
        url = f"http://{address}/payments/{payment}"
        print(f"==> POST {url}: {call_http(services, url, deadline)}")
        if with_rpc and services.running:
            try:
                print(f"==> RPC foo.balance({payment!r}): {call_rpc(uri, payment)}")
            except Exception as exc:
                print(f"==> RPC foo.balance({payment!r}): {exc!r}")

        def missing():
            arrived = {body["event_type"] for body in mine(services.received, payment)}
            return [name for name in expected if name not in arrived]

        while missing() and services.running and time.monotonic() < deadline:
            services.look(0.1)

        def is_stored():
            trace = trace_of(database, mine(services.received, payment))
            return trace is not None and len(trace["calls"]) == 2 and trace["calls"][1]["known"]

        while not is_stored() and services.running and time.monotonic() < deadline:
            services.look(0.1)
    finally:
        code = services.stop()

    bodies = mine(services.received, payment)
    print("==> event logs that bar received")
    for body in bodies:
        show(body, expected.get(body["event_type"], "beyond what was expected"))

    call_ids = {body["call_id"] for body in bodies if body["entrypoint_name"] == "pay"}
    print("==> a line of foo's console, with the same call_id")
    line = next((raw for raw, one in services.lines if one.get("call_id") in call_ids), None)
    print(f"  {line}")

    stored = is_stored()
    ask_store(database, "query", "--data", f"payment={payment}", "--oldest")
    for call_id in call_ids:
        stored = ask_store(database, "trace", call_id) and stored
    folder.cleanup()

    lacking = missing()
    for name in lacking:
        print(f"==> missing: {name} ({expected[name]})")
    if line is None:
        print("==> missing: a console line with the call_id of the HTTP call")
    if not stored:
        print("==> missing: the trace of foo.pay and bar.thank in the store")
    if code != 0:
        print(f"==> nameko run ended with {code}")
    if lacking or line is None or not stored or code != 0:
        for raw, one in services.lines:
            if one.get("level") not in ("debug", "info"):
                print(f"  {raw}")
        for text in services.other:
            print(f"  {text}")
        return 1
    print(
        f"==> all {len(expected)} expected event logs arrived, by all four ways in, and are stored"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
