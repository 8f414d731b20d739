"""How large an image's pixels are, by what its file says."""

import contextlib
from pathlib import Path
from xml.etree import ElementTree

from .formats.tiff import named

MICROMETRES = {  # in a unit, as OME and ImageJ write it
    "µm": 1.0,
    "μm": 1.0,
    "um": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "\\u00B5m": 1.0,
    "nm": 1e-3,
    "mm": 1e3,
    "cm": 1e4,
}


def pixel_size(path: str | Path) -> tuple[float, float] | None:
    """Return the (height, width) of a pixel in micrometres that an OME-TIFF, ImageJ's or DICOM file has.

    The dots per inch of other files are those of a printer or a screen. None where the file does not say, or
    cannot be read as such a file.

    Example:
        >>> pixel_size("cell.ome.tif")
        (0.25, 0.25)
    """
    for read in (of_tiff, of_dicom):
        with contextlib.suppress(Exception):  # whatever a library says of a file that is none of its own
            size = read(Path(path))
            if size is not None and all(0 < side < float("inf") for side in size):
                return size
    return None


def of_tiff(path: Path) -> tuple[float, float] | None:
    """Return what a TIFF file says, by OME's or ImageJ's metadata."""
    from tifffile import TiffFile

    with TiffFile(path, _multifile=False) as tiff:
        if tiff.is_ome:
            return of_ome(tiff.ome_metadata)
        if not tiff.is_imagej:
            return None
        unit = MICROMETRES[tiff.imagej_metadata["unit"]]
        tags = tiff.pages[0].tags
        (down, pixels_down), (across, pixels_across) = tags.valueof(283)[::-1], tags.valueof(282)[::-1]
        return unit * down / pixels_down, unit * across / pixels_across


def of_ome(xml: str) -> tuple[float, float] | None:
    """Return what the first image's description in OME-XML says."""
    pixels = next(e for e in ElementTree.fromstring(xml).iter() if named(e, "Pixels"))
    sides = [
        float(pixels.get(f"PhysicalSize{axis}")) * MICROMETRES[pixels.get(f"PhysicalSize{axis}Unit", "µm")]
        for axis in "YX"
    ]
    return sides[0], sides[1]


def of_dicom(path: Path) -> tuple[float, float] | None:
    """Return what a DICOM file says, of the patient or, where it does not know better, of the detector."""
    from pydicom import dcmread

    data = dcmread(path, stop_before_pixels=True)
    for group in [*(data.get("SharedFunctionalGroupsSequence") or []), data]:
        for found in [*(group.get("PixelMeasuresSequence") or []), group]:
            spacing = found.get("PixelSpacing") or found.get("ImagerPixelSpacing")
            if spacing:
                return 1e3 * float(spacing[0]), 1e3 * float(spacing[1])
    return None
