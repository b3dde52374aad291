"""
What waits in a spool, for the command line: it is read, and nothing is changed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pathlib
from collections.abc import Callable, Iterator

from nameko_eventlog.delivery.entry import OutboxEntry
from nameko_eventlog.delivery.spool import private_files
from nameko_eventlog.delivery.spool.directory import (
    CORRUPT,
    LOCK,
    read_position,
    segment_names,
    service_name,
)
from nameko_eventlog.delivery.spool.segments import Segment


class ProcessDirectory:
    """
    One process's directory in a spool: ``SPOOL/SERVICE/PROCESS``.

    Args:
        path: Where it is.
        owner: The user that the service's directory belongs to.
        warn: Takes what an operator should read.
    """

    def __init__(self, path: pathlib.Path, owner: int, warn: Callable[[str], object]) -> None:
        self.path = path
        self.owner = owner
        self.service = service_name(path.parent.name)
        self.name = f"{path.parent.name}/{path.name}"
        self._warn = warn

    @property
    def is_own(self) -> bool:
        """
        Whether it belongs to this user.
        """
        return self.owner == os.geteuid()

    def _open(self) -> int:
        service = private_files.open_service(self.path.parent, any_owner=_reads_all())
        with private_files.closing(service):
            return private_files.open_directory(service, self.path, owner=self.owner)

    def is_empty(self) -> bool:
        """
        Tell whether it has no segments.

        Raises:
            OSError: If it cannot be read.
        """
        with private_files.closing(self._open()) as fd:
            return not segment_names(fd)

    def is_in_use(self) -> bool:
        """
        Tell whether a living process has locked it.
        """
        try:
            with private_files.closing(self._open()) as fd:
                lock = private_files.open_file(fd, self.path / LOCK, os.O_RDONLY, owner=self.owner)
        except OSError:
            return False
        with private_files.closing(lock):
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def messages(self) -> Iterator[OutboxEntry | None]:
        """
        Read what waits, in order; None stands for a corrupt line.
        """
        try:
            directory = self._open()
        except OSError as exc:
            self._warn(f"{self.path} cannot be read: {exc}")
            return
        with private_files.closing(directory):
            settled, offset = read_position(directory, self.path, self.owner)
            for name in segment_names(directory):
                path = self.path / name
                try:
                    fd = private_files.open_file(directory, path, os.O_RDONLY, owner=self.owner)
                    yield from self._read(Segment(path, fd), offset if name == settled else 0)
                except FileNotFoundError:
                    continue  # its process has just settled it
                except OSError as exc:
                    self._warn(f"{path} cannot be read: {exc}")

    def _read(self, segment: Segment, offset: int) -> Iterator[OutboxEntry | None]:
        try:
            if not segment.is_known:
                self._warn(f"{segment.path} is of a later version")
                return
            at = segment.read_up_to = max(segment.first, min(offset, segment.written))
            while at < segment.written:
                end, found, corrupt = segment.read(os.pread)
                # without a line feed, it goes on, or its process is writing it
                if corrupt and (found or len(corrupt) > 1 or at + len(corrupt[0]) < end):
                    yield from (None for _ in corrupt)
                yield from found.values()
                at = segment.read_up_to = end
        finally:
            segment.close()


def process_directories(
    root: pathlib.Path, warn: Callable[[str], object]
) -> list[ProcessDirectory]:
    """
    Return those in a spool that have segments.

    Root may read what belongs to any user, as long as all of a service's belongs to the same one.

    Args:
        root: The spool.
        warn: Takes what an operator should read, such as what is refused.

    Raises:
        OSError: If the spool cannot be read.
    """

    def refuse(path: pathlib.Path, exc: OSError) -> None:
        if exc.errno not in (errno.ENOENT, errno.ENOTDIR):  # removed meanwhile, or a file
            warn(f"{path} is left alone: {exc.strerror}")

    found = []
    spool = private_files.open_spool(root, any_owner=_reads_all(), access=os.O_RDONLY)
    with private_files.closing(spool):
        services = sorted(os.listdir(spool))
    for service in services:
        try:
            fd = private_files.open_service(root / service, any_owner=_reads_all())
        except OSError as exc:
            refuse(root / service, exc)
            continue
        with private_files.closing(fd):
            owner = os.fstat(fd).st_uid
            processes = sorted(os.listdir(fd))
        for process in processes:
            directory = ProcessDirectory(root / service / process, owner, warn)
            try:
                if process != CORRUPT and not directory.is_empty():
                    found.append(directory)
            except OSError as exc:
                refuse(directory.path, exc)
    return found


def _reads_all() -> bool:
    return os.geteuid() == 0
