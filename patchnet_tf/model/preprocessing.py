"""What happens to pixels before S sees them: to 0..1, pre-processing, standardization; channels last."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from ..contract import Pixels
from .checks import PACKAGE, check_number, check_range


@keras.saving.register_keras_serializable(package=PACKAGE)
class ZeroToOne(keras.layers.Layer):
    """Pixels of a range scaled to 0..1, from images of as many channels as the layer was built for.

    The channels are checked because a wrong number of them need not fail later: TensorFlow broadcasts one
    channel, and takes a multiple of them for a grouped convolution.

    Args:
        range: (low, high), two finite numbers that become 0 and 1, the same for every image.
        clip: whether what is below `low` becomes 0, and what is above `high` 1; otherwise such values lie
            outside 0..1.
        per_image: whether each image's least and largest value become 0 and 1 instead, those of all its
            pixels and channels; an image of one value becomes 0. Then `range` and `clip` change nothing, and
            no decision about a patch is independent of the rest of its image.

    Call arguments:
        images: (B, H, W, C), of any integer or float dtype. Keras casts floats to the compute dtype before;
            float16 does not hold what uint16 has, so images of that need a layer of dtype "float32".

    Returns:
        (B, H, W, C) in 0..1, in the layer's compute dtype.

    Raises:
        ValueError: `range` is not as above, or the images have other than four axes, or another number of
            channels.

    Example:
        >>> float(ZeroToOne()(keras.ops.full((1, 1, 1, 1), 51.0))[0, 0, 0, 0])
        0.2

        >>> ZeroToOne((-1024, 3072), clip=True)(numpy.array([[[[-2000], [0], [3072]]]]))[0, 0, :, 0]
        [0., 0.25, 1.]
    """

    def __init__(
        self,
        range: Sequence[float] = (0, 255),
        clip: bool = False,
        per_image: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.range, self.clip, self.per_image = check_range(range), bool(clip), bool(per_image)

    def build(self, input_shape: tuple) -> None:
        """Remember the number of channels; there are no weights."""
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: input_shape[-1]})

    def call(self, images: Any) -> Any:
        """Scale."""
        x = ops.cast(images, self.compute_dtype)
        if self.per_image:
            low, high = (find(x, axis=(1, 2, 3), keepdims=True) for find in (ops.min, ops.max))
            return (x - low) / ops.where(high > low, high - low, 1)
        low, high = self.range
        if self.clip:
            x = ops.clip(x, low, high)
        return (x - low if low else x) / (high - low)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """Keep the shape."""
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments; those that are not as usual, so that uint8 models say no more
        than they did when there were no others."""
        own = {"range": [*self.range], "clip": self.clip, "per_image": self.per_image}
        usual = {"range": [0, 255], "clip": False, "per_image": False}
        return {**super().get_config(), **{k: v for k, v in own.items() if v != usual[k]}}

    @classmethod
    def of(cls, pixels: Pixels, **options: Any) -> "ZeroToOne":
        """Return the layer for the pixels that a contract describes."""
        return cls(pixels.range, pixels.clip, pixels.per_image, name="zero_to_one", **options)


@keras.saving.register_keras_serializable(package=PACKAGE)
class GammaCorrection(keras.layers.Layer):
    """Pixels x become x ** (1 / gamma): brighter for a gamma above 1, darker below; 0 and 1 stay.

    2.2 before `ShadesOfGray` is what published implementations of the pre-processing of dermoscopy images
    by Barata, Celebi and Marques (2015) do: it brightens what is brightened for the eye already. The other
    direction, `GammaCorrection(1 / 2.2)`, makes sRGB files roughly linear in light. It is computed in
    float32. Pixels of 0..255 need `ZeroToOne` before it; inside `PatchNet` they have that.

    Args:
        gamma: at least 0.01.

    Call arguments:
        images: (B, H, W, C) in 0..1.

    Returns:
        (B, H, W, C) in 0..1, in the layer's compute dtype.

    Raises:
        ValueError: `gamma` is not such a number, or the images have other than four axes.

    Example:
        >>> float(GammaCorrection(2.0)(keras.ops.full((1, 1, 1, 1), 0.25))[0, 0, 0, 0])
        0.5
    """

    def __init__(self, gamma: float = 2.2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gamma = check_number("gamma", gamma, 0.01)
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def call(self, images: Any) -> Any:
        """Brighten or darken."""
        return ops.cast(ops.power(ops.cast(images, "float32"), 1 / self.gamma), self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """Keep the shape."""
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "gamma": self.gamma}


@keras.saving.register_keras_serializable(package=PACKAGE)
class ShadesOfGray(keras.layers.Layer):
    """Colour constancy: the colour of the light is estimated in each image, and taken out of it.

    The light's share of channel c is the Minkowski mean of the channel over the whole image,
    e_c = mean(x_c ** norm) ** (1 / norm), scaled so that sum(e_c ** 2) = 1; the channel is multiplied by
    1 / (sqrt(C) * e_c), and what exceeds 1 is clipped. Under white light, all e_c alike, an image stays as
    it is, as do grey images (C = 1). Black pixels stay black and do not change the estimate: they lower all
    e_c by one factor. A channel that is 0 everywhere stays 0. It is computed in float32.

    Finlayson and Trezzi (2004), with norm 6 as in Barata, Celebi and Marques, "Improving dermoscopy image
    classification using color constancy" (2015).

    Args:
        norm: of the mean, at least 1: 1 is the grey world, a large one goes towards the brightest pixel.

    Call arguments:
        images: (B, H, W, C) in 0..1 (of 0..255 nearly all would be clipped).

    Returns:
        (B, H, W, C) in 0..1, in the layer's compute dtype.

    Raises:
        ValueError: `norm` is not such a number, or the images have other than four axes.

    Example:
        >>> ShadesOfGray()(numpy.full((1, 8, 8, 3), (0.2, 0.4, 0.4)))[0, 0, 0]  # 0.6 / sqrt(3) each
        [0.34641016, 0.34641016, 0.34641016]
    """

    def __init__(self, norm: float = 6, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.norm = check_number("norm", norm, 1)
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def call(self, images: Any) -> Any:
        """Divide by the colour of the light."""
        x = ops.cast(images, "float32")
        # In parts of the channel's brightest pixel: small numbers to the 6th would vanish.
        brightest = ops.maximum(ops.max(x, axis=(1, 2), keepdims=True), 1e-6)  # (B, 1, 1, C)
        mean = ops.mean(ops.power(x / brightest, self.norm), axis=(1, 2), keepdims=True)
        light = brightest * ops.power(mean, 1 / self.norm)
        length = ops.sqrt(ops.sum(ops.square(light), axis=-1, keepdims=True))
        # Where a channel is 0, so is its light.
        gain = length / (math.sqrt(x.shape[-1]) * ops.maximum(light, 1e-12))
        return ops.cast(ops.clip(x * gain, 0, 1), self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """Keep the shape."""
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "norm": self.norm}


def standardize(
    mean: float | Sequence[float], std: float | Sequence[float], channels: int, **options: Any
) -> keras.layers.Rescaling:
    """Return the layer that maps 0..1 pixels x to (x - mean) / std, per channel where lists are given."""

    def numbers(name: str, value: float | Sequence[float]) -> list[float]:
        values = [float(v) for v in value] if hasattr(value, "__len__") else [float(value)] * channels
        if len(values) != channels or not np.isfinite(values).all():
            raise ValueError(f"`{name}` needs one number, or {channels} (channels). Received: {name}={value}")
        return values

    means, stds = numbers("mean", mean), numbers("std", std)
    if not all(s > 0 for s in stds):
        raise ValueError(f"`std` must be positive. Received: std={std}")
    scales, offsets = [1 / s for s in stds], [-m / s for m, s in zip(means, stds, strict=True)]
    if len(set(scales)) == len(set(offsets)) == 1:  # ONNX Runtime is slower with lists
        scales, offsets = scales[0], offsets[0]
    return keras.layers.Rescaling(scales, offsets, name="standardize", **options)
