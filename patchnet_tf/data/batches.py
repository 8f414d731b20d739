"""The batches of training: the order, the balance and the augmentation of an epoch, all from one seed."""

from typing import TYPE_CHECKING

import cv2
import keras
import numpy as np

from ..contract import Pixels
from ..errors import InputError
from .dataset import Examples
from .store import checked

if TYPE_CHECKING:
    import tensorflow as tf

AHEAD = 4  # batches that are made while a step runs


class Batches(keras.utils.PyDataset):
    """Batches for `fit` in which everything random follows from the seed and the number of the epoch alone.

    Of images in a file only those of a batch are read; see `read_ahead`.

    So a run that was cut off goes on as if it had not been. Set `epoch` before each epoch, and give
    `fit` shuffle=False: it would shuffle a second time, without the seed.

    Args:
        examples: the images and their labels.
        batch_size: images in a batch; the last batch of an epoch may have fewer.
        seed: of all that is random; None keeps every image as it is, in order, as for validation.
        flips: mirror each image at random, left-right and up-down.
        rotations: turn each image by 0 or 180 degrees at random. With `flips` this changes nothing: both
            mirrorings together are such a turn, and happen to a quarter of the images anyway.
        zoom: enlarge each image about its centre by a random factor from 1 to this one, at least 1, between
            its pixels bilinearly; what is then outside its frame is cut off.
        balanced: each epoch has every image of the smallest class, and as many of the others, a new random
            choice each time.
        outputs: of the model, as many as `Classes.outputs` says.
        pixels: what the numbers in the images are; None means 0..255, grey or RGB.

    Attributes:
        epoch: number of the epoch, from 0.

    Raises:
        InputError: the images are not as `check_images` needs them; with `balanced`, a class has none, or an
            image may have several labels.

    Example:
        >>> batches = Batches(dataset.train, batch_size=4, seed=0, flips=True)
        >>> images, labels = batches[0]  # (4, H, W, C) as they are, (4, 1) float32
    """

    def __init__(
        self,
        examples: Examples,
        batch_size: int,
        seed: int | None = None,
        *,
        flips: bool = False,
        rotations: bool = False,
        zoom: float = 1.0,
        balanced: bool = False,
        outputs: int = 1,
        pixels: Pixels | None = None,
    ) -> None:
        super().__init__()
        self.images = checked(examples.images, pixels=pixels)
        self.labels = np.asarray(examples.labels)
        self.targets = examples.targets(outputs)
        self.classes = max(2, outputs)
        self.batch_size = batch_size
        self.seed = seed
        self.flips = flips
        self.rotations = rotations
        self.zoom = zoom
        self.balanced = balanced
        if balanced and self.labels.ndim == 2:
            raise InputError(
                "training.balanced: expected false, as an image may have several labels: no choice of images "
                "has each equally often. Received: true"
            )
        self.epoch = 0

    @property
    def epoch(self) -> int:
        """Number of the epoch; setting it draws what is random in it."""
        return self._epoch

    @epoch.setter
    def epoch(self, number: int) -> None:
        self._epoch = number
        count = len(self.images)
        self._order = np.arange(count)
        self._mirrored = np.zeros((2, count), bool)  # down, right
        self._zooms = np.ones(count)
        if self.seed is None:
            return
        rng = np.random.default_rng((self.seed, number))
        rng.shuffle(self._order)
        if self.flips:
            self._mirrored = rng.random((2, count)) < 0.5
        if self.rotations:
            self._mirrored ^= rng.random(count) < 0.5  # both, or neither
        if self.zoom > 1:
            self._zooms = rng.uniform(1, self.zoom, count)
        if self.balanced:
            self._order = balance(self._order, self.labels[self._order], self.classes)

    @property
    def count(self) -> int:
        """Number of images in an epoch."""
        return len(self._order)

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return -(-self.count // self.batch_size)

    def chosen(self, index: int) -> np.ndarray:
        """Return the numbers of the images of batch `index` of this epoch."""
        return self._order[index * self.batch_size : (index + 1) * self.batch_size]

    def mirrored(self, chosen: np.ndarray) -> list[list[bool]]:
        """Return for each of these images whether it is mirrored up-down and left-right in this epoch."""
        return self._mirrored[:, chosen].T.tolist()

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return images (B, H, W, C) and targets (B, outputs) of batch `index` of this epoch."""
        chosen = self.chosen(index)
        images = self.images[chosen]  # a copy
        for k, (n, (down, right)) in enumerate(zip(chosen, self.mirrored(chosen), strict=True)):
            images[k] = images[k, :: -1 if down else 1, :: -1 if right else 1]
            if self._zooms[n] > 1:
                images[k] = enlarge(images[k], self._zooms[n])
        return images, self.targets[chosen]


def read_ahead(batches: Batches) -> "tf.data.Dataset | Batches":
    """Return what `fit` takes so that the next few batches are made while a step runs, in their order.

    Of batches, Keras on TensorFlow makes a `tf.data.Dataset` itself, whose buffer grows where the steps are
    slow: with images from a file, until the memory holds them after all. This one has AHEAD batches. On
    other backends, where Keras makes a batch when the step asks for it, the batches are returned.

    Example:
        >>> model.fit(read_ahead(batches), shuffle=False)
    """
    if keras.backend.backend() != "tensorflow":
        return batches
    import tensorflow as tf

    shapes = [tf.TensorSpec((None, *array.shape[1:]), array.dtype) for array in batches[0]]
    made = tf.data.Dataset.from_generator(
        lambda: (batches[k] for k in range(len(batches))), output_signature=tuple(shapes)
    )
    return made.apply(tf.data.experimental.assert_cardinality(len(batches))).prefetch(AHEAD)


def balance(order: np.ndarray, labels: np.ndarray, classes: int = 2) -> np.ndarray:
    """Return the first images of each class in this order, as many as the smallest class has.

    Args:
        order: (N,), numbers of images.
        labels: (N,), their classes, from 0 to classes - 1.
        classes: how many there are.

    Raises:
        InputError: a class has no images.

    Example:
        >>> balance(numpy.array([7, 8, 9]), numpy.array([1, 0, 1]))
        array([7, 8])
    """
    places = [np.flatnonzero(labels == k) for k in range(classes)]
    counts = [len(place) for place in places]
    count = min(counts)
    if count == 0:
        which = "both classes" if classes == 2 else f"all {classes} classes"
        shown = range(2) if classes == 2 else [counts.index(0)]
        raise InputError(
            f"training.balanced: expected images of {which}. "
            f"Received: {', '.join(f'{counts[k]} of class {k}' for k in shown)}"
        )
    return order[np.sort(np.concatenate([place[:count] for place in places]))]


def enlarge(image: np.ndarray, factor: float) -> np.ndarray:
    """Return the centre of an image (H, W, C), enlarged `factor` times to its size, bilinearly."""
    height, width = image.shape[:2]
    # Pixel x of the result is where x / factor + (1 - 1 / factor) * centre was.
    moved = (1 - 1 / factor) / 2
    matrix = np.array([[1 / factor, 0, moved * (width - 1)], [0, 1 / factor, moved * (height - 1)]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    parts = [  # OpenCV takes at most four channels, and drops an axis of one
        cv2.warpAffine(
            image[..., k : k + 4], matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE
        )
        for k in range(0, image.shape[2], 4)
    ]
    return np.concatenate([part.reshape(height, width, -1) for part in parts], axis=2)
