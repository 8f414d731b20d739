"""What is wrong with a data set, all of it at once, and a contact sheet to look at.

Every image and mask is read, in its own size. Errors are what training would refuse, and what would make
its figures worthless: the same image in two splits, or in both classes. Warnings are what a person should
look at. Images are the same when their decoded pixels are, so a copy in another format is found too; one
that was compressed, resized or mirrored is not.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from ..config import Config
from ..errors import InputError
from ..images import pictures
from ..images.pixels import resized, resized_mask
from ..images.reading import read_image
from ..progress import Progress, silent
from .dataset import Dataset
from .files import SPLITS, Listing, channels_of, in_threads, other_size
from .sources import list_files, load_dataset

SHOWN = 24  # thumbnails of a split and class
COLUMNS = 8
THUMBNAIL = 112  # pixels of the longer side
NAME = 16  # letters below a thumbnail
FLAT = 1.0  # an image whose grey levels have a smaller standard deviation shows next to nothing


@dataclass(frozen=True)
class Report:
    """What `check` says.

    Attributes:
        class_names: of class 0 and class 1.
        counts: readable images by (split, label).
        sizes: readable images by (height, width), before resizing.
        masks: masks that were read.
        errors: one line each; training would refuse them, or its figures would be worthless.
        warnings: one line each.
        sheet: the contact sheet, (h, w, 3) uint8, or None where no image can be read.
    """

    class_names: tuple[str, str]
    counts: Counter[tuple[str, int]]
    sizes: Counter[tuple[int, int]]
    masks: int
    errors: list[str]
    warnings: list[str]
    sheet: np.ndarray | None


class Seen(NamedTuple):
    """What is kept of an image after it has been read.

    Attributes:
        name: the file, or what else to call it.
        split: "train", "val" or "test".
        label: 0 or 1.
        size: (height, width) before resizing.
        pixels: digest of the shape and the pixels.
        deviation: standard deviation of the grey levels.
        thumbnail: (h, w, 3), uint8, or None where the contact sheet does not show the image.
        masked: share of the pixels in the mask, or None where there is none that fits.
        problem: what is wrong with the mask.
    """

    name: str
    split: str
    label: int
    size: tuple[int, int]
    pixels: bytes
    deviation: float
    thumbnail: np.ndarray | None
    masked: float | None
    problem: str | None


def check(config: Config, progress: Progress = silent) -> Report:
    """Look at all images of a configuration's data set.

    Args:
        config: says which data set.
        progress: told after every hundred image files.

    Returns:
        The report. Nothing that is wrong with the data raises an error.

    Example:
        >>> check(load_config("configs/demo.yaml")).counts["train", 0]
        64
    """
    listing = list_files(config.data)
    if listing:
        names, warnings = listing.class_names, list(listing.remarks)
        seen, errors = look_at_files(listing, progress)
    else:
        data = load_dataset(config, progress)
        names, warnings = data.class_names, []
        seen, errors = list(look_at_arrays(data)), []
    errors += [image.problem for image in seen if image.problem]
    for group in duplicates(seen):
        line = f"the same image: {', '.join(place(image, names) for image in group)}"
        if len({image.split for image in group}) > 1:
            # Data that are made, like the squares, may be meant so.
            (errors if listing else warnings).append(f"{line}; a leak between splits")
        elif len({image.label for image in group}) > 1:
            errors.append(f"{line}; it cannot be of both classes")
        else:
            warnings.append(line)
    warnings += [
        f"{place(image, names)}: nearly empty, the deviation of its grey levels is {image.deviation:.1f}"
        for image in seen
        if image.deviation < FLAT
    ]
    warnings += [
        f"{place(image, names)}: its mask is {'the whole image' if image.masked else 'empty'}"
        for image in seen
        if image.masked in (0, 1)
    ]
    return Report(
        names,
        Counter((image.split, image.label) for image in seen),
        Counter(image.size for image in seen),
        sum(image.masked is not None for image in seen),
        errors,
        warnings,
        contact_sheet(seen, names),
    )


def look_at_files(listing: Listing, progress: Progress) -> tuple[list[Seen], list[str]]:
    """Read every image and mask that is listed; return what was seen, and errors."""
    entries = sorted(listing.entries, key=lambda entry: (SPLITS.index(entry.split), entry.label))
    channels = listing.channels or channels_of(listing)
    shown = chosen([(entry.split, entry.label) for entry in entries])

    def look(number: int) -> Seen:
        entry = entries[number]
        image, mask, problem = read_image(entry.path, channels), None, None
        try:
            mask = entry.mask(image.shape[:2]) if entry.mask else None
        except InputError as error:
            problem = entry.complaint(error)
        seen = seen_of(str(entry.path), entry.split, entry.label, image, mask)
        if number in shown:
            small = None if mask is None else resized_mask(mask, listing.size)
            seen = seen._replace(thumbnail=thumbnail(resized(image, listing.size), small))
        return seen._replace(problem=problem)

    errors, seen = list(listing.complaints), []
    for entry, result in zip(entries, in_threads(look, range(len(entries)), progress), strict=True):
        if isinstance(result, InputError):
            errors.append(entry.complaint(result))
        else:
            seen.append(result)
    others = [image for image in seen if image.size != seen[0].size]
    if listing.size is None and others:
        errors.append(other_size(seen[0].name, seen[0].size, others[0].name, others[0].size))
    return seen, errors


def look_at_arrays(data: Dataset) -> Iterable[Seen]:
    """Yield what is in a data set that is made, not read."""
    for split, examples in (("train", data.train), ("val", data.val)):
        labels = [(split, int(label)) for label in examples.labels]
        shown = chosen(labels)
        for number, image in enumerate(examples.images):
            seen = seen_of(f"number {number}", *labels[number], image, None)
            yield seen._replace(thumbnail=thumbnail(image, None)) if number in shown else seen


def seen_of(name: str, split: str, label: int, image: np.ndarray, mask: np.ndarray | None) -> Seen:
    """Return what is kept of an image (H, W, C) and its mask (H, W)."""
    pixels = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()
    deviation = float(image.mean(axis=2).std())
    masked = None if mask is None else float(mask.mean())
    return Seen(name, split, label, image.shape[:2], pixels, deviation, None, masked, None)


def place(image: Seen, names: tuple[str, str]) -> str:
    """Return how a finding names an image."""
    return f"{image.name} ({image.split}, {names[image.label]})"


def duplicates(seen: list[Seen]) -> list[list[Seen]]:
    """Return the groups of images whose decoded pixels are the same."""
    groups: dict[bytes, list[Seen]] = defaultdict(list)
    for image in seen:
        groups[image.pixels].append(image)
    return [group for group in groups.values() if len(group) > 1]


# The contact sheet.


def chosen(kinds: list[tuple[str, int]]) -> set[int]:
    """Return the numbers of the images to show: evenly spaced ones of each split and class."""
    numbers: set[int] = set()
    for kind in set(kinds):
        of_kind = np.flatnonzero([other == kind for other in kinds])
        numbers |= {int(of_kind[k]) for k in np.linspace(0, len(of_kind) - 1, SHOWN).round().astype(int)}
    return numbers


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


def contact_sheet(seen: list[Seen], names: tuple[str, str]) -> np.ndarray | None:
    """Draw the thumbnails, with their names, by split and class; None where there is none."""
    names, parts = pictures.short_names(names), []
    for split in SPLITS:
        for label in (0, 1):
            of_kind = [image for image in seen if (image.split, image.label) == (split, label)]
            shown = [image for image in of_kind if image.thumbnail is not None]
            if not shown:
                continue
            heading = f"{split}: {names[label]} (class {label}), {len(shown)} of {len(of_kind)}"
            parts += [
                pictures.blank(pictures.LINE // 2, 1),
                pictures.written(heading, pictures.LINE + 4),
            ]
            cells = [cell(image) for image in shown]
            parts += [
                pictures.beside(cells[start : start + COLUMNS]) for start in range(0, len(cells), COLUMNS)
            ]
    if not parts:
        return None
    margin = pictures.blank(1, pictures.LINE // 2)
    return pictures.beside([margin, pictures.stack([*parts, pictures.blank(pictures.LINE // 2, 1)]), margin])


def cell(image: Seen) -> np.ndarray:
    """Return a thumbnail with its name below, in a part of fixed width."""
    stem = image.name.rpartition("/")[2].rpartition(".")[0] or image.name
    stem = stem if len(stem) <= NAME else f"{stem[: NAME // 2 - 2]}..{stem[-NAME // 2 :]}"
    picture = pictures.framed(image.thumbnail)
    part = pictures.stack([picture, pictures.written(stem, 14)[:, : THUMBNAIL + 10]])
    return pictures.widened(part, THUMBNAIL + 10)
