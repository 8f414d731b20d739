"""What all formats of image files have in common."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

import numpy as np

from ...contract import Pixels

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

        A format may choose channels, or make grey or a window, itself: then it has what `pixels` asks for.

        Raises:
            InputError: it can be read, and is of a kind that is refused.
            Exception: it is damaged.
        """

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
    """

    name: str
    suffixes: tuple[str, ...]
    begins: re.Pattern[bytes]
    open: Callable[[BinaryIO], Source]
