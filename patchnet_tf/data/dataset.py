"""What a data set is once it is in memory."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Examples(NamedTuple):
    """Images of both classes.

    Attributes:
        images: (N, H, W, C), uint8.
        labels: (N,), uint8, 0 or 1.
    """

    images: np.ndarray
    labels: np.ndarray

    def some_of_each(self, count: int = 2) -> "Examples":
        """Return the first images of each class, `count` of it or all that it has."""
        chosen = np.concatenate([np.flatnonzero(self.labels == k)[:count] for k in (0, 1)])
        return Examples(self.images[chosen], self.labels[chosen])


class Masked(NamedTuple):
    """Images whose region of class 1 is known, to measure localization on.

    Attributes:
        name: what the masks show, in one word.
        images: (M, H, W, C), uint8.
        masks: (M, H, W), bool, True where a perfect heatmap is white.
        labels: (M,), uint8, or None where an image shows both classes.
        names: M texts, all different; none where the images are not from files.
    """

    name: str
    images: np.ndarray
    masks: np.ndarray
    labels: np.ndarray | None
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """What a run trains on and is measured on.

    Attributes:
        class_names: of class 0, black in heatmaps, and class 1, white.
        train: what the weights are fitted to.
        val: what the weights are chosen by.
        masked: validation images with masks; None where no masks are known.
        test: what nothing is chosen by; None where there are no such images.
        val_names: of the images of `val`, all different; none where they are not from files.
    """

    class_names: tuple[str, str]
    train: Examples
    val: Examples
    masked: Masked | None
    test: Examples | None = None
    val_names: tuple[str, ...] = ()
