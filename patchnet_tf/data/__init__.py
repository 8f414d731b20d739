"""Data sets of two classes: uint8 images in memory, and the checks they pass.

`batches` feeds them to training. One module for each source: `folder`, a folder of one's own images;
`manifest`, images listed in a CSV file; `isic2017` and `dtd`, the published data sets as they are unpacked;
`textures`, photographs that come with scikit-image; `squares`, the paper's black and white images. `files`
reads what the first four list.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..config import Config, FilesData, SquaresData
from ..images.pixels import check_images as check_images  # part of what this package offers

if TYPE_CHECKING:
    from .files import Listing

Progress = Callable[[str, float, int], None]  # is told a task, and how many of how many steps are done


class Examples(NamedTuple):
    """Images of both classes.

    Attributes:
        images: (N, H, W, C), uint8.
        labels: (N,), uint8, 0 or 1.
    """

    images: np.ndarray
    labels: np.ndarray


class Masked(NamedTuple):
    """Images whose region of class 1 is known, to measure localization on.

    Attributes:
        name: what the masks show, in one word.
        images: (M, H, W, C), uint8.
        masks: (M, H, W), bool, True where a perfect heatmap is white.
        labels: (M,), uint8, or None where an image shows both classes.
    """

    name: str
    images: np.ndarray
    masks: np.ndarray
    labels: np.ndarray | None


@dataclass(frozen=True)
class Dataset:
    """What a run trains on and is measured on.

    Attributes:
        class_names: of class 0, black in heatmaps, and class 1, white.
        train: what the weights are fitted to.
        val: what the weights are chosen by.
        masked: validation images with masks; None where no masks are known.
        test: what nothing is chosen by; None where there are no such images.
    """

    class_names: tuple[str, str]
    train: Examples
    val: Examples
    masked: Masked | None
    test: Examples | None = None


def load_dataset(config: Config, progress: Progress | None = None) -> Dataset:
    """Read or make the data of a configuration.

    Args:
        config: says which data set.
        progress: told after every hundred image files.

    Raises:
        InputError: files are missing, or are not as the module of the data set needs them; a line for each
            of the first ten complaints.

    Example:
        >>> load_dataset(load_config("configs/demo.yaml")).train.images.shape
        (128, 64, 64, 1)
    """
    from . import files, squares, textures  # they build on this module

    if isinstance(config.data, FilesData):
        return files.read(list_files(config.data), progress)
    if isinstance(config.data, SquaresData):
        return squares.load(config.data)
    return textures.load(config.data, config.training.seed)


def list_files(data: FilesData) -> "Listing":
    """Return which image files a data set has, and what is wrong with the list."""
    from . import dtd, folder, isic2017, manifest

    sources = {"dtd": dtd, "folder": folder, "isic2017": isic2017, "manifest": manifest}
    return sources[data.kind].listing(data)
