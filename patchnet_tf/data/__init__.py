"""Data sets of two classes: uint8 images in memory, the checks they pass, and the batches of training.

One module for each source: `folder`, a folder of one's own images; `textures`, photographs that come
with scikit-image.
"""

import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np

from ..config import Config, InputError, TexturesData


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
    """What a run trains on and is measured on; `masked` is None where no masks are known."""

    class_names: tuple[str, str]
    train: Examples
    val: Examples
    masked: Masked | None


def load_dataset(config: Config) -> Dataset:
    """Read or make the data of a configuration.

    Raises:
        InputError: a folder or an image is not as `patchnet_tf.data.folder` needs it.

    Example:
        >>> load_dataset(load_config("configs/demo.yaml")).train.images.shape
        (128, 64, 64, 1)
    """
    from . import folder, textures  # they build on this module

    if isinstance(config.data, TexturesData):
        return textures.load(config.data, config.training.seed)
    return folder.load(config.data)


def check_images(
    images: Any, *, channels: int | None = None, smallest: tuple[int, int] = (1, 1), what: str = "images"
) -> np.ndarray:
    """Return images as an array that PatchNet can take, or say in one line why it cannot.

    Args:
        images: (N, H, W, C), any integer or float dtype, in 0..255.
        channels: the C they must have; None means 1 or 3.
        smallest: the least (height, width).
        what: how a message calls them.

    Returns:
        The array, not copied where it was one.

    Raises:
        InputError: no image, not four axes, not numbers, another number of channels, too small, NaN,
            infinity, or values outside 0..255.

    Warns:
        UserWarning: no value is above 1, so they seem to be 0..1 instead of 0..255.

    Example:
        >>> check_images(numpy.zeros((2, 32, 32, 1), "uint8"), smallest=(17, 17)).shape
        (2, 32, 32, 1)
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.size == 0 or images.dtype.kind not in "uif":
        raise InputError(
            f"{what}: expected numbers of shape (count, height, width, channels). "
            f"Received: {images.dtype}, shape={images.shape}"
        )
    allowed = (1, 3) if channels is None else (channels,)
    if images.shape[3] not in allowed:
        expected = " or ".join(map(str, allowed))
        raise InputError(f"{what}: expected {expected} channel(s). Received: shape={images.shape}")
    size = images.shape[1:3]
    if size[0] < smallest[0] or size[1] < smallest[1]:
        raise InputError(
            f"{what}: expected at least {smallest[0]} x {smallest[1]} pixels (height x width), as the "
            f"model needs. Received: {size[0]} x {size[1]}"
        )
    if images.dtype.kind == "f" and not np.isfinite(images).all():
        raise InputError(f"{what}: expected finite pixels. Received: NaN or infinity")
    low, high = images.min(), images.max()
    if low < 0 or high > 255:
        raise InputError(f"{what}: expected pixels in 0..255. Received: {low} to {high}")
    if 0 < high <= 1:
        warnings.warn(
            f"{what}: pixels are 0..255, but none of these is above 1: are they 0..1?", stacklevel=2
        )
    return images


class Batches(keras.utils.PyDataset):
    """Batches for `fit` whose order and flips follow from the seed and the epoch alone.

    So a run that was cut off goes on as if it had not been. Set `epoch` before each epoch, and give
    `fit` shuffle=False: it would shuffle a second time, without the seed.

    Args:
        examples: the images and their labels.
        batch_size: images in a batch; the last batch of an epoch may have fewer.
        seed: of the order and the flips; None keeps the order and mirrors nothing, as for validation.
        flips: mirror each image at random, left-right and up-down.

    Attributes:
        epoch: number of the epoch, from 0.

    Example:
        >>> batches = Batches(dataset.train, batch_size=4, seed=0, flips=True)
        >>> images, labels = batches[0]  # (4, H, W, C) uint8, (4, 1) float32
    """

    def __init__(
        self, examples: Examples, batch_size: int, seed: int | None = None, flips: bool = False
    ) -> None:
        super().__init__()
        self.images = check_images(examples.images)
        self.labels = np.asarray(examples.labels, "float32")[:, None]
        self.batch_size = batch_size
        self.seed = seed
        self.flips = flips
        self.epoch = 0

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return -(-len(self.images) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return images (B, H, W, C) and labels (B, 1) of batch `index` of this epoch."""
        order = np.arange(len(self.images))
        mirrored = np.zeros((2, len(order)), bool)
        if self.seed is not None:
            rng = np.random.default_rng((self.seed, self.epoch))
            rng.shuffle(order)
            if self.flips:
                mirrored = rng.random((2, len(order))) < 0.5
        chosen = order[index * self.batch_size : (index + 1) * self.batch_size]
        images = self.images[chosen]  # a copy
        for k, (down, right) in enumerate(mirrored[:, chosen].T):
            images[k] = images[k, :: -1 if down else 1, :: -1 if right else 1]
        return images, self.labels[chosen]
