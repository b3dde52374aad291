"""
What waits in a spool, for the commands: they read it, and change nothing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pathlib
from collections.abc import Iterator
from contextlib import suppress

import click

from nameko_eventlog.cli.terminal import printable
from nameko_eventlog.delivery.entry import OutboxEntry
from nameko_eventlog.delivery.spool import private_files
from nameko_eventlog.delivery.spool.directory import CORRUPT, LOCK, read_position_file
from nameko_eventlog.delivery.spool.segments import (
    SUFFIX,
    LaterVersion,
    read_position,
    read_segment,
)
from nameko_eventlog.delivery.spool.spool_directories import service_name


class ProcessDirectory:
    """
    One process's part of a spool: ``SPOOL/SERVICE/PROCESS``.

    Args:
        path: Where.
        owner: The user that the service's directory belongs to.
    """

    def __init__(self, path: pathlib.Path, owner: int) -> None:
        self.path = path
        self.owner = owner
        self.service = service_name(path.parent.name)

    @property
    def label(self) -> str:
        """
        Its name on a terminal.
        """
        return printable(f"{self.path.parent.name}/{self.path.name}")

    def _open(self) -> int:
        service = private_files.open_service(self.path.parent, any_owner=_reads_all())
        with private_files.closing(service):
            return private_files.open_directory(service, self.path, owner=self.owner)

    def segments(self) -> list[str]:
        """
        Return the names of its files.

        Raises:
            OSError: It cannot be read.
        """
        with private_files.closing(self._open()) as fd:
            return sorted(name for name in os.listdir(fd) if name.endswith(SUFFIX))

    def messages(self) -> Iterator[OutboxEntry | None]:
        """
        Read what waits, in order; None for a line that is no message.
        """
        try:
            directory = self._open()
        except OSError as exc:
            warn(f"{self.path} cannot be read: {exc}")
            return
        with private_files.closing(directory):
            done, offset = "", 0
            with suppress(OSError, ValueError):
                done, offset = read_position(read_position_file(directory, self.path, self.owner))
            for name in sorted(os.listdir(directory)):
                if not name.endswith(SUFFIX):
                    continue
                path = self.path / name
                try:
                    fd = private_files.open_file(directory, path, os.O_RDONLY, owner=self.owner)
                    yield from read_segment(fd, offset if name == done else 0)
                except FileNotFoundError:
                    continue  # its process has just settled it
                except OSError as exc:
                    warn(f"{path} cannot be read: {exc}")
                except LaterVersion:
                    warn(f"{path} is of a later version")

    def is_in_use(self) -> bool:
        """
        Tell whether a living process has it.
        """
        try:
            with private_files.closing(self._open()) as directory:
                lock = private_files.open_file(
                    directory, self.path / LOCK, os.O_RDONLY, owner=self.owner
                )
        except OSError:
            return False
        with private_files.closing(lock):
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False


def process_directories(root: pathlib.Path) -> list[ProcessDirectory]:
    """
    Return those in a spool that hold something; what is refused is told on standard error.

    Root may read what belongs to any user, as long as all of a service's belongs to the same one.

    Raises:
        OSError: The spool cannot be read.
    """
    found = []
    spool = private_files.open_spool(root, any_owner=_reads_all(), access=os.O_RDONLY)
    with private_files.closing(spool):
        services = sorted(os.listdir(spool))
    for service in services:
        try:
            fd = private_files.open_service(root / service, any_owner=_reads_all())
        except OSError as exc:
            _tell_refused(root / service, exc)
            continue
        with private_files.closing(fd):
            owner = os.fstat(fd).st_uid
            processes = sorted(os.listdir(fd))
        for process in processes:
            directory = ProcessDirectory(root / service / process, owner)
            try:
                if process != CORRUPT and directory.segments():
                    found.append(directory)
            except OSError as exc:
                _tell_refused(directory.path, exc)
    return found


def warn(text: str) -> None:
    """
    Print a line on standard error.
    """
    click.echo(printable(text), err=True)


def _tell_refused(path: pathlib.Path, exc: OSError) -> None:
    if exc.errno not in (errno.ENOENT, errno.ENOTDIR):  # gone, or an ordinary file
        warn(f"{path} is left alone: {exc.strerror}")


def _reads_all() -> bool:
    return os.geteuid() == 0
