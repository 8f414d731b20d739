"""Training on features that a frozen network has computed once, for all epochs and mirrorings."""

import itertools
import math
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ..data import Examples
from ..data.batches import Batches
from ..files import reserve
from ..progress import Progress

IMAGES = 8  # of which features are computed at once


class FeatureBatches(Batches):
    """`Batches` of features instead of images: the same order and the same mirrorings in every epoch.

    Args:
        examples: the images and their labels.
        batch_size: images in a batch.
        seed, options: as of `Batches`, without `zoom`, which makes new pixels every time.

    Attributes:
        features: (V, N, ...) of `compute`; training begins when they are there.

    Example:
        >>> batches = FeatureBatches(dataset.train, 4, seed=0, flips=True)
        >>> batches.compute(network, Path("runs/cells"), 1024, silent)  # to features (B, 1280)
        >>> features, labels = batches[0]  # (4, 1280) float32, (4, 1) float32
    """

    def __init__(self, examples: Examples, batch_size: int, seed: int | None = None, **options: Any) -> None:
        super().__init__(examples, batch_size, seed, **options)
        self.features: np.ndarray | None = None
        # The mirrorings (down, right) that happen.
        ways = itertools.product((False, True), repeat=2)
        both = self.rotations and not self.flips
        self.ways = [
            way for way in ways if way == (False, False) or self.flips or (both and way == (True, True))
        ]

    def compute(
        self, network: keras.Model, folder: Path, memory: int, progress: Progress, task: str = "features"
    ) -> None:
        """Compute the features of all images and mirrorings.

        Args:
            network: from images (B, H, W, C) to features (B, ...).
            folder: where those go, in a file without a name, that do not fit in the memory.
            memory: for the features, in MiB.
            progress: told after every few images.
            task: how the progress is called.

        Raises:
            OSError: the file cannot be written.
        """
        total = len(self.ways) * len(self.images)
        for v, (down, right) in enumerate(self.ways):
            for start in range(0, len(self.images), IMAGES):
                images = self.images[start : start + IMAGES][:, :: -1 if down else 1, :: -1 if right else 1]
                features = network.predict_on_batch(images)  # (b, ...)
                if self.features is None:
                    shape = (len(self.ways), len(self.images), *features.shape[1:])
                    self.features = room(shape, folder, memory)
                self.features[v, start : start + IMAGES] = features
                progress(task, v * len(self.images) + start + len(images), total)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return features (B, ...) and targets (B, outputs) of batch `index` of this epoch."""
        chosen = self.chosen(index)
        ways = [self.ways.index(tuple(way)) for way in self.mirrored(chosen)]
        return self.features[ways, chosen], self.targets[chosen]


def room(shape: tuple[int, ...], folder: Path, memory: int) -> np.ndarray:
    """Return an empty float32 array, in memory (MiB) if it fits, or else in a file that nobody sees."""
    if 4 * np.prod(shape, dtype="float64") <= memory * 2**20:
        return np.empty(shape, "float32")
    with tempfile.TemporaryFile(dir=folder) as file:  # the memory map keeps it open
        reserve(file, 4 * math.prod(shape), folder)
        return np.memmap(file, "float32", "w+", shape=shape)
