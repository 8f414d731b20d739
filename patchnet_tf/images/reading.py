"""The one set of rules by which image files become pixels: for training, `explain` and servers.

An image file is, by these rules,

    read        PNG, JPEG, TIFF, BMP, WebP of 8 bits per channel: grey, RGB, or black and white (0 and 255)
    converted   palettes and CMYK to RGB (without colour profiles); colour to grey, or grey to RGB, as the
                model needs; an opaque alpha channel is dropped; turned as its EXIF orientation says
    refused     other formats; 16 bits per channel, signed numbers, floats and other colour spaces;
                transparent pixels; several frames or pages; truncated or damaged data; more bytes or pixels
                than the limits, of which the bytes are counted and the pixels read from the file's head
                before decoding; what is no regular file, such as a pipe

Files on disk may be GIF too. Damage is what a decoder notices: PNG and WebP have checksums or are parsed
strictly; of JPEG, whatever breaks its code, but not a changed bit that leaves other valid code; BMP and
uncompressed TIFF hold plain numbers, of which any may be right. It needs numpy, Pillow and simplejpeg alone.
"""

import io
import stat
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

from ..errors import FormatError, InputError, TooLargeError, UnfitError, one_line

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
ON_DISK = (*FORMATS, "GIF")
GREY_MODES = ("1", "L", "LA")
MODES = (*GREY_MODES, "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
MAX_BYTES = 2**28  # of one file
MAX_PIXELS = 2**26  # of one image: 8192 x 8192


def read_image(path: str | Path, channels: int) -> np.ndarray:
    """Read one image file by the rules above; GIF too.

    Args:
        path: an image of 8 bits per channel, one frame, no transparency.
        channels: 1 to read grey, a colour image too; 3 to read RGB, a grey image too.

    Returns:
        (H, W, channels), uint8, turned as its EXIF orientation says.

    Raises:
        InputError: it cannot be opened, is truncated or damaged, or is not such an image.

    Example:
        >>> read_image("cell.png", channels=1).shape
        (128, 128, 1)
    """
    try:
        check_regular(Path(path))
        with Path(path).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    return decode(content, channels, what=str(path), formats=ON_DISK)


def is_grey(path: Path) -> bool:
    """Return whether an image file has one channel; only its head is read."""
    try:
        check_regular(path)
        with opened(path, str(path), ON_DISK) as image:
            return image.mode in GREY_MODES
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def check_regular(path: Path) -> None:
    """Raise InputError for a pipe, socket or device, whose reading may never end; OSError without a file."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # of a folder, opening says what is wrong
        raise InputError(f"{path}: not a regular file")


def decode(
    file: bytes,
    channels: int,
    *,
    what: str = "image",
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
    formats: Collection[str] = FORMATS,
) -> np.ndarray:
    """Read an image file by the rules above.

    Args:
        file: all its bytes.
        channels: 1 to read grey, a colour image too; 3 to read RGB, a grey image too.
        what: how a message calls the image.
        max_bytes: more are refused before anything is read.
        max_pixels: more are refused before anything is decoded.
        formats: Pillow's names of those that are read.

    Returns:
        (H, W, channels), uint8.

    Raises:
        InputError: 400, empty, truncated or damaged; 413, beyond a limit; 415, another format; 422, 16 bits
            per channel, another colour space, transparent, or several frames.

    Example:
        >>> decode(Path("cell.png").read_bytes(), channels=1).shape
        (128, 128, 1)
    """
    if len(file) > max_bytes:
        raise TooLargeError(f"{what}: expected at most {max_bytes} bytes. Received: {len(file)}")
    if not file:
        raise InputError(f"{what}: empty file")
    with opened(io.BytesIO(file), what, formats) as image:
        height, width = image.height, image.width
        if height * width > max_pixels:
            size = f"{height} x {width} (height x width)"
            raise TooLargeError(f"{what}: expected at most {max_pixels} pixels. Received: {size}")
        special = "16 bits per channel" if sixteen_bits(image) else "signed numbers" if signed(image) else ""
        if special or image.mode not in MODES:
            kind = special or f"pixels of type {image.mode}"
            raise UnfitError(f"{what}: expected 8 bits per channel, grey or RGB. Received: {kind}")
        try:
            if several_frames(image):
                raise UnfitError(f"{what}: expected one image. Received: several frames or pages")
            image.load()  # the decoders of Pillow, unlike those of OpenCV, refuse a truncated file
            if image.format in ("JPEG", "MPO"):
                check_jpeg(file)
            if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] < 255:
                raise UnfitError(f"{what}: expected an opaque image. Received: transparent pixels")
            image = ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")
        except InputError:
            raise
        except Exception as error:  # decoders raise whatever they like for damaged data
            raise InputError(f"{what}: damaged or truncated image ({one_line(error)})") from None
    return np.asarray(image).reshape(image.height, image.width, channels)


def opened(file: BinaryIO | Path, what: str, formats: Collection[str] = FORMATS) -> Image.Image:
    """Open an image file and read its head alone.

    Raises:
        InputError: 400, damaged; 413, far too many pixels; 415, another format.
        OSError: it cannot be read.
    """
    try:
        return Image.open(file, formats=tuple(formats))
    except Image.UnidentifiedImageError:
        if known(file, formats):
            raise InputError(f"{what}: damaged or truncated image") from None
        names = ", ".join("WebP" if name == "WEBP" else name for name in formats)
        raise FormatError(f"{what}: not an image file of a kind that is read ({names})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # the latter where it is an error
        raise TooLargeError(f"{what}: too many pixels") from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise InputError(f"{what}: damaged or truncated image ({one_line(error)})") from None
    except Exception as error:  # heads of damaged files
        raise InputError(f"{what}: damaged or truncated image ({one_line(error)})") from None


def known(file: BinaryIO | Path, formats: Collection[str]) -> bool:
    """Return whether a file begins as one of the formats does."""
    if isinstance(file, Path):
        with file.open("rb") as opened_file:
            start = opened_file.read(16)
    else:
        file.seek(0)
        start = file.read(16)
    return any(accepts(start) for accepts in (Image.OPEN[name][1] for name in formats) if accepts)


def check_jpeg(file: bytes) -> None:
    """Raise ValueError where the code of a JPEG file breaks; Pillow fills what is lost with grey."""
    # An eighth of the size is enough: all of the code is read for it.
    simplejpeg.decode_jpeg(file, "GRAY", fastdct=True, min_height=1, min_width=1, min_factor=8, strict=True)


def signed(image: Image.Image) -> bool:
    """Return whether a TIFF file holds signed numbers, which Pillow would read as unsigned."""
    sample_format = 339
    return image.format == "TIFF" and 2 in np.ravel(image.tag_v2.get(sample_format, 1))


def sixteen_bits(image: Image.Image) -> bool:
    """Return whether a PNG or TIFF file has 16 bits per channel, of which Pillow would drop half."""
    return image.format in ("PNG", "TIFF") and ";16" in str(image.tile)


def several_frames(image: Image.Image) -> bool:
    """Return whether a file holds more than one image."""
    if image.format != "TIFF":
        return getattr(image, "n_frames", 1) != 1
    # Counting the pages of a TIFF file reads the heads of all, of which there may be very many.
    try:
        image.seek(1)
    except EOFError:
        return False
    return True
