"""TIFF of other kinds than one page of 8 bits, written by tifffile."""

import io
import subprocess
import sys
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from patchnet_tf.contract import Pixels
from patchnet_tf.errors import InputError
from patchnet_tf.images.reading import decode, head, read_image

rng = np.random.default_rng(0)
STACK = rng.integers(0, 60000, (4, 3, 20, 30), "uint16")  # depth, channels, height, width
IMAGE = np.moveaxis(STACK[2], 0, -1)
NAMES = ["DAPI", "CENPA", "tubulin"]
OME = {"ome": True, "metadata": {"axes": "ZCYX", "Channel": {"Name": NAMES}}}


def written(image, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, image, **{"photometric": "minisblack", **options})
    return file.getvalue()


def deep(channels, **options):
    return Pixels(dtype="uint16", channels=channels, **options)


@pytest.mark.parametrize(
    "options",
    [
        OME,
        OME | {"compression": "zlib", "predictor": True, "tile": (16, 16)},
        OME | {"bigtiff": True},
        {"imagej": True, "metadata": {"axes": "ZCYX"}},
        {"metadata": {"axes": "ZCYX"}},
        {"metadata": {"axes": "ZCYX"}, "truncate": True, "byteorder": ">"},
    ],
)
def test_channels_and_planes(tmp_path, options):
    path = tmp_path / "a.tif"
    path.write_bytes(written(STACK, **options))
    names = tuple(NAMES) if "ome" in options else ()
    assert head(path) == ("uint16", 3, names, (20, 30))
    for frame, number in ((0, 0), (3, 3), ("middle", 2)):
        image = read_image(path, deep(3, frame=frame))
        assert image.dtype == "uint16"
        np.testing.assert_array_equal(image, np.moveaxis(STACK[number], 0, -1))
    chosen = read_image(path, deep(2, select=(2, "DAPI" if names else 0), frame=2))
    np.testing.assert_array_equal(chosen, IMAGE[..., [2, 0]])
    with pytest.raises(InputError, match=r"a.tif: expected one image. Received: several frames"):
        read_image(path, deep(3))
    with pytest.raises(InputError, match=r"expected a channel 'GFP'. Received: 3 channel\(s\)"):
        read_image(path, deep(1, select=("GFP",), frame=0))
    with pytest.raises(InputError, match=r"expected 1 channel\(s\), or which to choose. Received: 3"):
        read_image(path, deep(1, frame=0))


@pytest.mark.parametrize("compression", ["lzw", "zlib", "zstd", "lzma", "packbits"])
def test_compressions(compression):
    file = written(STACK[2], compression=compression, metadata={"axes": "CYX"})
    np.testing.assert_array_equal(decode(file, deep(3)), IMAGE)


@pytest.mark.parametrize("layout", ["contig", "separate"])
def test_colour_of_16_bits(layout):
    image = STACK[2] if layout == "separate" else IMAGE
    file = written(image, photometric="rgb", planarconfig=layout)
    np.testing.assert_array_equal(decode(file, deep(3)), IMAGE)
    grey = decode(file, deep(1))[..., 0]
    assert np.abs(grey - IMAGE @ np.array([0.299, 0.587, 0.114])).max() <= 0.6
    with pytest.raises(InputError, match=r"expected 8 bits per channel, grey or RGB. Received: uint16"):
        decode(file, 3)


def test_alpha():
    opaque = np.dstack([IMAGE, np.full((20, 30), 65535, "uint16")])
    file = written(opaque, photometric="rgb", extrasamples=["unassalpha"])
    np.testing.assert_array_equal(decode(file, deep(3)), IMAGE)
    opaque[3, 4, 3] = 65534
    with pytest.raises(InputError, match="expected an opaque image"):
        decode(written(opaque, photometric="rgb", extrasamples=["unassalpha"]), deep(3))


@pytest.mark.parametrize("dtype", ["int8", "int16", "float16", "float32", "float64"])
def test_numbers_that_become_float32(dtype):
    image = (STACK[0, 0] % 200 - 100.0).astype(dtype)
    read = decode(written(image), Pixels(dtype="float32", range=(-128, 128), channels=1))
    assert read.dtype == "float32"
    np.testing.assert_array_equal(read[..., 0], image.astype("float32"))


def test_many_samples_of_a_pixel():
    image = rng.integers(0, 60000, (20, 30, 16), "uint16")
    file = written(image, planarconfig="contig", metadata={"axes": "YXC"})
    np.testing.assert_array_equal(decode(file, deep(16)), image)
    np.testing.assert_array_equal(decode(file, deep(2, select=(15, 3))), image[..., [15, 3]])


def test_more_channels_than_a_model_can_have_are_chosen_from():
    stack = rng.integers(0, 60000, (40, 20, 30), "uint16")
    file = written(stack, ome=True, metadata={"axes": "CYX"})
    np.testing.assert_array_equal(decode(file, deep(2, select=(39, 3))), np.moveaxis(stack[[39, 3]], 0, -1))
    with pytest.raises(InputError, match=r"expected at most 16 channels, or which to choose. Received: 40"):
        decode(file, deep(16))


def test_white_as_the_least_number():
    np.testing.assert_array_equal(
        decode(written(STACK[0, 0], photometric="miniswhite"), deep(1))[..., 0], 65535 - STACK[0, 0]
    )


def test_8_bits_of_several_channels():
    stack = (STACK[2] >> 8).astype("uint8")
    for options in ({"ome": True}, {}, {"truncate": True}):
        file = written(stack, metadata={"axes": "CYX"}, **options)
        np.testing.assert_array_equal(decode(file, 3), np.moveaxis(stack, 0, -1))


def test_turned_as_pillow_turns():
    for orientation in range(1, 9):
        turned = decode(written(STACK[0, 0], extratags=[(274, 3, 1, orientation, True)]), deep(1))
        file = io.BytesIO()
        eight = Image.fromarray((STACK[0, 0] >> 8).astype("uint8"))
        eight.save(file, "TIFF", tiffinfo={274: orientation})
        np.testing.assert_array_equal(turned >> 8, decode(file.getvalue(), 1))


def with_bytes(file, old, new):
    assert old in file
    return file.replace(old, new)


BAD = {
    "no axes": (
        written(STACK[2]),
        r"axes that the file's metadata name.* Received: QYX, shape=\(3, 20, 30\)",
    ),
    "pages": (written(STACK[2], metadata=None), "expected one image. Received: several frames or pages"),
    "two axes of frames": (
        written(STACK, ome=True, metadata={"axes": "TZYX"}),
        r"expected one axis of frames, and one of channels. Received: TZYX",
    ),
    "jpeg": (written(STACK[0, 0], compression="jpeg2000"), "expected a compression of none, LZW.*JPEG2000"),
    "int32": (written(STACK[0, 0].astype("int32")), "at most 16 bits, or floats. Received: int32"),
    "complex": (written(STACK[0, 0].astype("complex64")), "or floats. Received: complex64"),
    "lab": (written(IMAGE, photometric="cielab"), "expected grey, channels or RGB. Received: CIELAB"),
    "nan": (written(np.full((20, 30), np.nan, "float32")), "Received: NaN or infinity in 600 of 600"),
    "range": (
        written(np.full((20, 30), 3, "float32")),
        "in 0.0..1.0. Received: 3.0 to 3.0, 600 of 600 outside",
    ),
    "cut": (written(STACK[0, 0], compression="zlib")[:-100], "truncated"),
    "cut plane": (written(STACK[2], metadata={"axes": "CYX"}, truncate=True)[:-100], "truncated"),
    "changed": (
        with_bytes(
            written(np.ones((20, 30), "uint16"), compression="zlib"),
            zlib.compress(b"\1\0" * 600, 6)[-4:],
            b"abcd",
        ),
        "damaged or truncated",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_tiff(name):
    file, message = BAD[name]
    dtype = "float32" if name in ("int32", "complex", "nan", "range") else "uint16"
    with pytest.raises(InputError, match=f"^scan: .*{message}") as caught:
        decode(file, Pixels(dtype=dtype, channels=1), what="scan")
    assert "\n" not in str(caught.value)


def test_a_small_strip_of_many_zeros_is_not_unpacked():
    file = written(np.zeros((20, 30), "uint16"), compression="zlib")
    bomb = zlib.compress(bytes(10**8))
    with tifffile.TiffFile(io.BytesIO(file)) as tiff:
        tag = tiff.pages[0].tags
        where = tag["StripOffsets"].valueoffset, tag["StripByteCounts"].valueoffset
    changed = bytearray(file + bomb)
    changed[where[0] : where[0] + 4] = len(file).to_bytes(4, "little")
    changed[where[1] : where[1] + 4] = len(bomb).to_bytes(4, "little")
    with pytest.raises(InputError, match=r"damaged or truncated image .*SPACE"):
        decode(bytes(changed), deep(1))


def test_no_other_file_is_opened(tmp_path):
    """OME-TIFF may name other files that hold planes."""
    secret = tmp_path / "other.ome.tif"
    secret.write_bytes(written(STACK[0, :1], ome=True, metadata={"axes": "CYX"}))
    ours = tmp_path / "a.ome.tif"
    text = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SizeX="30" SizeY="20"'
        ' SizeC="2" SizeZ="1" SizeT="1"><Channel ID="Channel:0:0" SamplesPerPixel="1"/>'
        '<Channel ID="Channel:0:1" SamplesPerPixel="1"/><TiffData IFD="0" FirstC="0" PlaneCount="1"/>'
        f'<TiffData IFD="0" FirstC="1" PlaneCount="1"><UUID FileName="{secret}">urn:uuid:1</UUID></TiffData>'
        "</Pixels></Image></OME>"
    )
    ours.write_bytes(written(STACK[1, 0], description=text, metadata=None))
    with pytest.raises(InputError, match=r"a.ome.tif: "):
        read_image(ours, deep(2))
    np.testing.assert_array_equal(read_image(ours, deep(1))[..., 0], STACK[1, 0])


def test_without_the_packages_8_bits_are_read(tmp_path):
    eight = (STACK[0, 0] >> 8).astype("uint8")
    tifffile.imwrite(tmp_path / "8.tif", eight)
    tifffile.imwrite(tmp_path / "16.tif", STACK[0, 0])
    code = (
        "import sys\n"
        "for name in ('tifffile', 'imagecodecs', 'pydicom'): sys.modules[name] = None\n"
        "from patchnet_tf.contract import Pixels\n"
        "from patchnet_tf.errors import FormatError\n"
        "from patchnet_tf.images.reading import read_image\n"
        "print(read_image('8.tif', 1).sum())\n"
        "try: read_image('16.tif', Pixels(dtype='uint16', channels=1))\n"
        "except FormatError as error: print(error)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    total, message = ran.stdout.splitlines()
    assert int(total) == eight.sum()
    assert (
        message == "16.tif: a kind of image that needs more packages: pip install 'patchnet-tf[microscopy]'"
    )


def test_a_file_larger_than_memory_allows_is_read_in_part(tmp_path, monkeypatch):
    monkeypatch.setattr("patchnet_tf.images.reading.MAX_BYTES", 5000)
    (tmp_path / "a.tif").write_bytes(written(STACK, **OME))
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", deep(3, frame=2)), IMAGE)
    np.save(tmp_path / "a.npy", STACK)
    for read in (head, lambda path: read_image(path, 1)):
        with pytest.raises(InputError, match=r"a.npy: expected at most 5000 bytes. Received: 14528"):
            read(tmp_path / "a.npy")
