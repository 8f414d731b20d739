"""Checks of arguments, and numbers that may be tensors."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from keras import ops
from pydantic import ValidationError

from ..contract import MOST_CLASSES, Pixels

PACKAGE = "patchnet_tf"
BORDERS = {"zero": "constant", "reflect": "reflect"}  # and what padding calls them


def check_positive(name: str, value: Any) -> int:
    """Return `value` when it is a whole number of at least 1; raise ValueError naming `name` otherwise."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < 1:
        raise ValueError(f"`{name}` must be a whole number of at least 1. Received: {name}={value!r}")
    return int(value)


def check_classes(classes: Any, multilabel: bool) -> int:
    """Return how many decisions there are about a patch: 1 for two exclusive classes, or one for each class.

    Raises:
        ValueError: `classes` is not a whole number from 2 to 1000.
    """
    count = check_positive("classes", classes)
    if not 2 <= count <= MOST_CLASSES:
        one = "; one label makes two exclusive classes, without it and with it" if multilabel else ""
        raise ValueError(f"`classes` must be from 2 to {MOST_CLASSES}{one}. Received: classes={classes!r}")
    return 1 if count == 2 and not multilabel else count


def check_number(name: str, value: Any, least: float) -> float:
    """Return `value` when it is a finite number of at least `least`; raise ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < math.inf:
        raise ValueError(f"`{name}` must be a finite number of at least {least}. Received: {name}={value!r}")
    return value


def check_range(values: Any) -> tuple[float, float]:
    """Return `range` as (low, high); raise ValueError when it is not two finite numbers, the lower first."""
    try:
        low, high = values
        valid = math.isfinite(low) and math.isfinite(high) and low < high
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise ValueError(f"`range` must be two finite numbers, the lower first. Received: range={values!r}")
    return low, high


def check_pixels(pixels: Pixels | Mapping[str, Any] | None, channels: int) -> Pixels:
    """Return what pixels a model of so many channels takes: those of uint8 where None is given.

    Raises:
        ValueError: they are described wrongly, or have another number of channels.
    """
    try:
        if not isinstance(pixels, Pixels):
            pixels = Pixels(**{"channels": channels, **(pixels or {})})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "pixels"
        raise ValueError(f"`pixels`: {where}: {first['msg']}. Received: pixels={pixels!r}") from None
    if pixels.channels != channels:
        raise ValueError(
            f"`pixels` must have the {channels} channel(s) of `input_shape`. "
            f"Received: pixels with channels={pixels.channels}"
        )
    return pixels


def at_least_zero(size: Any) -> Any:
    """Return max(size, 0) of an int or a scalar tensor."""
    return max(size, 0) if isinstance(size, int) else ops.maximum(size, 0)


def check_crop(crop: Any) -> tuple[int, int]:
    """Return `crop` as (height, width); raise ValueError when it is not a pair of positive whole numbers."""
    try:
        height, width = crop
    except (TypeError, ValueError):
        raise ValueError(
            f"`crop` must be None or (height, width) in pixels. Received: crop={crop!r}"
        ) from None
    return check_positive("crop height", height), check_positive("crop width", width)


def check_border(border: Any) -> str:
    """Return `border` when it is one that there is; raise ValueError otherwise."""
    if border not in BORDERS:
        raise ValueError(f"`border` must be one of {', '.join(BORDERS)}. Received: border={border!r}")
    return border


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
