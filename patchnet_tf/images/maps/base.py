"""What all formats of maps have in common."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...contract import Classes, Contract
from .. import pictures


@dataclass(frozen=True)
class Map:
    """An image's map, and what its files say about it.

    Attributes:
        source: the image file.
        stem: of the names of the files.
        contract: of the model.
        heatmap: (H, W) float32 in [0, 1], or (H, W, K) of several classes or labels.
        probabilities: of the image, as many as `contract.classes.outputs`.
        size: (height, width) of the image as its file has it; another than H and W where it was resized.
        overlay: the map on its image, with a legend, (h, w, 3) uint8.
        drawn: of several classes or labels, the names of those that are drawn by themselves.
        familiar: (H, W) bool, where the image is like those of training; None where nobody knows.
        scaled: whether the map is scaled for each image, as those of baselines are.
    """

    source: Path
    stem: str
    contract: Contract
    heatmap: np.ndarray
    probabilities: tuple[float, ...]
    size: tuple[int, int]
    overlay: np.ndarray
    drawn: tuple[str, ...] = ()
    familiar: np.ndarray | None = None
    scaled: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each of the map's planes: of two classes, that of class 1."""
        return planes_of(self.contract.classes)

    @property
    def planes(self) -> np.ndarray:
        """The map as (H, W, K), of two classes K = 1."""
        return self.heatmap[..., None] if self.heatmap.ndim == 2 else self.heatmap

    @property
    def scale(self) -> tuple[float, float]:
        """How many pixels of the file, down and across, a pixel of the map is wide."""
        return self.size[0] / self.heatmap.shape[0], self.size[1] / self.heatmap.shape[1]

    def found(self) -> np.ndarray:
        """Return where each plane's class is found, (H, W, K) bool; see `found_in`."""
        return found_in(self.planes, self.contract)

    def colours(self) -> np.ndarray:
        """Return the colour of each plane, (K, 3) uint8; see `colours_of`."""
        return colours_of(self.contract.classes, self.probabilities)


def planes_of(classes: Classes) -> tuple[str, ...]:
    """Return the name of each plane of a map: of two classes, that of class 1."""
    return classes.names[1:] if classes.binary else classes.names


def found_in(planes: np.ndarray, contract: Contract) -> np.ndarray:
    """Return where the class of each plane is found, (H, W, K) bool, of (H, W, K).

    Of two classes, and of labels, that is above the threshold; of several exclusive classes where it wins.
    It is found nowhere where the map is NaN.
    """
    if contract.thresholds:
        return planes > np.asarray(contract.thresholds, "float32")
    known = np.isfinite(planes).all(axis=2)
    winner = np.where(known, np.where(known[..., None], planes, 0).argmax(axis=2), -1)
    return winner[..., None] == np.arange(planes.shape[2])


def colours_of(classes: Classes, probabilities: tuple[float, ...]) -> np.ndarray:
    """Return the colour of each plane, (K, 3) uint8, as it is in an overlay."""
    if classes.binary:
        return pictures.RED[None].astype("uint8")
    coloured = pictures.with_colours(len(classes.names), probabilities)
    return pictures.colours_of(len(classes.names), coloured).astype("uint8")


class Wanted(NamedTuple):
    """What is known of a map before it is drawn.

    Attributes:
        source: the image file.
        scaled: whether the map is scaled for each image, as those of baselines are.
        resized: whether the image is brought to another size than its file has.
    """

    source: Path
    scaled: bool
    resized: bool


class Writer(NamedTuple):
    """A format in which maps are written.

    Attributes:
        name: by which it is chosen.
        check: raises InputError where it cannot be written of such an image, and MissingExtraError where it
            needs a package that is missing; warns where only a part of it can be.
        write: writes a map's files to a folder.
    """

    name: str
    check: Callable[[Wanted], None]
    write: Callable[[Map, Path], None]


def always(wanted: Wanted) -> None:
    """Take any image."""
