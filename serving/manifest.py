"""MANIFEST.json beside exported files: their names, sizes and sha256, to tell altered or truncated ones."""

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import InputError
from ..files import check_regular, parse_json, sha256

NAME = "MANIFEST.json"


def manifest(folder: Path) -> dict[str, dict]:
    """Return what a manifest says of every file in `folder` and below, by its path from there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != NAME)
    return {
        path.relative_to(folder).as_posix(): {"sha256": sha256(path), "bytes": path.stat().st_size}
        for path in files
    }


def check(path: Path) -> None:
    """Compare a file, or every file of an exported folder, with the manifest that is there, if there is one.

    Raises:
        InputError: a file is missing or not as it was exported, or the manifest cannot be read.
    """
    folder = path if path.is_dir() else path.parent
    if not os.path.lexists(folder / NAME):
        return
    expected = read(folder / NAME)
    for name in expected if path.is_dir() else expected.keys() & {path.name}:
        if not (folder / name).is_file():
            raise InputError(f"{folder / name}: missing, though {NAME} lists it")
        if (found := sha256(folder / name)) != expected[name]:
            raise InputError(
                f"{folder / name}: altered or truncated since it was exported; {NAME} expects sha256 "
                f"{expected[name]}. Received: sha256={found}"
            )


def read(path: Path) -> dict[str, str]:
    """Return the sha256 of each file that a manifest lists, by its path from there."""
    try:
        expected = {name: str(entry["sha256"])[:64] for name, entry in entries(path).items()}
    except (InputError, KeyError, TypeError):
        expected = None
    if expected is None or any({"..", "/"} & {*PurePosixPath(name).parts} for name in expected):
        raise InputError(f"{path}: not a manifest of exported files")
    return expected


def entries(path: Path) -> Mapping[str, Any]:
    """Return what a record of exported files says of each, by its path from there.

    Raises:
        InputError: it cannot be read, or is no such record.
    """
    try:
        check_regular(path)
        said = parse_json(path.read_bytes(), str(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if not isinstance(said, dict):
        raise InputError(f"{path}: not a record of exported files")
    return said
