"""A data set's images on disk, decoded and resized once, for those that do not fit in memory.

One .npy file, which NumPy opens without this package: a record for each image, with its pixels, their least
and largest value, the (height, width) of its file, and the CRC-32 of the pixels. It is written beside its
place and then renamed, so a file of that name is a whole one. Its name ends with a digest of all that it
depends on: paths, sizes and times of the image files, the rules by which they are read, and the size they
are brought to. So one that is stale has another name, and is replaced.

Images are read with plain reads, not through a memory map: what was read does not count as the process's own
memory, a damaged disk is an error and not a signal that ends the process, and other threads go on meanwhile.
"""

import contextlib
import errno
import glob
import hashlib
import json
import os
import shutil
import threading
import warnings
import weakref
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL

from ..errors import InputError
from ..files import place, staging
from ..images.pixels import check_images
from ..progress import Progress, silent

RULES = 1  # of reading and resizing; another number makes every file that is there a stale one
CHUNK = 2**25  # bytes of images that are held at once where all are walked over


class Note(NamedTuple):
    """What is kept of an image file beside its image in the size of the data set.

    Attributes:
        size: (height, width).
        low: the least number in it.
        high: the greatest.
    """

    size: tuple[int, int]
    low: int | float
    high: int | float


class Stored:
    """Images in a file that `store` wrote, as far as an array of them is needed: read when asked for.

    Args:
        path: the file; it stays open, so it may be replaced meanwhile.

    Attributes:
        shape: (N, H, W, C).
        dtype: of the pixels.
        notes: (N,), with the fields "size", (height, width) of the image's file, "low" and "high".

    Raises:
        InputError: the file is none of these, or was cut off; where images are asked for, they are damaged.

    Example:
        >>> stored = Stored(path)
        >>> stored[[7, 3]].shape, stored.part(slice(0, 100)).shape
        ((2, 256, 256, 3), (100, 256, 256, 3))
    """

    ndim = 4

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("rb", buffering=0)
            weakref.finalize(self, self._file.close)
            version = np.lib.format.read_magic(self._file)
            (count,), _, record = np.lib.format.read_array_header_1_0(self._file)
            self._start, self._step, self._note = self._file.tell(), record.itemsize, record["note"]
            self.dtype, self._image = record["image"].subdtype
            whole = version == (1, 0) and self._start + count * self._step == path.stat().st_size
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None
        except (ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            raise InputError(f"{path}: damaged, or not a cache of images")
        self._lock, self._rows = threading.Lock(), np.arange(count)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H, W, C)."""
        return (len(self), *self._image)

    @property
    def nbytes(self) -> int:
        """The memory that all images would take."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    @property
    def notes(self) -> np.ndarray:
        """What was noted of each image."""
        return self._read(self._rows, pixels=False)[1]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._rows)

    def __getitem__(self, rows: int | slice | Sequence[int] | np.ndarray) -> np.ndarray:
        """Read an image (H, W, C), or several (B, H, W, C)."""
        numbers = self._rows[rows]
        images, notes = self._read(np.atleast_1d(numbers))
        for number, image, note in zip(np.atleast_1d(numbers), images, notes, strict=True):
            if zlib.crc32(image) != note["crc32"]:
                raise InputError(f"{self.path}: image {number} in it is damaged; delete the file")
        return images if np.ndim(numbers) else images[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Read all images, for what can take nothing but an array."""
        return self[:] if dtype is None else self[:].astype(dtype)

    def part(self, rows: slice | Sequence[int] | np.ndarray) -> "Stored":
        """Return some of the images, without reading them."""
        part = object.__new__(Stored)
        vars(part).update(vars(self), _rows=self._rows[rows], _whole=self)  # which keeps the file open
        return part

    def _read(self, numbers: np.ndarray, pixels: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Return images (B, H, W, C), or none, and their notes (B,)."""
        images = np.empty((len(numbers) if pixels else 0, *self._image), self.dtype)
        notes = np.empty(len(numbers), self._note)
        note_at = self._step - self._note.itemsize
        try:
            with self._lock:
                for k, number in enumerate(numbers):
                    self._file.seek(self._start + int(number) * self._step + (0 if pixels else note_at))
                    for array in [*images[k : k + pixels], notes[k : k + 1]]:
                        if self._file.readinto(array.reshape(-1).view("u1")) != array.nbytes:
                            raise InputError(f"{self.path}: cut off while it was read")
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror})") from None
        return images, notes


Images = np.ndarray | Stored


def chunks(images: Images) -> Iterator[np.ndarray]:
    """Yield images (N, H, W, C) in parts (n, H, W, C) of a few, for what walks over all of them.

    Example:
        >>> least = min(part.min() for part in chunks(dataset.train.images))
    """
    size = max(1, int(np.prod(images.shape[1:])) * images.dtype.itemsize)
    step = max(1, CHUNK // size)
    for start in range(0, len(images), step):
        yield images[start : start + step]


def checked(images: Images, **options: Any) -> Images:
    """Return images that pass `check_images`; those of a file, of one shape, passed when they were read."""
    check_images(images[:1] if isinstance(images, Stored) else images, **options)
    return images


def some_of(images: Images, rows: slice | Sequence[int]) -> Images:
    """Return some of the images; of a file without reading them."""
    return images.part(rows) if isinstance(images, Stored) else images[rows]


@contextlib.contextmanager
def storing(target: Path, count: int, first: np.ndarray) -> Iterator[Callable[[np.ndarray, Note], None]]:
    """Give what takes the images of a `Stored` one by one.

    The file is there when all went well; nothing is left of it otherwise. Those of the same data set that
    have become stale are removed then.

    Args:
        target: the file, whose name ends with "-" and a digest.
        count: of the images.
        first: one of them, (H, W, C).

    Raises:
        OSError: it cannot be written, or does not fit on the disk.
    """
    dtype = first.dtype
    about = np.dtype([("size", "<u4", (2,)), ("low", dtype), ("high", dtype), ("crc32", "<u4")])
    record = np.dtype([("image", dtype, first.shape), ("note", about)])
    try:
        with staging(target) as folder:
            if (free := shutil.disk_usage(folder).free) < count * record.itemsize:
                needed = f"{count * record.itemsize / 2**20:.0f} MiB needed, {free / 2**20:.0f} free"
                raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} ({needed})")
            part = folder / target.name
            with part.open("wb") as file:
                np.lib.format.write_array_header_1_0(
                    file,
                    {
                        "descr": np.lib.format.dtype_to_descr(record),
                        "fortran_order": False,
                        "shape": (count,),
                    },
                )

                def put(image: np.ndarray, note: Note) -> None:
                    image = np.ascontiguousarray(image)
                    file.write(image.data)
                    file.write(np.array((*note, zlib.crc32(image)), about).tobytes())

                yield put
            place(part, target)
    except OSError as error:
        hint = "data.cache chooses another folder; more data.memory needs none"
        raise OSError(error.errno, f"{error.strerror}; {hint}", str(target)) from None
    for other in target.parent.glob(f"{glob.escape(target.stem.rpartition('-')[0])}-*{target.suffix}"):
        if other != target:
            with contextlib.suppress(OSError):
                other.unlink()


def opened(path: Path, progress: Progress = silent) -> Stored | None:
    """Open a file and read all of it once, to see whether it is whole; None where there is none.

    Warns:
        UserWarning: it is damaged, and None is returned.
    """
    if not path.exists():
        return None
    try:
        stored, done = Stored(path), 0
        for part in chunks(stored):
            done += len(part)
            progress("checking the cache of images", done, len(stored))
    except InputError as error:
        warnings.warn(f"{error}; it is made again", stacklevel=2)
        return None
    return stored


def cache_folder() -> Path:
    """Return where caches lie by default: patchnet-tf in the user's folder of caches."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "patchnet-tf"


def cache_file(folder: Path, paths: Sequence[Path], rules: Any, group: Any = None) -> Path:
    """Return where the images of these files are kept, as long as none of them changes.

    Args:
        folder: for caches.
        paths: the image files, in their order.
        rules: how they are read and resized, ready for JSON.
        group: what else tells one data set of the same folder from another, ready for JSON.

    Raises:
        InputError: a file is not there any more.
    """
    try:
        common = Path(os.path.commonpath([path.absolute().parent for path in paths]))
        stats = [(str(path.absolute()), (stat := path.stat()).st_size, stat.st_mtime_ns) for path in paths]
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from None
    identity = digest([str(common), rules, group])
    stamp = digest([RULES, PIL.__version__, stats])
    return folder / f"{common.name or 'images'}-{identity[:12]}-{stamp[:16]}.npy"


def digest(value: Any) -> str:
    """Return the SHA-256 of what is ready for JSON."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
