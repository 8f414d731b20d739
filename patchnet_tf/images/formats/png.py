"""PNG: of 8 bits by Pillow, of 16 bits grey by Pillow and colour by imagecodecs."""

from typing import BinaryIO

import numpy as np

from ...contract import Pixels
from ...errors import UnfitError
from .base import RGB, Format, Source, package, turned
from .pillow import PillowSource, pillow

ORIENTATION = 0x0112


class DeepPng(PillowSource):
    """A PNG file of 16 bits per channel."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, "PNG")
        grey = self.image.tile[0].args in ("I;16B", "LA;16B")
        self.dtype, self.channels, self.names = "uint16", 1 if grey else 3, () if grey else RGB

    def read(self, frame: int, pixels: Pixels) -> np.ndarray:
        """Return the image, turned as its EXIF orientation says."""
        if frame:
            raise UnfitError("expected one image. Received: several frames of 16 bits per channel")
        if self.image.mode == "I;16":
            self.image.load()
            image = np.asarray(self.image)
        else:
            with package("microscopy"):
                import imagecodecs
            self.file.seek(0)
            image = imagecodecs.png_decode(self.file.read())
        image = np.reshape(image, (*self.size, -1))
        image, alpha = image[..., : self.channels], image[..., self.channels :]
        clear = self.image.info.get("transparency")  # the colour that is, if the file names one
        if (alpha < 65535).any() or (clear is not None and (image == clear).all(axis=-1).any()):
            raise UnfitError("expected an opaque image. Received: transparent pixels")
        return turned(image, self.image.getexif().get(ORIENTATION, 1))


def open_png(file: BinaryIO) -> Source:
    """Read the head of a PNG file."""
    source = PillowSource(file, "PNG")
    return DeepPng(file) if source.sixteen_bits() else source


PNG: Format = pillow("PNG", rb"\x89PNG\r\n\x1a\n", ".png")._replace(open=open_png)
