"""
Open directories and files that belong to one user alone, without following links.

Other users may be able to write to the directory that contains a spool, as in /tmp. Their links,
hard links, FIFOs and directories are refused. Each step is relative to an open directory that was
checked, so that nothing can be replaced between the check and the use.
"""

from __future__ import annotations

import errno
import os
import pathlib
import stat
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from eventlet import patcher


_os = patcher.original("os")

_PATH_ONLY = getattr(os, "O_PATH", os.O_RDONLY)  # a directory above need not be readable
_UP = _PATH_ONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# opening a FIFO must not wait, nor a terminal become the process's
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_MOST_LINKS = 40  # as many as Linux follows
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH

Warn = Callable[[str], object]
"""Takes a warning for the operator."""


class Untrusted(OSError):
    """
    A file or directory does not belong to this user alone, or is a link.
    """

    def __init__(self, reason: str, path: pathlib.Path) -> None:
        super().__init__(errno.EPERM, reason, str(path))


@contextmanager
def closing(fd: int) -> Iterator[int]:
    """
    Close *fd* at the end of the block.
    """
    try:
        yield fd
    finally:
        _os.close(fd)


def open_spool(
    path: pathlib.Path,
    make: bool = False,
    any_owner: bool = False,
    access: int = _PATH_ONLY,
) -> int:
    """
    Open the spool, the directory that contains services' directories.

    It must belong to this user or to root, and must not be a link. Links above it are followed if
    they belong to this user or to root.

    Args:
        path: Where, absolute.
        make: Whether to make it, and those above it, if they are missing.
        any_owner: Whether it may be another user's.
        access: Whether it will be listed: ``os.O_RDONLY``.

    Raises:
        OSError: It cannot be opened, or made.
    """
    with closing(_open_above(path.parent, make)) as above:
        fd = _open_directory(above, path, make, access)
    try:
        if not any_owner:
            _check_owner(os.fstat(fd), path, {0, os.geteuid()})
    except OSError:
        _os.close(fd)
        raise
    return fd


def open_service(
    path: pathlib.Path,
    make: bool = False,
    any_owner: bool = False,
    warn: Warn | None = None,
) -> int:
    """
    Open a service's directory, ``SPOOL/SERVICE``, which contains those of its processes.

    It must belong to this user. If others may write to it, and *make* is true, its mode is
    changed; `open_directory` and `open_file` refuse what others have put there.

    Args:
        path: Where, absolute.
        make: Whether to make it, and those above it, if they are missing.
        any_owner: Whether it, and the spool, may be other users'.
        warn: Takes what others could do.

    Raises:
        OSError: It cannot be opened, or made.
    """
    with closing(open_spool(path.parent, make, any_owner)) as spool:
        if warn is not None and is_removable(status := os.fstat(spool)):
            warn(removable(path.parent, status))
        fd = _open_directory(spool, path, make)
    try:
        status = os.fstat(fd)
        if not any_owner:
            _check_owner(status, path, {os.geteuid()})
        if make and status.st_mode & _OTHERS_WRITE:
            os.fchmod(fd, 0o700)
            if warn is not None:
                warn(
                    f"others could write to {path} (its mode was"
                    f" {stat.S_IMODE(status.st_mode):o}): it is 700 now"
                )
    except OSError:
        _os.close(fd)
        raise
    return fd


def is_removable(spool: os.stat_result) -> bool:
    """
    Tell whether other users may remove what is in a spool.
    """
    return bool(spool.st_mode & _OTHERS_WRITE) and not spool.st_mode & stat.S_ISVTX


def removable(path: pathlib.Path, spool: os.stat_result) -> str:
    """
    Return a warning that they may.
    """
    return (
        f"others may remove the event logs that wait in {path} (its mode is"
        f" {stat.S_IMODE(spool.st_mode):o}): chmod it to 755, or 1777"
    )


def open_directory(
    parent: int, path: pathlib.Path, make: bool = False, owner: int | None = None
) -> int:
    """
    Open a directory in a service's directory; others may not have write access.

    Args:
        parent: The service's directory, open.
        path: Where it is; the last part counts.
        make: Whether to make it if it is missing.
        owner: The user it has to belong to; by default this one.

    Raises:
        OSError: It cannot be opened, or made.
    """
    fd = _open_directory(parent, path, make)
    try:
        _check_private(os.fstat(fd), path, owner)
    except OSError:
        _os.close(fd)
        raise
    return fd


def open_file(
    parent: int, path: pathlib.Path, flags: int, make: bool = False, owner: int | None = None
) -> int:
    """
    Open a regular file without other hard links; others may not have write access.

    Args:
        parent: Its directory, open.
        path: Where it is; the last part counts.
        flags: How to open it.
        make: Whether to make it if it is missing.
        owner: The user it has to belong to; by default this one.

    Raises:
        OSError: It cannot be opened, or made.
    """
    while True:
        try:
            fd: int = _os.open(path.name, flags | _FILE, dir_fd=parent)
            break
        except FileNotFoundError:
            if not make:
                raise
        except OSError as exc:
            raise _explained(exc, parent, path) from None
        with suppress(FileExistsError):  # another process was quicker
            return make_file(parent, path, flags)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise Untrusted("it is no regular file, so it is not used", path)
        _check_private(status, path, owner)
        if status.st_nlink > 1:
            raise Untrusted("it has another name as well, a hard link, so it is not used", path)
    except OSError:
        _os.close(fd)
        raise
    return fd


def make_file(parent: int, path: pathlib.Path, flags: int) -> int:
    """
    Make a file that is not there.

    Args:
        parent: Its directory, open.
        path: Where it is; the last part counts.
        flags: How to open it.

    Raises:
        OSError: It cannot be made.
    """
    fd: int = _os.open(path.name, flags | os.O_CREAT | os.O_EXCL | _FILE, 0o600, dir_fd=parent)
    return fd


def _open_directory(parent: int, path: pathlib.Path, make: bool, access: int = os.O_RDONLY) -> int:
    while True:
        try:
            fd: int = _os.open(path.name, access | _DIRECTORY, dir_fd=parent)
            return fd
        except FileNotFoundError:
            if not make:
                raise FileNotFoundError(errno.ENOENT, "it is not there", str(path)) from None
        except OSError as exc:
            raise _explained(exc, parent, path) from None
        with suppress(FileExistsError):  # another process was quicker
            os.mkdir(path.name, 0o700, dir_fd=parent)


def _open_above(path: pathlib.Path, make: bool) -> int:
    names = deque(path.parts[1:])
    here: int = _os.open(path.anchor, _UP)
    links = 0
    try:
        while names:
            name = names.popleft()
            try:
                found: int = _os.open(name, _UP, dir_fd=here)
            except FileNotFoundError:
                if not make:
                    raise
                with suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=here)
                found = _os.open(name, _UP, dir_fd=here)
            status = os.fstat(found)
            if stat.S_ISLNK(status.st_mode):
                with closing(found):
                    _check_owner(status, path, {0, os.geteuid()}, f"the link {name} in it")
                    target = pathlib.PurePath(os.readlink("", dir_fd=found))
                links += 1
                if links > _MOST_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
                names.extendleft(reversed(target.parts[bool(target.anchor) :]))
                if not target.anchor:
                    continue
                found = _os.open(target.anchor, _UP)
            _os.close(here)
            here = found
    except OSError:
        _os.close(here)
        raise
    return here


def _check_owner(
    status: os.stat_result, path: pathlib.Path, owners: set[int], what: str = "it"
) -> None:
    if status.st_uid not in owners:
        wanted = " or ".join(map(str, sorted(owners)))
        raise Untrusted(
            f"{what} belongs to the user {status.st_uid}, not to {wanted}, so it is not used",
            path,
        )


def _check_private(status: os.stat_result, path: pathlib.Path, owner: int | None) -> None:
    _check_owner(status, path, {os.geteuid() if owner is None else owner})
    if status.st_mode & _OTHERS_WRITE:
        mode = stat.S_IMODE(status.st_mode)
        raise Untrusted(f"others may write to it (mode {mode:o}), so it is not used", path)


def _explained(exc: OSError, parent: int, path: pathlib.Path) -> OSError:
    with suppress(OSError):
        status = os.stat(path.name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            return Untrusted("it is a symbolic link, which is not followed", path)
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
            return Untrusted("it is no regular file, so it is not used", path)
    return type(exc)(exc.errno, exc.strerror, str(path))
