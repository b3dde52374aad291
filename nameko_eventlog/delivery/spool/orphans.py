"""
What dead processes of a service have left in its spool.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import pathlib
import stat
from collections.abc import Collection, Iterator

from nameko_eventlog.delivery.spool import private_files
from nameko_eventlog.delivery.spool.deferred_log import DeferredLog
from nameko_eventlog.delivery.spool.directory import CORRUPT, Directory


_NO_MORE_FILES = frozenset({errno.EMFILE, errno.ENFILE})


class OrphanedDirectories:
    """
    The directories of a service's dead processes.

    Args:
        root: The service's directory, which they are in.
        held: The directories that this process holds.
        log: Takes log lines.
    """

    def __init__(self, root: pathlib.Path, held: Collection[Directory], log: DeferredLog) -> None:
        self._root = root
        self._held = held
        self._log = log
        self._ignored: set[pathlib.Path] = set()
        self._logged: set[pathlib.Path] = set()
        self.opening: Directory | None = None
        """The one that is being opened, and is not held yet."""

    def open(self) -> Iterator[Directory]:
        """
        Lock and open them one by one, the oldest first.

        Yields:
            Each that has unread event logs; it is closed again unless it is held then.
        """
        for path in self._others():
            self.opening = directory = self._lock(path)
            if directory is None:
                continue
            try:
                if directory.load():
                    yield directory
            finally:
                self.opening = None
                if directory not in self._held:
                    directory.close()
            if directory not in self._held and os.path.lexists(path):
                self._ignored.add(path)  # a later format, or unreadable

    def _others(self) -> list[pathlib.Path]:
        held = {directory.path for directory in self._held}
        found = []
        with (
            contextlib.suppress(OSError),
            private_files.closing(private_files.open_service(self._root)) as root,
        ):
            for name in os.listdir(root):
                path = self._root / name
                if path in held or path in self._ignored or name == CORRUPT:
                    continue
                with contextlib.suppress(OSError):  # it was removed meanwhile
                    status = os.stat(name, dir_fd=root, follow_symlinks=False)
                    # a link is refused when it is opened, and that is logged
                    if stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(status.st_mode):
                        found.append((status.st_mtime, path))
        return [path for _, path in sorted(found)]

    def _lock(self, path: pathlib.Path) -> Directory | None:
        try:
            return Directory(path, self._log)
        except (BlockingIOError, FileNotFoundError):  # its process lives, or another was quicker
            return None
        except OSError as exc:
            if path not in self._logged and exc.errno not in _NO_MORE_FILES:
                self._logged.add(path)
                self._log.add(
                    logging.ERROR,
                    "cannot take over spool directory %s from an earlier process: %s; it is left"
                    " there (logged once)",
                    path,
                    exc,
                )
            return None
