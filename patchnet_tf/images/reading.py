"""The one set of rules by which image files become pixels: for training, `explain` and servers.

An image file is, by these rules and what `contract.Pixels` asks for,

    read        PNG, JPEG, TIFF, BMP, WebP of 8 bits per channel: grey, RGB, or black and white (0 and 255);
                PNG of 16 bits; .npy; TIFF of up to 16 bits or floats and of several channels, with the extra
                `microscopy`; DICOM, with the extra `dicom`
    converted   palettes and CMYK to RGB (without colour profiles); colour to grey, or grey to RGB, as the
                model needs; an opaque alpha channel is dropped; turned as its EXIF orientation says; signed
                numbers and those that a file rescales to float32
    refused     other formats; other numbers than the model takes, and numbers outside its range; other colour
                spaces; transparent pixels; several frames or pages, unless one is chosen; truncated or
                damaged data; more bytes or pixels than the limits, of which the bytes are counted and the
                pixels read from the file's head before decoding; what is no regular file, such as a pipe

Files on disk may be GIF too. Damage is what a decoder notices: PNG and WebP have checksums or are parsed
strictly; of JPEG, whatever breaks its code, but not a changed bit that leaves other valid code; BMP, .npy and
uncompressed TIFF and DICOM hold plain numbers, of which any may be right. How each format is read stands in
`patchnet_tf.images.formats`, the table of all in docs/images.md. Without the extras it needs numpy, pydantic,
Pillow and simplejpeg alone; what an extra brings is imported when such a file comes.
"""

import contextlib
import io
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from ..contract import Pixels
from ..errors import FormatError, InputError, TooLargeError, UnfitError, one_line, printable
from ..files import check_regular
from .formats import FORMATS, LONGEST_START, ON_DISK, RGB, Format, Source
from .pixels import check_values, grey_of

MAX_BYTES = 2**28  # of one file, but for formats of which a part can be read
MAX_PIXELS = 2**26  # of one image: 8192 x 8192
LONGEST = 300  # characters of a complaint
TAKES = {"uint8": ("uint8",), "uint16": ("uint16",), "float32": ("uint8", "uint16", "float32")}
EXPECTED = {
    "uint8": "8 bits per channel, grey or RGB",
    "uint16": "16 bits per channel, without sign",
    "float32": "numbers of at most 16 bits, or floats",
}


class Head(NamedTuple):
    """What an image file says of itself before its pixels are read.

    Attributes:
        dtype: of numpy, as which its numbers are read; None where they are of no kind that is read.
        channels: how many there are.
        names: of the channels, or none; colour images have "red", "green", "blue".
        size: (height, width), before it is turned as its EXIF orientation says.
    """

    dtype: str | None
    channels: int
    names: tuple[str, ...]
    size: tuple[int, int]


def read_image(path: str | Path, pixels: Pixels | int) -> np.ndarray:
    """Read one image file by the rules above; GIF too.

    Args:
        path: an image file without transparency.
        pixels: what the model takes; a number is that of channels of 8 bits: 1 to read grey, a colour image
            too; 3 to read RGB, a grey image too.

    Returns:
        (H, W, channels) of the dtype that `pixels` has, turned as its EXIF orientation says.

    Raises:
        InputError: it cannot be opened, is truncated or damaged, or is not such an image; as of `decode`.

    Example:
        >>> read_image("cell.png", 1).shape
        (128, 128, 1)
        >>> pixels = Pixels(dtype="uint16", range=(0, 4095), channels=2, select=("DAPI", "CENPA"))
        >>> read_image("cell.ome.tif", pixels).dtype
        dtype('uint16')
    """
    try:
        check_regular(Path(path))
        with Path(path).open("rb") as file:
            return read_open(file, asked(pixels), str(path), MAX_BYTES, MAX_PIXELS, ON_DISK)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def head(path: str | Path, *, window: bool = False) -> Head:
    """Read what an image file says of itself; its pixels are not read.

    Args:
        path: an image file of any kind that is read.
        window: whether a window that the file has will be applied, which changes the dtype.

    Raises:
        InputError: it cannot be opened, or its head is damaged.

    Example:
        >>> head("cell.png")
        Head(dtype='uint8', channels=1, names=(), size=(128, 128))
    """
    try:
        check_regular(Path(path))
        with Path(path).open("rb") as file, opened(file, str(path), MAX_BYTES, ON_DISK) as source:
            dtype = "uint8" if window and source.windowed() else source.dtype
            return Head(dtype, source.channels, source.names, source.size)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def decode(
    file: bytes,
    pixels: Pixels | int,
    *,
    what: str = "image",
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
    formats: Collection[Format] = FORMATS,
) -> np.ndarray:
    """Read an image file by the rules above.

    Args:
        file: all its bytes.
        pixels: what the model takes; a number is that of channels of 8 bits: 1 to read grey, a colour image
            too; 3 to read RGB, a grey image too.
        what: how a message calls the image.
        max_bytes: more are refused before anything is read.
        max_pixels: more are refused before anything is decoded.
        formats: those that are read.

    Returns:
        (H, W, channels) of the dtype that `pixels` has.

    Raises:
        InputError: 400, empty, truncated or damaged; 413, beyond a limit; 415, another format; 422, other
            numbers or channels than `pixels` has, another colour space, transparent, several frames, NaN,
            infinity, or values outside the range.

    Example:
        >>> decode(Path("cell.png").read_bytes(), 1).shape
        (128, 128, 1)
    """
    if len(file) > max_bytes:
        raise TooLargeError(f"{what}: expected at most {max_bytes} bytes. Received: {len(file)}")
    return read_open(io.BytesIO(file), asked(pixels), what, max_bytes, max_pixels, formats)


def asked(pixels: Pixels | int) -> Pixels:
    """Return what is asked for; a number is short for that of channels of 8 bits."""
    return Pixels(channels=pixels) if isinstance(pixels, int) else pixels


def read_open(
    file: BinaryIO, pixels: Pixels, what: str, max_bytes: int, max_pixels: int, formats: Collection[Format]
) -> np.ndarray:
    """Read an open file; see `decode`."""
    with opened(file, what, max_bytes, formats) as source:
        height, width = source.size
        if height * width > max_pixels:
            shape = f"{height} x {width} (height x width)"
            raise TooLargeError(f"{what}: expected at most {max_pixels} pixels. Received: {shape}")
        windowed = pixels.window and source.windowed()
        if source.dtype is None or not (windowed or source.dtype in TAKES[pixels.dtype]):
            raise UnfitError(f"{what}: expected {EXPECTED[pixels.dtype]}. Received: {source.kind}")
        with complaints(what):
            image = read_frame(source, frame_of(source, pixels), pixels)
    image = image.astype(pixels.dtype, copy=False)
    check_values(image, pixels, what)
    return image


def frame_of(source: Source, pixels: Pixels) -> int:
    """Return the number of the frame that `pixels` chooses, or raise InputError."""
    if pixels.frame == 0:
        return 0
    count = source.frames()
    if count == 1 and pixels.frame in (None, "middle"):
        return 0
    if pixels.frame is None:
        raise UnfitError("expected one image. Received: several frames or pages")
    frame = count // 2 if pixels.frame == "middle" else pixels.frame
    if frame >= count:
        raise UnfitError(f"expected a frame {frame}, counted from 0. Received: {count} frame(s)")
    return frame


def read_frame(source: Source, frame: int, pixels: Pixels) -> np.ndarray:
    """Return the channels (H, W, C) of a frame that `pixels` asks for, or raise InputError."""
    if pixels.select:
        numbers = [channel_number(channel, source) for channel in pixels.select]
        return source.read_channels(frame, numbers, pixels)
    image = source.read(frame, pixels)
    if image.shape[2] == pixels.channels:
        return image
    if pixels.channels == 1 and source.names == RGB:
        return grey_of(image)
    if pixels.channels == 3 and image.shape[2] == 1:
        return np.repeat(image, 3, axis=2)
    names = f" ({', '.join(source.names)})" if source.names else ""
    raise UnfitError(
        f"expected {pixels.channels} channel(s), or which to choose. Received: {image.shape[2]}{names}"
    )


def channel_number(channel: int | str, source: Source) -> int:
    """Return the number of a channel that is given by number or name, or raise InputError."""
    number = source.names.index(channel) if channel in source.names else channel
    if isinstance(number, str) or number >= source.channels:
        named = f": {', '.join(source.names)}" if source.names else ""
        raise UnfitError(f"expected a channel {channel!r}. Received: {source.channels} channel(s){named}")
    return number


@contextlib.contextmanager
def opened(file: BinaryIO, what: str, max_bytes: int, formats: Collection[Format]) -> Iterator[Source]:
    """Read the head of an image file alone.

    Raises:
        InputError: 400, empty or damaged; 413, too many bytes, unless an image is a part of them, or far too
            many pixels; 415, another format.
        OSError: it cannot be read.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    start = file.read(LONGEST_START)
    file.seek(0)
    if not size:
        raise InputError(f"{what}: empty file")
    kind = next((kind for kind in formats if kind.begins.match(start)), None)
    if kind is None:
        names = ", ".join(kind.name for kind in sorted(formats) if kind.suffixes)
        raise FormatError(f"{what}: not an image file of a kind that is read ({names})")
    if size > max_bytes and not kind.in_parts:
        raise TooLargeError(f"{what}: expected at most {max_bytes} bytes. Received: {size}")
    with complaints(what):
        source = kind.open(file)
    try:
        yield source
    finally:
        source.close()


@contextlib.contextmanager
def complaints(what: str) -> Iterator[None]:
    """Raise whatever a decoder raises as an InputError of one line that begins with `what`."""
    try:
        yield
    except InputError as error:
        raise type(error)(f"{what}: {printable(error)[:LONGEST]}") from None  # it may quote the file
    except Exception as error:  # decoders raise whatever they like for damaged data
        if isinstance(error, OSError) and error.strerror:
            raise InputError(f"{what}: cannot be read ({error.strerror})") from None
        raise InputError(
            f"{what}: damaged or truncated image ({printable(one_line(error))[:LONGEST]})"
        ) from None
