"""PatchNet: the subnet S and the global model G, as in the paper's section 2 (arXiv 1705.08078).

image -> 0..1 -> preprocessing -> patches -> standardize -> S on each -> mean of the decisions
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import keras
import numpy as np

from .dense import DenseMap
from .layers import (
    CoverPad,
    Decision,
    ExtractPatches,
    FilterReadout,
    PatchDistributed,
    ZeroToOne,
    check_crop,
    check_positive,
)


def PatchSubnet(
    patch_size: int,
    channels: int = 3,
    *,
    filters: int = 64,
    depth: int = 7,
    padding: str = "same",
    name: str = "subnet",
) -> keras.Model:
    """S: one patch in, one decision out.

    `depth` 3 x 3 convolutions with ReLU; for each of the `filters` maps its own linear model over all
    positions, then tanh; one linear unit; sigmoid. Convolutions start He normal.

    `get_weights()` is, in this order: kernel and bias of each convolution; the readout's kernel
    (rows, columns, filters) and bias (filters,); the linear unit's kernel (filters, 1) and bias (1,).

    Args:
        patch_size: p, in pixels, odd or even.
        channels: C of the image.
        filters: maps of every convolution.
        depth: number of convolutions.
        padding: "same", one pixel of zeros around each convolution, as in the paper; or "valid", none:
            then p must be at least 2 * depth + 1.
        name: the model's name.

    Returns:
        A functional Keras model, (N, p, p, C) standardized pixels to Q (N, 1), float32 in (0, 1).

    Raises:
        ValueError: an argument is not a positive whole number, `padding` is neither of the two, or the
            patch is too small for "valid".

    Example:
        >>> PatchSubnet(17).output_shape
        (None, 1)
    """
    p = check_positive("patch_size", patch_size)
    depth = check_positive("depth", depth)
    if padding not in ("same", "valid"):
        raise ValueError(f'`padding` must be "same" or "valid". Received: padding={padding!r}')
    if padding == "valid" and p < 2 * depth + 1:
        raise ValueError(
            f'With padding="valid" and depth={depth} the smallest patch is {2 * depth + 1} pixels '
            f"(2 * depth + 1). Received: patch_size={p}"
        )
    patch = x = keras.Input((p, p, check_positive("channels", channels)), name="patch")
    for k in range(1, depth + 1):
        x = keras.layers.Conv2D(
            check_positive("filters", filters),
            3,
            padding=padding,
            activation="relu",
            kernel_initializer="he_normal",
            name=f"conv{k}",
        )(x)
    x = FilterReadout(name="readout")(x)
    x = keras.layers.Activation("tanh", name="tanh")(x)
    x = keras.layers.Dense(1, name="unit")(x)
    return keras.Model(patch, Decision(name="decision")(x), name=name)


def PatchNet(
    input_shape: Sequence[int | None],
    patch_size: int,
    *,
    stride: int | None = None,
    crop: tuple[int, int] | None = None,
    filters: int = 64,
    depth: int = 7,
    padding: str = "same",
    preprocessing: Iterable[keras.layers.Layer] = (),
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.25,
    name: str = "patchnet",
) -> keras.Model:
    """G: the average of S's decisions over the patches of an image.

    Args:
        input_shape: (H, W, C); H and W may be None.
        patch_size: p of S, in pixels.
        stride: distance of neighbouring patches in pixels; None means `patch_size`. With
            padding="valid" a stride below `patch_size` costs little: all patches share their work.
        crop: (height, width) of the central region to take patches from, as the paper does for
            zero-padded nuclei; the heatmap still covers the whole image. None means all of it.
        filters: maps of each of S's convolutions.
        depth: number of S's convolutions.
        padding: of S's convolutions, "same" (the paper's) or "valid".
        preprocessing: layers that take and return (B, H, W, C) images in 0..1, applied in this order.
        mean: mean of 0..1 pixels, one number or one for each channel.
        std: their standard deviation, likewise. Patches are standardized after zero-padding, so that
            padding is black.
        name: the model's name.

    Returns:
        A functional Keras model, (B, H, W, C) in 0..255 to the probability of class 1 (B, 1), float32.
        Train it with "binary_crossentropy".

    Raises:
        ValueError: `input_shape` is smaller than a patch or the crop, or an argument is out of its range
            (see `PatchSubnet` for those of S). The model raises it for images with another number of
            channels. It does not look at the pixels: NaN stay unnoticed, and where H and W are None, an
            image smaller than a patch is padded with black (`patchnet_tf.data.check_images` finds both).

    Example:
        >>> model = PatchNet((128, 128, 3), patch_size=17)
        >>> model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    """
    input_shape = check_image_shape(input_shape, patch_size, crop)
    channels = input_shape[2]
    subnet = PatchSubnet(patch_size, channels, filters=filters, depth=depth, padding=padding)

    image = x = keras.Input(input_shape, name="image")
    x = ZeroToOne(name="zero_to_one")(x)
    for layer in preprocessing:
        x = layer(x)
    if padding == "valid" and stride is not None and stride < patch_size:
        # Overlapping patches of an S without padding share all their work: one convolution stack.
        x = CoverPad(patch_size, stride, crop, name="black_frame")(x)
        x = standardize(mean, std, channels)(x)
        x = DenseMap(subnet, stride=stride, name="decisions")(x)  # (B, rows, columns)
        x = keras.layers.Reshape((-1, 1), name="patches")(x)  # (B, P, 1)
    else:
        x = ExtractPatches(patch_size, stride, crop, name="patches")(x)  # (B, P, p, p, C)
        x = standardize(mean, std, channels)(x)
        x = PatchDistributed(subnet, name="decisions")(x)  # (B, P, 1)
    # float32 also under a mixed-precision policy: an average must not lose what Q has kept.
    x = keras.layers.GlobalAveragePooling1D(dtype="float32", name="probability")(x)  # (B, 1)
    return keras.Model(image, x, name=name)


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
    mean: float | Sequence[float], std: float | Sequence[float], channels: int
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
    )


def load_model(path: str | Path) -> keras.Model:
    """Load a model of this package from a `.keras` file, in Keras's safe mode, without custom_objects.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a `.keras` file.

    Example:
        >>> model.save("patchnet.keras")
        >>> model = load_model("patchnet.keras")
    """
    # Importing the modules registers their layers with Keras.
    from . import heatmaps  # noqa: F401

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no model file {path}")
    if path.suffix != ".keras":
        raise ValueError(f"A model file ends with .keras. Received: path={path}")
    return keras.models.load_model(path)
