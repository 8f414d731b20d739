"""Damaged files of the kinds that are not 8 bits: cut, and with changed bytes, bits and lengths."""

import io
import struct

import cv2
import numpy as np
import pydicom
import pytest
import tifffile
from pydicom.uid import RLELossless

from patchnet_tf.contract import Pixels
from patchnet_tf.errors import InputError
from patchnet_tf.images.formats import ON_DISK
from patchnet_tf.images.reading import decode, head

from .test_dicom import WHEEL, made

rng = np.random.default_rng(0)
STACK = rng.integers(0, 60000, (3, 20, 30), "uint16")


def tiff(image, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, image, photometric="minisblack", **options)
    return file.getvalue()


def npy(image):
    file = io.BytesIO()
    np.save(file, image)
    return file.getvalue()


def compressed(uid):
    data = pydicom.dcmread(io.BytesIO(made(STACK[0], bits=16)))
    data.compress(uid)
    file = io.BytesIO()
    data.save_as(file)
    return file.getvalue()


WHOLE = {
    "png": (cv2.imencode(".png", np.moveaxis(STACK, 0, -1))[1].tobytes(), 3),
    "npy": (npy(STACK[0]), 1),
    "ome": (tiff(STACK, ome=True, metadata={"axes": "CYX", "Channel": {"Name": ["a", "b", "c"]}}), 3),
    "imagej": (tiff(STACK, imagej=True, metadata={"axes": "CYX"}), 3),
    "tiles": (tiff(STACK[0], compression="lzw", predictor=True, tile=(16, 16)), 1),
    "deflate": (tiff(STACK[0], compression="zlib"), 1),
    "zstandard": (tiff(STACK[0], compression="zstd"), 1),
    "dicom": (made(STACK[0], bits=16, RescaleSlope=2, RescaleIntercept=-9, WindowCenter=9, WindowWidth=9), 1),
    "run lengths": (compressed(RLELossless), 1),
    "jpeg 2000": ((WHEEL / "test_files" / "MR_small_jp2klossless.dcm").read_bytes(), 1),
    "jpeg-ls": ((WHEEL / "test_files" / "MR_small_jpeg_ls_lossless.dcm").read_bytes(), 1),
    "jpeg": ((WHEEL / "test_files" / "SC_rgb_jpeg_dcmtk.dcm").read_bytes(), 3),
}


def taken(channels, window=False):
    return Pixels(dtype="float32", channels=channels, clip=True, window=window)


def survives(file, channels, tmp_path):
    """Read whatever this is: an image within the limit, or a complaint of one line; so too its head."""
    (tmp_path / "file").write_bytes(file)
    for read in (
        lambda: head(tmp_path / "file"),
        lambda: decode(file, taken(channels), max_pixels=20_000, formats=ON_DISK),
        lambda: decode(file, taken(channels, window=True), max_pixels=20_000, formats=ON_DISK),
    ):
        try:
            image = read()
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017 (others pass)
            assert len(str(error)) < 500  # noqa: PT017
        else:
            assert isinstance(image, tuple) or image.shape[2] == channels


@pytest.mark.parametrize("name", WHOLE)
def test_a_cut_file_is_refused(name, tmp_path):
    file, channels = WHOLE[name]
    assert decode(file, taken(channels)).shape[2] == channels
    for size in (*np.linspace(1, len(file) - 1, 20).astype(int), len(file) // 2, len(file) - 200):
        survives(file[:size], channels, tmp_path)
    for size in (len(file) // 2, len(file) - 200):
        with pytest.raises(InputError):
            decode(file[:size], taken(channels))


@pytest.mark.parametrize("name", WHOLE)
def test_changed_bytes(name, tmp_path):
    file, channels = WHOLE[name]
    for number in range(40):
        changed = bytearray(file)
        for _ in range(rng.choice([1, 2, 5, 20])):
            at = rng.integers(min(len(file), 1500) if number % 4 else len(file) - 4)
            if rng.random() < 0.3:
                changed[at : at + 4] = struct.pack("<I", rng.choice([0, 1, 2**16, 2**31, 2**32 - 1]))
            else:
                changed[at] = rng.choice([0, 255, changed[at] ^ (1 << rng.integers(8))])
        survives(bytes(changed), channels, tmp_path)
