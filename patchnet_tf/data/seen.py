"""What a check keeps of an image after it has been read."""

import hashlib
from typing import NamedTuple

import numpy as np

from ..contract import Classes, Pixels
from ..images.pixels import displayed
from .alike import small_vector


class Seen(NamedTuple):
    """What is kept of an image after it has been read.

    Attributes:
        name: the file, or what else to call it.
        split: "train", "val" or "test".
        classes: the numbers of its classes.
        size: (height, width) before resizing.
        pixels: digest of the shape and the pixels.
        ends: the least and the greatest number.
        deviation: standard deviation of the grey levels, as a picture shows them.
        vector: to find images that are alike, see `small_vector`.
        thumbnail: (h, w, 3), uint8, or None where the contact sheet does not show the image.
        masked: by class the share of the pixels in its mask, where there is one that fits.
        problem: what is wrong with a mask.
    """

    name: str
    split: str
    classes: tuple[int, ...]
    size: tuple[int, int]
    pixels: bytes
    ends: tuple[int | float, int | float]
    deviation: float
    vector: np.ndarray | None
    thumbnail: np.ndarray | None
    masked: dict[int, float]
    problem: str | None

    def place(self, classes: Classes) -> str:
        """Return how a finding names the image."""
        names = ", ".join(classes.names[k] for k in self.classes)
        return f"{self.name} ({self.split}, {names or 'no label'})"


def seen_of(
    name: str,
    split: str,
    classes: tuple[int, ...],
    image: np.ndarray,
    masks: dict[int, np.ndarray],
    kind: Pixels,
) -> Seen:
    """Return what is kept of an image (H, W, C) of some kind of pixels, and its masks (H, W)."""
    pixels = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()
    grey = displayed(image, kind).mean(axis=2)
    shares = {k: float(mask.mean()) for k, mask in masks.items()}
    return Seen(
        name,
        split,
        classes,
        image.shape[:2],
        pixels,
        (image.min().item(), image.max().item()),
        float(grey.std()),
        small_vector(grey),
        None,
        shares,
        None,
    )
