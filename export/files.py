"""How exported files come into being: beside their place, and there only when all went well."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def staging(target: Path) -> Iterator[Path]:
    """Give an empty folder on the file system of `target`, and remove it with what is left in it.

    Raises:
        OSError: nothing can be written there.
    """
    # Folders on the way to the target that are not there yet stay away until there is something for them.
    nearest = next(folder for folder in target.absolute().parents if folder.exists())
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".part-{target.name}-", dir=nearest))
    except OSError as error:  # its name is that of the folder
        raise OSError(error.errno, error.strerror, str(target)) from None
    folder.chmod(0o755)  # mkdtemp's folders are for their owner alone
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def place(staged: Path, target: Path) -> None:
    """Move a staged file or folder to its place; an OSError names the place."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(staged, target)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(target)) from error


def write_json(value: Any, path: Path) -> None:
    """Write a JSON file for people and programs."""
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
