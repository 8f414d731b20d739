"""The layers that PatchNet is made of: pre-processing, patches of an image, S on each, and S's last steps.

Images and maps are channels last. Shapes: B images, H rows, W columns, C channels, p patch size,
P patches per image, N patches of all images, F filters.
"""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

PACKAGE = "patchnet_tf"
BORDERS = {"zero": "constant", "reflect": "reflect"}  # and what padding calls them


def check_positive(name: str, value: Any) -> int:
    """Return `value` when it is a whole number of at least 1; raise ValueError naming `name` otherwise."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < 1:
        raise ValueError(f"`{name}` must be a whole number of at least 1. Received: {name}={value!r}")
    return int(value)


def check_number(name: str, value: Any, least: float) -> float:
    """Return `value` when it is a finite number of at least `least`; raise ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < math.inf:
        raise ValueError(f"`{name}` must be a finite number of at least {least}. Received: {name}={value!r}")
    return value


def at_least_zero(size: Any) -> Any:
    """Return max(size, 0) of an int or a scalar tensor."""
    return max(size, 0) if isinstance(size, int) else ops.maximum(size, 0)


def same_padding(size: Any, patch_size: int, stride: int) -> tuple[Any, Any, Any]:
    """Return how many patches cover `size` pixels, and the zeros before and after that they need.

    This is TensorFlow's SAME rule: ceil(size / stride) patches, the zeros split evenly, the odd zero
    after. `size` is an int or a scalar tensor, and so are the results.

    >>> same_padding(128, 17, 17)
    (8, 4, 4)
    """
    count = (size + stride - 1) // stride
    total = (count - 1) * stride + patch_size - size
    total = at_least_zero(total)
    return count, total // 2, total - total // 2


@keras.saving.register_keras_serializable(package=PACKAGE)
class ZeroToOne(keras.layers.Layer):
    """Pixels of 0..255 scaled to 0..1, from images of as many channels as the layer was built for.

    The channels are checked because a wrong number of them need not fail later: TensorFlow broadcasts one
    channel, and takes a multiple of them for a grouped convolution.

    Call arguments:
        images: (B, H, W, C) in 0..255.

    Returns:
        (B, H, W, C) in 0..1, in the layer's compute dtype.

    Raises:
        ValueError: the images have other than four axes, or another number of channels.

    Example:
        >>> float(ZeroToOne()(keras.ops.full((1, 1, 1, 1), 51.0))[0, 0, 0, 0])
        0.2
    """

    def build(self, input_shape: tuple) -> None:
        """Remember the number of channels; there are no weights."""
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: input_shape[-1]})

    def call(self, images: Any) -> Any:
        """Scale."""
        return ops.cast(images, self.compute_dtype) / 255

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """Keep the shape."""
        return tuple(input_shape)


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


class PatchGrid(keras.layers.Layer):
    """Where the patches of an image lie: their size, their distance, and the region that they are taken from.

    Args:
        patch_size: p, at least 1, odd or even.
        stride: distance of neighbouring patches in pixels; None means `patch_size`.
        crop: (height, width) of the central region that patches are taken from; None means all of it.
        border: what patches see beyond that region: "zero", black; or "reflect", its mirror image.
    """

    def __init__(
        self,
        patch_size: int,
        stride: int | None = None,
        crop: tuple[int, int] | None = None,
        border: str = "zero",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.patch_size = check_positive("patch_size", patch_size)
        self.stride = self.patch_size if stride is None else check_positive("stride", stride)
        self.crop = None if crop is None else check_crop(crop)
        self.border = check_border(border)

    def build(self, input_shape: tuple) -> None:
        """Check the shape of the images; there are no weights."""
        if len(input_shape) != 4:
            raise ValueError(
                f"`{type(self).__name__}` takes images of shape (batch, height, width, channels). "
                f"Received: input_shape={tuple(input_shape)}"
            )
        sizes = input_shape[1:3]
        if self.crop and any(s is not None and s < c for s, c in zip(sizes, self.crop, strict=True)):
            raise ValueError(
                f"`crop` must not be larger than the images, which are {tuple(sizes)} (height, width). "
                f"Received: crop={self.crop}"
            )

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        config = {"patch_size": self.patch_size, "stride": self.stride}
        return {**super().get_config(), **config, "crop": self.crop, "border": self.border}


@keras.saving.register_keras_serializable(package=PACKAGE)
class ExtractPatches(PatchGrid):
    """The image cut into p x p patches that cover it, row by row (section 2 of the paper).

    ceil(H / stride) x ceil(W / stride) patches, padded evenly: `padding="SAME"` of
    `tf.image.extract_patches`. Zeros are black where pixels are 0..1 or 0..255.

    Args:
        patch_size: p, at least 1, odd or even.
        stride: distance of neighbouring patches in pixels; None means `patch_size`.
        crop: (height, width) of the central region that patches are taken from; None means all of it.
        border: what patches see beyond it: "zero" (the paper's black) or "reflect", its mirror image.

    Call arguments:
        images: (B, H, W, C), any float dtype; H and W may be unknown until run time.

    Returns:
        (B, P, p, p, C), the dtype of the images.

    Raises:
        ValueError: an argument is not a positive whole number, the crop is larger than the image, or
            the input does not have four axes.

    Example:
        >>> ExtractPatches(17)(keras.ops.zeros((1, 128, 128, 3))).shape
        TensorShape([1, 64, 17, 17, 3])
    """

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """(B, H, W, C) to (B, P, p, p, C); P is None while H or W is."""
        batch, channels = input_shape[0], input_shape[3]
        sizes = self.crop or input_shape[1:3]
        counts = [
            None if size is None else same_padding(size, self.patch_size, self.stride)[0] for size in sizes
        ]
        count = None if None in counts else counts[0] * counts[1]
        return (batch, count, self.patch_size, self.patch_size, channels)

    def call(self, images: Any) -> Any:
        """Cut (B, H, W, C) into (B, P, p, p, C)."""
        images = crop_center(images, self.crop)
        p = self.patch_size
        patches = self.extract(images)  # (B, rows, columns, p * p * C)
        count = self.compute_output_shape(images.shape)[1]
        if count is None:
            shape = ops.shape(patches)
            count = shape[1] * shape[2]
        return ops.reshape(patches, (-1, count, p, p, images.shape[3]))

    def extract(self, images: Any) -> Any:
        """Cut (B, H, W, C) into (B, rows, columns, p * p * C)."""
        p, stride = self.patch_size, self.stride
        if keras.backend.backend() != "tensorflow":
            return gather_patches(images, p, stride, self.border)
        import tensorflow as tf

        padding = "SAME"
        if self.border != "zero":
            images, padding = pad_same(images, p, stride, self.border), "VALID"
        return tf.image.extract_patches(
            images, [1, p, p, 1], [1, stride, stride, 1], [1, 1, 1, 1], padding=padding
        )


def check_crop(crop: Any) -> tuple[int, int]:
    """Return `crop` as (height, width); raise ValueError when it is not a pair of positive whole numbers."""
    try:
        height, width = crop
    except (TypeError, ValueError):
        raise ValueError(
            f"`crop` must be None or (height, width) in pixels. Received: crop={crop!r}"
        ) from None
    return check_positive("crop height", height), check_positive("crop width", width)


def crop_center(images: Any, crop: tuple[int, int] | None) -> Any:
    """Return the central region of (B, H, W, C) images; the odd pixel stays at the bottom and the right."""
    if crop is None:
        return images
    height, width = ops.shape(images)[1:3]
    if any(isinstance(s, int) and s < c for s, c in zip((height, width), crop, strict=True)):
        raise ValueError(
            f"The images must be at least as large as the crop, {crop}. Received: {images.shape}"
        )
    top, left = (height - crop[0]) // 2, (width - crop[1]) // 2
    # Without the reshape the size would be unknown to later layers when H and W are.
    region = images[:, top : top + crop[0], left : left + crop[1], :]
    return ops.reshape(region, (-1, *crop, images.shape[3]))


def check_border(border: Any) -> str:
    """Return `border` when it is one that there is; raise ValueError otherwise."""
    if border not in BORDERS:
        raise ValueError(f"`border` must be one of {', '.join(BORDERS)}. Received: border={border!r}")
    return border


def pad_border(images: Any, rows: tuple[Any, Any], columns: tuple[Any, Any], border: str) -> Any:
    """Pad (B, H, W, C) images before and after their rows and columns, with black or their mirror image.

    The mirror image leaves the outermost pixels single, and must be smaller than the image.
    """
    return ops.pad(images, [(0, 0), rows, columns, (0, 0)], mode=BORDERS[border])


def pad_same(images: Any, patch_size: int, stride: int, border: str = "zero") -> Any:
    """Pad (B, H, W, C) images as `same_padding` says."""
    rows, columns = (same_padding(size, patch_size, stride)[1:] for size in ops.shape(images)[1:3])
    return pad_border(images, rows, columns, border)


def gather_patches(images: Any, patch_size: int, stride: int, border: str = "zero") -> Any:
    """What `tf.image.extract_patches` returns, bit by bit, as two gathers: rows, then columns.

    For the backends that lack it and for graph formats that cannot express it.

    Args:
        images: (B, H, W, C).
        patch_size: p.
        stride: distance of neighbouring patches in pixels.
        border: as of `ExtractPatches`.

    Returns:
        (B, rows, columns, p * p * C), the dtype of the images.
    """
    rows, columns = (same_padding(size, patch_size, stride)[0] for size in ops.shape(images)[1:3])
    images = pad_same(images, patch_size, stride, border)

    def windows(count: Any) -> Any:  # (count, p): the pixels of each window
        return ops.arange(count, dtype="int32")[:, None] * stride + np.arange(patch_size, dtype="int32")

    patches = ops.take(images, windows(rows), axis=1)  # (B, rows, p, W, C)
    patches = ops.take(patches, windows(columns), axis=3)  # (B, rows, p, columns, p, C)
    patches = ops.transpose(patches, (0, 1, 3, 2, 4, 5))  # (B, rows, columns, p, p, C)
    return ops.reshape(patches, (-1, rows, columns, patch_size**2 * images.shape[3]))


@keras.saving.register_keras_serializable(package=PACKAGE)
class PadSame(PatchGrid):
    """The crop and the border of `ExtractPatches` alone: without padding, the result has the same patches.

    Arguments and errors are those of `ExtractPatches`.

    Call arguments:
        images: (B, H, W, C), any float dtype; H and W may be unknown until run time.

    Returns:
        (B, H', W', C), cropped and padded.

    Example:
        >>> PadSame(17, stride=4)(keras.ops.zeros((1, 128, 128, 3))).shape
        TensorShape([1, 141, 141, 3])
    """

    def call(self, images: Any) -> Any:
        """Crop and pad (B, H, W, C)."""
        return pad_same(crop_center(images, self.crop), self.patch_size, self.stride, self.border)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """(B, H, W, C) to (B, H', W', C)."""
        sizes = [
            None if size is None else size + sum(same_padding(size, self.patch_size, self.stride)[1:])
            for size in self.crop or input_shape[1:3]
        ]
        return (input_shape[0], *sizes, input_shape[3])


@keras.saving.register_keras_serializable(package=PACKAGE)
class PatchDistributed(keras.layers.TimeDistributed):
    """One layer on every patch: `TimeDistributed` with the patch axis folded into the batch.

    Keras's own class unrolls the layer once for each patch when their number is known, and returns
    wrong numbers when it is not (Keras 3.14 and 3.15). Folding is exact, holds one copy of the layer
    in the graph, and takes any number of patches.

    Args:
        layer: S, or any layer or model that takes (N, p, p, C).

    Call arguments:
        inputs: (B, P, ...), P known or not.

    Returns:
        (B, P, ...): the layer's outputs.

    Example:
        >>> PatchDistributed(keras.layers.Flatten())(keras.ops.zeros((2, 5, 3, 3, 1))).shape
        TensorShape([2, 5, 9])
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Apply the layer to (B, P, ...). Patches are never masked: `mask` must be None."""
        if mask is not None:
            raise ValueError(f"`PatchDistributed` takes no mask. Received: mask={mask}")
        count = ops.shape(inputs)[1]
        folded = ops.reshape(inputs, (-1, *inputs.shape[2:]))  # (B * P, ...)
        outputs = self.layer(folded, training=training)
        return ops.reshape(outputs, (-1, count, *outputs.shape[1:]))


@keras.saving.register_keras_serializable(package=PACKAGE)
class FilterReadout(keras.layers.Layer):
    """For each filter map its own linear model: one weight per position, and a bias (section 2).

    The weights are `kernel` (h, w, F), LeCun normal over the h * w positions, and `bias` (F,), zero.

    Call arguments:
        maps: (N, h, w, F), floating point; h and w must be known.

    Returns:
        (N, F): sum over positions of map times kernel, plus bias.

    Example:
        >>> FilterReadout()(keras.ops.ones((4, 17, 17, 64))).shape
        TensorShape([4, 64])
    """

    def build(self, input_shape: tuple) -> None:
        """Create the kernel (h, w, F) and the bias (F,)."""
        _, height, width, filters = input_shape
        # Keras takes the fan-in of a rank-3 kernel to be its first two axes: the h * w positions.
        self.kernel = self.add_weight(
            name="kernel", shape=(height, width, filters), initializer="lecun_normal"
        )
        self.bias = self.add_weight(name="bias", shape=(filters,), initializer="zeros")

    def call(self, maps: Any) -> Any:
        """Read (N, h, w, F) out into (N, F)."""
        return ops.sum(maps * self.kernel, axis=(1, 2)) + self.bias

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """(N, h, w, F) to (N, F)."""
        return (input_shape[0], input_shape[3])


@keras.saving.register_keras_serializable(package=PACKAGE)
class Decision(keras.layers.Layer):
    """Q: the sigmoid of S's linear unit, always in float32, that keeps its gradient when it saturates.

    The unit's output is limited to -13..13 on the way forward, and the limit is invisible to the
    gradient. So Q stays within 2.3e-6 of 0 and 1, where float32 can still tell 1 - Q from 0, and the
    gradient of binary cross-entropy on an average of many Q does not vanish when all of them are wrong
    and sure: it tends to 1 / P for each patch, as it does in exact arithmetic.

    Call arguments:
        logits: any shape, any float dtype.

    Returns:
        The same shape, float32, in (0, 1).

    Example:
        >>> float(Decision()(keras.ops.zeros(())))
        0.5
    """

    LIMIT = 13.0

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})

    def call(self, logits: Any) -> Any:
        """Limit, then sigmoid."""
        limited = ops.clip(logits, -self.LIMIT, self.LIMIT)
        pass_through = logits - ops.stop_gradient(logits)  # zero, with a gradient of one
        return ops.sigmoid(ops.stop_gradient(limited) + pass_through)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """Keep the shape."""
        return tuple(input_shape)


def check_image_shape(
    input_shape: Sequence[int | None], patch_size: int, crop: tuple[int, int] | None
) -> tuple[int | None, int | None, int]:
    """Return `input_shape` as (H, W, C); raise ValueError where a patch or the crop does not fit it."""
    shape = tuple(input_shape)
    if len(shape) != 3 or shape[2] is None:
        raise ValueError(
            "`input_shape` must be (height, width, channels); height and width may be None. "
            f"Received: input_shape={input_shape!r}"
        )
    p = check_positive("patch_size", patch_size)
    region = shape[:2] if crop is None else check_crop(crop)
    if any(size is not None and check_positive("image size", size) < p for size in region):
        what = "image" if crop is None else "crop"
        raise ValueError(
            f"The {what} must be at least as large as a patch, {p} x {p} pixels. "
            f"Received: {what} size {region[0]} x {region[1]}"
        )
    return (*shape[:2], check_positive("channels", shape[2]))


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
    return keras.layers.Rescaling(
        scale=[1 / s for s in stds],
        offset=[-m / s for m, s in zip(means, stds, strict=True)],
        name="standardize",
        **options,
    )


@keras.saving.register_keras_serializable(package=PACKAGE)
class PadBorder(keras.layers.Layer):
    """Images with half a patch of border around them, so that every pixel is the centre of a patch.

    Args:
        patch_size: p; (p - 1) // 2 pixels go above and left of the image, p // 2 below and right of it.
        border: "zero", black; or "reflect", the image's own mirror image.

    Call arguments:
        images: (B, H, W, C), any float dtype; H and W may be unknown until run time.

    Returns:
        (B, H + p - 1, W + p - 1, C).

    Raises:
        ValueError: an argument is not as above.

    Example:
        >>> PadBorder(17, "reflect")(keras.ops.zeros((1, 128, 128, 3))).shape
        TensorShape([1, 144, 144, 3])
    """

    def __init__(self, patch_size: int, border: str = "zero", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.patch_size = check_positive("patch_size", patch_size)
        self.border = check_border(border)

    def call(self, images: Any) -> Any:
        """Pad (B, H, W, C)."""
        pads = ((self.patch_size - 1) // 2, self.patch_size // 2)
        return pad_border(images, pads, pads, self.border)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """(B, H, W, C) to (B, H + p - 1, W + p - 1, C)."""
        batch, *sizes, channels = input_shape
        return (batch, *(size and size + self.patch_size - 1 for size in sizes), channels)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "patch_size": self.patch_size, "border": self.border}
