"""Arrays of numpy in a file, (height, width) or (height, width, channels), without pickled objects."""

import math
import re
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy

from ...contract import MOST_CHANNELS, Pixels
from ...errors import InputError, UnfitError
from .base import Format, Source, converted, dtype_of

HEADS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


class NpySource(Source):
    """A .npy file."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        version = npy.read_magic(file)
        if version not in HEADS:
            raise UnfitError(f"expected .npy of version 1 or 2. Received: {version[0]}.{version[1]}")
        self.shape, self.by_columns, self.stored = HEADS[version](file)  # at most 10,000 bytes
        if len(self.shape) == 2:
            self.shape += (1,)
        if len(self.shape) != 3 or not 1 <= self.shape[2] <= MOST_CHANNELS or 0 in self.shape:
            raise UnfitError(
                "expected an array (height, width) or (height, width, channels) of at most "
                f"{MOST_CHANNELS} channels. Received: shape={self.shape}"
            )
        self.size, self.channels = self.shape[:2], self.shape[2]
        self.dtype, self.kind = dtype_of(self.stored), str(self.stored)

    def frames(self) -> int:
        """Return 1."""
        return 1

    def read(self, frame: int, pixels: Pixels) -> np.ndarray:
        """Return the array."""
        expected = math.prod(self.shape) * self.stored.itemsize
        content = self.file.read(expected + 1)
        if len(content) != expected:
            raise InputError(f"truncated, or longer than its head says; expected {expected} bytes of numbers")
        image = np.frombuffer(content, self.stored).reshape(self.shape, order="F" if self.by_columns else "C")
        return converted(image, self.dtype)

    def close(self) -> None:
        """Nothing is held but the file that was given."""


NPY = Format("npy", (".npy",), re.compile(rb"\x93NUMPY"), NpySource)
