"""Data sets that are image files: what a source lists is read here, in the same way for all of them.

A source, such as `folder` or `isic2017`, says in a `Listing` which files there are, what is on them, and what
is wrong with the list. `read` makes a `Dataset` of it, `check` a report.
"""

import contextlib
import csv
import itertools
import math
import os
import re
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from ..config import FilesData
from ..contract import Classes, Pixels
from ..errors import InputError
from ..files import check_regular
from ..images.pixels import resized, resized_mask
from ..images.reading import Head, head, read_image
from ..progress import Progress, silent
from .dataset import Dataset, Examples, Masked
from .pixels import pixels_of, with_percentiles
from .store import Images, Note, Stored, cache_file, cache_folder, chunks, opened, some_of, storing

SPLITS = ("train", "val", "test")
SHOWN = 10  # complaints in one error, names in one line
MIB = 2**20
STEP = 100  # images between two reports of progress; smaller data sets are read in no time
GREY_IN_MASKS = 0.25  # the share of a mask's pixels that may be neither black nor white

Reader = Callable[[tuple[int, int]], np.ndarray]
Item = TypeVar("Item")
Result = TypeVar("Result")


class Entry(NamedTuple):
    """One image of a list.

    Attributes:
        split: "train", "val" or "test".
        classes: the numbers of its classes: one of exclusive ones, any number of labels.
        path: the image file.
        masks: by the class whose map it belongs to: each takes the (height, width) that the image has, and
            returns the mask, bool of that size, or raises InputError.
        row: file and row that list the image, where it is listed in a file.
    """

    split: str
    classes: tuple[int, ...]
    path: Path
    masks: Mapping[int, Reader] = {}
    row: str = ""

    def complaint(self, error: object) -> str:
        """Return a message about the image, with the row that lists it."""
        return f"{self.row}: {error}" if self.row else str(error)


@dataclass
class Listing:
    """The images of a data set, before any is read, and how to read them.

    Attributes:
        classes: their names, and whether an image has just one.
        rules: how to read them: the section of the configuration.
        mask: what the masks show, in one word.
        entries: the images that are there.
        complaints: what is wrong with the list, one line each.
        remarks: what is there and is not used, one line each.
    """

    classes: Classes
    rules: FilesData
    mask: str = "masks"
    entries: list[Entry] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def read(listing: Listing, progress: Progress = silent) -> Dataset:
    """Read all images of a list, on all cores, and the masks of the validation images.

    Images that together need more than `data.memory` are kept in a file, see `store`, and read from it when
    they are asked for.

    Raises:
        InputError: something is wrong with the list, an image cannot be read or has numbers outside the
            range, a mask has another size than its image, sizes differ and the list has none, or dtypes or
            numbers of channels differ. The first ten complaints are told.
        OSError: the file of the images cannot be written.
    """
    refuse(listing.complaints)
    entries = sorted(masked_by_channel(listing), key=lambda entry: SPLITS.index(entry.split))
    pixels = pixels_of_files(listing)
    images, sizes = read_images(listing, entries, pixels, progress)
    masks = read_masks(listing, entries, sizes)

    labels = labels_of(entries, listing.classes)
    splits = [entry.split for entry in entries]
    examples = {}
    for split in sorted(set(splits)):
        part = slice(splits.index(split), splits.index(split) + splits.count(split))
        examples[split] = Examples(some_of(images, part), labels[part])
    if listing.rules.range == "percentiles":
        of_train = examples["train"].images
        pixels = with_percentiles(pixels, chunks(of_train), math.prod(of_train.shape))
    masked = None
    if masks:
        chosen, of_masks, maps = zip(*masks, strict=True)
        different = list(dict.fromkeys(chosen))
        names = dict(zip(different, names_of([entries[k].path for k in different]), strict=True))
        numbers = np.array(of_masks, number_dtype(listing.classes))
        named = tuple(names[k] for k in chosen)
        masked = Masked(mask_name(listing), some_of(images, list(chosen)), np.stack(maps), numbers, named)
    return Dataset(
        listing.classes,
        examples["train"],
        examples["val"],
        masked,
        examples.get("test"),
        names_of([entry.path for entry in entries if entry.split == "val"]),
        pixels,
    )


def read_images(
    listing: Listing, entries: Sequence[Entry], pixels: Pixels, progress: Progress
) -> tuple[Images, list[tuple[int, int]]]:
    """Return all images, in memory or in a file, and the (height, width) that each file has."""
    rules = listing.rules
    how = pixels.model_dump(mode="json", exclude={"range", "clip", "per_image"})
    folder = Path(rules.cache) if rules.cache else cache_folder()
    paths = [entry.path for entry in entries]
    path = cache_file(folder, paths, [rules.size, how], listing.classes.names)
    room = rules.memory * MIB
    if stored := opened(path, progress):
        notes = stored.notes
        refuse(outside(entries, notes, pixels))
        sizes = [tuple(size) for size in notes["size"].tolist()]
        return stored if stored.nbytes > room else stored[:], sizes

    def prepared(entry: Entry) -> tuple[np.ndarray, Note]:
        image = read_image(entry.path, pixels)
        return resized(image, rules.size), Note(image.shape[:2], image.min(), image.max())

    complaints, sizes = [], []
    first, differs = None, False  # first: number and shape of the first image that could be read
    with contextlib.ExitStack() as stack:
        for k, result in enumerate(in_threads(prepared, entries, progress)):
            if isinstance(result, InputError):
                complaints.append(entries[k].complaint(result))
                continue
            image, note = result
            if first is None:
                first, images = (k, image.shape), None
                if len(entries) * image.nbytes <= room:
                    images = np.empty((len(entries), *image.shape), image.dtype)
                else:
                    put = stack.enter_context(storing(path, len(entries), image))
            if image.shape != first[1]:
                if not differs:
                    told = other_size(paths[first[0]], first[1][:2], paths[k], note.size)
                    complaints.append(told)
                differs = True
            elif images is not None:
                images[k] = image
            elif not complaints:
                put(image, note)
            sizes.append(note.size)
        refuse(complaints)
    return Stored(path) if images is None else images, sizes


def outside(entries: Sequence[Entry], notes: np.ndarray, pixels: Pixels) -> list[str]:
    """Return complaints about images that were kept, whose numbers are outside the range."""
    if pixels.clip or pixels.per_image:
        return []
    low, high = pixels.range
    wrong = [entries[k] for k in np.flatnonzero((notes["low"] < low) | (notes["high"] > high))]
    found = zip(wrong, in_threads(lambda entry: read_image(entry.path, pixels), wrong), strict=True)
    return [entry.complaint(error) for entry, error in found if isinstance(error, InputError)]


def read_masks(
    listing: Listing, entries: Sequence[Entry], sizes: Sequence[tuple[int, int]]
) -> list[tuple[int, int, np.ndarray]]:
    """Return the masks of the validation images: the number of the image, the class, and the mask (H, W)."""
    masked = [k for k, entry in enumerate(entries) if entry.split == "val" and entry.masks]
    complaints, masks = [], []

    def prepared(k: int) -> list[tuple[int, int, np.ndarray]]:
        readers = sorted(entries[k].masks.items())
        return [(k, label, resized_mask(read(sizes[k]), listing.rules.size)) for label, read in readers]

    for k, result in zip(masked, in_threads(prepared, masked), strict=True):
        if isinstance(result, InputError):
            complaints.append(entries[k].complaint(result))
        else:
            masks += result
    refuse(complaints)
    return masks


def number_dtype(classes: Classes) -> np.dtype:
    """Return the smallest unsigned type that holds the number of each class."""
    return np.min_scalar_type(len(classes.names) - 1)


def labels_of(entries: Sequence[Entry], classes: Classes) -> np.ndarray:
    """Return the labels of images, as `Examples` has them."""
    if classes.exclusive:
        return np.array([entry.classes[0] for entry in entries], number_dtype(classes))
    labels = np.zeros((len(entries), len(classes.names)), "uint8")
    for row, entry in zip(labels, entries, strict=True):
        row[list(entry.classes)] = 1
    return labels


def names_of(paths: Sequence[Path]) -> tuple[str, ...]:
    """Name files: by their stem, or folder and stem where another file has the same."""
    times = Counter(path.stem for path in paths)
    return tuple(path.stem if times[path.stem] == 1 else f"{path.parent.name}/{path.stem}" for path in paths)


def listed(names: Sequence[str]) -> str:
    """Return the first names of a list in one line, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more or "none"


def refuse(complaints: Sequence[str]) -> None:
    """Raise InputError with the first complaints and the number of the others, if there are any."""
    if complaints:
        more = len(complaints) - SHOWN
        rest = [f"and {more} more; `patchnet data check` lists them all"] if more > 0 else []
        raise InputError("\n".join([*complaints[:SHOWN], *rest]))


def in_threads(
    function: Callable[[Item], Result], items: Sequence[Item], progress: Progress = silent
) -> Iterator[Result | InputError]:
    """Yield what the function returns for each item, in order, or the InputError that it raises.

    Pillow decodes without Python's lock, so threads are enough.
    """

    def caught(item: Item) -> Result | InputError:
        try:
            return function(item)
        except InputError as error:
            return error

    threads = os.cpu_count() or 1
    pool, waiting, rest = ThreadPoolExecutor(threads), deque(), iter(items)
    try:
        for done in range(1, len(items) + 1):
            # No more than a few are ahead, or their results would fill the memory where they are used slowly.
            for item in itertools.islice(rest, 4 * threads - len(waiting)):
                waiting.append(pool.submit(caught, item))
            result = waiting.popleft().result()
            if len(items) >= STEP and (done % STEP == 0 or done == len(items)):
                progress("reading images", done, len(items))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def pixels_of_files(listing: Listing) -> Pixels:
    """Return what the files of a list become, see `pixels_of`; unreadable ones have no say."""
    rules = listing.rules
    return pixels_of(rules, () if rules.dtype and rules.channels else heads_of(listing))


def heads_of(listing: Listing) -> list[tuple[Path, Head]]:
    """Return the training files that can be read, and what they say of themselves."""
    paths = [entry.path for entry in listing.entries if entry.split == "train"]
    found = zip(paths, in_threads(partial(head, window=listing.rules.window), paths), strict=True)
    return [(path, result) for path, result in found if isinstance(result, Head)]


def other_size(first: Path | str, size: Sequence[int], other: Path | str, its_size: Sequence[int]) -> str:
    """Return the complaint about two images of different sizes (height, width)."""
    sizes = [f"{height} x {width}" for height, width in (size, its_size)]
    return (
        "Images of one data set must have one size; set data.size: [height, width] to resize them. "
        f"Received: {first} {sizes[0]}, {other} {sizes[1]} (height x width)"
    )


def read_rows(
    path: Path, columns: Collection[str], instead: Mapping[str, str] = {}
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the rows of a CSV file with a heading: how to name the row, and its cells by column.

    Another column may be there instead of one of the columns, as `instead` says. Rows are counted as a
    spreadsheet does: the heading is row 1. A cell that is not there is "".

    Raises:
        InputError: the file is missing, is no text, or lacks one of the columns.
    """
    try:
        check_regular(path)
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, restval="", skipinitialspace=True)
            headings = {*(rows.fieldnames or ())}
            if missing := [name for name in columns if not {name, instead.get(name)} & headings]:
                raise InputError(
                    f"{path} row 1: expected the columns {', '.join(columns)}; {', '.join(missing)} missing. "
                    f"Received: {', '.join(rows.fieldnames or ()) or 'nothing'}"
                    + (" (cells must be separated by commas)" if len(rows.fieldnames or ()) == 1 else "")
                )
            for row in rows:
                yield f"{path} row {rows.line_num}", {name: cell for name, cell in row.items() if name}
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, csv.Error):
        raise InputError(f"{path}: not a CSV file of UTF-8 text") from None


def read_label(text: str) -> int:
    """Return the label 0 or 1 that a cell of a CSV file holds; "1.0" is 1.

    Raises:
        InputError: it holds nothing or something else.
    """
    labels = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}
    if (label := labels.get(text.strip())) is None:
        raise InputError(f"expected a label, 0 or 1. Received: {text!r}")
    return label


def read_mask(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Read a black and white image file as a mask, True where it is white.

    Raises:
        InputError: it cannot be read, its (height, width) is not `size`, it has other pixels than black ones
            but none that is white, or more than a quarter are grey, as in a photograph. Some are where a mask
            was resized or is a JPEG file.
    """
    mask = read_image(path, 1)[..., 0]  # (H, W)
    if 0 < (brightest := mask.max()) <= 127:
        raise InputError(f"{path}: expected black (0) and white (255). Received: pixels up to {brightest}")
    grey = np.mean((mask > 32) & (mask < 223))
    if grey > GREY_IN_MASKS:
        raise InputError(
            f"{path}: expected black (0) and white (255). Received: {grey:.0%} of the pixels grey"
        )
    return check_mask(path, mask > 127, size)


def masked_by_channel(listing: Listing) -> list[Entry]:
    """Return the images of a list; with `data.mask_channel`, that of each is the mask of its class.

    Of two classes those of class 1 have a mask, and none has whose labels are not just one.

    Raises:
        InputError: there are masks from elsewhere.
    """
    rules = listing.rules
    if rules.mask_channel is None:
        return listing.entries
    if any(entry.masks for entry in listing.entries):
        raise InputError(
            "data.mask_channel: expected null, as images have masks in other files. "
            f"Received: {rules.mask_channel!r}"
        )

    def masks(entry: Entry) -> dict[int, Reader]:
        if len(entry.classes) != 1 or (listing.classes.binary and entry.classes == (0,)):
            return {}
        return {entry.classes[0]: partial(read_mask_channel, entry.path, rules)}

    return [entry._replace(masks=masks(entry)) for entry in listing.entries]


def mask_name(listing: Listing) -> str:
    """Return what the masks show, in one word."""
    channel = listing.rules.mask_channel
    if channel is None:
        return listing.mask
    return re.sub(r"\W+", "_", f"channel {channel}" if isinstance(channel, int) else channel)


def read_mask_channel(path: Path, rules: FilesData, size: tuple[int, int]) -> np.ndarray:
    """Read a channel of an image file as a mask, True where it is above `data.mask_threshold`.

    Raises:
        InputError: it cannot be read, or has no such channel.
    """
    pixels = Pixels(
        dtype="float32",
        channels=1,
        select=(rules.mask_channel,),
        clip=True,
        window=rules.window,
        frame=rules.frame,
    )
    return check_mask(path, read_image(path, pixels)[..., 0] > rules.mask_threshold, size)


def check_mask(path: Path, mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a mask that has its image's (height, width); raise InputError otherwise."""
    if mask.shape != size:
        raise InputError(
            f"{path}: a mask has the size of its image, {size} (height, width). Received: {mask.shape}"
        )
    return mask
