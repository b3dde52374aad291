"""
The group of commands.
"""

from __future__ import annotations

import click

from nameko_eventlog.cli.calls import calls, latencies
from nameko_eventlog.cli.checking import check
from nameko_eventlog.cli.exporting import export
from nameko_eventlog.cli.importing import import_
from nameko_eventlog.cli.rejected import rejects
from nameko_eventlog.cli.spools import spool
from nameko_eventlog.cli.stored import count, purge, query, trace
from nameko_eventlog.cli.tailing import tail


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="nameko-eventlog")
def cli() -> None:
    """
    Watch and find the event logs of Nameko services, and follow calls.

    Exit codes: 0 success, 1 nothing found or something is wrong, 2 invalid usage or configuration,
    3 broker or database cannot be used.
    """


for _command in (
    tail, query, trace, calls, latencies, count, check, spool, rejects, export, import_, purge,
):  # fmt: skip
    cli.add_command(_command)
