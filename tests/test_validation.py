import base64
import contextlib
import io
import json
import os
import struct
import subprocess
import sys
import time
import tracemalloc
import unicodedata
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data as photographs

from patchnet_tf.errors import InputError, printable
from patchnet_tf.files import parse_json
from patchnet_tf.images.formats import FORMATS
from patchnet_tf.images.reading import decode, head, read_image
from patchnet_tf.serving.requests import file_from_base64, pixels_from_lists, status_of

rng = np.random.default_rng(0)
RGB = rng.integers(0, 256, (12, 17, 3), "uint8")
GREY = RGB[..., 0]


def encoded(image, file_format="PNG", **options):
    """Return the bytes of an image file."""
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, file_format, **options)
    return file.getvalue()


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(height, width, depth=8, colour=2, rows=b""):
    """Return a PNG file by its specification: what its head says, and any rows."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("PNG", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("BMP", {}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_pixels_are_those_of_the_file(file_format, options):
    np.testing.assert_array_equal(decode(encoded(RGB, file_format, **options), 3), RGB)
    luma = RGB @ np.array([0.299, 0.587, 0.114])
    assert np.abs(decode(encoded(RGB, file_format, **options), 1)[..., 0] - luma).max() <= 1
    grey = decode(encoded(np.repeat(GREY[..., None], 3, -1), file_format, **options), 3)
    np.testing.assert_array_equal(grey, np.repeat(GREY[..., None], 3, -1))


def test_jpeg():
    smooth = np.linspace(0, 255, 32 * 32).reshape(32, 32).astype("uint8")
    for channels in (1, 3):
        image = decode(encoded(smooth, "JPEG", quality=95), channels)
        assert image.shape == (32, 32, channels)
        assert np.abs(image - smooth[..., None].astype(int)).max() <= 3


def test_conversions():
    palette = Image.fromarray(GREY // 64).convert("P")
    palette.putpalette([10, 20, 30, 200, 0, 0, 0, 200, 0, 1, 2, 3])
    expected = np.array([[10, 20, 30], [200, 0, 0], [0, 200, 0], [1, 2, 3]], "uint8")[GREY // 64]
    np.testing.assert_array_equal(decode(encoded(palette), 3), expected)
    black_and_white = Image.fromarray(GREY > 127)
    np.testing.assert_array_equal(decode(encoded(black_and_white), 1)[..., 0], np.where(GREY > 127, 255, 0))
    cmyk = Image.new("CMYK", (4, 3), (255, 0, 0, 0))  # cyan alone
    np.testing.assert_array_equal(decode(encoded(cmyk, "TIFF"), 3), np.full((3, 4, 3), (0, 255, 255)))
    opaque = np.dstack([RGB, np.full(GREY.shape, 255, "uint8")])
    np.testing.assert_array_equal(decode(encoded(opaque), 3), RGB)
    for orientation, turned in ((3, RGB[::-1, ::-1]), (6, np.rot90(RGB, -1)), (2, RGB[:, ::-1])):
        exif = Image.Exif()
        exif[0x0112] = orientation
        np.testing.assert_array_equal(decode(encoded(RGB, exif=exif), 3), turned)


def frames(file_format, **options):
    return encoded(
        Image.fromarray(RGB),
        file_format,
        save_all=True,
        append_images=[Image.fromarray(255 - RGB)],
        **options,
    )


def half_a_jpeg():
    """Half of the code of a JPEG file, and the marker that ends it."""
    whole = encoded(np.tile(RGB, (3, 3, 1)), "JPEG")
    return whole[: len(whole) // 2] + b"\xff\xd9"


def signed_tiff():
    return encoded(GREY, "TIFF", tiffinfo={339: 2})  # SampleFormat: two's complement


TRANSPARENT = np.dstack([RGB, GREY])
BAD_FILES = {
    "empty": (b"", 400, "empty file"),
    "text": (b"hello, this is no image", 415, "not an image file"),
    "gif": (encoded(GREY, "GIF"), 415, r"not an image file of a kind that is read \(BMP, DICOM, JPEG"),
    "ico": (encoded(Image.new("RGB", (16, 16)), "ICO"), 415, "not an image file"),
    "pdf": (b"%PDF-1.7\n", 415, "not an image file"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "not an image file"),
    "png head alone": (encoded(RGB)[:20], 400, "damaged or truncated"),
    "png cut": (encoded(RGB)[:-30], 400, "damaged or truncated"),
    "jpeg cut": (encoded(RGB, "JPEG")[:-30], 400, "damaged or truncated"),
    "jpeg half": (half_a_jpeg(), 400, "damaged or truncated image .*premature end"),
    "tiff signed": (signed_tiff(), 422, "8 bits per channel.* Received: int8"),
    "tiff cut": (encoded(RGB, "TIFF")[:-300], 400, "damaged or truncated"),
    "bmp cut": (encoded(RGB, "BMP")[:-30], 400, "damaged or truncated"),
    "webp cut": (encoded(RGB, "WEBP")[:-30], 400, "damaged or truncated"),
    "no rows": (png(12, 17), 400, "damaged or truncated"),
    "no width": (png(12, 0), 400, "damaged or truncated"),
    "too wide": (png(1, 2**31 - 1), 413, "pixels"),
    "bomb": (png(30000, 30000), 413, "pixels"),
    "too many pixels": (png(8193, 8192), 413, r"at most 67108864 pixels. Received: 8193 x 8192"),
    "16 bits, grey": (encoded(GREY.astype("uint16")), 422, "expected 8 bits per channel"),
    "16 bits, RGB": (png(1, 1, depth=16, rows=bytes(7)), 422, "Received: 16 bits per channel"),
    "16 bits, TIFF": (encoded(GREY.astype("uint16"), "TIFF"), 422, "expected 8 bits per channel"),
    "float": (encoded(GREY.astype("float32"), "TIFF"), 422, "Received: float32"),
    "lab": (
        encoded(Image.new("LAB", (4, 4)), "TIFF"),
        422,
        "expected grey, channels or RGB. Received: CIELAB",
    ),
    "transparent": (encoded(TRANSPARENT), 422, "expected an opaque image"),
    "transparent webp": (encoded(TRANSPARENT, "WEBP", lossless=True), 422, "expected an opaque image"),
    "transparent palette": (
        encoded(Image.fromarray(GREY).convert("P"), transparency=int(GREY[0, 0])),
        422,
        "opaque",
    ),
    "animated png": (frames("PNG"), 422, "several frames"),
    "animated webp": (frames("WEBP"), 422, "several frames"),
    "two pages": (frames("TIFF"), 422, "several frames or pages"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files(name):
    file, status, message = BAD_FILES[name]
    with pytest.raises(InputError, match=f"^photo: .*{message}") as caught:
        decode(file, 3, what="photo")
    assert status_of(caught.value) == status
    assert "\n" not in str(caught.value)


def test_zeros_in_the_code_of_a_jpeg_are_noticed():
    """Most of them: some zeros are valid code too, which no decoder can tell from what was there."""
    whole = encoded(photographs.astronaut(), "JPEG", quality=90)
    assert decode(whole, 3).shape == (512, 512, 3)
    noticed = 0
    starts = np.linspace(1000, len(whole) - 1000, 20).astype(int)
    for start in starts:
        with contextlib.suppress(InputError):
            decode(whole[:start] + bytes(500) + whole[start + 500 :], 3)
            continue
        noticed += 1
    assert noticed >= 15


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for read in (lambda path: read_image(path, 1), head):
        with pytest.raises(InputError, match=r"pipe.png: not a regular file"):
            read(tmp_path / "pipe.png")


@given(st.text(), st.binary(max_size=20))
def test_printable(text, name):
    assert printable("Zelle [ä] 細胞.png") == "Zelle [ä] 細胞.png"
    assert printable("a\x1b[2J\nb\udcff") == "a\\x1b[2J\\nb\\xff"
    for any_text in (text, os.fsdecode(name)):
        shown = printable(any_text)
        shown.encode("utf-8")
        assert not any(unicodedata.category(c) in ("Cc", "Cs") for c in shown)


def test_limits():
    file = encoded(RGB)
    assert decode(file, 3, max_bytes=len(file), max_pixels=12 * 17).shape == RGB.shape
    with pytest.raises(InputError, match=rf"at most {len(file) - 1} bytes. Received: {len(file)}") as caught:
        decode(file, 3, max_bytes=len(file) - 1)
    assert status_of(caught.value) == 413
    with pytest.raises(InputError, match=r"at most 203 pixels. Received: 12 x 17") as caught:
        decode(file, 3, max_pixels=203)
    assert status_of(caught.value) == 413


def test_a_bomb_is_refused_before_it_is_decoded():
    """A small file that is 72 million zeros when decoded."""
    code = (
        "import resource, sys\n"
        "from patchnet_tf.errors import InputError\n"
        "from patchnet_tf.images.reading import decode\n"
        "from patchnet_tf.serving.requests import status_of\n"
        "file = sys.stdin.buffer.read()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: decode(file, 1)\n"
        "except InputError as error: print(status_of(error))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    bomb = png(9000, 8000, colour=0, rows=bytes(9000 * 8001))
    assert len(bomb) < 100_000
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], input=bomb, capture_output=True, check=True
    )
    status, grown = map(int, ran.stdout.split())
    assert status == 413
    assert grown < 20_000  # KiB


def test_many_pages_are_not_counted():
    """A page's head takes a few bytes; counting them would read every one."""
    page = struct.pack("<H", 3) + b"".join(
        struct.pack("<HHII", tag, 4, 1, value) for tag, value in ((256, 1), (257, 1), (262, 1))
    )
    count = 20_000
    file = b"II*\0" + struct.pack("<I", 8)
    for k in range(count):
        file += page + struct.pack("<I", 8 + (k + 1) * (len(page) + 4) if k < count - 1 else 0)
    began = time.monotonic()
    with pytest.raises(InputError):
        decode(file, 1)
    assert time.monotonic() - began < 2


NAMES = [kind.name.upper() for kind in FORMATS if kind.name.upper() in Image.SAVE]
SEEDS = {name: encoded(RGB, name, **({"lossless": True} if name == "WEBP" else {})) for name in NAMES}
SEEDS["TIFF, compressed"] = encoded(RGB, "TIFF", compression="tiff_deflate")
SEEDS["progressive"] = encoded(RGB, "JPEG", progressive=True)
SEEDS["palette"] = encoded(Image.fromarray(RGB).quantize(16))
PIXELS = {name: decode(file, 3) for name, file in SEEDS.items()}


def survives(file, channels=3):
    """Decode whatever this is: an image within the limit, or a InputError of one line."""
    error = None
    try:
        image = decode(file, channels, max_pixels=10_000)
    except InputError as caught:
        error = caught
    if error:
        assert status_of(error) in (400, 413, 415, 422)
        assert "\n" not in str(error)
        return None
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == channels
    assert 0 < image.size <= 10_000 * channels
    return image


def test_a_bmp_of_few_bytes_takes_little_memory():
    """Its code moves on 30,000 times by 255 columns and rows: 500 MB of black, were they believed."""
    code = b"\x00\x02\xff\xff" * 30_000 + b"\x00\x01"
    palette = bytes(v for grey in range(256) for v in (grey, grey, grey, 0))
    start = 54 + len(palette)
    file = b"BM" + struct.pack("<IHHI", start + len(code), 0, 0, start)
    file += struct.pack("<IiiHHIIiiII", 40, 64, 64, 1, 8, 1, len(code), 0, 0, 256, 0) + palette + code
    tracemalloc.start()
    try:
        survives(file)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", SEEDS)
def test_no_part_of_a_file_passes_for_another_image(name):
    file, pixels = SEEDS[name], PIXELS[name]
    for end in range(len(file)):
        image = survives(file[:end])
        # What follows the pixels may be missing: checksums and PNG's last chunk.
        if image is not None:
            np.testing.assert_array_equal(image, pixels)
            assert end >= len(file) - 20


@st.composite
def damaged(draw):
    """A file with bytes changed, cut out, doubled or taken from another format."""
    file = bytearray(SEEDS[draw(st.sampled_from(sorted(SEEDS)))])
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(len(file) - 1, 0)))
        match draw(st.sampled_from(["byte", "number", "cut", "insert", "end", "splice"])):
            case "byte":
                file[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case "number":
                file[at : at + 4] = struct.pack(
                    draw(st.sampled_from(["<I", ">I"])), draw(st.integers(0, 2**32 - 1))
                )
            case "cut":
                del file[at : at + draw(st.integers(1, 40))]
            case "insert":
                file[at:at] = draw(st.binary(max_size=20))
            case "end":
                del file[at:]
            case "splice":
                other = SEEDS[draw(st.sampled_from(sorted(SEEDS)))]
                file[at:] = other[draw(st.integers(0, len(other))) :]
    return bytes(file)


def fuzz(file, channels):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in a server
        survives(file, channels)


@settings(max_examples=300, deadline=None)
@given(st.one_of(damaged(), st.binary(max_size=100)), st.sampled_from([1, 3]))
def test_damaged_files(file, channels):
    fuzz(file, channels)


@pytest.mark.slow
def test_damaged_files_for_ten_minutes():
    began, tried = time.monotonic(), 0

    @settings(max_examples=5000, deadline=None, database=None)
    @given(st.one_of(damaged(), st.binary(max_size=100)), st.sampled_from([1, 3]))
    def attempt(file, channels):
        nonlocal tried
        tried += 1
        fuzz(file, channels)

    while time.monotonic() - began < 600:
        attempt()
    print(f"{tried} files in {time.monotonic() - began:.0f} s")
    assert tried > 10_000


def test_json():
    assert parse_json(b'{"instances": [1, 2.5, null]}') == {"instances": [1, 2.5, None]}
    constants = [b"[NaN]", b"[Infinity]", b"[-Infinity]"]
    long = b"[" + b"9" * 9999 + b"]"
    for text in (*constants, b"", b"{", b"\xff\xfe\xfd", b"{'a': 1}", b"[1,]", long):
        with pytest.raises(InputError, match=r"^request: not JSON \(") as caught:
            parse_json(text)
        assert status_of(caught.value) == 400
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="nested too deeply"):
        parse_json(b"[" * 200_000 + b"]" * 200_000)


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 3]), st.integers(0, 99))
def test_pixels_from_lists(height, width, channels, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, channels), "uint8")
    read = pixels_from_lists(parse_json(json.dumps(image.tolist()).encode()))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, image)


@pytest.mark.parametrize(
    ("rows", "status", "message"),
    [
        (3, 400, "rows of pixels.*Received: a number"),
        ("text", 400, "Received: a text"),
        (None, 400, "Received: null"),
        ({}, 400, "Received: an object"),
        ([], 400, "Received: no rows"),
        ([[]], 400, "an empty row"),
        ([3], 400, "a number as row"),
        ([["abc"]], 400, "a text as pixel"),
        ([[3, 4]], 400, "a number as pixel"),
        ([[[1], [1, 2]]], 400, "rows of one length"),
        ([[[1]], [[1], [2]]], 400, "rows of one length"),
        ([[[1.5]]], 400, "whole numbers. Received: a number with a fraction"),
        ([[[True]]], 400, "whole numbers. Received: true or false"),
        ([[["7"]]], 400, "whole numbers. Received: a text"),
        ([[[None]]], 400, "whole numbers. Received: null"),
        ([[[[7]]]], 400, "whole numbers. Received: a list"),
        ([[[float("inf")]]], 400, "whole numbers"),
        ([[[256, 0]]], 422, "0..255. Received: 0 to 256"),
        ([[[-1]]], 422, "0..255. Received: -1 to -1"),
        ([[[10**30]]], 422, "0..255. Received: numbers far beyond"),
    ],
)
def test_bad_lists(rows, status, message):
    with pytest.raises(InputError, match=f"^image: .*{message}") as caught:
        pixels_from_lists(rows)
    assert status_of(caught.value) == status


def test_base64():
    file = bytes(range(256))
    assert file_from_base64(base64.b64encode(file).decode()) == file
    for text in ("abc", "ab!=", "ä===", "YQ", "YQ==\n"):
        with pytest.raises(InputError, match="not base64"):
            file_from_base64(text)
    for value in (None, 3, ["YQ=="]):
        with pytest.raises(InputError, match="expected a text"):
            file_from_base64(value)
    with pytest.raises(InputError, match="at most 100 bytes") as caught:
        file_from_base64(base64.b64encode(bytes(200)).decode(), max_bytes=100)
    assert status_of(caught.value) == 413
    assert file_from_base64(base64.b64encode(bytes(100)).decode(), max_bytes=100) == bytes(100)


def test_validation_needs_no_runtime():
    code = (
        "import sys, patchnet_tf.images.reading, patchnet_tf.serving.requests\n"
        "heavy = {'tensorflow', 'keras', 'onnxruntime', 'tifffile', 'imagecodecs', 'pydicom'}\n"
        "sys.exit(bool(heavy & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
