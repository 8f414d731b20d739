"""NAME_heatmap.npy: the values, float32 (H, W) or (H, W, K)."""

from pathlib import Path

from ...files import write_array
from .base import Map, Writer, always


def write(result: Map, folder: Path) -> None:
    """Write the values."""
    write_array(folder / f"{result.stem}_heatmap.npy", result.heatmap)


NPY = Writer("npy", always, write)
