"""
The Chromium that the tests drive: the system's, with nothing of the user's.

Run as a script it says whether it is there.
"""

from __future__ import annotations

import os
import shutil
import sys


_NAMES = ("chromium", "chromium-browser", "google-chrome")

# It talks to the explorer alone, and to nobody on its own account.
ARGUMENTS = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
    # its sandbox does not work for root
    *(["--no-sandbox"] if os.geteuid() == 0 else []),
)


class BrowserError(RuntimeError):
    """
    There is no browser.
    """


def find_chromium() -> str:
    """
    Find the program.

    Raises:
        BrowserError: There is none.
    """
    for name in _NAMES:
        path = shutil.which(name)
        if path is not None:
            return path
    raise BrowserError("Chromium is not installed: install the package chromium.")


if __name__ == "__main__":
    try:
        print(find_chromium())
    except BrowserError as exc:
        sys.exit(str(exc))
