"""Maps of one class for any functional Keras classifier: what CAM, Grad-CAM and occlusion have in common.

White speaks for the class, of two for class 1, as in PatchNet's heatmaps. Unlike those, these maps are
min-max normalized, each map's lowest value to 0 and its highest to 1, as their papers do: they say where, not
how much, and 0.5 does not mean undecided. A map that is constant, or has no positive value where only those
count, is 0.5 everywhere.
"""

import contextlib
from typing import Any

import keras
import numpy as np
from keras import ops

from ..model.checks import check_positive
from .layers import every_layer, recorded


class ClassMaps:
    """What the methods have in common; each of them says how the maps of one batch are made.

    Args:
        model: a functional Keras classifier, (B, H, W, C) to (B, 1), the probability of class 1, or to one
            probability for each class or label.
        batch_size: images at a time.
        class_index: number of the class, from 0, where there is one output for each; None, of one or two
            outputs, means class 1.
    """

    def __init__(self, model: keras.Model, batch_size: int, class_index: int | None = None) -> None:
        if not isinstance(model, keras.Model) or len(model.output_shape) != 2:
            raise ValueError(
                "Maps are made of a Keras classifier, (batch, height, width, channels) to (batch, classes). "
                f"Received: {getattr(model, 'name', model)!r} with output "
                f"{getattr(model, 'output_shape', None)}"
            )
        self.model, self.batch_size = model, check_positive("batch_size", batch_size)
        self.column = column_of(class_index, model.output_shape[1])

    def crops(self) -> contextlib.AbstractContextManager:
        """Collect what the model's cropping layer does, where it has one; see `uncropped`."""
        crop = [layer for layer in every_layer(self.model) if isinstance(layer, keras.layers.CenterCrop)]
        return recorded(crop[0]) if crop else contextlib.nullcontext([])

    def raw(self, images: Any) -> Any:
        """Return the maps of a batch (B, H, W, C), float32, as (B, h, w): high where the class is."""
        raise NotImplementedError

    def __call__(self, images: Any) -> np.ndarray:
        """Return the maps of images (N, H, W, C) as large as they are, (N, H, W), float32 in [0, 1]."""
        images = np.asarray(images)
        if images.ndim != 4 or not images.size:
            raise ValueError(
                f"Images have the shape (batch, height, width, channels). Received: shape={images.shape}"
            )
        batches = []
        for k in range(0, len(images), self.batch_size):
            maps = self.raw(ops.convert_to_tensor(images[k : k + self.batch_size], "float32"))
            maps = ops.cast(maps, "float32")[..., None]
            maps = ops.image.resize(maps, images.shape[1:3], "bilinear", data_format="channels_last")
            batches.append(ops.convert_to_numpy(maps)[..., 0])
        return min_max_normalized(np.concatenate(batches))


def column_of(class_index: int | None, outputs: int) -> int:
    """Return the column of a class among so many outputs; raise ValueError where it has none."""
    if class_index is None:
        if outputs > 2:
            raise ValueError(
                f"`class_index` must say which of the {outputs} classes is meant, from 0 to {outputs - 1}. "
                "Received: class_index=None"
            )
        return outputs - 1
    number = isinstance(class_index, (int, np.integer)) and not isinstance(class_index, bool)
    if outputs == 1 or not number or not 0 <= class_index < outputs:
        expected = "None for one output" if outputs == 1 else f"a whole number from 0 to {outputs - 1}"
        raise ValueError(f"`class_index` must be {expected}. Received: class_index={class_index!r}")
    return int(class_index)


def uncropped(maps: Any, cropped: Any) -> Any:
    """Put maps of a cropped image into its place: around it is 0, as what is cut off adds nothing.

    Args:
        maps: (B, h, w), of the crop.
        cropped: the (input, output) of the layer that crops, (B, H, W, C) to (B, H', W', C); or nothing.

    Returns:
        (B, H, W) where there is a crop, otherwise the maps.
    """
    if not cropped:
        return maps
    before, after = (images.shape[1:3] for images in cropped[0])
    maps = ops.image.resize(maps[..., None], after, "bilinear", data_format="channels_last")[..., 0]
    frame = [(b - a) // 2 for b, a in zip(before, after, strict=True)]
    return ops.pad(maps, [(0, 0), *((f, b - a - f) for f, b, a in zip(frame, before, after, strict=True))])


def min_max_normalized(maps: np.ndarray) -> np.ndarray:
    """Scale each of (N, H, W) from its lowest to its highest value; 0.5 where they are the same."""
    if not np.isfinite(maps).all():
        raise ValueError("A map needs finite features. Received: NaN or infinite values from the model")
    low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
    # What rounding leaves of a constant map must not be blown up.
    constant = high - low <= 1e-5 * np.maximum(np.abs(low), np.abs(high))
    return np.where(constant, np.float32(0.5), (maps - low) / np.where(constant, 1, high - low))
