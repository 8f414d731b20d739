"""Occlusion: what a black square changes."""

import itertools
from typing import Any

import keras
import numpy as np
from keras import ops

from ..model.checks import check_positive
from ..model.preprocessing import ZeroToOne
from .class_maps import ClassMaps


class Occlusion(ClassMaps):
    """Drops of the probability behind a black square; see `occlusion`."""

    def __init__(
        self,
        model: keras.Model,
        size: int,
        stride: int,
        batch_size: int = 8,
        class_index: int | None = None,
    ) -> None:
        super().__init__(model, batch_size, class_index)
        self.scaling = next((layer for layer in model.layers if isinstance(layer, ZeroToOne)), ZeroToOne())
        self.size, self.stride = check_positive("size", size), check_positive("stride", stride)
        if stride > size:
            raise ValueError(
                f"Squares must cover the image: `stride` is at most `size`. Received: {size=}, {stride=}"
            )

    def raw(self, images: Any) -> np.ndarray:
        """Cover some squares at a time, each in a copy of the images."""
        images = ops.convert_to_numpy(images)
        height, width = images.shape[1:3]
        # What becomes 0 inside the model.
        lowest = images.min(axis=(1, 2, 3), keepdims=True)
        black = lowest if self.scaling.per_image else self.scaling.range[0]
        corners = itertools.product(self.starts(height), self.starts(width))
        squares = [np.s_[top : top + self.size, left : left + self.size] for top, left in corners]
        whole = self.model.predict_on_batch(images)[:, self.column]  # (B,)
        drops, times = np.zeros(images.shape[:3]), np.zeros((height, width))
        count = max(1, self.batch_size // len(images))
        for some in (squares[k : k + count] for k in range(0, len(squares), count)):
            covered = np.repeat(images[None], len(some), axis=0)  # (squares, B, H, W, C)
            for copy, square in zip(covered, some, strict=True):
                copy[:, *square] = black
            covered = covered.reshape(-1, *images.shape[1:])  # (squares * B, H, W, C)
            q = self.model.predict_on_batch(covered)[:, self.column].reshape(len(some), -1)  # (squares, B)
            for drop, square in zip(whole - q, some, strict=True):  # (B,)
                drops[:, *square] += drop[:, None, None]
                times[square] += 1
        return drops / times

    def starts(self, length: int) -> list[int]:
        """Return where squares start, so that the last one ends with the image."""
        last = max(length - self.size, 0)
        return [*range(0, last, self.stride), last]


def occlusion(
    model: keras.Model,
    images: Any,
    *,
    size: int,
    stride: int,
    class_index: int | None = None,
    batch_size: int = 8,
) -> np.ndarray:
    """By how much the class's probability drops behind a black square (Zeiler and Fergus 2014).

    Black is what becomes 0 inside the model, the low end of the range of its pixels.

    Args:
        model: a functional Keras classifier.
        images: (N, H, W, C), as the model takes them.
        size: side of the square in pixels.
        stride: distance of neighbouring squares in pixels, at most `size`; the last ones end with the image.
        class_index: as for `cam`.
        batch_size: images at a time.

    Returns:
        (N, H, W), float32 in [0, 1]: at each pixel the mean drop of the squares that cover it, scaled as
        in `cam`.

    Raises:
        ValueError: an argument is not as above, or the model returned NaN.

    Example:
        >>> maps = occlusion(model, images, size=32, stride=16)
    """
    return Occlusion(model, size, stride, batch_size, class_index)(images)
