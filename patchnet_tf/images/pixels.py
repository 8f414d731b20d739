"""Checks of pixels, and their size."""

import warnings
from typing import Any

import numpy as np
from PIL import Image

from ..errors import InputError, UnfitError


def check_images(
    images: Any, *, channels: int | None = None, smallest: tuple[int, int] = (1, 1), what: str = "images"
) -> np.ndarray:
    """Return images as an array that PatchNet can take, or say in one line why it cannot.

    Args:
        images: (N, H, W, C), any integer or float dtype, in 0..255.
        channels: the C they must have; None means 1 or 3.
        smallest: the least (height, width).
        what: how a message calls them.

    Returns:
        The array, not copied where it was one.

    Raises:
        InputError: 400, no image, not four axes, not numbers; 422, another number of channels, too small,
            NaN, infinity, or values outside 0..255.

    Warns:
        UserWarning: no value is above 1, so they seem to be 0..1 instead of 0..255.

    Example:
        >>> check_images(numpy.zeros((2, 32, 32, 1), "uint8"), smallest=(17, 17)).shape
        (2, 32, 32, 1)
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.size == 0 or images.dtype.kind not in "uif":
        raise InputError(
            f"{what}: expected numbers of shape (count, height, width, channels). "
            f"Received: {images.dtype}, shape={images.shape}"
        )
    allowed = (1, 3) if channels is None else (channels,)
    if images.shape[3] not in allowed:
        expected = " or ".join(map(str, allowed))
        raise UnfitError(f"{what}: expected {expected} channel(s). Received: shape={images.shape}")
    size = images.shape[1:3]
    if size[0] < smallest[0] or size[1] < smallest[1]:
        raise UnfitError(
            f"{what}: expected at least {smallest[0]} x {smallest[1]} pixels (height x width), as the "
            f"model needs. Received: {size[0]} x {size[1]}"
        )
    if images.dtype.kind == "f" and not np.isfinite(images).all():
        raise UnfitError(f"{what}: expected finite pixels. Received: NaN or infinity")
    low, high = images.min(), images.max()
    if low < 0 or high > 255:
        raise UnfitError(f"{what}: expected pixels in 0..255. Received: {low} to {high}")
    if 0 < high <= 1:
        warnings.warn(
            f"{what}: pixels are 0..255, but none of these is above 1: are they 0..1?", stacklevel=2
        )
    return images


def resized(image: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """Return an image (H, W, C) in `size` (height, width), smoothed where it shrinks."""
    if size is None or image.shape[:2] == size:
        return image
    picture = Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image)
    return np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR)).reshape(*size, image.shape[2])


def resized_mask(mask: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """Return a mask (H, W), bool, in `size` (height, width): each pixel is that of the nearest one."""
    if size is None or mask.shape == size:
        return mask
    return np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))
