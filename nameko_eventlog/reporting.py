"""
Saying what went wrong in our own hooks.
"""

from __future__ import annotations

import logging
import sys
import traceback


_log = logging.getLogger("nameko_eventlog")


def report(message: str, *args: object) -> None:
    """
    Log the exception that is being handled in one of our hooks, whatever the handlers do.
    """
    try:
        _log.exception(message, *args)
    except Exception:
        if logging.raiseExceptions and sys.stderr is not None:
            traceback.print_exc()
