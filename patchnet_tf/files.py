"""Files that are never half there: written beside their place, then renamed."""

import contextlib
import csv
import errno
import glob
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .errors import InputError, TooLargeError, one_line

SMALL = 2**20  # bytes of what a person writes by hand


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the name of a file to write, which becomes `path` when all went well and vanishes otherwise."""
    part = path.with_name(f".part-{path.name}")
    try:
        yield part
        os.replace(part, path)
    except OSError as error:  # whose name, where it has one, is that of the part
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


@contextlib.contextmanager
def staging(target: Path) -> Iterator[Path]:
    """Give an empty folder on the file system of `target`, and remove it with what is left in it.

    Those that killed processes left for the same target are removed too.

    Raises:
        OSError: nothing can be written there.
    """
    # Folders on the way to the target that are not there yet stay away until there is something for them.
    nearest = next(folder for folder in target.absolute().parents if folder.exists())
    prefix = f".part-{target.name}-"
    for left in nearest.glob(f"{glob.escape(prefix)}*"):
        with contextlib.suppress(BlockingIOError), holding(left) as abandoned:
            if abandoned:
                shutil.rmtree(left, ignore_errors=True)
    try:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=nearest))
    except OSError as error:  # its name is that of the folder
        raise OSError(error.errno, error.strerror, str(target)) from None
    folder.chmod(0o755)  # mkdtemp's folders are for their owner alone
    try:
        with holding(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def holding(folder: Path) -> Iterator[bool]:
    """Hold a folder for this process alone; a process that dies, however it does, holds it no longer.

    Gives whether it is held: some file systems, and Windows, have no such locks.

    Raises:
        BlockingIOError: another process holds it, or this one does already.
    """
    with contextlib.ExitStack() as stack:
        held = False
        with contextlib.suppress(ImportError):
            import fcntl

            try:
                handle = os.open(folder, os.O_RDONLY)
                stack.callback(os.close, handle)
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held = True
            except BlockingIOError:
                raise
            except OSError:  # a file system without locks
                held = False
        yield held


def reserve(file: BinaryIO, size: int, name: Path) -> None:
    """Take the disk's room for an open file: a memory map without it ends the process where the disk is full.

    Raises:
        OSError: there is not so much room; it names `name`.
    """
    if hasattr(os, "posix_fallocate"):  # not on Windows and macOS
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # file systems that cannot
                raise OSError(
                    error.errno, f"{error.strerror} ({size / 2**20:.0f} MiB needed)", str(name)
                ) from None


def place(staged: Path, target: Path) -> None:
    """Move a staged file or folder to its place; an OSError names the place."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(staged, target)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(target)) from error


def write_json(path: Path, value: Any, *, indent: int | None = 2) -> None:
    """Write a JSON file; no figure may be NaN or infinite. Without `indent` it is on one line."""
    with replacing(path) as part:
        part.write_text(json.dumps(value, indent=indent, allow_nan=False) + "\n", encoding="utf-8")


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an .npy file."""
    with replacing(path) as part, part.open("wb") as file:
        try:
            np.save(file, array, allow_pickle=False)
        except OSError as error:
            if error.errno is not None:
                raise
            # numpy counts bytes where a disk is full, and says no more.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from None


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write a CSV file: a heading of the first row's keys, then the rows, which all have them."""
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def check_regular(path: Path) -> None:
    """Raise InputError for a pipe, socket or device, whose reading may never end; OSError without a file."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # of a folder, opening says what is wrong
        raise InputError(f"{path}: not a regular file")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_small(path: Path, most: int = SMALL) -> bytes:
    """Return all bytes of a file that cannot be large.

    Raises:
        InputError: it is no regular file, or has more than `most` bytes.
        OSError: it cannot be read.
    """
    check_regular(path)
    with path.open("rb") as file:
        content = file.read(most + 1)
        if len(content) > most:
            size = os.fstat(file.fileno()).st_size
            raise TooLargeError(f"{path}: expected at most {most} bytes. Received: {size}")
    return content


def parse_json(text: bytes, what: str = "request", object_hook: Callable[[dict], Any] | None = None) -> Any:
    """Return what a JSON text says; NaN and infinity are no JSON; `object_hook` is that of `json.loads`.

    Raises:
        InputError: 400, it is not JSON, or nested too deeply.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not a number in JSON")

    try:
        return json.loads(text, parse_constant=refuse, object_hook=object_hook)
    except RecursionError:
        raise InputError(f"{what}: JSON nested too deeply") from None
    except ValueError as error:  # UnicodeDecodeError is one too
        reason = "not text" if isinstance(error, UnicodeDecodeError) else one_line(error)
        if "set_int_max_str_digits" in reason:  # Python's advice, which is none for those who ask
            reason = "a number of too many digits"
        raise InputError(f"{what}: not JSON ({reason})") from None
