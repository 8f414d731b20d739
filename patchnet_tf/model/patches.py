"""The patches of an image, and the border that they see beyond it (section 2 of the paper).

Images are channels last. Shapes: B images, H rows, W columns, C channels, p patch size, P patches per image.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from .checks import BORDERS, PACKAGE, at_least_zero, check_border, check_crop, check_positive


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
