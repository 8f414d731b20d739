"""Slides: images of many levels, of which regions are read, never the whole.

OME-TIFF is read by tifffile, to the pixel of each level; all else by OpenSlide, which finds a region of
a level whose size is no whole part of the first one's to the nearest pixel of the first level.
"""

import contextlib
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..contract import Pixels
from ..errors import InputError, TooLargeError, UnfitError, extra, one_line
from ..files import check_regular
from .formats.tiff import cut_off
from .pixels import check_values, grey_of
from .reading import MAX_PIXELS, head
from .scale import pixel_size

# By which OpenSlide's formats are known; a TIFF may be a slide or not.
SUFFIXES = frozenset((".svs", ".ndpi", ".vms", ".vmu", ".scn", ".mrxs", ".svslide", ".bif"))
CLOSE = 0.1  # by which a level's resolution may differ from the one asked for, as a share
BAND = 512  # rows of a level that are read at once, and about as many more as make a whole number
LARGEST_TILE = 2**26  # bytes of one stored tile or strip


class Slide(ABC):
    """A slide that is open for reading.

    Attributes:
        path: its file.
        sizes: (height, width) of each level, the largest first.
        pixel_size: (height, width) of a pixel of the first level in micrometres; None where nobody knows.
    """

    path: Path
    sizes: list[tuple[int, int]]
    pixel_size: tuple[float, float] | None

    @abstractmethod
    def read(self, level: int, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Return a region (height, width, C) of a level, which must lie within it."""

    @abstractmethod
    def close(self) -> None:
        """Close the file."""

    def region(self, level: int, top: int, left: int, height: int, width: int, pixels: Pixels) -> np.ndarray:
        """Return a region of a level as a model takes it, (height, width, channels).

        Raises:
            InputError: it is damaged, or of other pixels.
        """
        try:
            image = self.read(level, top, left, height, width)
        except InputError as error:
            raise type(error)(f"{self.path}: {error}") from None
        except Exception as error:  # decoders raise whatever they like for damaged data
            raise InputError(f"{self.path}: damaged or truncated slide ({one_line(error)})") from None
        if pixels.channels == 1 and image.shape[2] == 3:
            image = grey_of(image)
        elif pixels.channels == 3 and image.shape[2] == 1:
            image = np.repeat(image, 3, axis=2)
        if image.shape[2] != pixels.channels or image.dtype != pixels.dtype:
            raise UnfitError(
                f"{self.path}: expected {pixels.channels} channel(s) of {pixels.dtype}. "
                f"Received: {image.shape[2]} of {image.dtype}"
            )
        check_values(image, pixels, str(self.path))
        return image

    def scale(self, level: int) -> tuple[float, float]:
        """Return how many pixels of the first level, down and across, one of a level is wide."""
        first, size = self.sizes[0], self.sizes[level]
        return first[0] / size[0], first[1] / size[1]

    def resolution(self, level: int) -> tuple[float, float] | None:
        """Return the (height, width) of a level's pixels in micrometres, or None."""
        if self.pixel_size is None:
            return None
        down, across = self.scale(level)
        return self.pixel_size[0] * down, self.pixel_size[1] * across

    def choose(self, level: int | None, mpp: float | None) -> int:
        """Return the number of the level that is asked for, by its number or its micrometres per pixel.

        Raises:
            InputError: neither or both are given, or there is no such level.
        """
        if (level is None) == (mpp is None):
            received = "neither" if level is None else "both"
            raise InputError(
                f"{self.path}: choose a level or a resolution, --level or --mpp, of {self.described()}. "
                f"Received: {received}"
            )
        if level is not None:
            if not 0 <= level < len(self.sizes):
                raise InputError(f"{self.path}: expected a level of {self.described()}. Received: {level}")
            return level
        if self.pixel_size is None:
            raise InputError(
                f"{self.path}: does not say how large its pixels are, so choose a level of "
                f"{self.described()}. Received: --mpp {mpp:g}"
            )
        shares = [abs(self.resolution(k)[1] / mpp - 1) for k in range(len(self.sizes))]
        nearest = int(np.argmin(shares))
        if shares[nearest] > CLOSE:
            raise InputError(
                f"{self.path}: expected a resolution within {CLOSE:.0%} of {self.described()}. "
                f"Received: --mpp {mpp:g}"
            )
        return nearest

    def described(self) -> str:
        """Return the levels in words."""
        levels = []
        for k, (height, width) in enumerate(self.sizes):
            resolution = self.resolution(k)
            wide = f", {resolution[1]:.3g} µm" if resolution else ""
            levels.append(f"{k} ({height} x {width}{wide})")
        return ", ".join(levels)

    def thumbnail(self, side: int) -> np.ndarray:
        """Return the whole slide, (h, w, C), at most `side` pixels long, by the means of what it shows.

        It is read from the smallest level that is as long, some rows at a time.
        """
        level = max((k for k, size in enumerate(self.sizes) if max(size) >= side), default=0)
        height, width = self.sizes[level]
        block = math.ceil(max(height, width) / side)
        band = block * math.ceil(BAND / block)
        rows = []
        for top in range(0, height, band):
            row = self.read(level, top, 0, min(band, height - top), width)
            size = -(-width // block), -(-row.shape[0] // block)
            small = cv2.resize(row, size, interpolation=cv2.INTER_AREA)
            rows.append(small.reshape(*size[::-1], -1))
        return np.concatenate(rows)


class OpenSlideSlide(Slide):
    """A slide of any format that OpenSlide reads."""

    def __init__(self, path: Path) -> None:
        with extra("slides"):
            import openslide
        self.path = path
        try:
            self.slide = openslide.OpenSlide(path)
        except openslide.OpenSlideUnsupportedFormatError:
            raise InputError(f"{path}: not a slide that OpenSlide reads, and no OME-TIFF in tiles") from None
        except openslide.OpenSlideError as error:
            raise InputError(f"{path}: damaged or truncated slide ({one_line(error)})") from None
        self.sizes = [(height, width) for width, height in self.slide.level_dimensions]
        sides = [self.slide.properties.get(f"openslide.mpp-{axis}") for axis in "yx"]
        self.pixel_size = None if None in sides else (float(sides[0]), float(sides[1]))

    def read(self, level: int, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Return RGB; what was not scanned is white."""
        down, across = self.scale(level)
        corner = round(left * across), round(top * down)
        pixels = np.asarray(self.slide.read_region(corner, level, (width, height)))  # RGBA
        share = pixels[..., 3:] / 255
        return np.rint(share * pixels[..., :3] + (1 - share) * 255).astype("uint8")

    def close(self) -> None:
        """Close the file."""
        self.slide.close()


class TiffSlide(Slide):
    """An OME-TIFF with a pyramid."""

    def __init__(self, path: Path, tiff: Any) -> None:
        self.path, self.tiff = path, tiff
        series = tiff.series[0]
        self.levels = series.levels
        axes = series.axes
        if axes not in ("YX", "YXS", "CYX", "SYX") or series.dtype.kind not in "uf":
            raise UnfitError(
                f"{path}: expected one plane of grey, colour or channels. "
                f"Received: {axes}, shape={series.shape}, {series.dtype}"
            )
        across, down = axes.index("X"), axes.index("Y")
        self.sizes = [(level.shape[down], level.shape[across]) for level in self.levels]
        self.pixel_size = pixel_size(path)
        end = tiff.filehandle.size
        for page in itertools.chain.from_iterable(level.pages for level in self.levels):
            if page is None:
                raise InputError(f"{path}: truncated slide: a plane is missing")
            if cut_off(page, end):
                raise InputError(f"{path}: truncated slide: tiles are missing, or end after the file")

    def read(self, level: int, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Return all channels."""
        series = self.levels[level]
        planes = [
            region_of(self.tiff.filehandle, page, series.keyframe, sample, top, left, height, width)
            for page in series.pages
            for sample in range(planes_of(series.keyframe))
        ]
        return np.concatenate(planes, axis=2)

    def close(self) -> None:
        """Close the file."""
        self.tiff.close()


def planes_of(page: Any) -> int:
    """Return how many planes of samples a page has after each other."""
    return page.samplesperpixel if page.planarconfig == 2 else 1


def region_of(
    file: Any, page: Any, keyframe: Any, plane: int, top: int, left: int, height: int, width: int
) -> np.ndarray:
    """Decode the tiles or strips of a page of a TIFF that cover a region; return it, (height, width, S)."""
    tall, wide = keyframe.chunks[-3:-1] if keyframe.axes.endswith("S") else keyframe.chunks[-2:]
    down, across = -(-keyframe.imagelength // tall), -(-keyframe.imagewidth // wide)
    samples = 1 if keyframe.planarconfig == 2 else keyframe.samplesperpixel
    result = np.zeros((height, width, samples), keyframe.dtype)
    if tall * wide * samples * keyframe.dtype.itemsize > LARGEST_TILE:
        raise InputError("expected an image in tiles, which large strips are not")
    for row in range(top // tall, -(-(top + height) // tall)):
        for column in range(left // wide, -(-(left + width) // wide)):
            index = (plane * down + row) * across + column
            file.seek(page.dataoffsets[index])
            coded = file.read(page.databytecounts[index])
            tables = {"jpegtables": keyframe.jpegtables} if keyframe.jpegtables is not None else {}
            tile = keyframe.decode(coded, index, **tables)[0]
            tile = tile.reshape(tile.shape[-3:])
            y, x = row * tall, column * wide
            bottom, right = min(y + tile.shape[0], top + height), min(x + tile.shape[1], left + width)
            first, start = max(y, top), max(x, left)
            part = tile[first - y : bottom - y, start - x : right - x]
            result[first - top : bottom - top, start - left : right - left] = part
    return result


def open_slide(path: str | Path) -> Slide:
    """Open a slide, or any OME-TIFF.

    Raises:
        InputError: it cannot be read, or is no slide.
        MissingExtraError: a package that reads it is not installed.

    Example:
        >>> open_slide("slide.svs").sizes
        [(20000, 20000), (5000, 5000)]
    """
    path = Path(path)
    try:
        check_regular(path)
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if start[:2] in (b"II", b"MM"):
        with extra("slides"):
            import imagecodecs  # noqa: F401  (tifffile decodes by it)
            from tifffile import TiffFile
        try:
            with contextlib.ExitStack() as stack:
                tiff = stack.enter_context(TiffFile(path, _multifile=False))
                if tiff.is_ome:
                    slide = TiffSlide(path, tiff)
                    stack.pop_all()  # it stays open
                    return slide
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"{path}: damaged or truncated slide ({one_line(error)})") from None
    return OpenSlideSlide(path)


def is_slide(path: str | Path) -> bool:
    """Return whether a file is a slide, by its name, or a TIFF too large to be read at once."""
    suffix = Path(path).suffix.lower()
    if suffix in (".tif", ".tiff"):
        try:
            return math.prod(head(path).size) > MAX_PIXELS
        except TooLargeError:
            return True
        except InputError:
            return False
    return suffix in SUFFIXES


def tissue(thumbnail: np.ndarray) -> np.ndarray:
    """Return where a slide has tissue, (H, W) bool, by its colour: glass has none.

    Saturation, the most less the least of red, green and blue as a share of the most, smoothed by the median
    of 7 x 7 pixels, above the limit of Otsu. Everything is tissue where the image is grey, or its saturation
    differs by less than 16 of 255, so that there is nothing to tell apart.

    Args:
        thumbnail: (H, W, C) uint8.
    """
    everything = np.ones(thumbnail.shape[:2], bool)
    if thumbnail.shape[2] != 3 or thumbnail.dtype != np.uint8:
        return everything
    saturation = np.ascontiguousarray(cv2.cvtColor(thumbnail, cv2.COLOR_RGB2HSV)[..., 1])
    saturation = cv2.medianBlur(saturation, 7)
    if np.ptp(saturation) < 16:
        return everything
    limit, _ = cv2.threshold(saturation, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return saturation > limit


def covered(mask: np.ndarray, size: tuple[int, int], tile: int) -> Sequence[tuple[int, int]]:
    """Return the tiles, (row, column), of an image of (height, width) that a mask of all of it touches."""
    down, across = size[0] / mask.shape[0], size[1] / mask.shape[1]  # pixels of a mask's pixel
    found = []
    for row, top in enumerate(range(0, size[0], tile)):
        for column, left in enumerate(range(0, size[1], tile)):
            bottom, right = min(top + tile, size[0]), min(left + tile, size[1])
            inside = mask[
                int(top / down) : math.ceil(bottom / down), int(left / across) : math.ceil(right / across)
            ]
            if inside.any():
                found.append((row, column))
    return found
