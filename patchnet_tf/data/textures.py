"""Two textures from the photographs inside scikit-image's wheel: brick, grass and gravel, 512 x 512, grey.

Crops of the left half of each photograph are trained on, crops of the right half validate. Collages of both
textures, also from the right halves, have known masks, so that localization can be measured.
"""

import numpy as np
import skimage.data

from ..config import TexturesData
from ..contract import make_classes
from .dataset import Dataset, Examples, Masked

HALF = 256


def load(data: TexturesData, seed: int) -> Dataset:
    """Cut the crops and paste the collages; the seed says where.

    Returns:
        A `Dataset` of grey images, C = 1: `data.train` and `data.val` crops of each class, and
        `data.collages` collages whose masks are True where the texture is that of class 1.
    """
    rng = np.random.default_rng(seed)
    photographs = [getattr(skimage.data, name)() for name in data.classes]

    def crop(photograph: np.ndarray, left: int, size: int) -> np.ndarray:
        row, column = rng.integers(len(photograph) - size + 1), left + rng.integers(HALF - size + 1)
        return photograph[row : row + size, column : column + size, None]  # (size, size, 1)

    def examples(count: int, left: int) -> Examples:
        images = [crop(photograph, left, data.size) for photograph in photographs for _ in range(count)]
        return Examples(np.stack(images), np.repeat(np.array([0, 1], "uint8"), count))

    train, val = examples(data.train, 0), examples(data.val, HALF)
    masks = np.stack([shape(k, data.collage_size) for k in range(data.collages)])
    black, white = (
        np.stack([crop(photograph, HALF, data.collage_size) for _ in masks]) for photograph in photographs
    )
    collages = np.where(masks[..., None], white, black)
    return Dataset(make_classes(data.classes), train, val, Masked("collages", collages, masks, None))


def shape(number: int, size: int) -> np.ndarray:
    """Return mask `number`, (size, size) bool; there are six, then they repeat."""
    y, x = np.mgrid[:size, :size] / size * 2 - 1  # both from -1 to 1
    shapes = (
        x >= 0,
        x**2 + y**2 < 0.7**2,
        x + y >= 0,
        x * y >= 0,
        x**2 + y**2 >= 0.7**2,
        abs(y) < 0.45,
    )
    return shapes[number % len(shapes)]
