"""NAME_heatmap.ome.tif: the values as float32, in tiles, with a pyramid, and the size of pixels."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ...errors import extra
from ...files import replacing
from ..scale import pixel_size
from .base import Map, Wanted, Writer

TILE = 512  # pixels of a side; levels are added until one fits into a tile
MOST_LEVELS = 11


def check(wanted: Wanted | None) -> None:
    """Ask for the packages."""
    with extra("microscopy"):
        import imagecodecs  # noqa: F401  (tifffile compresses by it)
        import tifffile  # noqa: F401


def write(result: Map, folder: Path) -> None:
    """Write one channel for each class; each level is the mean of 2 x 2 pixels of the one before."""
    levels = [result.planes]
    while len(levels) < level_count(result.heatmap.shape[:2]):
        levels.append(halved(levels[-1]))
    size = pixel_size(result.source)
    if size is not None:
        size = size[0] * result.scale[0], size[1] * result.scale[1]
    write_pyramid(
        folder / f"{result.stem}_heatmap.ome.tif",
        result.heatmap.shape[:2],
        result.names,
        lambda level, top, bottom: levels[level][top:bottom],
        size,
    )


def level_count(size: tuple[int, int]) -> int:
    """Return how many levels an image of (height, width) has, each half as large, the last within a tile."""
    return min(1 + max(0, math.ceil(math.log2(max(size) / TILE))), MOST_LEVELS)


def halved(planes: np.ndarray) -> np.ndarray:
    """Return the means of 2 x 2 pixels of (H, W, K), without those that are NaN; fewer count at the edges."""
    height, width, classes = planes.shape
    padded = np.pad(planes, [(0, height % 2), (0, width % 2), (0, 0)], constant_values=np.nan)
    blocks = padded.reshape(-(-height // 2), 2, -(-width // 2), 2, classes)
    known = np.isfinite(blocks)
    with np.errstate(invalid="ignore"):  # of none, 0 / 0
        means = np.where(known, blocks, 0).sum(axis=(1, 3)) / known.sum(axis=(1, 3), dtype="float32")
    return means.astype("float32")


def write_pyramid(
    path: Path,
    size: tuple[int, int],
    names: Sequence[str],
    rows: Callable[[int, int, int], np.ndarray],
    pixel_size: tuple[float, float] | None,
) -> None:
    """Write values as an OME-TIFF with a pyramid, of which a row of tiles is held at a time.

    Args:
        path: the file, which is replaced.
        size: (height, width) of the first level.
        names: of the K channels.
        rows: called with a level, and the first and last row of it, returns (rows, W, K) float32.
        pixel_size: (height, width) of a pixel of the first level in micrometres, or None.

    Raises:
        OSError: it cannot be written.
    """
    from tifffile import TiffWriter

    metadata = {"axes": "CYX", "Channel": {"Name": list(names)}}
    if pixel_size is not None:
        metadata |= {"PhysicalSizeY": pixel_size[0], "PhysicalSizeYUnit": "µm"}
        metadata |= {"PhysicalSizeX": pixel_size[1], "PhysicalSizeXUnit": "µm"}
    count = level_count(size)

    def tiles(level: int, height: int, width: int) -> Iterator[np.ndarray]:
        for k in range(len(names)):
            for top in range(0, height, TILE):
                row = rows(level, top, min(top + TILE, height))[..., k]
                row = np.pad(row, [(0, -row.shape[0] % TILE), (0, -width % TILE)])
                for left in range(0, row.shape[1], TILE):
                    yield np.ascontiguousarray(row[:, left : left + TILE])

    with replacing(path) as part, TiffWriter(part, ome=True, bigtiff=True) as file:
        for level in range(count):
            height, width = (-(-side // 2**level) for side in size)
            first = {"subifds": count - 1, "metadata": metadata} if level == 0 else {"subfiletype": 1}
            file.write(
                tiles(level, height, width),
                shape=(len(names), height, width),
                dtype="float32",
                tile=(TILE, TILE),
                photometric="minisblack",
                compression="zlib",
                software="PatchNet-TF",
                **first,
            )


OME_TIFF = Writer("ome-tiff", check, write)
