"""Images of 8 bits per channel, by Pillow."""

import re
from functools import partial
from typing import BinaryIO

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

from ...contract import Pixels
from ...errors import InputError, TooLargeError, UnfitError
from .base import RGB, Format, Source

GREY_MODES = ("1", "L", "LA")
MODES = (*GREY_MODES, "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")

BITS_PER_SAMPLE, SAMPLE_FORMAT = 258, 339  # tags of TIFF


class PillowSource(Source):
    """An image file that Pillow reads."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.file = file
        try:
            self.image = Image.open(file, formats=(name,))
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # the latter as an error
            raise TooLargeError("too many pixels") from None
        except Image.UnidentifiedImageError:
            raise InputError("damaged or truncated image") from None
        self.size = self.image.height, self.image.width
        special = (
            "16 bits per channel"
            if self.sixteen_bits()
            else "signed numbers"
            if self.signed()
            else f"pixels of type {self.image.mode}"
        )
        fits = self.image.mode in MODES and special.startswith("pixels")
        self.dtype, self.kind = ("uint8", "8 bits per channel") if fits else (None, special)
        self.channels = 1 if self.image.mode in GREY_MODES else 3
        self.names = () if self.channels == 1 else RGB

    def frames(self) -> int:
        """Return how many images there are; of TIFF, 2 where there are more."""
        if self.image.format != "TIFF":
            return getattr(self.image, "n_frames", 1)
        # Counting the pages of a TIFF file reads the heads of all, of which there may be very many.
        try:
            self.image.seek(1)
        except EOFError:
            return 1
        return 2

    def read(self, frame: int, pixels: Pixels) -> np.ndarray:
        """Return one image, turned as its EXIF orientation says."""
        image = self.image
        if frame or image.tell():
            image.seek(frame)
        image.load()  # the decoders of Pillow, unlike those of OpenCV, refuse a truncated file
        if image.format in ("JPEG", "MPO"):
            self.file.seek(0)
            check_jpeg(self.file.read())
        if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] < 255:
            raise UnfitError("expected an opaque image. Received: transparent pixels")
        grey = self.channels == 1 or (pixels.channels == 1 and not pixels.select)
        image = ImageOps.exif_transpose(image).convert("L" if grey else "RGB")
        return np.asarray(image).reshape(image.height, image.width, 1 if grey else 3)

    def close(self) -> None:
        """Close the image."""
        self.image.close()

    def signed(self) -> bool:
        """Return whether a TIFF file holds signed numbers, which Pillow would read as unsigned."""
        return self.image.format == "TIFF" and 2 in np.ravel(self.image.tag_v2.get(SAMPLE_FORMAT, 1))

    def sixteen_bits(self) -> bool:
        """Return whether a PNG or TIFF file has more than 8 bits per channel, which Pillow would drop."""
        if self.image.format == "TIFF":
            return max(np.ravel(self.image.tag_v2.get(BITS_PER_SAMPLE, 1))) > 8
        return self.image.format == "PNG" and ";16" in str(self.image.tile)


def check_jpeg(file: bytes) -> None:
    """Raise ValueError where the code of a JPEG file breaks; Pillow fills what is lost with grey."""
    # An eighth of the size is enough: all of the code is read for it.
    simplejpeg.decode_jpeg(file, "GRAY", fastdct=True, min_height=1, min_width=1, min_factor=8, strict=True)


def pillow(name: str, begins: bytes, *suffixes: str) -> Format:
    """Return a format by Pillow's name."""
    return Format(name, suffixes, re.compile(begins, re.DOTALL), partial(PillowSource, name=name))


JPEG = pillow("JPEG", rb"\xff\xd8\xff", ".jpg", ".jpeg")
BMP = pillow("BMP", rb"BM", ".bmp")
WEBP = pillow("WebP", rb"RIFF....WEBP", ".webp")
GIF = pillow("GIF", rb"GIF8[79]a", ".gif")
