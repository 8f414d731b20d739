"""Of which images maps are drawn, and the files that hold them."""

import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...config import Config
from ...data import Dataset
from ...files import write_array


class Chosen(NamedTuple):
    """The images that maps are drawn of.

    Attributes:
        images: (N, H, W, C), uint8.
        masks: (N, H, W), bool, or None.
        labels: N labels, None where an image shows both classes.
        names: N texts.
    """

    images: np.ndarray
    masks: np.ndarray | None
    labels: list[int | None]
    names: list[str]


def choose(config: Config, data: Dataset) -> Chosen:
    """Return the images with masks, or else `comparison.images` validation images, half of each class."""
    if masked := data.masked:
        labels = [None] * len(masked.images) if masked.labels is None else masked.labels.tolist()
        names = masked.names or [f"{masked.name} {k}" for k in range(1, len(masked.images) + 1)]
        return Chosen(masked.images, masked.masks, labels, list(names))
    wanted, indices = config.comparison.images, []
    for label, count in ((0, wanted // 2), (1, wanted - wanted // 2)):
        of_class = np.flatnonzero(data.val.labels == label)
        places = np.linspace(0, len(of_class) - 1, min(count, len(of_class)))  # neighbours are often alike
        indices += of_class[places.round().astype(int)].tolist()
    labels = data.val.labels[indices].tolist()
    names = data.val_names or [f"{data.class_names[label]} {k}" for k, label in enumerate(data.val.labels, 1)]
    return Chosen(data.val.images[indices], None, labels, [names[k] for k in indices])


def keep(maps: Path, chosen: Chosen) -> None:
    """Write images and masks; maps of other images that are there are taken away."""
    path = maps / "images.npy"
    if not np.array_equal(read_arrays(path), chosen.images):
        forget(maps, "*")
    write_array(path, chosen.images)
    if chosen.masks is None:
        (maps / "masks.npy").unlink(missing_ok=True)
    else:
        write_array(maps / "masks.npy", chosen.masks)


def forget(maps: Path, method: str) -> None:
    """Take away what was drawn and measured with a method; "*" is any."""
    for path in [*maps.glob(f"{method}.npy"), *maps.glob(f"{method}_curves.npz")]:
        path.unlink()


def read_arrays(path: Path) -> Any:
    """Return the array of an .npy file, the arrays of an .npz file by name; None where it cannot be read."""
    try:
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            return content if isinstance(content, np.ndarray) else dict(content)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error):
        return None
