"""
The commands `rejects`: messages that the store could not store.
"""

from __future__ import annotations

import base64
import sys

import click

from nameko_eventlog.cli.settings import (
    NOTHING,
    Failure,
    config_option,
    handle_errors,
    read_config,
    store_config,
)
from nameko_eventlog.cli.terminal import json_line, printable
from nameko_eventlog.store.rejecting import Reject, Rejects


_ID = click.IntRange(1, 2**63 - 1)


@click.group()
def rejects() -> None:
    """
    Messages that the store could not store, and why.
    """


@rejects.command("list")
@click.option(
    "--limit",
    "-n",
    type=click.IntRange(1, 2**31),
    default=50,
    show_default=True,
    help="How many, at most.",
)
@config_option
@handle_errors
def list_rejects(path: str, limit: int) -> None:
    """
    Print the latest rejects.
    """
    found = Rejects(store_config(path).uri).list(limit, with_bodies=False)
    if not found:
        click.echo("there are no rejects")
    for one in found:
        time = one.rejected_at.astimezone().isoformat(" ", timespec="seconds")[:19]
        click.echo(
            f"{one.id:>6}  {time}  {one.size:>8} bytes  {printable(one.exchange)}"
            f"  {printable(one.reason)}"
        )


@rejects.command()
@click.argument("id", type=_ID)
@config_option
@handle_errors
def show(path: str, id: int) -> None:  # noqa: A002
    """
    Print a complete reject as JSON.
    """
    found = _find(Rejects(store_config(path).uri), id)
    try:
        body, encoding = found.body.decode(), "utf-8"
    except UnicodeDecodeError:
        body, encoding = base64.b64encode(found.body).decode(), "base64"
    click.echo(
        json_line(
            {
                "id": found.id,
                "rejected_at": found.rejected_at.isoformat(),
                "reason": found.reason,
                "exchange": found.exchange,
                "routing_key": found.routing_key,
                "properties": found.properties,
                "body": body,
                "body_encoding": encoding,
            }
        )
    )


@rejects.command(short_help="Try again to store rejects.")
@click.argument("ids", type=_ID, nargs=-1, required=True)
@config_option
@handle_errors
def retry(path: str, ids: tuple[int, ...]) -> None:
    """
    Try again to store rejects, for instance with a later version, or with another ACCEPT.
    """
    accept = read_config(path).get("ACCEPT") or ("json",)
    store = Rejects(store_config(path).uri, accept)
    failed = 0
    for id in ids:  # noqa: A001
        _find(store, id)
        if store.retry(id):
            click.echo(f"{id}: stored")
        else:
            failed += 1
            click.echo(f"{id}: still cannot be stored", err=True)
    if failed:
        sys.exit(NOTHING)


def _find(store: Rejects, id: int) -> Reject:  # noqa: A002
    found = store.get(id)
    if found is None:
        raise Failure(f"there is no reject {id}: see `nameko-eventlog rejects list`", NOTHING)
    return found
