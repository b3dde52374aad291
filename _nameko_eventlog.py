"""
Where the command ``nameko-eventlog`` begins.

Beside the package, because importing anything of that imports eventlet, which warns that it is
deprecated: the user of a command can do nothing about it.
"""

from __future__ import annotations

import os
import sys
import warnings


def main() -> None:
    """
    Run the command line, without others' warnings unless ``-W`` or ``PYTHONWARNINGS`` asks.

    Hosts are looked up by the system's resolver: eventlet's own is there for services, which must
    not wait, and makes a sixth of what a command takes to begin.
    """
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    os.environ.setdefault("EVENTLET_NO_GREENDNS", "yes")
    from nameko_eventlog.cli import main

    main()
