"""
The demo, as ``make demo`` runs it.
"""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import urllib.request

import pytest

from tests.waiting import wait_until


ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture
def run_demo(monkeypatch):
    """
    Run the demo with the given environment, and return the finished process.
    """

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
        for name in ("AMQP_URI", "WEB_SERVER_ADDRESS", "EVENTLOG_AUTO_CAPTURE"):
            monkeypatch.delenv(name, raising=False)
        return subprocess.run(
            [sys.executable, "docs/examples/demo.py", *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            capture_output=True,
            text=True,
            timeout=100,
        )

    return run


class TestDemo:
    def test_memory(self, run_demo):
        """
        Without a broker it shows the four ways in, a console line of the same call, and its trace.
        """
        done = run_demo()

        assert "" == done.stderr
        assert 0 == done.returncode, done.stdout
        for shown in (
            "entrypoint_fired  auto capture",
            "payment_received  logging, in the entrypoint",
            "account_changed   logging, three calls down",
            "payment_checked   structlog",
            "payment_made      the manual call",
            "foo.close_books (Timer)",
            "bar.thank  customer_thanked",
            "└── bar.thank  bar.thank.",
            "==> all 6 expected event logs arrived, by all four ways in, and are stored",
        ):
            assert shown in done.stdout

    def test_same_call(self, run_demo):
        """
        The event logs of the HTTP call and the console line bear the same call id.
        """
        lines = run_demo().stdout.splitlines()
        shown = {line.split("call_id ")[1] for line in lines if "foo.pay (" in line}
        console = lines[lines.index("==> a line of foo's console, with the same call_id") + 1]

        (call_id,) = shown
        assert f'"call_id": "{call_id}"' in console

    def test_rabbitmq(self, run_demo, rabbit_config):
        """
        With AMQP_URI it does the same over that RabbitMQ, and RPC.
        """
        done = run_demo(AMQP_URI=rabbit_config["AMQP_URI"])

        assert 0 == done.returncode, done.stdout + done.stderr
        assert "balance_asked     logging, in an RPC method" in done.stdout
        assert "foo.balance (Rpc)" in done.stdout
        assert "==> all 7 expected event logs arrived" in done.stdout

    def test_missing(self, run_demo):
        """
        It exits with 1 and says what is missing, in bounded time.
        """
        begun = time.monotonic()

        done = run_demo("--seconds", "15", EVENTLOG_AUTO_CAPTURE="false")

        assert 1 == done.returncode
        assert "==> missing: entrypoint_fired (auto capture)\n" in done.stdout
        assert 1 == done.stdout.count("==> missing: ")
        assert time.monotonic() - begun < 60

    def test_no_broker(self, run_demo):
        """
        With a broker that is not there it says what is missing, and ends.
        """
        done = run_demo("--seconds", "2", AMQP_URI="amqp://guest:guest@127.0.0.1:1//")

        assert 1 == done.returncode
        assert "==> missing: payment_made (the manual call)\n" in done.stdout


class TestExplore:
    def test_pages(self, monkeypatch):
        """
        The address that it prints shows what its services do, until it is ended.
        """
        monkeypatch.delenv("AMQP_URI", raising=False)
        process = subprocess.Popen(
            [sys.executable, "docs/examples/explore.py", "--port", "0"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            (url,) = re.findall(r"http://\S+", process.stdout.readline())

            def get(address: str) -> str:
                try:
                    with urllib.request.urlopen(address, timeout=5) as answer:
                        return answer.read().decode()
                except OSError:  # it does not answer yet
                    return ""

            wait_until(lambda: "customer_thanked" in get(url), 60, 0.2)
            trace = re.search(r'href="(/trace\?call=bar\.thank[^"]+)"', get(url))
            base = url.rpartition("/")[0]

            assert "foo.pay" in get(f"{base}{trace[1]}")
            assert "foo" in get(f"{base}/map")
        finally:
            process.send_signal(signal.SIGTERM)
            end, _ = process.communicate(timeout=120)
        assert "==> ends\n" == end
        assert 0 == process.returncode
