"""A contact sheet: thumbnails of a data set by split and class, with the outlines of their masks."""

from collections.abc import Sequence

import cv2
import numpy as np

from ..images import pictures
from .files import SPLITS
from .seen import Seen

SHOWN = 24  # thumbnails of a split and class
FEW = 4  # classes: of more, each has one row of thumbnails
CLASSES = 24  # with a part of their own; of more, evenly spaced ones are shown
COLUMNS = 8
THUMBNAIL = 112  # pixels of the longer side
NAME = 16  # letters below a thumbnail
NONE = -1  # stands for the class of an image without labels


def evenly(count: int, most: int) -> list[int]:
    """Return at most so many of the numbers from 0 to count - 1, evenly spaced."""
    return sorted({int(k) for k in np.linspace(0, count - 1, min(count, most)).round()})


def parts_of(classes: int) -> tuple[list[int], int]:
    """Return which of so many classes are shown, and how many images of each."""
    return evenly(classes, CLASSES), SHOWN if classes <= FEW else COLUMNS


def chosen(kinds: Sequence[tuple[str, tuple[int, ...]]], classes: int) -> set[int]:
    """Return the numbers of the images to show: evenly spaced ones of each split and class.

    Args:
        kinds: the split and the classes of each image.
        classes: how many there are.
    """
    shown, most = parts_of(classes)
    places: dict[tuple[str, int], list[int]] = {}
    for number, (split, of_image) in enumerate(kinds):
        for label in of_image or (NONE,):
            places.setdefault((split, label), []).append(number)
    return {
        numbers[k]
        for (_, label), numbers in places.items()
        if label in (*shown, NONE)
        for k in evenly(len(numbers), most)
    }


def thumbnail(image: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Return an image (H, W, C) with its mask's (H, W) outline, at most THUMBNAIL pixels, RGB."""
    height, width = (max(1, round(n * THUMBNAIL / max(image.shape[:2]))) for n in image.shape[:2])
    way = cv2.INTER_AREA if max(image.shape[:2]) > THUMBNAIL else cv2.INTER_NEAREST
    small = pictures.rgb(cv2.resize(image, (width, height), interpolation=way)).copy()
    if mask is not None:
        mask = cv2.resize(mask.astype("uint8"), (width, height), interpolation=cv2.INTER_NEAREST)
        outlines = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)[0]
        cv2.drawContours(small, outlines, -1, pictures.RED.tolist(), 1)
    return small


def contact_sheet(seen: Sequence[Seen], names: Sequence[str]) -> np.ndarray | None:
    """Draw the thumbnails, with their names, by split and class; None where there is none.

    An image with several labels is shown at each of them.
    """
    parts = []
    numbers, most = parts_of(len(names))
    for split in SPLITS:
        of_split = [image for image in seen if image.split == split]
        for label in (*numbers, NONE):
            of_kind = [image for image in of_split if label in (image.classes or (NONE,))]
            with_thumbnail = [image for image in of_kind if image.thumbnail is not None]
            if not with_thumbnail:
                continue
            shown = [with_thumbnail[k] for k in evenly(len(with_thumbnail), most)]
            name = "no label" if label == NONE else f"{pictures.short_name(names[label])} (class {label})"
            parts += [
                pictures.blank(pictures.LINE // 2, 1),
                pictures.written(f"{split}: {name}, {len(shown)} of {len(of_kind)}", pictures.LINE + 4),
            ]
            cells = [cell(image) for image in shown]
            parts += [
                pictures.beside(cells[start : start + COLUMNS]) for start in range(0, len(cells), COLUMNS)
            ]
    if not parts:
        return None
    if len(numbers) < len(names):
        parts.insert(0, pictures.written(f"{len(numbers)} of {len(names)} classes", pictures.LINE + 4))
    margin = pictures.blank(1, pictures.LINE // 2)
    return pictures.beside([margin, pictures.stack([*parts, pictures.blank(pictures.LINE // 2, 1)]), margin])


def cell(image: Seen) -> np.ndarray:
    """Return a thumbnail with its name below, in a part of fixed width."""
    stem = image.name.rpartition("/")[2].rpartition(".")[0] or image.name
    stem = stem if len(stem) <= NAME else f"{stem[: NAME // 2 - 2]}..{stem[-NAME // 2 :]}"
    picture = pictures.framed(image.thumbnail)
    part = pictures.stack([picture, pictures.written(stem, 14)[:, : THUMBNAIL + 10]])
    return pictures.widened(part, THUMBNAIL + 10)
