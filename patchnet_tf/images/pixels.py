"""Checks of pixels, and their size."""

import warnings
from typing import Any

import numpy as np
from PIL import Image

from ..contract import Pixels
from ..errors import InputError, UnfitError

GREY = np.array([0.299, 0.587, 0.114], "float32")  # of ITU-R BT.601, as Pillow has it
COLOURS = {  # of channels that are not grey or RGB, by their number
    "magenta": (255, 0, 255),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "cyan": (0, 255, 255),
    "red": (255, 0, 0),
    "white": (255, 255, 255),
    "orange": (255, 128, 0),
    "violet": (128, 0, 255),
    "lime": (128, 255, 0),
    "azure": (0, 128, 255),
    "pink": (255, 0, 128),
    "mint": (0, 255, 128),
    "brown": (128, 64, 0),
    "teal": (0, 128, 128),
    "grey": (128, 128, 128),
}


def check_images(
    images: Any,
    *,
    pixels: Pixels | None = None,
    channels: int | None = None,
    smallest: tuple[int, int] = (1, 1),
    what: str = "images",
) -> np.ndarray:
    """Return images as an array that PatchNet can take, or say in one line why it cannot.

    Args:
        images: (N, H, W, C), any integer or float dtype, in the range that `pixels` has.
        pixels: what the model takes; None means numbers in 0..255.
        channels: the C they must have, where there are no `pixels`; None means 1 or 3.
        smallest: the least (height, width).
        what: how a message calls them.

    Returns:
        The array, not copied where it was one.

    Raises:
        InputError: 400, no image, not four axes, not numbers; 422, another number of channels, too small,
            NaN, infinity, or values outside the range.

    Warns:
        UserWarning: the range is 0..255 and no value is above 1, so they seem to be 0..1 instead.

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
    if pixels is not None:
        allowed = (pixels.channels,)
    else:
        allowed = (1, 3) if channels is None else (channels,)
        pixels = Pixels(channels=allowed[0])
    if images.shape[3] not in allowed:
        expected = " or ".join(map(str, allowed))
        raise UnfitError(f"{what}: expected {expected} channel(s). Received: shape={images.shape}")
    size = images.shape[1:3]
    if size[0] < smallest[0] or size[1] < smallest[1]:
        raise UnfitError(
            f"{what}: expected at least {smallest[0]} x {smallest[1]} pixels (height x width), as the "
            f"model needs. Received: {size[0]} x {size[1]}"
        )
    check_values(images, pixels, what)
    if pixels.range == (0, 255) and 0 < images.max() <= 1:
        warnings.warn(
            f"{what}: pixels are 0..255, but none of these is above 1: are they 0..1?", stacklevel=2
        )
    return images


def check_values(images: np.ndarray, pixels: Pixels, what: str) -> None:
    """Refuse NaN, infinity, and numbers outside the range of `pixels`, unless they are clipped to it.

    Args:
        images: numbers of any shape.
        pixels: what the model takes.
        what: how a message calls them.

    Raises:
        UnfitError: there are such.

    Example:
        >>> check_values(numpy.array([0, 300]), Pixels(channels=1), "cell.tif")
        Traceback (most recent call last):
        UnfitError: cell.tif: expected pixels in 0..255. Received: 0 to 300, 1 of 2 outside
    """
    if images.dtype.kind == "f" and not np.isfinite(images).all():
        count = images.size - np.count_nonzero(np.isfinite(images))
        raise UnfitError(
            f"{what}: expected finite pixels. Received: NaN or infinity in {count} of {images.size}"
        )
    if pixels.clip or pixels.per_image:
        return
    low, high = pixels.range
    if images.dtype == pixels.dtype == "uint8" and (low, high) == (0, 255):
        return
    least, greatest = images.min(), images.max()
    if least < low or greatest > high:
        outside = np.count_nonzero((images < low) | (images > high))
        raise UnfitError(
            f"{what}: expected pixels in {low}..{high}. Received: {least} to {greatest}, {outside} of "
            f"{images.size} outside"
        )


def displayed(image: np.ndarray, pixels: Pixels) -> np.ndarray:
    """Return an image as a picture can show it.

    The range becomes 0..255. One channel is grey, three are red, green and blue; of any other number each
    channel is drawn in the colour of `COLOURS` that has its number, and the colours are added.

    Args:
        image: (H, W, C), of the dtype that `pixels` has.
        pixels: what the model takes.

    Returns:
        uint8, (H, W, 1) or (H, W, 3); the image itself where it is that already.

    Example:
        >>> pixels = Pixels(dtype="uint16", range=(0, 4095), channels=1)
        >>> displayed(numpy.full((1, 1, 1), 4095, "uint16"), pixels)
        array([[[255]]], dtype=uint8)
    """
    channels = image.shape[2]
    if image.dtype == "uint8" and pixels.range == (0, 255) and not pixels.per_image and channels in (1, 3):
        return image
    low, high = (image.min(), image.max()) if pixels.per_image else pixels.range
    shown = np.clip((image.astype("float32") - low) / ((high - low) or 1), 0, 1)
    if channels not in (1, 3):
        shown = np.minimum(shown @ np.array([*COLOURS.values()])[:channels] / 255, 1)
    return np.rint(255 * shown).astype("uint8")


def in_words(pixels: Pixels) -> str:
    """Say what pixels are, and in what colours pictures show their channels.

    Example:
        >>> in_words(Pixels(dtype="uint16", range=(0, 4095), channels=2, select=("DAPI", "CENPA")))
        'uint16, channels DAPI, CENPA of a file. Numbers from 0 to 4095. Shown: DAPI magenta, CENPA green.'
    """
    count, (low, high) = pixels.channels, pixels.range
    names = pixels.select or range(count)
    plural = "channel" if count == 1 else "channels"
    which = f"{plural} {', '.join(map(str, names))} of a file" if pixels.select else f"{count} {plural}"
    scaled = f"Numbers from {low} to {high}{'; others become these ends' if pixels.clip else ''}."
    if pixels.per_image:
        scaled = (
            "Each image is scaled from its own least to its own greatest number, so a decision depends on "
            "the whole image."
        )
    colours = ("red", "green", "blue") if count == 3 else COLOURS
    shown = ", ".join(f"{name} {colour}" for name, colour in zip(names, colours, strict=False))
    coloured = count > 3 or count == 2 or (count == 3 and pixels.select)
    return f"{pixels.dtype}, {which}. {scaled}{f' Shown: {shown}.' if coloured else ''}"


def spread_over(shares: np.ndarray, pixels: Pixels) -> np.ndarray:
    """Return numbers in 0..1 spread over the range of `pixels`, and beyond it where the model clips.

    Args:
        shares: in 0..1, of any shape.
        pixels: what the model takes.

    Returns:
        The same shape, of the dtype of `pixels`; whole numbers are rounded down.

    Example:
        >>> spread_over(numpy.array([0, 0.5, 1]), Pixels(dtype="uint16", range=(0, 4095), channels=1))
        array([   0, 2047, 4095], dtype=uint16)
    """
    low, high = pixels.range
    more = (high - low) / 8 if pixels.clip else 0
    numbers = low - more + (high - low + 2 * more) * shares
    if pixels.dtype != "float32":
        numbers = np.clip(numbers, 0, np.iinfo(pixels.dtype).max)
    return numbers.astype(pixels.dtype)


def grey_of(image: np.ndarray) -> np.ndarray:
    """Return an RGB image (H, W, 3) as grey, (H, W, 1), of the same dtype; whole numbers are rounded."""
    if image.dtype == "uint8":
        return np.asarray(Image.fromarray(image).convert("L"))[..., None]
    grey = image.astype("float32") @ GREY
    return (np.rint(grey) if image.dtype.kind == "u" else grey).astype(image.dtype)[..., None]


def resized(image: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """Return an image (H, W, C), uint8, uint16 or float32, in `size` (height, width), smoothed if smaller."""
    if size is None or image.shape[:2] == size:
        return image
    if image.dtype == "uint8" and image.shape[2] == 3:
        return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
    planes = [
        image[..., k] if image.dtype == "uint8" else image[..., k].astype("float32")
        for k in range(image.shape[2])
    ]
    planes = [Image.fromarray(plane).resize(size[::-1], Image.Resampling.BILINEAR) for plane in planes]
    stacked = np.stack([np.asarray(plane) for plane in planes], axis=-1)
    return (np.rint(stacked) if image.dtype.kind == "u" else stacked).astype(image.dtype, copy=False)


def resized_mask(mask: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """Return a mask (H, W), bool, in `size` (height, width): each pixel is that of the nearest one."""
    if size is None or mask.shape == size:
        return mask
    return np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))
