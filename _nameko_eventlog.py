"""
The entry point of the command ``nameko-eventlog``.

It is outside the package, because importing the package imports eventlet, which warns that it is
deprecated. Users of the command cannot do anything about that.
"""

from __future__ import annotations

import os
import sys
import warnings


def main() -> None:
    """
    Run the command line, without warnings unless ``-W`` or ``PYTHONWARNINGS`` is given.

    The system's resolver looks up hosts. eventlet's resolver is for services, which must not
    block, and takes a sixth of a command's start.
    """
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    os.environ.setdefault("EVENTLET_NO_GREENDNS", "yes")
    from nameko_eventlog.cli import main

    main()
