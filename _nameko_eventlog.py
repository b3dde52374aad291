"""
Where the command ``nameko-eventlog`` begins.

Beside the package, because importing anything of that imports eventlet, which warns that it is
deprecated: the user of a command can do nothing about it.
"""

from __future__ import annotations

import sys
import warnings


def main() -> None:
    """
    Run the command line, without others' warnings unless ``-W`` or ``PYTHONWARNINGS`` asks.
    """
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    from nameko_eventlog.cli import main

    main()
