"""What is wrong with a data set, all of it at once, and a contact sheet to look at.

What the pixels are is found first, as training finds it; where that is wrong no image is read. Then every
image and mask is, in its own size. Errors are what training would refuse, and what would make its figures
worthless: the same image in two splits, or of different classes. Warnings are what a person should look at.

Images are the same when their decoded pixels are, so a copy in another format is found too.
One that was compressed, resized, mirrored or turned may look the same, see `alike`, and is a warning.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from ..config import Config
from ..contract import Classes, Pixels
from ..errors import InputError
from ..images.pixels import displayed, resized, resized_mask
from ..images.reading import read_image
from ..progress import Progress, silent
from .alike import ALIKE, MOST, nearest
from .dataset import Dataset
from .files import SPLITS, Listing, heads_of, in_threads, masked_by_channel, other_size, pixels_of_files
from .pixels import pixels_of, with_percentiles
from .seen import Seen, seen_of
from .sheet import chosen, contact_sheet, thumbnail
from .sources import list_files, load_dataset

FLAT = 1.0  # an image whose grey levels have a smaller standard deviation shows next to nothing
TOLD = 20  # images that look like one of another split, one line each


@dataclass(frozen=True)
class Report:
    """What `check` says.

    Attributes:
        classes: what they are called, and whether an image has just one.
        images: readable images by split.
        counts: readable images by (split, class); an image with several labels counts at each.
        leaks: by class, images of a split that are in an earlier one too.
        sizes: readable images by (height, width), before resizing.
        masks: masks that were read.
        pixels: what the files become, or None where that is wrong or no training image can be read.
        ends: the least and the greatest number in them; None where no image can be read.
        errors: one line each; training would refuse them, or its figures would be worthless.
        warnings: one line each.
        sheet: the contact sheet, (h, w, 3) uint8, or None where no image can be read.
    """

    classes: Classes
    images: Counter[str]
    counts: Counter[tuple[str, int]]
    leaks: Counter[int]
    sizes: Counter[tuple[int, int]]
    masks: int
    pixels: Pixels | None
    ends: tuple[int | float, int | float] | None
    errors: list[str]
    warnings: list[str]
    sheet: np.ndarray | None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.classes.names


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
        classes, warnings = listing.classes, list(listing.remarks)
        pixels, errors = kind_of_pixels(listing, progress)
        errors += listing.complaints
        seen, more = look_at_files(listing, pixels, progress) if pixels else ([], [])
        errors += more
    else:
        data = load_dataset(config, progress)
        classes, pixels, warnings = data.classes, data.pixels, []
        seen, errors = list(look_at_arrays(data)), []
    errors += [image.problem for image in seen if image.problem]
    leaks: Counter[int] = Counter()
    for group in duplicates(seen):
        line = f"the same image: {', '.join(image.place(classes) for image in group)}"
        if len({image.split for image in group}) > 1:
            # Data that are made, like the squares, may be meant so.
            (errors if listing else warnings).append(f"{line}; a leak between splits")
            first = min(SPLITS.index(image.split) for image in group)
            leaks.update(k for image in group if SPLITS.index(image.split) > first for k in image.classes)
        elif len({image.classes for image in group}) > 1:
            wrong = f"be of {'both' if classes.binary else 'several'} classes"
            errors.append(f"{line}; it cannot {wrong if classes.exclusive else 'have different labels'}")
        else:
            warnings.append(line)
    warnings += [
        f"{image.place(classes)}: nearly empty, the deviation of its grey levels is {image.deviation:.1f}"
        for image in seen
        if image.deviation < FLAT
    ]
    warnings += [
        f"{image.place(classes)}: its mask{'' if classes.exclusive else f' of {classes.names[k]}'} is "
        f"{'the whole image' if share else 'empty'}"
        for image in seen
        for k, share in image.masked.items()
        if share in (0, 1)
    ]
    if listing:
        warnings += look_alikes(seen, classes)
    return Report(
        classes,
        Counter(image.split for image in seen),
        Counter((image.split, k) for image in seen for k in image.classes),
        leaks,
        Counter(image.size for image in seen),
        sum(len(image.masked) for image in seen),
        pixels if any(image.split == "train" for image in seen) else None,
        (min(i.ends[0] for i in seen), max(i.ends[1] for i in seen)) if seen else None,
        errors,
        warnings,
        contact_sheet(seen, classes.names),
    )


def kind_of_pixels(listing: Listing, progress: Progress) -> tuple[Pixels | None, list[str]]:
    """Return what the files become, with percentiles as training takes them; or None, and what is wrong."""
    try:
        if listing.rules.range != "percentiles":
            pixels = pixels_of_files(listing)
        else:
            heads = heads_of(listing)
            pixels = pixels_of(listing.rules, heads)
            shapes = [listing.rules.size or head.size for _, head in heads]
            count = sum(prod(shape) for shape in shapes) * pixels.channels
            pixels = with_percentiles(pixels, training_images(listing, pixels, progress), count)
    except InputError as error:
        return None, [str(error)]
    return pixels, []


def training_images(listing: Listing, pixels: Pixels, progress: Progress) -> Iterator[np.ndarray]:
    """Yield the training images (H, W, C) that can be read, resized."""
    paths = [entry.path for entry in listing.entries if entry.split == "train"]
    read = in_threads(lambda path: resized(read_image(path, pixels), listing.rules.size), paths, progress)
    yield from (image for image in read if not isinstance(image, InputError))


def look_at_files(listing: Listing, pixels: Pixels, progress: Progress) -> tuple[list[Seen], list[str]]:
    """Read every image and mask that is listed; return what was seen, and errors."""
    errors = []
    try:
        entries = masked_by_channel(listing)
    except InputError as error:
        entries = listing.entries
        errors.append(str(error))
    entries = sorted(entries, key=lambda entry: (SPLITS.index(entry.split), entry.classes))
    rules = listing.rules
    shown = chosen([(entry.split, entry.classes) for entry in entries], len(listing.classes.names))

    def look(number: int) -> Seen:
        entry = entries[number]
        image, masks, problem = read_image(entry.path, pixels), {}, None
        for k, reader in entry.masks.items():
            try:
                masks[k] = reader(image.shape[:2])
            except InputError as error:
                problem = entry.complaint(error)
        seen = seen_of(str(entry.path), entry.split, entry.classes, image, masks, pixels)
        if number in shown:
            union = resized_mask(np.any([*masks.values()], axis=0), rules.size) if masks else None
            seen = seen._replace(thumbnail=thumbnail(resized(displayed(image, pixels), rules.size), union))
        return seen._replace(problem=problem)

    seen = []
    for entry, result in zip(entries, in_threads(look, range(len(entries)), progress), strict=True):
        if isinstance(result, InputError):
            errors.append(entry.complaint(result))
        else:
            seen.append(result)
    others = [image for image in seen if image.size != seen[0].size]
    if rules.size is None and others:
        errors.append(other_size(seen[0].name, seen[0].size, others[0].name, others[0].size))
    return seen, errors


def look_at_arrays(data: Dataset) -> Iterable[Seen]:
    """Yield what is in a data set of two classes that is made, not read."""
    for split, examples in (("train", data.train), ("val", data.val)):
        kinds = [(split, (int(label),)) for label in examples.labels]
        shown = chosen(kinds, len(data.class_names))
        for number, image in enumerate(examples.images):
            seen = seen_of(f"number {number}", *kinds[number], image, {}, data.pixels)
            yield seen._replace(thumbnail=thumbnail(image, None)) if number in shown else seen


def duplicates(seen: list[Seen]) -> list[list[Seen]]:
    """Return the groups of images whose decoded pixels are the same."""
    groups: dict[bytes, list[Seen]] = defaultdict(list)
    for image in seen:
        groups[image.pixels].append(image)
    return [group for group in groups.values() if len(group) > 1]


def look_alikes(seen: list[Seen], classes: Classes) -> list[str]:
    """Return warnings of images that look the same: each between splits, and how many within one."""
    seen = [image for image in seen if image.vector is not None]
    if not seen:
        return []
    if len(seen) > MOST:
        return [f"images that look the same are not looked for among more than {MOST}. Received: {len(seen)}"]
    groups = np.unique([image.pixels.hex() for image in seen], return_inverse=True)[1]
    splits = np.array([SPLITS.index(image.split) for image in seen])
    vectors = np.stack([image.vector for image in seen])
    other, between, fellow, within = nearest(vectors, groups, splits)
    lines = []
    leaks = np.flatnonzero(between >= ALIKE)
    for n in leaks[np.argsort(-between[leaks], kind="stable")][:TOLD]:
        lines.append(
            f"{seen[n].place(classes)} looks like {seen[other[n]].place(classes)}, correlation "
            f"{between[n]:.3f}; a leak between splits if they show the same"
        )
    if len(leaks) > TOLD:
        of_class = Counter(classes.names[k] for n in leaks for k in seen[n].classes)
        shares = ", ".join(f"{name} {count}" for name, count in of_class.most_common(10))
        lines.append(
            f"{len(leaks)} images look like one of another split (correlation {ALIKE} or more), "
            f"of which these are {TOLD}; by class {shares}"
        )
    for number, split in enumerate(SPLITS):
        inside = np.flatnonzero((splits == number) & (within >= ALIKE))
        if len(inside):
            n = inside[within[inside].argmax()]
            lines.append(
                f"{split}: {len(inside)} images look like another one of the split (correlation {ALIKE} or "
                f"more), such as {seen[n].name} and {seen[fellow[n]].name}"
            )
    return lines
