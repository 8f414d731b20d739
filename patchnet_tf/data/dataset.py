"""What a data set is once it is read."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..contract import Classes, Pixels
from .store import Images


class Examples(NamedTuple):
    """Images of all classes.

    Attributes:
        images: (N, H, W, C), uint8, uint16 or float32, in memory or in a file.
        labels: of exclusive classes the number of each image's class, (N,), uint8, or uint16 where there are
            more than 256; of labels whether each image has each, (N, L), uint8, 0 or 1.

    Example:
        >>> Examples(numpy.zeros((2, 8, 8, 1), "uint8"), numpy.array([0, 2], "uint8")).targets(3)
        array([[1., 0., 0.],
               [0., 0., 1.]], dtype=float32)
    """

    images: Images
    labels: np.ndarray

    def targets(self, outputs: int = 1) -> np.ndarray:
        """Return what `fit` compares probabilities with, float32.

        Args:
            outputs: of a model, as many as `Classes.outputs` says.

        Returns:
            (N, 1), the labels of two exclusive classes, where there is one output; (N, outputs), one-hot, of
            more; (N, L) of labels, as they are.
        """
        labels = np.asarray(self.labels)
        if labels.ndim == 2:
            return labels.astype("float32")
        if outputs == 1:
            return labels.astype("float32")[:, None]
        return np.eye(outputs, dtype="float32")[labels]

    def some_of_each(self, count: int = 2) -> "Examples":
        """Return the first images of each class, `count` of it or all that it has.

        They are in the order of the classes; of several labels each image is there once, with the first of
        its labels.
        """
        labels = np.asarray(self.labels)
        of_class = labels.T > 0 if labels.ndim == 2 else [labels == k for k in np.unique(labels)]
        firsts = [int(n) for images in of_class for n in np.flatnonzero(images)[:count]]
        chosen = list(dict.fromkeys(firsts))
        return Examples(self.images[chosen], self.labels[chosen])


class Masked(NamedTuple):
    """Images whose region of a class is known, to measure localization on.

    A row is an image and a class: an image with masks of several labels is there as often.

    Attributes:
        name: what the masks show, in one word.
        images: (M, H, W, C), likewise.
        masks: (M, H, W), bool, True where a perfect heatmap is white.
        labels: (M,), uint8 or uint16, the class whose map each mask belongs to: of two exclusive classes
            always 1. None where each image shows both of two classes.
        names: M texts, a different one for each image; none where the images are not from files.
    """

    name: str
    images: Images
    masks: np.ndarray
    labels: np.ndarray | None
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """What a run trains on and is measured on.

    Attributes:
        classes: what they are called, and whether an image has just one of them.
        train: what the weights are fitted to.
        val: what the weights are chosen by.
        masked: validation images with masks; None where no masks are known.
        test: what nothing is chosen by; None where there are no such images.
        val_names: of the images of `val`, all different; none where they are not from files.
        pixels: what the numbers in all images are; None becomes 0 to 255.
    """

    classes: Classes
    train: Examples
    val: Examples
    masked: Masked | None
    test: Examples | None = None
    val_names: tuple[str, ...] = ()
    pixels: Pixels | None = None

    def __post_init__(self) -> None:
        """Take images whose pixels are not told for grey or RGB ones of 8 bits."""
        if self.pixels is None:
            object.__setattr__(self, "pixels", Pixels(channels=self.train.images.shape[3]))

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes; of two exclusive ones class 0, black in heatmaps, and class 1, white."""
        return self.classes.names
