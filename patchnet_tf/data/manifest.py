"""Images anywhere, listed in a CSV file.

    path,label,split,mask              path,split,labels,masks
    a/1.png,0,train,                   a/1.jpg,train,rust;miner,
    a/2.png,1,val,a/2_mask.png         a/2.jpg,val,rust,rust:a/2_rust.png

`data.path` is the CSV file, with a heading in its first row and its columns in any order; those that are not
named here are passed over. Paths are relative to the CSV file's folder.

    path      the image
    split     train, val or test, which is optional
    label     its class: a name of `classes`, or the number from 0
    labels    instead, names of `classes`, with ";" between several. Several, or none, are labels of
              `multilabel: true`; without that there must be just one
    mask      optional: a black and white image of the image's size, the mask of its class
    masks     optional: `<name>:<path>`, with ";" between several. A name of `classes` says whose mask it is;
              any other name, such as defect, says it of an image that has just one class

Localization is measured on validation images that have a mask: of two classes on those of class 1, of more
classes or labels on those of all, in the map of the mask's class. Grey and RGB are as in a folder.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from ..config import ManifestData
from ..contract import Classes, make_classes
from ..errors import InputError
from .files import SPLITS, Entry, Listing, Reader, listed, read_mask, read_rows


def list_files(data: ManifestData) -> Listing:
    """List the images of the CSV file."""
    file = Path(data.path)
    listing = Listing(make_classes(data.classes, not data.multilabel), data)
    seen: dict[Path, str] = {}
    rows: list[tuple[str, tuple[int, ...]]] = []  # split and classes
    unclear: list[str] = []
    columns = ("path", "labels" if data.multilabel else "label", "split")
    try:
        for row, cells in read_rows(file, columns, {"label": "labels"}):
            try:
                entry = read_entry(file.parent, row, cells, listing.classes)
            except InputError as error:
                listing.complaints.append(f"{row}: {error}")
                continue
            rows.append((entry.split, entry.classes))
            if entry.path in seen:
                listing.complaints.append(f"{row}: {entry.path} is there already, in {seen[entry.path]}")
            elif not entry.path.is_file():
                listing.complaints.append(f"{row}: {entry.path}: no such file, but it is listed")
            else:
                listing.entries.append(entry)
            seen.setdefault(entry.path, row)
            if len(entry.classes) != 1 and not entry.masks and list(masks_in(cells)):
                unclear.append(row)
    except InputError as error:
        listing.complaints.append(str(error))
        return listing
    if unclear:
        listing.remarks.append(
            f"{unclear[0]}: its mask does not say which of its labels it shows, and is not used"
            + (f"; so are {len(unclear) - 1} more" if unclear[1:] else "")
        )
    listing.complaints += [f"{file}: {line}" for line in lacking(rows, listing.classes)]
    return listing


def read_entry(folder: Path, row: str, cells: dict[str, str], classes: Classes) -> Entry:
    """Return what a row lists."""
    path, split = (cells[name].strip() for name in ("path", "split"))
    if not path:
        raise InputError("expected the path of an image. Received: ''")
    numbers = read_classes(cells, classes)
    if split not in SPLITS:
        raise InputError(f"{path}: split: expected train, val or test. Received: {split!r}")
    readers: dict[int, Reader] = {}
    for name, mask in masks_in(cells):
        if name in classes.names:
            number = classes.names.index(name)
        elif len(numbers) == 1:
            number = numbers[0]
        else:
            continue
        if number not in numbers:
            raise InputError(f"{path}: a mask of {name!r}, which is not among the labels of the image")
        if number in readers:
            raise InputError(f"{path}: two masks of {classes.names[number]!r}; expected one of each class")
        readers[number] = partial(read_mask, folder / mask)
    if classes.binary:
        readers.pop(0, None)
    return Entry(split, numbers, folder / path, readers, row)


def read_classes(cells: dict[str, str], classes: Classes) -> tuple[int, ...]:
    """Return the numbers of an image's classes: one of exclusive ones."""
    names = dict(zip(classes.names, range(len(classes.names)), strict=True))
    numbers = {text: k for k in names.values() for text in (f"{k}", f"{k}.0")}
    # Of two classes numbers go first, as long as there have been names only for them.
    known = {**names, **numbers} if classes.binary else {**numbers, **names}
    text = cells["labels"] if not classes.exclusive or "label" not in cells else cells["label"]
    texts = text.split(";") if classes.exclusive or text.strip() else []
    found = [known.get(part.strip()) for part in texts]
    if classes.exclusive and len(found) > 1 and "labels" in cells:
        raise InputError(f"expected one label (data.multilabel allows several). Received: {text!r}")
    if None in found:
        wrong = texts[found.index(None)].strip() if len(texts) > 1 else text
        last = len(classes.names) - 1
        numbered = classes.names == tuple(map(str, range(last + 1)))
        what = "" if numbered else f"{listed(classes.names)} (data.classes), or "
        raise InputError(
            f"expected a label, {what}{'0 or 1' if last == 1 else f'0 to {last}'}. Received: {wrong!r}"
        )
    if len(set(found)) < len(found):
        raise InputError(f"expected each label once. Received: {text!r}")
    return tuple(sorted(found))


def masks_in(cells: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the name and the path of each mask in a row; the name is "" where there is none."""
    if mask := cells.get("mask", "").strip():
        yield "", mask
    for pair in filter(None, map(str.strip, cells.get("masks", "").split(";"))):
        name, _, path = (part.strip() for part in pair.partition(":"))
        if not path:
            raise InputError(f"masks: expected <name>:<path>. Received: {pair!r}")
        yield name, path


def lacking(rows: Sequence[tuple[str, tuple[int, ...]]], classes: Classes) -> Iterator[str]:
    """Say which classes a split lacks, and which of several labels all its images have.

    A test split is optional, but one without a class has no AUROC.
    """
    for split in SPLITS:
        of_split = [numbers for this, numbers in rows if this == split]
        if split == "test" and not of_split:
            continue
        counts = Counter(number for numbers in of_split for number in numbers)
        absent = [f"{k} ({name})" for k, name in enumerate(classes.names) if not counts[k]]
        everywhere = [f"{k} ({name})" for k, name in enumerate(classes.names) if counts[k] == len(of_split)]
        if absent:
            yield f"no image of class {listed(absent)} in the split {split}"
        if of_split and everywhere and not classes.exclusive:
            yield f"no image without class {listed(everywhere)} in the split {split}"
