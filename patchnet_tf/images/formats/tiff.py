"""TIFF: one page of 8 bits by Pillow; others, OME-TIFF and ImageJ's too, by tifffile and imagecodecs.

Axes are those that the file's own metadata name: planes of channels (C), samples of a pixel (S), and one of
depth (Z), time (T) or pages that have no name, from which `Pixels.frame` chooses.
"""

import logging
import math
import re
import threading
from collections.abc import Sequence
from typing import Any, BinaryIO
from xml.etree import ElementTree

import numpy as np

from ...contract import MOST_CHANNELS, Pixels
from ...errors import InputError, TooLargeError, UnfitError
from .base import RGB, Format, Source, converted, dtype_of, package, turned
from .pillow import PillowSource, pillow

FRAMES = "ZTI"  # depth, time, and pages without metadata
MOST_PAGES = 10_000
LARGEST_TILE = 2**20  # pixels; larger ones are no larger than twice the image
DESCRIPTION, ORIENTATION, EXTRA_SAMPLES = 270, 274, 338
HIDDEN = re.compile(r'^images=(?!1\s*$)\d|"truncated": true', re.MULTILINE)  # planes without a page
MIN_IS_WHITE, MIN_IS_BLACK, COLOUR = 0, 1, 2  # photometric interpretations
# Those whose output has the size that the file's head gives: an image codec's own head may say anything.
COMPRESSIONS = {
    1: "none",
    5: "LZW",
    8: "deflate",
    32946: "deflate",
    32773: "PackBits",
    34925: "LZMA",
    50000: "Zstandard",
}


class Errors(logging.Handler):
    """Keeps what a library logs as errors in each thread: tifffile reads what is left of a damaged file."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.of_thread = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the first error since `forget`."""
        self.of_thread.first = getattr(self.of_thread, "first", "") or record.getMessage()

    def forget(self) -> None:
        """Begin anew, in this thread."""
        self.of_thread.first = ""

    def check(self) -> None:
        """Raise InputError if there was one in this thread."""
        if first := getattr(self.of_thread, "first", ""):
            raise InputError(f"damaged or truncated image ({first})")


ERRORS = Errors()
logging.getLogger("tifffile").addHandler(ERRORS)
logging.getLogger("PIL").addHandler(logging.NullHandler())  # what it logs is no more than it raises


class TiffSource(Source):
    """A TIFF file that tifffile reads."""

    def __init__(self, file: BinaryIO) -> None:
        with package("microscopy"):
            import imagecodecs  # noqa: F401  (tifffile decodes by it)
            from tifffile import TiffFile
        ERRORS.forget()
        self.file = file
        self.tiff = TiffFile(file, _multifile=False)  # no file that an uploaded one names is opened
        try:
            self.tiff.pages[MOST_PAGES]
        except IndexError:
            pass
        else:
            raise TooLargeError(f"expected at most {MOST_PAGES} pages")
        many = self.tiff.series
        ERRORS.check()
        if not many:
            raise InputError("truncated: there is no image in it")
        if len(many) > 1:
            raise UnfitError(f"expected one image. Received: {len(many)} images of different kinds")
        self.series = many[0]
        page = self.page = self.series.keyframe
        whole = [
            (axis, count)
            for axis, count in zip(self.series.get_axes(True), self.series.get_shape(True), strict=True)
            if count > 1 or axis in "YX"
        ]
        inside = sum(count > 1 or axis in "YX" for axis, count in zip(page.axes, page.shape, strict=True))
        self.planes, self.inside = dict(whole[:-inside]), dict(whole[-inside:])  # by axis: how many
        self.check_axes("".join(axis for axis, _ in whole))
        sizes = dict(whole)
        self.size = sizes["Y"], sizes["X"]
        self.count = math.prod(sizes.get(axis, 1) for axis in FRAMES)
        self.channels = sizes.get("C", 1) * sizes.get("S", 1)
        self.check_kind()
        colour = page.photometric == COLOUR and sizes.get("S", 1) >= 3
        self.alpha = colour and self.channels == 4 and {int(kind) for kind in page.extrasamples} & {1, 2}
        self.channels -= bool(self.alpha)
        self.names = RGB if colour and self.channels == 3 else self.channel_names()
        self.dtype, self.kind = dtype_of(self.series.dtype), str(self.series.dtype)
        ERRORS.check()

    def check_axes(self, axes: str) -> None:
        """Raise UnfitError unless it can be told what the axes are."""
        frames = [axis for axis in axes if axis in FRAMES]
        if len(set(axes)) < len(axes) or set(axes) - set("YXCS" + FRAMES) or not {"Y", "X"} <= set(axes):
            raise UnfitError(
                "expected axes that the file's metadata name, of OME-TIFF or ImageJ. "
                f"Received: {axes}, shape={self.series.get_shape(True)}"
            )
        if len(frames) > 1 or {"C", "S"} <= set(axes):
            raise UnfitError(
                f"expected one axis of frames, and one of channels. Received: {axes}, "
                f"shape={self.series.get_shape(True)}"
            )

    def check_kind(self) -> None:
        """Raise UnfitError for a compression or a colour space that is not read, or too many samples."""
        page = self.page
        if page.compression not in COMPRESSIONS:
            names = ", ".join(dict.fromkeys(COMPRESSIONS.values()))
            received = getattr(page.compression, "name", page.compression)
            raise UnfitError(f"expected a compression of {names}. Received: {received}")
        if page.photometric not in (MIN_IS_WHITE, MIN_IS_BLACK, COLOUR):
            received = getattr(page.photometric, "name", page.photometric)
            raise UnfitError(f"expected grey, channels or RGB. Received: {received}")
        tile = math.prod(page.chunks[:2]) if page.is_tiled else 0
        if tile > max(LARGEST_TILE, 2 * math.prod(self.size)):
            raise TooLargeError(f"expected tiles of at most {LARGEST_TILE} pixels. Received: {tile}")
        inside = max(self.inside.get("S", 1), self.inside.get("C", 1))
        if inside > MOST_CHANNELS:
            raise UnfitError(f"expected at most {MOST_CHANNELS} samples of a pixel. Received: {inside}")

    def channel_names(self) -> tuple[str, ...]:
        """Return the names of channels in the metadata of OME, ImageJ or tifffile, if each has its own."""
        tiff = self.tiff
        if tiff.is_ome:
            image = next(e for e in ElementTree.fromstring(tiff.ome_metadata).iter() if named(e, "Image"))
            names = [e.get("Name") for e in image.iter() if named(e, "Channel")]
        elif tiff.is_imagej:
            names = tiff.imagej_metadata.get("Labels") or []
        else:
            said = (tiff.shaped_metadata or [{}])[0].get("Channel") or {}
            names = said.get("Name") if isinstance(said, dict) else []
        names = [*names] if isinstance(names, list | tuple) else []
        each = len(names) == self.channels == len(set(names)) and all(isinstance(n, str) and n for n in names)
        return tuple(names) if each else ()

    def frames(self) -> int:
        """Return how many planes of depth, time points or pages there are."""
        return self.count

    def read(self, frame: int, pixels: Pixels) -> np.ndarray:
        """Return all channels of one frame."""
        if self.channels > MOST_CHANNELS:
            raise UnfitError(
                f"expected at most {MOST_CHANNELS} channels, or which to choose. Received: {self.channels}"
            )
        return self.finished([self.plane(frame, channel) for channel in range(self.planes.get("C", 1))])

    def read_channels(self, frame: int, channels: Sequence[int], pixels: Pixels) -> np.ndarray:
        """Return some channels of one frame; where each is a plane, no other is decoded."""
        if "C" not in self.planes:
            return super().read_channels(frame, channels, pixels)
        return self.finished([self.plane(frame, channel) for channel in channels])

    def finished(self, planes: list[np.ndarray]) -> np.ndarray:
        """Return planes (H, W, C) as one image: without alpha, black as 0, turned as it is to be shown."""
        ERRORS.check()
        image = np.concatenate(planes, axis=2)
        if self.alpha:
            most = np.iinfo(image.dtype).max if image.dtype.kind in "ui" else 1
            if (image[..., 3] != most).any():
                raise UnfitError("expected an opaque image. Received: transparent pixels")
            image = image[..., :3]
        if self.page.photometric == MIN_IS_WHITE:
            if image.dtype.kind != "u":
                raise UnfitError("expected black as the least number. Received: white, of signed numbers")
            image = 2**self.page.bitspersample - 1 - image
        orientation = self.page.tags.valueof(ORIENTATION, 1)
        return turned(converted(image, self.dtype), orientation)

    def plane(self, frame: int, channel: int) -> np.ndarray:
        """Return one plane (H, W, C), where C is that of the channels, or samples, in one plane."""
        at = {axis: channel if axis == "C" else frame for axis in self.planes}
        number = 0
        for axis, count in self.planes.items():
            number = number * count + at[axis]
        pages, shape = self.series.pages, tuple(self.inside.values())
        if len(pages) == math.prod(self.planes.values()):
            page = pages[number]
            if page is None:
                raise InputError("truncated: a plane is missing")
            if cut_off(page, self.tiff.filehandle.size):
                raise InputError("truncated: strips or tiles are missing, or end after the file")
            plane = page.asarray(maxworkers=1).reshape(shape)
        elif (start := self.series.dataoffset) is not None:  # one page, and the planes after each other
            self.file.seek(start + number * self.page.nbytes)
            content = self.file.read(self.page.nbytes)
            plane = np.frombuffer(content, self.tiff.byteorder + self.series.dtype.char).reshape(shape)
        else:
            raise InputError("truncated: pages are missing")
        axes = "".join(self.inside)
        last = [axes.index(axis) for axis in axes if axis not in "YX"]
        return plane.transpose(axes.index("Y"), axes.index("X"), *last).reshape(*self.size, -1)

    def close(self) -> None:
        """Close the file."""
        self.tiff.close()


def cut_off(page: Any, end: int) -> bool:
    """Return whether strips or tiles of a page are missing, or end after the file, of `end` bytes."""
    parts = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    return not parts or any(start <= 0 or count <= 0 or start + count > end for start, count in parts)


def named(element: ElementTree.Element, name: str) -> bool:
    """Return whether an element of XML has a name, in any namespace."""
    return element.tag.rpartition("}")[2] == name


def open_tiff(file: BinaryIO) -> Source:
    """Read the head of a TIFF file: by Pillow where it can read the whole file."""
    try:
        source = PillowSource(file, "TIFF")
        tags = source.image.tag_v2
        plain = (
            source.dtype == "uint8"
            and source.frames() == 1
            and not (source.image.mode == "LA" and tags.get(EXTRA_SAMPLES) == (0,))
            and not HIDDEN.search(str(tags.get(DESCRIPTION, "")))
        )
        source.image.seek(0)
    except TooLargeError:
        raise
    except Exception:  # Pillow knows fewer kinds
        plain = False
    if plain:
        return source
    file.seek(0)
    return TiffSource(file)


TIFF: Format = pillow("TIFF", rb"II\*\0|MM\0\*|MM\*\0|II\0\*|MM\0\+|II\+\0", ".tif", ".tiff")._replace(
    open=open_tiff, in_parts=True
)
