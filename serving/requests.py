"""What a request may hold: pixels as lists, files in base64; and the HTTP status of each kind of error."""

import array
import base64
import binascii
import re
from itertools import chain
from typing import Any

import numpy as np

from ..contract import LARGEST
from ..errors import FormatError, InputError, TooLargeError, UnfitError
from ..files import parse_json
from ..images.reading import MAX_BYTES

# A text, a list of numbers, or a list of such lists, in an image a row of pixels. Nothing is tried twice.
PARTS = re.compile(rb'"(?:[^"\\]++|\\.)*+"|\[\s*+(?:[-+.\w\s,]++|\[[-+.\w\s,]*+\]){0,100000}+\]', re.DOTALL)
PART = "\0"  # the key of a part's number
LARGE = 2**16  # bytes of JSON that are read part by part
MAX_LOOSE = 2**18  # values outside of parts
CODES = {"uint8": "B", "uint16": "H", "float32": "f"}  # of Python's arrays
STATUS = {TooLargeError: 413, FormatError: 415, UnfitError: 422, InputError: 400}


class RequestError(InputError):
    """A request cannot be answered.

    Attributes:
        status: what an HTTP server answers: 401, without a token; 404, there is no such thing; 408, it came
            too slowly; 503, not now.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def status_of(error: InputError) -> int:
    """Return what an HTTP server answers to an error of whoever sent the request.

    400: it cannot be understood; 413: it is too large; 415: its format is not read; 422: it is understood,
    but the model cannot take it.

    Example:
        >>> status_of(UnfitError("image: expected 3 channels"))
        422
    """
    if isinstance(error, RequestError):
        return error.status
    return next(status for kind, status in STATUS.items() if isinstance(error, kind))


def read_json(text: bytes, max_values: int) -> Any:
    """Return what the JSON of a request says.

    Rows of pixels are read one by one: Python runs nothing else while it reads a JSON text.

    Raises:
        InputError: 400, it is not JSON, or nested too deeply; 413, there are more values than `max_values`.
    """
    if len(text) < LARGE:
        return parse_json(text)
    numbers, lists, objects = (text.count(mark) for mark in (b",", b"[", b"{"))
    if numbers > max_values or lists > max_values // 4 + LARGE or objects > MAX_LOOSE:
        raise TooLargeError(f"request: expected at most {max_values} values in JSON; files in base64 are one")
    parts: list[Any] = []

    def keep(part: re.Match) -> bytes:
        if part[0].startswith(b'"') or len(part[0]) < 32:
            return part[0]
        parts.append(parse_numbers(part[0]) if part[0].count(b"[") == 1 else parse_json(part[0]))
        return b'{"\\u0000":%d}' % (len(parts) - 1)

    def put_back(item: dict) -> Any:
        number = item.get(PART)
        return parts[number] if type(number) is int and 0 <= number < len(parts) else item

    rest = PARTS.sub(keep, text)
    if sum(rest.count(mark) for mark in (b",", b"[", b"{")) > MAX_LOOSE:
        raise TooLargeError("request: expected pixels as lists of numbers, or files in base64")
    return parse_json(rest, object_hook=put_back)


def parse_numbers(text: bytes) -> list:
    """Return what the JSON of a flat list says, read in slices that end before a comma."""
    numbers, start = [], 1
    while start < len(text):
        end = text.find(b",", start + LARGE)
        part = text[start : end if end > 0 else -1]
        if start > 1 and not part.strip():  # nothing after a comma
            part = b","
        numbers += parse_json(b"[%b]" % part)
        start = end + 1 if end > 0 else len(text)
    return numbers


def pixels_from_lists(rows: Any, what: str = "image", dtype: str = "uint8") -> np.ndarray:
    """Return the pixels of nested lists, as JSON has them: image[row][column][channel].

    Args:
        rows: the lists.
        what: how a message calls the image.
        dtype: of the pixels: uint8, uint16 or float32.

    Returns:
        (H, W, C) of that dtype.

    Raises:
        InputError: 400, not lists of lists of lists of one length each, not numbers, or of whole ones not
            whole; 422, numbers that the dtype does not have.

    Example:
        >>> pixels_from_lists([[[0, 128, 255]]])
        array([[[  0, 128, 255]]], dtype=uint8)
    """
    shape = f"{what}: expected rows of pixels, each a list of one number per channel"
    if type(rows) is not list or not rows:
        raise InputError(f"{shape}. Received: {'no rows' if rows == [] else type_name(rows)}")
    parts, sizes = [], set()
    for row in rows:
        if type(row) is not list or not row:
            raise InputError(f"{shape}. Received: {'an empty row' if row == [] else type_name(row)} as row")
        if odd := [pixel for pixel in row if type(pixel) is not list]:
            raise InputError(f"{shape}. Received: {type_name(odd[0])} as pixel")
        sizes.update((len(row), len(pixel)) for pixel in row)
        parts.append(stored(list(chain.from_iterable(row)), what, dtype))
    if len(sizes) != 1:
        raise InputError(f"{what}: expected rows of one length, and pixels of one number of channels")
    return np.frombuffer(b"".join(parts), dtype).reshape(len(rows), *sizes.pop())


def stored(numbers: list, what: str, dtype: str) -> bytes:
    """Return numbers as the bytes of an array of a dtype.

    Raises:
        InputError: 400, not numbers, or of whole ones not whole; 422, numbers that the dtype does not have.
    """
    kinds, expected = ((int, float), "numbers") if dtype == "float32" else ((int,), "whole numbers")
    if odd := [number for number in numbers if type(number) not in kinds]:
        raise InputError(f"{what}: expected {expected}. Received: {type_name(odd[0])}")
    try:
        return array.array(CODES[dtype], numbers).tobytes()
    except OverflowError:
        low, high = min(numbers), max(numbers)
        span = f"{low} to {high}" if max(-low, high) < 10**9 else "numbers far beyond"
        expected = "numbers of float32" if dtype == "float32" else f"pixels in 0..{LARGEST[dtype]}"
        raise UnfitError(f"{what}: expected {expected}. Received: {span}") from None


def file_from_base64(text: Any, what: str = "image", max_bytes: int = MAX_BYTES) -> bytes:
    """Return the bytes of a base64 text.

    Raises:
        InputError: 400, it is no such text; 413, there are too many bytes.
    """
    if type(text) is not str:
        raise InputError(f"{what}: expected a text in base64. Received: {type_name(text)}")
    if len(text) // 4 * 3 - 2 > max_bytes:
        raise TooLargeError(
            f"{what}: expected at most {max_bytes} bytes. Received: about {len(text) // 4 * 3}"
        )
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InputError(f"{what}: not base64") from None


def type_name(value: Any) -> str:
    """Return what JSON calls a value, without showing it."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number with a fraction" if type(value) is float else "a number")
