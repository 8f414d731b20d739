"""The digest that an exported file carries of itself, to tell whether it was changed after its export.

Its digits stand among the metadata, so they count as zeros. Whoever changes a file on purpose can write a new
digest into it: only a signature (docs/export.md) tells that.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from ..contract import CONTENT, IDENTITY, VERSION
from ..errors import InputError
from ..files import sha256
from . import manifest

UNSET = "0" * 64
METADATA = "assets.extra/metadata.json"  # of a SavedModel
PARTS = ("saved_model.pb", "variables/**/*", "assets/**/*", "assets.extra/**/*")
# The key, a few bytes that the format puts between, and the digits.
DIGITS = re.compile(rb"(" + re.escape(CONTENT.encode()) + rb"[^0-9a-f]{1,8})([0-9a-f]{64})")


def digest(path: Path) -> str:
    """Return the SHA-256 of an exported file, or of a folder's files and their names."""
    if path.is_file():
        return digest_of(path.read_bytes())
    files = sorted({file for part in PARTS for file in path.glob(part) if file.is_file()})
    digests = [digest(file) if file == path / METADATA else sha256(file) for file in files]
    listed = [(file.relative_to(path).as_posix(), one) for file, one in zip(files, digests, strict=True)]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def digest_of(content: bytes) -> str:
    """Return the SHA-256 of what is in a file, its own digits counted as zeros."""
    return hashlib.sha256(with_digits(content, UNSET)).hexdigest()


def seal(path: Path) -> None:
    """Write into a new file the digest of itself, in place of `UNSET`."""
    file = path if path.is_file() else path / METADATA
    file.write_bytes(with_digits(file.read_bytes(), digest(path)))


def with_digits(content: bytes, digits: str) -> bytes:
    """Return what is in a file with other digits of its digest."""
    return DIGITS.sub(rb"\g<1>" + digits.encode(), content)


def check(path: Path) -> None:
    """Compare a file with the digest that it carries, if it does, before any runtime parses it.

    Raises:
        InputError: it was changed after its export.
    """
    file = path if path.is_file() else path / METADATA
    content = file.read_bytes() if file.is_file() else b""
    said = DIGITS.search(content)
    if said and (computed := digest_of(content) if file == path else digest(path)) != said[2].decode():
        raise InputError(
            f"{path}: altered or truncated since it was exported; it expects of itself sha256 "
            f"{said[2].decode()}. Received: sha256={computed}"
        )


def check_identity(path: Path, metadata: Mapping[str, str]) -> None:
    """Compare what a file says is its model's identity with the records beside it.

    Raises:
        InputError: it has no identity or no digest, or a record is none or of another model.
    """
    if IDENTITY not in metadata or not re.fullmatch("[0-9a-f]{64}", metadata.get(CONTENT, "")):
        raise InputError(
            f"{path}: exported by an older version of this package; export it again. "
            f"Received: {VERSION} {metadata.get(VERSION)}, without {CONTENT} and {IDENTITY}"
        )
    if not re.fullmatch("[0-9a-f]{64}", metadata[IDENTITY]):
        received = f"Received: {metadata[IDENTITY][:64]!r}"
        raise InputError(f"{path}: {IDENTITY}: expected 64 hexadecimal digits. {received}")
    for name, recorded in identities(path).items():
        if recorded != metadata[IDENTITY]:
            raise InputError(
                f"{path}: another model than {name} says, whose identity is {str(recorded)[:64]}. "
                f"Received: {metadata[IDENTITY][:64]}"
            )


def identities(path: Path) -> dict[str, str]:
    """Return what the records beside a file say is its model's identity, by their names.

    Raises:
        InputError: a record cannot be read, or is none.
    """
    file = path if path.is_file() else path / "saved_model.pb"
    said = {}
    for name in (manifest.NAME, "verification.json"):
        record = file.parent / name
        if os.path.lexists(record):
            entry = manifest.entries(record).get(file.name)
            if isinstance(entry, dict) and "identity" in entry:
                said[str(record)] = entry["identity"]
    return said
