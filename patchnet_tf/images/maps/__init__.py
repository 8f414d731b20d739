"""The formats in which maps are written: one file for each, and a line here."""

from collections.abc import Sequence

from ...errors import InputError
from .base import Map, Wanted, Writer
from .dicom import DICOM
from .geojson import GEOJSON
from .npy import NPY
from .ome_tiff import OME_TIFF
from .png import PNG

WRITERS: dict[str, Writer] = {writer.name: writer for writer in (PNG, NPY, OME_TIFF, GEOJSON, DICOM)}
DEFAULT = (PNG.name, NPY.name)


def writers_of(names: Sequence[str]) -> list[Writer]:
    """Return the writers of these names.

    Raises:
        InputError: there is no such format, one is given twice, or there is none.

    Example:
        >>> [writer.name for writer in writers_of(["png", "geojson"])]
        ['png', 'geojson']
    """
    if not names or set(names) - WRITERS.keys() or len(set(names)) < len(names):
        received = ", ".join(names) or "none"
        raise InputError(f"--to: expected some of {', '.join(WRITERS)}, each once. Received: {received}")
    return [WRITERS[name] for name in names]


__all__ = ["DEFAULT", "WRITERS", "Map", "Wanted", "Writer", "writers_of"]
