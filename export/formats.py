"""The formats of exported files, by their names."""

from pathlib import Path

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
