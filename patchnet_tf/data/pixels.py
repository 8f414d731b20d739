"""Which pixels the image files of a data set have: dtype, channels and range, one for all of them."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from ..config import FilesData
from ..contract import Pixels
from ..errors import InputError
from ..images.formats import RGB
from ..images.reading import Head

PERCENTILES = (0.1, 99.9)
MOST = 2**24  # numbers of which percentiles are taken; of more every second, third, ... is


def pixels_of(rules: FilesData, heads: Iterable[tuple[Path, Head]]) -> Pixels:
    """Return what files become by the rules of a data set, where nothing is said by what they are.

    The range of `percentiles` is not known before the images are: it is that of the dtype, clipped.

    Args:
        rules: the section of the configuration.
        heads: of the training files that can be read, and their paths.

    Raises:
        InputError: two of the files have different dtypes or numbers of channels, their numbers have no
            range of their own and the rules have none, or what the rules say does not agree.

    Example:
        >>> pixels_of(FolderData(kind="folder", path="cells"), [(path, head(path))]).channels
        1
    """
    heads = [(path, head) for path, head in heads if head.dtype]
    dtype = rules.dtype or the_same(heads, "dtype", "as float32, data.dtype reads all") or "uint8"
    select = rules.channels if isinstance(rules.channels, tuple) else ()
    channels = len(select) or rules.channels or channels_of(heads)
    if dtype == "float32" and rules.range is None and not rules.per_image:
        of_file = next((f" in {path}" for path, head in heads if head.dtype == dtype), "")
        raise InputError(
            "data.range: expected [low, high] or percentiles, or data.per_image: true, as these numbers have "
            f"no range of their own. Received: null, {dtype}{of_file}"
        )
    given = {"range": rules.range} if isinstance(rules.range, tuple) else {}
    try:
        return Pixels(
            dtype=dtype,
            channels=channels,
            select=select,
            clip=rules.clip or rules.range == "percentiles",
            per_image=rules.per_image,
            window=rules.window,
            frame=rules.frame,
            **given,
        )
    except ValidationError as error:
        first = error.errors()[0]
        key, reason = (*first["loc"], "range")[0], first["msg"].removeprefix("Value error, ")
        raise InputError(f"data.{key}: {reason}. Received: {given.get(key, channels)!r}") from None


def channels_of(heads: Sequence[tuple[Path, Head]]) -> int:
    """Return how many channels all files have; of grey and RGB ones 3."""
    if all(head.channels == 1 or head.names == RGB for _, head in heads):
        return 3 if any(head.channels == 3 for _, head in heads) else 1
    channels = the_same(heads, "channels", "data.channels chooses some of all")
    same_names(heads)
    return channels


def same_names(heads: Sequence[tuple[Path, Head]]) -> None:
    """Raise InputError where the channels of two files have names and these, or their order, differ."""
    named = [(path, head.names) for path, head in heads if head.names and head.names != RGB]
    for path, names in named:
        if names != named[0][1]:
            raise InputError(
                "Images of one data set must have the same channels; data.channels: [NAME, ...] chooses them "
                f"by name. Received: {named[0][0]} {', '.join(named[0][1])}; {path} {', '.join(names)}"
            )


def the_same(heads: Sequence[tuple[Path, Head]], key: str, advice: str) -> Any:
    """Return what all files have, None where there is no file; raise InputError where two differ."""
    if not heads:
        return None
    first, value = heads[0][0], getattr(heads[0][1], key)
    for path, head in heads:
        if getattr(head, key) != value:
            raise InputError(
                f"Images of one data set must have the same {key}; {advice}. "
                f"Received: {first} {value}, {path} {getattr(head, key)}"
            )
    return value


def with_percentiles(pixels: Pixels, images: Iterable[np.ndarray], count: int) -> Pixels:
    """Return pixels whose range are percentiles of the numbers in images, whole numbers of whole ones.

    Of very many numbers every second, third, ... is taken. Of no image the pixels stay as they are.

    Args:
        pixels: what the images are.
        images: of any shape, one after another.
        count: of the numbers in all of them.

    Raises:
        InputError: both are the same.

    Example:
        >>> images = dataset.train.images
        >>> pixels = Pixels(dtype="uint16", channels=1, clip=True)
        >>> with_percentiles(pixels, chunks(images), math.prod(images.shape)).range
        (98, 4711)
    """
    step = max(1, math.ceil(count / MOST))
    values, seen = [], 0
    for part in images:
        numbers = part.ravel()
        values.append(numbers[-seen % step :: step].copy())  # which lets go of the others
        seen += numbers.size
    if not values:
        return pixels
    low, high = np.percentile(np.concatenate(values), PERCENTILES).tolist()
    if pixels.dtype != "float32":
        low, high = math.floor(low), math.ceil(high)
    if low >= high:
        raise InputError(
            "data.range: expected training images whose percentiles differ. Received: "
            f"{' and '.join(f'{share} %' for share in PERCENTILES)} are both {low}"
        )
    return Pixels(**{**pixels.model_dump(), "range": (low, high)})
