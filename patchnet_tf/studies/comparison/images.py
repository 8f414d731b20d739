"""Of which images maps are drawn, and the files that hold them."""

import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...config import Config
from ...contract import Pixels
from ...data import Dataset
from ...data.store import Images
from ...files import replacing, reserve, write_array
from ...images.pixels import displayed


class Chosen(NamedTuple):
    """The images that maps are drawn of.

    Attributes:
        images: (N, H, W, C), as the networks take them, in memory or in a file.
        pixels: what the numbers in them are.
        masks: (N, H, W), bool, or None.
        labels: N labels, None where an image shows both classes; a list where it may have several labels.
        names: N texts.
        classes: (N,), of several classes or labels the one whose map is drawn of each image: that of its
            mask, or else its own. None of two.
    """

    images: Images
    pixels: Pixels
    masks: np.ndarray | None
    labels: list[int | list[int] | None]
    names: list[str]
    classes: np.ndarray | None = None


def choose(config: Config, data: Dataset) -> Chosen:
    """Return the images with masks, or else `comparison.images` validation images, as many of each class."""
    if masked := data.masked:
        labels = [None] * len(masked.images) if masked.labels is None else masked.labels.tolist()
        names = masked.names or [f"{masked.name} {k}" for k in range(1, len(masked.images) + 1)]
        classes = None if data.classes.binary else masked.labels
        return Chosen(masked.images, data.pixels, masked.masks, labels, list(names), classes)
    count, indices, classes = len(data.classes.names), [], []
    truth = data.val.labels if data.val.labels.ndim == 2 else np.eye(count, dtype=bool)[data.val.labels]
    wanted = np.diff([config.comparison.images * k // count for k in range(count + 1)])
    for label, few in enumerate(wanted):
        of_class = np.flatnonzero(truth[:, label])
        of_class = of_class[~np.isin(of_class, indices)]
        indices += of_class[spread(len(of_class), few)].tolist()
        classes += [label] * (len(indices) - len(classes))
    labels = data.val.labels[indices].tolist()
    if not data.classes.exclusive:
        labels = [np.flatnonzero(row).tolist() for row in labels]
    kinds = [data.class_names[row.argmax()] if row.any() else "none" for row in truth]
    names = data.val_names or [f"{name} {k}" for k, name in enumerate(kinds, 1)]
    return Chosen(
        data.val.images[indices],
        data.pixels,
        None,
        labels,
        [names[k] for k in indices],
        None if data.classes.binary else np.array(classes),
    )


def spread(count: int, wanted: int) -> list[int]:
    """Return so many of the numbers below `count`, or all, evenly: neighbours are often alike."""
    return np.linspace(0, count - 1, min(wanted, count)).round().astype(int).tolist()


def keep(maps: Path, chosen: Chosen) -> None:
    """Write images as pictures show them, masks and classes; maps of others that are there are taken away."""
    path = maps / "images.npy"
    same = same_images(path, chosen)
    if not (same := same and np.array_equal(read_arrays(maps / "classes.npy"), chosen.classes)):
        forget(maps, "*")
    if not same:
        with replacing(path) as part:
            for k in range(len(chosen.images)):
                image = displayed(chosen.images[k], chosen.pixels)
                if not k:
                    shape = (len(chosen.images), *image.shape)
                    written = new_array(part, "uint8", shape)
                written[k] = image
            written.flush()
    for name in ("masks", "classes"):
        if getattr(chosen, name) is None:
            (maps / f"{name}.npy").unlink(missing_ok=True)
        else:
            write_array(maps / f"{name}.npy", getattr(chosen, name))


def same_images(path: Path, chosen: Chosen) -> bool:
    """Return whether a file has the images, as a picture shows them; one is looked at after another."""
    there = opened_array(path)
    if there is None:
        return False
    return len(there) == len(chosen.images) and all(
        np.array_equal(there[k], displayed(chosen.images[k], chosen.pixels)) for k in range(len(there))
    )


def forget(maps: Path, method: str) -> None:
    """Take away what was drawn and measured with a method; "*" is any."""
    for path in [*maps.glob(f"{method}.npy"), *maps.glob(f"{method}_curves.npz")]:
        path.unlink()


def new_array(path: Path, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return an empty array that is an .npy file, with room on the disk."""
    array = np.lib.format.open_memmap(path, "w+", dtype, shape)
    with path.open("r+b") as file:
        reserve(file, path.stat().st_size, path)
    return array


def opened_array(path: Path) -> np.ndarray | None:
    """Return the array of an .npy file, of which what is used is read; None where it cannot be."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError):
        return None


def read_arrays(path: Path) -> Any:
    """Return the array of an .npy file, the arrays of an .npz file by name; None where it cannot be read."""
    try:
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            return content if isinstance(content, np.ndarray) else dict(content)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error):
        return None
