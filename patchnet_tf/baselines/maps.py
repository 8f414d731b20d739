"""Maps of class 1 for any functional Keras classifier: CAM, Grad-CAM and occlusion.

White speaks for class 1, as in PatchNet's heatmaps. Unlike those, these maps are scaled for each image, its
lowest value to 0 and its highest to 1, as their papers do: they say where, not how much, and 0.5 does not
mean undecided. A map that is constant, or has no positive value where only those count, is 0.5 everywhere.

What happens inside a model is seen by running it step by step (eagerly) with a layer's `call` replaced for
that time. So layers are found in nested models too, and the model stays as it was.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from ..model.layers import check_positive

CONVOLUTIONS = (
    keras.layers.Conv2D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv2D,
)


class ClassMaps:
    """What the methods have in common; each of them says how the maps of one batch are made.

    Args:
        model: a functional Keras classifier, (B, H, W, C) to (B, 1), the probability of class 1, or to one
            probability for each class, of which that of class 1 is the second.
        batch_size: images at a time.
    """

    def __init__(self, model: keras.Model, batch_size: int) -> None:
        if not isinstance(model, keras.Model) or len(model.output_shape) != 2:
            raise ValueError(
                "Maps are made of a Keras classifier, (batch, height, width, channels) to (batch, classes). "
                f"Received: {getattr(model, 'name', model)!r} with output "
                f"{getattr(model, 'output_shape', None)}"
            )
        self.model, self.batch_size = model, check_positive("batch_size", batch_size)
        self.column = min(1, model.output_shape[1] - 1)

    def crops(self) -> contextlib.AbstractContextManager:
        """Collect what the model's cropping layer does, where it has one; see `uncropped`."""
        crop = [layer for layer in every_layer(self.model) if isinstance(layer, keras.layers.CenterCrop)]
        return recorded(crop[0]) if crop else contextlib.nullcontext([])

    def raw(self, images: Any) -> Any:
        """Return the maps of a batch (B, H, W, C), float32, as (B, h, w): high where class 1 is."""
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
        return zero_to_one(np.concatenate(batches))


class CAM(ClassMaps):
    """Class activation maps; see `cam`."""

    def __init__(self, model: keras.Model, batch_size: int = 8) -> None:
        super().__init__(model, batch_size)
        self.average = find(
            model, keras.layers.GlobalAveragePooling2D, "global average pooling (GlobalAveragePooling2D)"
        )
        self.unit = find(model, keras.layers.Dense, "a linear unit (Dense)")

    def raw(self, images: Any) -> Any:
        """Weigh the maps that are averaged with the unit's weights."""
        with recorded(self.average) as averaged, recorded(self.unit) as weighed, self.crops() as cropped:
            self.model(images, training=False)
        features, means = averaged[0][0], weighed[0][0]  # (B, h, w, K), (B, K)
        if means.shape != features.shape[::3] or not np.allclose(
            *map(ops.convert_to_numpy, (ops.mean(features, (1, 2)), means)), rtol=1e-2, atol=1e-3
        ):
            raise ValueError(
                "CAM is defined where the linear unit directly follows global average pooling; use Grad-CAM "
                f"here. Received: {self.model.name!r} with other steps between {self.average.name!r} and "
                f"{self.unit.name!r}"
            )
        maps = ops.matmul(features, ops.cast(self.unit.kernel[:, self.column], features.dtype))
        return uncropped(maps, cropped)


class GradCAM(ClassMaps):
    """Gradient-weighted class activation maps; see `grad_cam`."""

    def __init__(self, model: keras.Model, layer: str | None = None, batch_size: int = 8) -> None:
        super().__init__(model, batch_size)
        if keras.backend.backend() != "tensorflow":
            raise RuntimeError(
                "Grad-CAM takes its gradients from TensorFlow. "
                f"Received: the Keras backend {keras.backend.backend()} (KERAS_BACKEND)"
            )
        self.layer = find(model, CONVOLUTIONS, "a convolution", layer)

    def raw(self, images: Any) -> Any:
        """Weigh the layer's maps with their mean gradients."""
        import tensorflow as tf

        with (
            tf.GradientTape() as tape,
            recorded(self.layer) as seen,
            without_end(self.model),
            self.crops() as cropped,
        ):
            tape.watch(images)  # what is trainable or frozen makes no difference
            score = self.model(images, training=False)[:, self.column]  # (B,)
        features = seen[-1][1] if seen else images  # (B, h, w, K)
        gradients = tape.gradient(score, features) if len(features.shape) == 4 else None
        if gradients is None:
            raise ValueError(
                "Grad-CAM needs a layer that turns images into maps, (batch, height, width, filters). "
                f"Received: layer={self.layer.name!r} with {tuple(features.shape)}"
            )
        weights = ops.mean(gradients, (1, 2))  # (B, K)
        return uncropped(ops.relu(ops.einsum("bhwk,bk->bhw", features, weights)), cropped)


class Occlusion(ClassMaps):
    """Drops of the probability behind a black square; see `occlusion`."""

    def __init__(self, model: keras.Model, size: int, stride: int, batch_size: int = 8) -> None:
        super().__init__(model, batch_size)
        self.size, self.stride = check_positive("size", size), check_positive("stride", stride)
        if stride > size:
            raise ValueError(
                f"Squares must cover the image: `stride` is at most `size`. Received: {size=}, {stride=}"
            )

    def raw(self, images: Any) -> np.ndarray:
        """Cover some squares at a time, each in a copy of the images."""
        images = ops.convert_to_numpy(images)
        height, width = images.shape[1:3]
        corners = itertools.product(self.starts(height), self.starts(width))
        squares = [np.s_[top : top + self.size, left : left + self.size] for top, left in corners]
        whole = self.model.predict_on_batch(images)[:, self.column]  # (B,)
        drops, times = np.zeros(images.shape[:3]), np.zeros((height, width))
        count = max(1, self.batch_size // len(images))
        for some in (squares[k : k + count] for k in range(0, len(squares), count)):
            covered = np.repeat(images[None], len(some), axis=0)  # (squares, B, H, W, C)
            for copy, square in zip(covered, some, strict=True):
                copy[:, *square] = 0
            q = self.model.predict_on_batch(covered.reshape(-1, *images.shape[1:]))[:, self.column]
            for drop, square in zip(whole - q.reshape(len(some), -1), some, strict=True):  # (B,)
                drops[:, *square] += drop[:, None, None]
                times[square] += 1
        return drops / times

    def starts(self, length: int) -> list[int]:
        """Return where squares start, so that the last one ends with the image."""
        last = max(length - self.size, 0)
        return [*range(0, last, self.stride), last]


def cam(model: keras.Model, images: Any, *, batch_size: int = 8) -> np.ndarray:
    """Class activation maps (Zhou et al. 2016, arXiv 1512.04150).

    The feature maps that the model averages, weighed with the weights of its linear unit: what each of
    their pixels adds to the score.

    Args:
        model: a functional Keras classifier that ends with global average pooling and one linear unit, such
            as `vgg19_cam`; the pooling may be inside a nested model.
        images: (N, H, W, C), as the model takes them.
        batch_size: images at a time.

    Returns:
        (N, H, W), float32 in [0, 1]: up-sampled bilinearly, then each image's lowest value 0, its highest
        1; 0.5 everywhere for a constant map.

    Raises:
        ValueError: the model or the images are not as above, or the model returned NaN.

    Example:
        >>> cam(vgg19_cam((64, 96, 1)), numpy.zeros((2, 64, 96, 1))).shape
        (2, 64, 96)
    """
    return CAM(model, batch_size)(images)


def grad_cam(model: keras.Model, images: Any, *, layer: str | None = None, batch_size: int = 8) -> np.ndarray:
    """Gradient-weighted class activation maps (Selvaraju et al. 2017, arXiv 1610.02391).

    The maps of a layer, weighed with the mean gradients of class 1's score, and what is positive of it. The
    score is the last layer's before its sigmoid or softmax, where it has one as its activation.

    Args:
        model: a functional Keras classifier.
        images: (N, H, W, C), as the model takes them.
        layer: name of the layer, in nested models too; None means the last convolution.
        batch_size: images at a time.

    Returns:
        (N, H, W), float32 in [0, 1], as `cam`; 0.5 everywhere where nothing is positive.

    Raises:
        ValueError: the model, the images or the layer are not as above, or the model returned NaN.
        RuntimeError: Keras runs on another backend than TensorFlow.

    Example:
        >>> grad_cam(vgg11((32, 48, 3)), numpy.zeros((2, 32, 48, 3))).shape
        (2, 32, 48)
    """
    return GradCAM(model, layer, batch_size)(images)


def occlusion(model: keras.Model, images: Any, *, size: int, stride: int, batch_size: int = 8) -> np.ndarray:
    """By how much class 1's probability drops behind a black square (Zeiler and Fergus 2014).

    Args:
        model: a functional Keras classifier.
        images: (N, H, W, C), as the model takes them.
        size: side of the square in pixels.
        stride: distance of neighbouring squares in pixels, at most `size`; the last ones end with the image.
        batch_size: images at a time.

    Returns:
        (N, H, W), float32 in [0, 1]: at each pixel the mean drop of the squares that cover it, scaled as
        in `cam`.

    Raises:
        ValueError: an argument is not as above, or the model returned NaN.

    Example:
        >>> maps = occlusion(model, images, size=32, stride=16)
    """
    return Occlusion(model, size, stride, batch_size)(images)


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


def zero_to_one(maps: np.ndarray) -> np.ndarray:
    """Scale each of (N, H, W) from its lowest to its highest value; 0.5 where they are the same."""
    if not np.isfinite(maps).all():
        raise ValueError("A map needs finite features. Received: NaN or infinite values from the model")
    low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
    # What rounding leaves of a constant map must not be blown up.
    constant = high - low <= 1e-5 * np.maximum(np.abs(low), np.abs(high))
    return np.where(constant, np.float32(0.5), (maps - low) / np.where(constant, 1, high - low))


def every_layer(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """Yield a model's layers in their order, those of nested models in place of them."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from every_layer(layer)
        else:
            yield layer


def find(model: keras.Model, kinds: Any, what: str, name: str | None = None) -> keras.layers.Layer:
    """Return the layer of that name, or the last of the kinds."""
    layers = list(every_layer(model))
    found = [layer for layer in layers if (layer.name == name if name else isinstance(layer, kinds))]
    if name and len(found) != 1:
        raise ValueError(
            "`layer` must be the name of one layer, and none that is a model itself: of one in that. "
            f"Received: layer={name!r}, of which {model.name!r} has {len(found)}"
        )
    if not found:
        raise ValueError(
            f"The model needs {what}. "
            f"Received: {model.name!r}, whose last layers are {[layer.name for layer in layers[-8:]]}"
        )
    return found[-1]


@contextlib.contextmanager
def replaced(layer: keras.layers.Layer, name: str, value: Callable) -> Iterator[None]:
    """Give a layer another method or function for a while."""
    own = layer.__dict__.get(name)
    setattr(layer, name, value)
    try:
        yield
    finally:
        delattr(layer, name)
        if own is not None:
            setattr(layer, name, own)


@contextlib.contextmanager
def recorded(layer: keras.layers.Layer) -> Iterator[list[tuple[Any, Any]]]:
    """Collect (input, output) of each call of a layer."""
    call, seen = layer.call, []

    def recording(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = call(inputs, *args, **kwargs)
        seen.append((inputs, outputs))
        return outputs

    with replaced(layer, "call", recording):
        yield seen


@contextlib.contextmanager
def without_end(model: keras.Model) -> Iterator[None]:
    """Let a model return its score: without the sigmoid or softmax of its last layer."""
    *_, last = every_layer(model)
    if getattr(last, "activation", None) in (keras.activations.sigmoid, keras.activations.softmax):
        with replaced(last, "activation", keras.activations.linear):
            yield
    else:
        yield
