"""What all formats of image files have in common."""

import contextlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, NamedTuple

import numpy as np

from ...contract import Pixels
from ...errors import FormatError

RGB = ("red", "green", "blue")  # names of a colour image's channels


class Source(ABC):
    """An image file whose head has been read, and from which pixels can be.

    Attributes:
        size: (height, width).
        dtype: of its numbers: "uint8", "uint16", or "float32" for all others; None where they are not read.
        kind: how a message calls its numbers.
        channels: how many.
        names: of the channels, or none; `RGB` says that they are colours.
    """

    size: tuple[int, int]
    dtype: str | None
    kind: str
    channels: int
    names: tuple[str, ...] = ()

    @abstractmethod
    def frames(self) -> int:
        """Return how many images there are; 2 may stand for more where counting is much work."""

    @abstractmethod
    def read(self, frame: int, pixels: Pixels) -> np.ndarray:
        """Return one image (H, W, channels) of `dtype`.

        Where `pixels` asks for grey, or for the window that a file has, a format may make it itself.

        Raises:
            InputError: it can be read, and is of a kind that is refused.
            Exception: it is damaged.
        """

    def read_channels(self, frame: int, channels: Sequence[int], pixels: Pixels) -> np.ndarray:
        """Return some channels of one image (H, W, len(channels)), by their numbers; otherwise as `read`."""
        return self.read(frame, pixels)[..., list(channels)]

    @abstractmethod
    def close(self) -> None:
        """Close the file, if it is still open."""

    def windowed(self) -> bool:
        """Return whether `read` applies a window that the file has, where `pixels` asks for it."""
        return False


class Format(NamedTuple):
    """A kind of image files.

    Attributes:
        name: in messages.
        suffixes: of its files, in small letters.
        begins: matches the first bytes of its files.
        open: reads the head of a file; raises any exception where it is damaged.
        in_parts: whether an image is read without the rest of the file, which may then be very large.
    """

    name: str
    suffixes: tuple[str, ...]
    begins: re.Pattern[bytes]
    open: Callable[[BinaryIO], Source]
    in_parts: bool = False


@contextlib.contextmanager
def package(extra: str) -> Iterator[None]:
    """Say what to install where an import of this block fails.

    Raises:
        FormatError: it did; a server answers as to any other format that it does not read.
    """
    try:
        yield
    except ImportError:
        message = f"a kind of image that needs more packages: pip install 'patchnet-tf[{extra}]'"
        raise FormatError(message) from None


def dtype_of(stored: np.dtype) -> str | None:
    """Return the dtype as which stored numbers are read, or None where they are not read."""
    if stored.kind == "u" and stored.itemsize <= 2:
        return f"uint{8 * stored.itemsize}"
    return "float32" if stored.kind == "f" or (stored.kind == "i" and stored.itemsize <= 2) else None


def converted(image: np.ndarray, dtype: str) -> np.ndarray:
    """Return numbers as another dtype; those too large for it become infinite, which is refused later."""
    with np.errstate(over="ignore"):
        return image.astype(dtype, copy=False)


def turned(image: np.ndarray, orientation: int) -> np.ndarray:
    """Return an image (H, W, C) as an EXIF orientation, 1 to 8, says that it is to be shown."""
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    down = -1 if orientation in (3, 4, 7, 8) else 1
    right = -1 if orientation in (2, 3, 6, 7) else 1
    return image[::down, ::right]
