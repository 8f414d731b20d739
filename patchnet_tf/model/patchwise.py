"""S on every patch of an image, patch by patch: the plain definition, for any S."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from .checks import PACKAGE, check_positive

# Bytes of one feature map of a chunk of patches: large enough to keep every core in its matrix
# kernels, small enough to stay near the caches.
CHUNK_BYTES = 10 * 2**20
FEATURES = 64  # of an S that does not say how many it has


class EveryPatch(keras.layers.Wrapper):
    """S on every p x p patch of an image: what all ways to compute it have in common.

    Args:
        layer: S.
        filters: return the tanh outputs of the filters instead of the decisions; S must be a `PatchSubnet`.
        stride: distance of neighbouring patches in pixels.
        classes: numbers of those to return the decisions about, of several; None means all.

    Call arguments:
        images: (B, H, W, C), padded and standardized; H and W, at least p, may be unknown.

    Returns:
        (B, (H - p) // stride + 1, (W - p) // stride + 1) decisions in (0, 1), with a last axis of the classes
        where S decides about several, or with `filters` a last axis of F values in [-1, 1].

    Raises:
        ValueError: `stride` is not a positive whole number, S has no filters to return, or `classes` are not
            different ones of several that S has.
    """

    def __init__(
        self,
        layer: keras.Model,
        filters: bool = False,
        stride: int = 1,
        classes: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(layer, **kwargs)
        self.filters = bool(filters)
        if self.filters and not hasattr(layer, "filter_outputs"):
            raise ValueError(f"Only a `PatchSubnet` has filters to draw. Received: {layer.name!r}")
        self.stride = check_positive("stride", stride)
        self.units = layer.output_shape[-1]
        self.classes = None if classes is None else self.check(classes)
        self.patch_size = layer.input_shape[1]
        self.features = getattr(layer, "filters", FEATURES)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: layer.input_shape[-1]})

    def build(self, input_shape: tuple) -> None:
        """Nothing to create: S has its weights."""

    def check(self, classes: Sequence[int]) -> list[int]:
        """Return the numbers of classes; raise ValueError where they are not different ones of several."""
        numbers = list(classes) if hasattr(classes, "__len__") else []
        known = all(hasattr(k, "__index__") and 0 <= k < self.units for k in numbers)
        if self.filters or self.units == 1 or not numbers or not known or len(set(numbers)) < len(numbers):
            has = "maps of filters have" if self.filters else "two exclusive classes have one map with"
            if self.units > 1 and not self.filters:
                has = f"S decides about 0 to {self.units - 1}, each"
            raise ValueError(f"`classes` are different numbers of classes: {has} none. Received: {classes!r}")
        return [int(k) for k in numbers]

    @property
    def last_axes(self) -> tuple[int, ...]:
        """What a pixel of the map holds: () for one decision, (K,) for several, (F,) for filters."""
        if self.filters:
            return (self.features,)
        if self.units == 1:
            return ()
        return (self.units if self.classes is None else len(self.classes),)

    def pixels(self, decided: Any) -> Any:
        """Of decisions (..., 1 or K) or filters (..., F), what pixels of the map hold."""
        if self.filters:
            return decided
        if self.units == 1:
            return decided[..., 0]
        return decided if self.classes is None else ops.take(decided, self.classes, axis=-1)

    @property
    def result_dtype(self) -> str:
        """The dtype of the map: float32 for decisions, S's own for filters."""
        return self.layer.tanh.compute_dtype if self.filters else "float32"

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """(B, H, W, C) to (B, rows, columns, *last_axes)."""
        p, s = self.patch_size, self.stride
        sizes = [None if size is None else (size - p) // s + 1 for size in input_shape[1:3]]
        return (input_shape[0], *sizes, *self.last_axes)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        own = {"filters": self.filters, "stride": self.stride, "classes": self.classes}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package=PACKAGE)
class PatchwiseMap(EveryPatch):
    """S on every patch, one by one: the definition that every faster way must equal.

    The patches are cut and decided a chunk at a time, so memory does not grow with the image.
    Arguments and results are those of `EveryPatch`.
    """

    def call(self, images: Any) -> Any:
        """Decide every patch of (B, H, W, C)."""
        p, stride = self.patch_size, self.stride
        batch, height, width = ops.shape(images)[:3]
        rows, columns = ((size - p) // stride + 1 for size in (height, width))
        count = batch * rows * columns
        chunk = max(1, CHUNK_BYTES // (p * p * self.features * 4))

        # Patch n is number n % (rows * columns) of image n // (rows * columns), row by row.
        pixels = ops.reshape(images, (-1, images.shape[3]))
        steps = np.arange(p, dtype="int32")
        within = steps[:, None] * width + steps[None, :]  # (p, p)

        def decide_chunk(number: Any) -> Any:
            n = ops.minimum(
                number * chunk + ops.arange(chunk), count - 1
            )  # the last chunk repeats the last patch
            top, left = n // columns % rows * stride, n % columns * stride
            corner = (n // (rows * columns) * height + top) * width + left
            patches = ops.take(pixels, corner[:, None, None] + within, axis=0)  # (chunk, p, p, C)
            return self.pixels(self.layer.filter_outputs(patches) if self.filters else self.layer(patches))

        last = self.last_axes
        chunks = (count + chunk - 1) // chunk
        decided = one_by_one(decide_chunk, chunks, (chunk, *last), self.result_dtype)  # (chunks, chunk, ...)
        decided = ops.reshape(decided, (-1, *last))[:count]
        return ops.reshape(decided, (-1, rows, columns, *last))


def one_by_one(f: Any, count: Any, shape: tuple, dtype: str) -> Any:
    """Stack f(0), f(1), .., f(count - 1), each of the given shape (None: unknown) and dtype.

    `keras.ops.map` would run ten of them at once under TensorFlow, in ten times the memory.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.map_fn(
            f, tf.range(count), parallel_iterations=1, fn_output_signature=tf.TensorSpec(shape, dtype)
        )
    return ops.map(f, ops.arange(count, dtype="int32"))
