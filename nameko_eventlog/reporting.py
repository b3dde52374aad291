"""
Report errors in our own hooks.
"""

from __future__ import annotations

import logging
import sys
import traceback


_log = logging.getLogger("nameko_eventlog")


def report(message: str, *args: object) -> None:
    """
    Log the exception that is being handled. If a log handler raises, print it.
    """
    try:
        _log.exception(message, *args)
    except Exception:
        if logging.raiseExceptions and sys.stderr is not None:
            traceback.print_exc()
