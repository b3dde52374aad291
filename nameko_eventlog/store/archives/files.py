"""
What archives are written to: files that are whole after every write, even if the disk is full.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from typing import IO, Protocol


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Output(Protocol):
    """
    What an archive is written to.
    """

    def write(self, data: bytes, /) -> int:
        """
        Write all of *data*.
        """

    def close(self) -> None:
        """
        Finish what was written.
        """

    def discard(self) -> None:
        """
        Leave nothing of an archive in which there is nothing.
        """


class OpenFile:
    """
    A file that is open, such as standard output. If a write fails, it is cut back.

    Args:
        fd: Its file descriptor. Data are appended, if it is positioned at its end; a file that is
            not, a pipe or a device is not cut back.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        status = os.fstat(fd)
        is_regular = stat.S_ISREG(status.st_mode)
        is_appended = is_regular and bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND)
        self._end = status.st_size if is_regular else 0
        self._can_be_cut = is_regular and (
            is_appended or os.lseek(fd, 0, os.SEEK_CUR) == status.st_size
        )

    def write(self, data: bytes, /) -> int:
        """
        Write all of *data* at the end, or nothing.

        Raises:
            OSError: It cannot be written.
        """
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while left:
                left = left[os.write(self._fd, left) :]
        except BaseException:
            self._cut()
            raise
        self._end += size
        return size

    def close(self) -> None:
        """
        Sync it to the disk.

        Raises:
            OSError: It cannot be synced.
        """
        if self._can_be_cut:
            os.fsync(self._fd)

    def discard(self) -> None:
        """
        Do nothing: it is not our file.
        """

    def _cut(self) -> None:
        if self._can_be_cut:
            os.ftruncate(self._fd, self._end)
            os.lseek(self._fd, self._end, os.SEEK_SET)


class ArchiveFile(OpenFile):
    """
    A file that belongs to its owner alone, and is cut back when a write fails.

    Args:
        path: The path.
        goes_on: Whether to append to a file that has content.

    Raises:
        FileExistsError: It has content, and *goes_on* is not set.
        OSError: It cannot be opened.
    """

    def __init__(self, path: str, goes_on: bool = False) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.has_content = stat.S_ISREG(os.fstat(fd).st_mode) and os.lseek(fd, 0, os.SEEK_END) > 0
        """Whether it had content before."""
        if self.has_content and not goes_on:
            os.close(fd)
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        super().__init__(fd)
        self.path = path
        self.closed = False
        self._is_synced = False

    def write(self, data: bytes, /) -> int:
        """
        Write all of *data* at the end, or nothing.

        Raises:
            OSError: It cannot be written.
        """
        if self.closed:
            raise ValueError(f"{self.path!r} is closed")
        return super().write(data)

    def reserve(self, size: int) -> None:
        """
        Make sure that *size* more bytes can be written, if the file system can tell.

        Raises:
            OSError: There is no room for them.
        """
        if not self._can_be_cut or not hasattr(os, "posix_fallocate"):
            return
        try:
            os.posix_fallocate(self._fd, self._end, size)
        except OSError as exc:
            if exc.errno in _FULL:
                raise

    def close(self) -> None:
        """
        Sync it to the disk, and close it.

        Raises:
            OSError: It cannot be synced.
        """
        if not self.closed:
            self.closed = True
            try:
                self._cut()  # what was reserved
                super().close()
                self._is_synced = True
            finally:
                os.close(self._fd)
        if not self._is_synced:
            raise OSError(errno.EIO, "not everything was written to the disk", self.path)

    def discard(self) -> None:
        """
        Close it, and remove it unless it had content before.
        """
        if not self.closed:
            self.closed = True
            os.close(self._fd)
        if self._can_be_cut and not self.has_content:
            os.unlink(self.path)

    def flush(self) -> None:
        """
        Do nothing: no data are held back. pyarrow calls it.
        """

    def tell(self) -> int:
        """
        Return the size. pyarrow calls it.
        """
        return self._end


class Stream:
    """
    A stream that is no file of the system, such as `io.BytesIO`.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def write(self, data: bytes, /) -> int:
        """
        Write all of *data*.
        """
        self._stream.write(data)
        self._stream.flush()
        return len(data)

    def close(self) -> None:
        """
        Do nothing: nothing is held back.
        """

    def discard(self) -> None:
        """
        Do nothing: what was written cannot be taken back.
        """
