"""The formats of image files that are read, and by what a file is recognised: its first bytes."""

from .base import RGB, Format, Source
from .dicom import DICOM, ENCRYPTED
from .npy import NPY
from .pillow import BMP, GIF, JPEG, WEBP
from .png import PNG
from .tiff import TIFF

# DICOM comes first: its files may begin as TIFF does too.
FORMATS: tuple[Format, ...] = (DICOM, PNG, JPEG, TIFF, BMP, WEBP, NPY, ENCRYPTED)
ON_DISK = (*FORMATS, GIF)
SUFFIXES = frozenset(suffix for kind in ON_DISK for suffix in kind.suffixes)
LONGEST_START = 132  # bytes by which a file is recognised

__all__ = ["FORMATS", "LONGEST_START", "ON_DISK", "RGB", "SUFFIXES", "Format", "Source"]
