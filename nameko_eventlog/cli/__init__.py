"""
The command line ``nameko-eventlog``.
"""

from nameko_eventlog.cli.start import main


__all__ = ["main"]
