"""What may come in: image files, pixels and JSON, checked before work or memory goes into them.

Everything that takes images from outside uses this: `Predictor`, `patchnet serve`, and what reads image
files for training and for `patchnet explain`. So they all read a file as the same pixels. It needs numpy and
Pillow, and of this package only `InputError`, which is why `patchnet_tf.data` may import it although it
belongs to serving.

An image file is, by these rules,

    read        PNG, JPEG, TIFF, BMP, WebP of 8 bits per channel: grey, RGB, or black and white (0 and 255)
    converted   palettes and CMYK to RGB (without colour profiles); colour to grey, or grey to RGB, as the
                model needs; an opaque alpha channel is dropped; turned as its EXIF orientation says
    refused     other formats; 16 bits per channel, floats and other colour spaces; transparent pixels;
                several frames or pages; truncated or damaged data; more bytes or pixels than the limits,
                of which the bytes are counted and the pixels read from the file's head before decoding
"""

import base64
import binascii
import io
import json
import warnings
from collections.abc import Collection
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps

from ..config import InputError

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
GREY_MODES = ("1", "L", "LA")
MODES = (*GREY_MODES, "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
MAX_BYTES = 2**28  # of one file
MAX_PIXELS = 2**26  # of one image: 8192 x 8192


class RequestError(InputError):
    """What came in cannot be used.

    Attributes:
        status: what an HTTP server answers: 400, it cannot be understood; 404, there is no such thing; 413,
            it is too large; 415, its format is not read; 422, it is understood, but the model cannot take
            it; 503, not now.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


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
        RequestError: 400, empty, truncated or damaged; 413, beyond a limit; 415, another format; 422, 16 bits
            per channel, another colour space, transparent, or several frames.

    Example:
        >>> decode(Path("cell.png").read_bytes(), channels=1).shape
        (128, 128, 1)
    """
    if len(file) > max_bytes:
        raise RequestError(f"{what}: expected at most {max_bytes} bytes. Received: {len(file)}", 413)
    if not file:
        raise RequestError(f"{what}: empty file")
    with opened(io.BytesIO(file), what, formats) as image:
        height, width = image.height, image.width
        if height * width > max_pixels:
            size = f"{height} x {width} (height x width)"
            raise RequestError(f"{what}: expected at most {max_pixels} pixels. Received: {size}", 413)
        if image.mode not in MODES or sixteen_bits(image):
            kind = "16 bits per channel" if sixteen_bits(image) else f"pixels of type {image.mode}"
            raise RequestError(f"{what}: expected 8 bits per channel, grey or RGB. Received: {kind}", 422)
        try:
            if several_frames(image):
                raise RequestError(f"{what}: expected one image. Received: several frames or pages", 422)
            image.load()  # the decoders of Pillow, unlike those of OpenCV, refuse a truncated file
            if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] < 255:
                raise RequestError(f"{what}: expected an opaque image. Received: transparent pixels", 422)
            image = ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")
        except RequestError:
            raise
        except Exception as error:  # decoders raise whatever they like for damaged data
            raise RequestError(f"{what}: damaged or truncated image ({one_line(error)})") from None
    return np.asarray(image).reshape(image.height, image.width, channels)


def opened(file: BinaryIO | Path, what: str, formats: Collection[str] = FORMATS) -> Image.Image:
    """Open an image file and read its head alone.

    Raises:
        RequestError: 400, damaged; 413, far too many pixels; 415, another format.
        OSError: it cannot be read.
    """
    try:
        return Image.open(file, formats=tuple(formats))
    except Image.UnidentifiedImageError:
        if known(file, formats):
            raise RequestError(f"{what}: damaged or truncated image") from None
        names = ", ".join("WebP" if name == "WEBP" else name for name in formats)
        raise RequestError(f"{what}: not an image file of a kind that is read ({names})", 415) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # the latter where it is an error
        raise RequestError(f"{what}: too many pixels", 413) from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise RequestError(f"{what}: damaged or truncated image ({one_line(error)})") from None
    except Exception as error:  # heads of damaged files
        raise RequestError(f"{what}: damaged or truncated image ({one_line(error)})") from None


def known(file: BinaryIO | Path, formats: Collection[str]) -> bool:
    """Return whether a file begins as one of the formats does."""
    if isinstance(file, Path):
        with file.open("rb") as opened_file:
            start = opened_file.read(16)
    else:
        file.seek(0)
        start = file.read(16)
    return any(accepts(start) for accepts in (Image.OPEN[name][1] for name in formats) if accepts)


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


def one_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def check_images(
    images: Any, *, channels: int | None = None, smallest: tuple[int, int] = (1, 1), what: str = "images"
) -> np.ndarray:
    """Return images as an array that PatchNet can take, or say in one line why it cannot.

    Args:
        images: (N, H, W, C), any integer or float dtype, in 0..255.
        channels: the C they must have; None means 1 or 3.
        smallest: the least (height, width).
        what: how a message calls them.

    Returns:
        The array, not copied where it was one.

    Raises:
        RequestError: 400, no image, not four axes, not numbers; 422, another number of channels, too small,
            NaN, infinity, or values outside 0..255.

    Warns:
        UserWarning: no value is above 1, so they seem to be 0..1 instead of 0..255.

    Example:
        >>> check_images(numpy.zeros((2, 32, 32, 1), "uint8"), smallest=(17, 17)).shape
        (2, 32, 32, 1)
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.size == 0 or images.dtype.kind not in "uif":
        raise RequestError(
            f"{what}: expected numbers of shape (count, height, width, channels). "
            f"Received: {images.dtype}, shape={images.shape}"
        )
    allowed = (1, 3) if channels is None else (channels,)
    if images.shape[3] not in allowed:
        expected = " or ".join(map(str, allowed))
        raise RequestError(f"{what}: expected {expected} channel(s). Received: shape={images.shape}", 422)
    size = images.shape[1:3]
    if size[0] < smallest[0] or size[1] < smallest[1]:
        raise RequestError(
            f"{what}: expected at least {smallest[0]} x {smallest[1]} pixels (height x width), as the "
            f"model needs. Received: {size[0]} x {size[1]}",
            422,
        )
    if images.dtype.kind == "f" and not np.isfinite(images).all():
        raise RequestError(f"{what}: expected finite pixels. Received: NaN or infinity", 422)
    low, high = images.min(), images.max()
    if low < 0 or high > 255:
        raise RequestError(f"{what}: expected pixels in 0..255. Received: {low} to {high}", 422)
    if 0 < high <= 1:
        warnings.warn(
            f"{what}: pixels are 0..255, but none of these is above 1: are they 0..1?", stacklevel=2
        )
    return images


def parse_json(text: bytes, what: str = "request") -> Any:
    """Return what a JSON text says; NaN and infinity are no JSON.

    Raises:
        RequestError: 400, it is not JSON, or nested too deeply.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not a number in JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise RequestError(f"{what}: JSON nested too deeply") from None
    except ValueError as error:  # UnicodeDecodeError is one too
        reason = "not text" if isinstance(error, UnicodeDecodeError) else one_line(error)
        if "set_int_max_str_digits" in reason:  # Python's advice, which is none for those who ask
            reason = "a number of too many digits"
        raise RequestError(f"{what}: not JSON ({reason})") from None


def pixels_from_lists(rows: Any, what: str = "image") -> np.ndarray:
    """Return the pixels of nested lists, as JSON has them: image[row][column][channel].

    Returns:
        (H, W, C), uint8.

    Raises:
        RequestError: 400, not lists of lists of lists of one length each, or not whole numbers; 422, numbers
            outside 0..255.

    Example:
        >>> pixels_from_lists([[[0, 128, 255]]])
        array([[[  0, 128, 255]]], dtype=uint8)
    """
    shape = f"{what}: expected rows of pixels, each a list of one number per channel"
    if type(rows) is not list or not rows:
        raise RequestError(f"{shape}. Received: {'no rows' if rows == [] else type_name(rows)}")
    parts, sizes = [], set()
    for row in rows:
        if type(row) is not list or not row:
            raise RequestError(f"{shape}. Received: {'an empty row' if row == [] else type_name(row)} as row")
        if odd := [pixel for pixel in row if type(pixel) is not list]:
            raise RequestError(f"{shape}. Received: {type_name(odd[0])} as pixel")
        sizes.update((len(row), len(pixel)) for pixel in row)
        numbers = list(chain.from_iterable(row))
        if odd := [number for number in numbers if type(number) is not int]:
            raise RequestError(f"{what}: expected whole numbers. Received: {type_name(odd[0])}")
        try:
            parts.append(bytes(numbers))
        except ValueError:
            low, high = min(numbers), max(numbers)
            span = f"{low} to {high}" if max(-low, high) < 10**9 else "numbers far beyond"
            raise RequestError(f"{what}: expected pixels in 0..255. Received: {span}", 422) from None
    if len(sizes) != 1:
        raise RequestError(f"{what}: expected rows of one length, and pixels of one number of channels")
    return np.frombuffer(b"".join(parts), "uint8").reshape(len(rows), *sizes.pop())


def file_from_base64(text: Any, what: str = "image", max_bytes: int = MAX_BYTES) -> bytes:
    """Return the bytes of a base64 text.

    Raises:
        RequestError: 400, it is no such text; 413, there are too many bytes.
    """
    if type(text) is not str:
        raise RequestError(f"{what}: expected a text in base64. Received: {type_name(text)}")
    if len(text) // 4 * 3 - 2 > max_bytes:
        raise RequestError(
            f"{what}: expected at most {max_bytes} bytes. Received: about {len(text) // 4 * 3}", 413
        )
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise RequestError(f"{what}: not base64") from None


def type_name(value: Any) -> str:
    """Return what JSON calls a value, without showing it."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number with a fraction" if type(value) is float else "a number")
