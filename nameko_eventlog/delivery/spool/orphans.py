"""
What processes have left in the spool of a service that are not there any more.
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
        root: The directory that they are in.
        service: The service's name.
        news: Takes what is to be said.
    """

    def __init__(self, root: pathlib.Path, service: str, news: DeferredLog) -> None:
        self._root = root
        self._service = service
        self._news = news
        self._left_alone: set[pathlib.Path] = set()
        self._said: set[pathlib.Path] = set()
        self.opening: Directory | None = None
        """The one that is just being read, and is not adopted yet."""

    def open(self, held: Collection[pathlib.Path]) -> Iterator[tuple[Directory, int]]:
        """
        Lock and open them one by one, those first that were made first.

        Args:
            held: Where this process's own are.

        Yields:
            A directory, and how many event logs it holds.
        """
        for path in self._others(held):
            directory = self._lock(path)
            if directory is None:
                continue
            self.opening = directory
            try:
                count = directory.load()
                if count:
                    yield directory, count
                    continue
            except GeneratorExit:  # whoever was given it holds it, or has let go of it
                raise
            except BaseException:  # a signal handler's
                directory.close()
                raise
            finally:
                self.opening = None
            directory.close()
            if os.path.lexists(path):  # of a later version, or not to be read
                self._left_alone.add(path)

    def _others(self, held: Collection[pathlib.Path]) -> list[pathlib.Path]:
        found = []
        with (
            contextlib.suppress(OSError),
            private_files.closing(private_files.open_service(self._root)) as root,
        ):
            for name in os.listdir(root):
                path = self._root / name
                if path in held or path in self._left_alone or name == CORRUPT:
                    continue
                with contextlib.suppress(OSError):  # it is gone
                    status = os.stat(name, dir_fd=root, follow_symlinks=False)
                    # a link is refused when it is opened, and that is logged
                    if stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(status.st_mode):
                        found.append((status.st_mtime, path))
        return [path for _, path in sorted(found)]

    def _lock(self, path: pathlib.Path) -> Directory | None:
        try:
            return Directory(path, self._service, self._news)
        except (BlockingIOError, FileNotFoundError):  # its process lives, or another was quicker
            return None
        except OSError as exc:
            if path not in self._said and exc.errno not in _NO_MORE_FILES:
                self._said.add(path)
                self._news.add(
                    logging.ERROR,
                    "what an earlier process has left at %s cannot be taken over: %s"
                    " (logged once)",
                    path,
                    exc,
                )
            return None
