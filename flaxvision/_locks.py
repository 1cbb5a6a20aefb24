"""Locks on files, which the system gives back when their process ends, however it does."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
from pathlib import Path

NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}  # of a file system, in the system's words
_shared: dict[tuple[int, int], int] = {}  # device and inode of a file -> its descriptor


def try_lock(held: contextlib.ExitStack, lock: Path, seconds: float = 0) -> bool | None:
    """Hold a lock until `held` ends, if nobody else does for so long; None: the file system has no locks.

    Raises:
        OSError: If the lock's file cannot be opened.
    """
    import filelock

    try:  # a marker in place of a lock would outlive its process
        held.enter_context(filelock.FileLock(lock, timeout=seconds, fallback_to_soft=False))
    except filelock.Timeout:
        return False
    except NotImplementedError:
        return None
    except OSError as error:
        if error.errno in NO_LOCKS:
            return None
        raise
    return True


def share(path: Path) -> None:
    """Hold a file until this process ends, as others may too; nothing where its system or file system has no locks."""
    if importlib.util.find_spec("fcntl") is None:  # as on Windows, where nobody can delete what is mapped
        return
    import fcntl

    with contextlib.suppress(OSError):
        file = os.open(path, os.O_RDONLY)
        status = os.fstat(file)
        if _shared.setdefault((status.st_dev, status.st_ino), file) != file:
            os.close(file)
        else:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)


def unshared(path: Path) -> bool:
    """Whether nobody holds a file, as far as its file system tells; nobody holds one that is not there."""
    if importlib.util.find_spec("fcntl") is None:
        return True
    import fcntl

    try:
        with open(path, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (*NO_LOCKS, errno.ENOENT)
    return True
