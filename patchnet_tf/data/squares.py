"""The images of the paper's analysis of convergence (Appendix A): black, and black with a white square.

All images of a class are the same, so there is one of each, for training and for validation alike.
"""

import numpy as np

from ..config import SquaresData
from ..contract import make_classes
from ..errors import InputError
from .dataset import Dataset, Examples, Masked


def load(data: SquaresData, seed: int = 0) -> Dataset:
    """Draw the two images, (size, size, 1) uint8, 0 or 255; the mask of the second is its square.

    Nothing in them is random, so `seed` changes nothing.

    Raises:
        InputError: the square is larger than the image.

    Example:
        >>> load(SquaresData(kind="squares")).train.images.mean(axis=(1, 2, 3))  # a quarter is white
        array([ 0.  , 63.75])
    """
    if data.square > data.size:
        raise InputError(
            f"data.square: expected at most data.size, {data.size}. Received: data.square={data.square}"
        )
    mask = np.zeros((1, data.size, data.size), bool)
    start = (data.size - data.square) // 2
    mask[:, start : start + data.square, start : start + data.square] = True
    square = np.where(mask, np.uint8(255), np.uint8(0))[..., None]  # (1, size, size, 1)
    both = Examples(np.concatenate([np.zeros_like(square), square]), np.array([0, 1], "uint8"))
    masked = Masked("squares", square, mask, np.array([1], "uint8"))
    return Dataset(make_classes(data.classes), both, both, masked)
