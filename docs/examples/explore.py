"""
Run ``foo``, ``bar``, the store and the explorer, with traffic, until Ctrl-C.

``make explore`` runs this. The broker is one within the process (``memory://``), or that of the
environment variable AMQP_URI; the database is a file that goes away at the end.
"""

import argparse
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

from demo import CONFIG, EXAMPLES, SERVICES, free_port


def run(services, environment, log):
    """
    Start ``nameko run``.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "nameko", "run", "--config", str(CONFIG), *services],
        cwd=EXAMPLES,
        env={**os.environ, "PYTHONWARNINGS": "ignore", **environment},
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C is ours to pass on, once
    )


def pay(url, amount):
    """
    Pay, and tell whether the server has answered.
    """
    request = urllib.request.Request(url, str(amount).encode(), method="POST")
    try:
        with urllib.request.urlopen(request, timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def main():
    """
    Run until Ctrl-C, and return the exit code.
    """
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--port", type=int, default=8000, help="of the page; 0 for a free one")
    parser.add_argument("--seconds", type=float, default=0, help="to run; 0 for until Ctrl-C")
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.seconds if arguments.seconds else float("inf")
    port = arguments.port or free_port()
    shop, page = f"127.0.0.1:{free_port()}", f"127.0.0.1:{port}"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

    with tempfile.TemporaryDirectory() as folder:
        log_path = pathlib.Path(folder, "log")
        environment = {
            "AMQP_URI": os.environ.get("AMQP_URI") or "memory://",
            "EVENTLOG_STORE_URI": f"sqlite:///{folder}/eventlog.db",
            "EVENTLOG_AUTO_CAPTURE": "true",
            "EVENTLOG_CAPTURE_STAGES": "[fired, completed, failed]",
        }
        with log_path.open("wb") as log:
            processes = [
                run(SERVICES, {**environment, "WEB_SERVER_ADDRESS": shop}, log),
                run(
                    ["nameko_eventlog.explorer"], {**environment, "WEB_SERVER_ADDRESS": page}, log
                ),
            ]
            try:
                print(f"==> http://{page}/?since=15m   (Ctrl-C ends it)", flush=True)
                payment = 4711
                while time.monotonic() < end:
                    if any(process.poll() is not None for process in processes):
                        print(log_path.read_text(errors="replace")[-4000:])
                        return 1
                    amount = 500 if random.random() < 0.1 else random.randint(1, 50)
                    if pay(f"http://{shop}/payments/{payment}", amount):
                        payment += 1
                    time.sleep(random.uniform(0.2, 1.5))
            except (KeyboardInterrupt, SystemExit):
                print("==> ends")
            finally:
                for process in processes:
                    process.send_signal(signal.SIGTERM)
                for process in processes:
                    try:
                        process.wait(8)
                    except subprocess.TimeoutExpired:
                        process.kill()
                        process.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
