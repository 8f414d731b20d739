"""DICOM: files made here, whose numbers are worked out by hand, and all that pydicom's wheel carries."""

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels import apply_color_lut, apply_rescale, apply_voi_lut, pixel_array
from pydicom.uid import (
    MPEG2MPML,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    RLELossless,
    generate_uid,
)

from patchnet_tf.contract import Pixels
from patchnet_tf.errors import InputError
from patchnet_tf.images.formats.dicom import DECODERS
from patchnet_tf.images.reading import decode, head, read_image

rng = np.random.default_rng(0)
WHEEL = Path(pydicom.__file__).parent / "data"
FILES = sorted(WHEEL.rglob("*.dcm"))
STORED = rng.integers(0, 4096, (6, 5), "uint16")
ANY = (-1e6, 1e6)


def made(image=STORED, syntax=ExplicitVRLittleEndian, bits=12, frames=None, **elements):
    """Return the bytes of a DICOM file; `elements` are those to set otherwise, None leaves one out."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, generate_uid()
    data.Rows, data.Columns = image.shape[1:3] if frames else image.shape[:2]
    data.SamplesPerPixel = 3 if image.shape[-1] == 3 else 1
    data.PhotometricInterpretation = "RGB" if data.SamplesPerPixel == 3 else "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 8 * image.dtype.itemsize, bits, bits - 1
    data.PixelRepresentation = int(image.dtype.kind == "i")
    if data.SamplesPerPixel == 3:
        data.PlanarConfiguration = 0
    if frames:
        data.NumberOfFrames = frames
    data.PixelData = image.tobytes()
    data["PixelData"].VR = "OW" if image.dtype.itemsize == 2 else "OB"
    for name, value in elements.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    file = io.BytesIO()
    little = syntax != ExplicitVRBigEndian
    data.save_as(file, enforce_file_format=True, implicit_vr=False, little_endian=little)
    return file.getvalue()


def floats(channels=1, **options):
    return Pixels(**{"dtype": "float32", "range": ANY, "channels": channels} | options)


def deep(**options):
    return Pixels(dtype="uint16", channels=1, **options)


def test_stored_numbers():
    np.testing.assert_array_equal(decode(made(), deep())[..., 0], STORED)
    np.testing.assert_array_equal(decode(made(RescaleSlope=1, RescaleIntercept=0), deep())[..., 0], STORED)
    low = decode(made(PhotometricInterpretation="MONOCHROME1"), deep())[..., 0]
    np.testing.assert_array_equal(low, 4095 - STORED)
    eight = (STORED >> 4).astype("uint8")
    np.testing.assert_array_equal(decode(made(eight, bits=8), 1)[..., 0], eight)
    signed = (STORED.astype("int16") - 2048).astype("int16")
    np.testing.assert_array_equal(decode(made(signed), floats())[..., 0], signed)
    turned = decode(made(signed, PhotometricInterpretation="MONOCHROME1"), floats())[..., 0]
    np.testing.assert_array_equal(turned, -1 - signed)


def test_rescaled_numbers():
    elements = {"RescaleSlope": 0.5, "RescaleIntercept": -1000}
    np.testing.assert_array_equal(decode(made(**elements), floats())[..., 0], STORED * np.float32(0.5) - 1000)
    inverted = decode(made(PhotometricInterpretation="MONOCHROME1", **elements), floats())[..., 0]
    np.testing.assert_array_equal(inverted, (4095 - STORED) * np.float32(0.5) - 1000)
    with pytest.raises(InputError, match=r"^image: expected 16 bits.*Received: DICOM of 16 bits"):
        decode(made(**elements), deep())


def linear(values, centre, width):
    """Return 0..1 by the standard's formula of a linear window (PS3.3 C.11.2.1.2.1)."""
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)


def test_window():
    elements = {
        "RescaleSlope": 2,
        "RescaleIntercept": -1000,
        "WindowCenter": [400, 3],
        "WindowWidth": [800, 9],
    }
    expected = linear(STORED * 2.0 - 1000, 400, 800)
    shown = decode(made(**elements), Pixels(channels=1, window=True))
    assert shown.dtype == "uint8"
    assert np.abs(shown[..., 0] - 255 * expected).max() <= 0.501
    exact = decode(made(**elements), floats(range=(0.0, 1.0), window=True))
    np.testing.assert_allclose(exact[..., 0], expected, atol=1e-6)
    twelve = decode(made(**elements), deep(range=(0, 4095), window=True))
    assert np.abs(twelve[..., 0] - 4095 * expected).max() <= 0.501
    inverted = decode(
        made(PhotometricInterpretation="MONOCHROME1", **elements), floats(range=(0.0, 1.0), window=True)
    )
    np.testing.assert_allclose(inverted[..., 0], 1 - expected, atol=1e-6)
    with pytest.raises(InputError, match=r"expected a window in the file.*Received: none"):
        decode(made(), Pixels(dtype="uint16", channels=1, window=True))


def test_table_of_a_window():
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [4096, 0, 16], list(range(65520, -1, -16))
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    shown = decode(made(VOILUTSequence=[table]), Pixels(channels=1, window=True))[..., 0]
    np.testing.assert_array_equal(shown, np.rint(255 * (65520 - 16.0 * STORED) / 65535))


def test_head(tmp_path):
    path = tmp_path / "a.dcm"
    path.write_bytes(made(WindowCenter=40, WindowWidth=80, RescaleSlope=1, RescaleIntercept=-1024))
    assert head(path) == ("float32", 1, (), (6, 5))
    assert head(path, window=True).dtype == "uint8"
    path.write_bytes(made(rng.integers(0, 256, (6, 5, 3), "uint8"), bits=8))
    assert head(path, window=True) == ("uint8", 3, ("red", "green", "blue"), (6, 5))


def test_colour():
    image = rng.integers(0, 256, (6, 5, 3), "uint8")
    np.testing.assert_array_equal(decode(made(image, bits=8), 3), image)
    full = decode(made(image, bits=8, PhotometricInterpretation="YBR_FULL"), 3)
    y, cb, cr = np.moveaxis(image.astype(float), -1, 0)  # PS3.3 C.7.6.3.1.2
    rgb = [y + 1.402 * (cr - 128), y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128), y + 1.772 * (cb - 128)]
    assert np.abs(full - np.clip(np.stack(rgb, -1), 0, 255)).max() <= 1
    tables = {
        f"{colour}PaletteColorLookupTable{what}": value
        for colour, table in zip(
            ("Red", "Green", "Blue"), rng.integers(0, 65536, (3, 256), "uint16"), strict=True
        )
        for what, value in (("Descriptor", [256, 0, 16]), ("Data", table.tobytes()))
    }
    palette = made(image[..., 0], bits=8, PhotometricInterpretation="PALETTE COLOR", **tables)
    expected = [
        (np.frombuffer(tables[f"{colour}PaletteColorLookupTableData"], "uint16") >> 8)[image[..., 0]]
        for colour in ("Red", "Green", "Blue")
    ]
    np.testing.assert_array_equal(decode(palette, 3), np.stack(expected, -1))


def test_frames():
    stack = rng.integers(0, 4096, (4, 6, 5), "uint16")
    groups = []
    for k in range(4):
        rescale, group = Dataset(), Dataset()
        rescale.RescaleSlope, rescale.RescaleIntercept = 1, -k
        group.PixelValueTransformationSequence = [rescale]
        groups.append(group)
    file = made(stack, frames=4, PerFrameFunctionalGroupsSequence=groups)
    for frame, number in ((0, 0), (3, 3), ("middle", 2)):
        image = decode(file, floats(frame=frame))[..., 0]
        np.testing.assert_array_equal(image, stack[number].astype("float32") - number)
    with pytest.raises(InputError, match=r"expected one image. Received: several frames"):
        decode(file, floats())


def changed(change):
    """A file whose JPEG 2000 code is changed."""
    data = pydicom.dcmread(WHEEL / "test_files" / "JPEG2000.dcm")
    code = bytearray(data.PixelData)
    change(code, code.index(b"\xff\x4f\xff\x51"))
    data.PixelData = bytes(code)
    file = io.BytesIO()
    data.save_as(file)
    return file.getvalue()


def larger(code, at):
    code[at + 8 : at + 16] = (30000).to_bytes(4, "big") * 2


def in_an_endless_box(code, at):
    code[at : at + 20] = b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\0ftyp"


BAD = {
    "no pixels": (made(PixelData=None), "expected a DICOM file with pixels. Received: CT Image Storage"),
    "no rows": (made(Rows=None), "expected a DICOM file with pixels"),
    "private": (
        made(syntax="1.2.840.113619.5.2"),
        "expected a transfer syntax that is read. Received: 1.2.840.113619.5.2",
    ),
    "video": (
        made(syntax=MPEG2MPML, PixelData=pydicom.encaps.encapsulate([b"1234"])),
        "transfer syntax.*MPEG2",
    ),
    "deflated": (made(syntax=DeflatedExplicitVRLittleEndian), "Received: a deflated file"),
    "cut": (made()[:-10], "damaged or truncated.*less than expected"),
    "cut head": (made()[:300], "damaged or truncated|with pixels"),
    "frames": (made(NumberOfFrames=2**31 - 1), "expected one image. Received: several frames"),
    "colours": (made(PhotometricInterpretation="HSV"), "expected grey or colour. Received: HSV"),
    "large code": (
        changed(larger),
        r"damaged: expected a frame of \(1024, 256\).*Received: \(30000, 30000\)",
    ),
    "encrypted": (
        b"\x30\x82\x01\x00\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x03" + bytes(99),
        "an encrypted file",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_dicom(name):
    file, message = BAD[name]
    with pytest.raises(InputError, match=f"^scan: .*({message})") as caught:
        decode(file, floats(), what="scan")
    assert "\n" not in str(caught.value)


def test_big_endian_and_runs():
    big = made(STORED.astype(">u2"), syntax=ExplicitVRBigEndian)
    np.testing.assert_array_equal(decode(big, deep())[..., 0], STORED)
    data = pydicom.dcmread(io.BytesIO(made()))
    data.compress(RLELossless)
    file = io.BytesIO()
    data.save_as(file)
    np.testing.assert_array_equal(decode(file.getvalue(), deep())[..., 0], STORED)


def by_pydicom(path, frame, window):
    """Return a file's image by pydicom's own functions alone."""
    data = pydicom.dcmread(path)
    image = pixel_array(data, decoding_plugin=DECODERS.get(data.file_meta.TransferSyntaxUID, ""))
    image = image[frame] if int(data.get("NumberOfFrames") or 1) > 1 else image
    if data.PhotometricInterpretation == "PALETTE COLOR":
        return apply_color_lut(image, data) >> 8
    image = apply_rescale(image, data) if data.SamplesPerPixel == 1 else image
    return apply_voi_lut(image, data) if window else image


@pytest.mark.parametrize(
    ("name", "ended"),
    [
        ("SC_rgb_jpeg_dcmtk", True),
        ("SC_rgb_jpeg_dcmtk", False),
        ("MR_small_jpeg_ls_lossless", True),
        ("MR_small_jp2klossless", True),
        ("MR_small_RLE", True),
        ("JPGExtended", False),  # of these two kinds no decoder notices what is lost before the end
        ("SC_rgb_jpeg_gdcm", False),
    ],
)
def test_half_of_the_code_of_a_frame_is_noticed(name, ended):
    data = pydicom.dcmread(WHEEL / "test_files" / f"{name}.dcm")
    code = get_frame(data.PixelData, 0, number_of_frames=1)
    half = code[: len(code) // 4 * 2] + (b"\xff\xd9" if ended else b"")
    data.PixelData = encapsulate([half])
    file = io.BytesIO()
    data.save_as(file)
    with pytest.raises(InputError, match=r"damaged|truncated"):
        decode(file.getvalue(), floats(data.SamplesPerPixel))


def test_all_files_of_pydicom():
    """Each is read as pydicom's own functions read it, or refused in one line."""
    read, refused = [], []
    for path in FILES:
        try:
            said = head(path)
            frame = int(pydicom.dcmread(path, stop_before_pixels=True).get("NumberOfFrames") or 1) // 2
            pixels = Pixels(dtype=said.dtype or "uint8", channels=said.channels, clip=True, frame="middle")
            image = read_image(path, pixels)
        except InputError as error:
            refused.append(str(error))
            continue
        read.append(path.name)
        expected = by_pydicom(path, frame, window=False)
        if pydicom.dcmread(path, specific_tags=["BitsAllocated"]).BitsAllocated == 1:
            expected = 255 * expected
        np.testing.assert_array_equal(image.squeeze(), expected.astype(image.dtype).squeeze(), path.name)
        data = pydicom.dcmread(path, stop_before_pixels=True)
        if "WindowWidth" in data and said.channels == 1 and data.PhotometricInterpretation == "MONOCHROME2":
            shown = read_image(
                path, pixels.model_copy(update={"dtype": "float32", "range": (0.0, 1.0), "window": True})
            )
            whole = by_pydicom(path, frame, window=True)
            low, high = whole.min(), whole.max()
            if high > low and shown.min() == 0 and shown.max() == 1:
                np.testing.assert_allclose(shown.squeeze(), (whole - low) / (high - low), atol=1e-5)
    assert not any("\n" in message for message in refused)
    assert sum("expected a DICOM file with pixels" in message for message in refused) == 26
    assert (len(FILES), len(read)) == (104, 67)  # as docs/images.md says
