"""MANIFEST.json beside exported files: their names, sizes and sha256, to tell altered or truncated ones."""

import hashlib
import json
from pathlib import Path

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
        ValueError: a file is missing or not as it was exported, or the manifest cannot be read.
    """
    folder = path if path.is_dir() else path.parent
    if not (folder / NAME).is_file():
        return
    try:
        listed = json.loads((folder / NAME).read_text(encoding="utf-8"))
        expected = {name: entry["sha256"] for name, entry in listed.items()}
    except (ValueError, AttributeError, KeyError, TypeError):
        raise ValueError(f"{folder / NAME}: not a manifest of exported files") from None
    for name in expected if path.is_dir() else expected.keys() & {path.name}:
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name}: missing, though {NAME} lists it")
        if (found := sha256(folder / name)) != expected[name]:
            raise ValueError(
                f"{folder / name}: altered or truncated since it was exported; {NAME} expects sha256 "
                f"{expected[name]}. Received: sha256={found}"
            )


def sha256(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
