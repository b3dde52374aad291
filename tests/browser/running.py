"""
Services as people run them: ``nameko run`` in a process of its own.
"""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from typing import Any

import yaml

from tests.rabbitmq import free_ports
from tests.waiting import wait_until


class Running:
    """
    ``nameko run`` with some services and a web server on loopback.

    Args:
        folder: Where the configuration and the log are put.
        services: What is run.
        config: The configuration, or the path of one; the address of the web server is added.
        environment: Variables beside those of this process.
        cwd: Where it runs.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        services: list[str],
        config: dict[str, Any] | pathlib.Path,
        environment: dict[str, str] | None = None,
        cwd: pathlib.Path | None = None,
    ) -> None:
        address = f"127.0.0.1:{free_ports(1)[0]}"
        self.url = f"http://{address}"
        self._log = folder / "log"
        path = config
        if isinstance(config, dict):
            path = folder / "config.yaml"
            path.write_text(yaml.safe_dump({**config, "WEB_SERVER_ADDRESS": address}))
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "nameko", "run", "--config", str(path), *services],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env={
                    **os.environ,
                    "PYTHONWARNINGS": "ignore",
                    **(environment or {}),
                    "WEB_SERVER_ADDRESS": address,
                },
            )
        try:
            wait_until(self._answers, timeout=60, interval=0.05)
        except BaseException:
            self.close()
            raise

    @property
    def log(self) -> str:
        """
        What it has said.
        """
        return self._log.read_text(errors="replace")

    def close(self) -> None:
        """
        End it, as a supervisor does.
        """
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _answers(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError(
                f"nameko run has ended with {self._process.returncode}:\n{self.log}"
            )
        try:
            with urllib.request.urlopen(f"{self.url}/static/icon.svg", timeout=10):
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False


class Explorer(Running):
    """
    The explorer over a database.
    """

    def __init__(self, folder: pathlib.Path, uri: str) -> None:
        self.uri = uri
        super().__init__(
            folder,
            ["nameko_eventlog.explorer"],
            {"AMQP_URI": "memory://", "EVENTLOG_STORE": {"uri": uri}},
        )
