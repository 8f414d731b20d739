"""The formats of exported files, by their names."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..serving import Predictor
from .onnx import Onnx
from .saved_model import SavedModel
from .stages import Format

FORMATS: dict[str, type[Format]] = {kind.name: kind for kind in (Onnx, SavedModel)}


def open_exported(path: str | Path) -> Predictor:
    """Return what runs an exported file: a file, a folder, or the newest version in a folder of versions.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it was not exported by this package, was altered or truncated.

    Example:
        >>> open_exported("served/cells").path
        PosixPath('served/cells/2')
    """
    path = Path(path)
    for kind in FORMATS.values():
        if kind.recognizes(path):
            return kind.open(path)
    raise FileNotFoundError(f"There is no exported file {path}")


def choose(names: Sequence[str], **options: Any) -> list[Format]:
    """Return formats by their names, each with those of the options that it takes.

    Raises:
        InputError: an option other than its default is for none of them.

    Example:
        >>> choose(["onnx", "saved_model"], precision="float16")
        [Onnx(precision='float16', size=None, batch=None, outputs='both', overwrite=False), SavedModel()]
    """
    kinds = [FORMATS[name] for name in names]
    for option, value in options.items():
        # The default of each format that takes this option.
        defaults = {kind: getattr(kind, option) for kind in FORMATS.values() if option in arguments(kind)}
        if not defaults.keys() & set(kinds) and value not in defaults.values():
            titles = " and the ".join(kind.title for kind in defaults)
            raise InputError(
                f"--{option}: for the {titles} alone. "
                f"Received: {option}={value!r}, --format {' '.join(names)}"
            )
    return [kind(**{name: options[name] for name in arguments(kind) & options.keys()}) for kind in kinds]


def arguments(kind: type[Format]) -> set[str]:
    """Return the names of the choices that a format has."""
    return {field.name for field in fields(kind)}


def places(run: Path, out: Path | None, formats: Sequence[Format]) -> list[Path]:
    """Return where each format's export of a run goes: beside each other, with a name that differs in suffix.

    Args:
        run: the folder of the run, whose name is the default one; for one output alone with its name added.
        out: what the user said: a file or folder to write; for files alone also an existing folder to put
            them in.
        formats: to write.

    Raises:
        InputError: `out` has no name, is the root of the file system, a device or a pipe.

    Example:
        >>> places(Path("runs/cells"), None, choose(["onnx", "saved_model"]))
        [PosixPath('runs/cells/export/cells.onnx'), PosixPath('runs/cells/export/cells')]
    """
    name = run.resolve().name + "".join(f"_{one.only}" for one in formats if one.only)
    if out is None:
        out = run / "export" / name
    elif not out.resolve().name or (out.exists() and not (out.is_dir() or out.is_file())):
        raise InputError(f"--out: expected a file or folder, not a device or the root. Received: {out}")
    elif all(one.suffix for one in formats) and out.is_dir() and not any(out.glob("*/saved_model.pb")):
        out = out / name
    elif out.suffix and out.suffix in {kind.suffix for kind in FORMATS.values()}:
        out = out.with_suffix("")
    if not out.name:
        raise InputError(f"--out: expected a path that ends with a name. Received: {out}")
    return [out.with_name(f"{out.name}{one.suffix}") for one in formats]
