"""DICOM, by pydicom and the decoders that it recommends.

The numbers are those that the file rescales its stored ones to, or with `Pixels.window` those that its first
window makes of them. MONOCHROME1 is inverted within the stored range, so that a greater number is brighter.
"""

import functools
import re
import struct
import warnings
from typing import Any, BinaryIO

import numpy as np

from ...contract import Pixels
from ...errors import FormatError, InputError, UnfitError
from .base import RGB, Format, Source, converted, package
from .pillow import check_jpeg

GREYS = ("MONOCHROME1", "MONOCHROME2")
PALETTE = "PALETTE COLOR"
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
HEIGHT_AND_WIDTH = {*range(0xC0, 0xD0), 0xF7} - {
    0xC4,
    0xC8,
    0xCC,
}  # markers of JPEG and JPEG-LS that have them
NEEDED = {"Rows", "Columns", "BitsAllocated", "PhotometricInterpretation"}
PIXEL_GROUPS = (b"\xe0\x7f", b"\x7f\xe0")  # of the pixels' tag, in either order of bytes
JPEG = "1.2.840.10008.1.2.4.50"  # of 8 bits
# The decoder of each compressed transfer syntax: of those that pydicom can use one that notices damage.
DECODERS = {
    "1.2.840.10008.1.2.5": "pydicom",  # run lengths
    JPEG: "pillow",
    "1.2.840.10008.1.2.4.51": "pylibjpeg",  # of 12 bits
    "1.2.840.10008.1.2.4.57": "pylibjpeg",  # lossless
    "1.2.840.10008.1.2.4.70": "pylibjpeg",
    "1.2.840.10008.1.2.4.80": "pyjpegls",  # JPEG-LS
    "1.2.840.10008.1.2.4.81": "pyjpegls",
    "1.2.840.10008.1.2.4.90": "pylibjpeg",  # JPEG 2000
    "1.2.840.10008.1.2.4.91": "pylibjpeg",
}
DEFLATED = b"1.2.840.10008.1.2.1.99"
EXACT = 2**24  # whole numbers up to this are the same in float32


class DicomSource(Source):
    """A DICOM file."""

    def __init__(self, file: BinaryIO) -> None:
        pydicom = library()
        from pydicom.pixels import get_decoder

        self.file = file
        if DEFLATED in file.read():  # in the file's head; pydicom would unpack it, however much it is
            raise UnfitError("expected pixels alone to be compressed. Received: a deflated file")
        file.seek(0)
        self.data = data = pydicom.dcmread(file, stop_before_pixels=True)
        if NEEDED - {*data.dir()} or file.read(2) not in PIXEL_GROUPS:
            raise UnfitError(f"expected a DICOM file with pixels. Received: {kind_of(data)}")
        self.size = int(data.Rows), int(data.Columns)
        self.count = max(int(data.get("NumberOfFrames") or 1), 1)
        syntax = data.file_meta.get("TransferSyntaxUID")
        try:
            decoder = get_decoder(syntax)
        except (NotImplementedError, ValueError, TypeError):
            name = getattr(syntax, "name", syntax)
            raise UnfitError(f"expected a transfer syntax that is read. Received: {name}") from None
        self.plugin = DECODERS.get(syntax, "")
        if syntax.is_encapsulated and not self.plugin:
            raise UnfitError(f"expected a transfer syntax that is read. Received: {syntax.name}")
        if self.plugin and self.plugin not in decoder.available_plugins:
            with package("dicom"):
                raise ImportError
        photometric = data.PhotometricInterpretation
        if photometric not in (*GREYS, PALETTE, *COLOURS):
            raise UnfitError(f"expected grey or colour. Received: {photometric}")
        self.grey = photometric in GREYS
        self.channels, self.names = (1, ()) if self.grey else (3, RGB)
        self.bits, self.signed = int(data.BitsAllocated), bool(data.get("PixelRepresentation", 0))
        self.dtype, self.kind = self.read_as(), f"DICOM of {self.bits} bits per sample"

    def read_as(self) -> str | None:
        """Return the dtype of the numbers, of all frames."""
        if not self.grey:
            return {
                8: "uint8",
                16: "uint8" if self.data.PhotometricInterpretation == PALETTE else "uint16",
            }.get(self.bits)
        frames = range(max(len(self.data.get("PerFrameFunctionalGroupsSequence") or []), 1))
        rescaled = [self.described(frame, "PixelValueTransformationSequence") for frame in frames]
        if any(item.get("ModalityLUTSequence") for item in rescaled):
            return "uint16"
        if self.signed or self.bits > 16 or any(map(changes, rescaled)):
            return "float32"
        return "uint8" if self.bits <= 8 else "uint16"

    def described(self, frame: int, sequence: str) -> Any:
        """Return the data set that says of a frame what a sequence is about; the whole file's without one."""
        of_frames = self.data.get("PerFrameFunctionalGroupsSequence") or []
        for group in (
            *of_frames[frame : frame + 1],
            *(self.data.get("SharedFunctionalGroupsSequence") or []),
        ):
            if items := group.get(sequence):
                return items[0]
        return self.data

    def frames(self) -> int:
        """Return how many frames there are."""
        return self.count

    def windowed(self) -> bool:
        """Return whether the file has a window, and grey pixels."""
        view = self.described(0, "FrameVOILUTSequence")
        return self.grey and bool(view.get("VOILUTSequence") or "WindowCenter" in view)

    def read(self, frame: int, pixels: Pixels) -> np.ndarray:
        """Return one frame, rescaled, or windowed where `pixels` asks for it."""
        from pydicom import dcmread
        from pydicom.pixels import apply_color_lut, apply_rescale, pixel_array

        self.file.seek(0)
        whole = dcmread(self.file)
        check_code(whole, frame)
        try:
            image = pixel_array(whole, index=frame, decoding_plugin=self.plugin)
        except RuntimeError as error:  # on a line of its own, what each decoder says
            raise InputError(
                "damaged or truncated: " + "; ".join(map(str.strip, str(error).splitlines()[1:]))
            ) from None
        if self.data.PhotometricInterpretation == PALETTE:
            image = apply_color_lut(image, self.data)
            if image.dtype.itemsize == 2:  # of the table's 16 bits the upper 8, as they are shown
                image = (image >> 8).astype("uint8")
        if not self.grey:
            return image.reshape(*self.size, -1)[..., :3]
        if self.bits == 1:
            image = 255 * image  # black and white, as of other formats
        rescale = self.described(frame, "PixelValueTransformationSequence")
        inverted = self.data.PhotometricInterpretation == "MONOCHROME1"
        if pixels.window:
            shown = self.window(apply_rescale(image, rescale), frame)
            low, high = pixels.range
            image = low + (high - low) * (1 - shown if inverted else shown)
            return (image if pixels.dtype == "float32" else np.rint(image)).astype(pixels.dtype)[..., None]
        if inverted and image.dtype.kind in "ui":
            image = self.inverted(image)
        image = apply_rescale(image, rescale)
        if (
            image.dtype.kind in "ui"
            and image.dtype.itemsize > 2
            and np.abs(image.astype("int64")).max() > EXACT
        ):
            raise UnfitError(f"expected whole numbers up to {EXACT}. Received: larger ones")
        return converted(image, self.dtype)[..., None]

    def inverted(self, image: np.ndarray) -> np.ndarray:
        """Return stored numbers the other way round, within what the file's bits can hold."""
        bits = 8 if self.bits == 1 else int(self.data.get("BitsStored", self.bits))
        ends = (
            -1 if self.signed else 2**bits - 1
        )  # of signed numbers -2^(n-1) and 2^(n-1) - 1, which add up to -1
        return (ends - image.astype("int64")).astype(image.dtype)

    def window(self, image: np.ndarray, frame: int) -> np.ndarray:
        """Return rescaled numbers in 0..1 by the first window of a frame."""
        from pydicom import Dataset
        from pydicom.pixels import apply_voi, apply_windowing

        view = self.described(frame, "FrameVOILUTSequence")
        if table := view.get("VOILUTSequence"):
            whole = image if image.dtype.kind in "ui" else np.rint(image).astype("int64")
            return apply_voi(whole, self.data if view is self.data else view) / (
                2.0 ** table[0].LUTDescriptor[2] - 1
            )
        if "WindowCenter" not in view:
            raise UnfitError("expected a window in the file, as `window` asks for. Received: none")
        bits = 16
        plain = Dataset()  # so that the window's ends become 0 and 2^16 - 1
        plain.PhotometricInterpretation, plain.BitsStored, plain.PixelRepresentation = GREYS[1], bits, 0
        plain.WindowCenter, plain.WindowWidth = view.WindowCenter, view.WindowWidth
        plain.VOILUTFunction = view.get("VOILUTFunction") or "LINEAR"
        return apply_windowing(image, plain) / (2**bits - 1)

    def close(self) -> None:
        """Nothing is held but the file that was given."""


@functools.cache
def library() -> Any:
    """Return pydicom, whose remarks on what is odd and can be read are not shown."""
    with package("dicom"):
        import pydicom
    warnings.filterwarnings("ignore", module="pydicom")
    return pydicom


def check_code(data: Any, frame: int) -> None:
    """Raise InputError where a compressed frame is cut, or has another size than the file says.

    Raises:
        ValueError: the code of a JPEG file of 8 bits breaks.
    """
    from pydicom.encaps import get_frame

    syntax = data.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        return
    expected = int(data.Rows), int(data.Columns)
    code = get_frame(data.PixelData, frame, number_of_frames=int(data.get("NumberOfFrames") or 1))
    size = coded_size(code)
    if size is not None and size != expected:
        raise InputError(f"damaged: expected a frame of {expected}, height and width. Received: {size}")
    if code[:2] == b"\xff\xd8" and not code.rstrip(b"\0\xff").endswith(b"\xff\xd9"):
        raise InputError("truncated: a frame without the marker that ends it")
    if syntax == JPEG:
        check_jpeg(code)


def changes(data: Any) -> bool:
    """Return whether a data set rescales stored numbers."""
    return (float(data.get("RescaleSlope") or 1), float(data.get("RescaleIntercept") or 0)) != (1, 0)


def kind_of(data: Any) -> str:
    """Return what a DICOM file without an image is."""
    return getattr(data.get("SOPClassUID"), "name", "") or "none"


def coded_size(code: bytes) -> tuple[int, int] | None:
    """Return the (height, width) in the head of a JPEG, JPEG-LS or JPEG 2000 code; None of another code.

    Raises:
        InputError: JPEG 2000 is in boxes, and one of them has no length, which pydicom would read for ever.
    """
    if code[4:8] == b"jP  ":  # boxes of a JP2 file, of which one should be the code
        at = 0
        while at < len(code) and code[at + 4 : at + 8] != b"jp2c":
            length = int.from_bytes(code[at : at + 4], "big")
            if length < 8:
                raise InputError("damaged: a box of JPEG 2000 without a length")
            at += length
        code = code[at + 8 :]
    if code[:4] == b"\xff\x4f\xff\x51":  # JPEG 2000
        right, bottom, left, top = struct.unpack(">4I", code[8:24])
        return bottom - top, right - left
    at = 2
    while code[:2] == b"\xff\xd8" and at + 9 <= len(code):
        if code[at] != 0xFF:
            break
        if code[at + 1] in HEIGHT_AND_WIDTH:
            return struct.unpack(">2H", code[at + 5 : at + 9])
        at += 1 if code[at + 1] == 0xFF else 2 + int.from_bytes(code[at + 2 : at + 4], "big")
    return None


def refuse_encrypted(file: BinaryIO) -> Source:
    """Raise FormatError."""
    raise FormatError("an encrypted file (CMS, as DICOM's secure files are); decrypt it first")


DICOM = Format("DICOM", (".dcm", ".dicom"), re.compile(rb".{128}DICM", re.DOTALL), DicomSource)
# ContentInfo of RFC 5652: a sequence that begins with the identifier of one of its kinds.
ENCRYPTED = Format(
    "DICOM",
    (),
    re.compile(rb"\x30.{1,9}\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07", re.DOTALL),
    refuse_encrypted,
)
