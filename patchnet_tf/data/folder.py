"""A folder of images as a data set.

    path/train/<class>/*.png    images to train on
    path/val/<class>/*.png      images to validate on
    path/test/<class>/*.png     optional: images that are only measured at the end
    path/masks/val/<class>/<stem>__<kind>.png    optional: black and white, the size of the image <stem>

The class folders, two or more, may have any names, the same in all splits. Sorted they are the classes 0, 1,
..., unless `classes` chooses some or orders them otherwise; of two, class 0 is black in heatmaps. Images are
of any kind that `patchnet_tf.images` reads, by their suffix; other files and hidden ones are passed over, and
subfolders are not searched. Where every training image is grey, all are read as grey, otherwise all as RGB,
unless `channels` says otherwise.

Localization is measured on validation images that have a mask of the kind `mask`: of two classes on those of
class 1, of more on those of all.

The paper's nuclei need no more than this: crops of 128 x 128 pixels, padded with zeros, in train/<line> and
val/<line>; the images of CENP-A as masks/val/<line>/<stem>__cenpa.png with `mask: cenpa`; and training on
the central 64 x 64 pixels, which is the model's `crop: [64, 64]`.
"""

import contextlib
import glob
from collections import Counter
from functools import partial
from pathlib import Path

from ..config import FolderData
from ..contract import MOST_CLASSES, make_classes
from ..errors import InputError
from ..images.formats import SUFFIXES
from .files import SHOWN, Entry, Listing, listed, read_mask

OF_SYSTEMS = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}  # which file managers leave in folders


def list_files(data: FolderData) -> Listing:
    """List the images and masks below `data.path`."""
    root = Path(data.path)
    classes = make_classes(data.classes or ("0", "1"))
    listing = Listing(classes, data, data.mask or "masks")
    if not root.is_dir():
        listing.complaints.append(f"{root}: no such folder (data.path)")
        return listing
    files: dict[str, dict[str, list[Path]]] = {}
    for split in ("train", "val"):
        try:
            files[split], complaints = class_files(root / split, data.classes)
            listing.complaints += complaints
        except InputError as error:
            listing.complaints.append(str(error))
    names = [tuple(of_split) for of_split in files.values()]
    if len(set(names)) == 2:
        listing.complaints.append(
            f"{root}: the classes below train and val must have the same names. Received: {different(*names)}"
        )
    if names:
        listing.classes = make_classes(names[0])
    names = listing.classes.names
    if any((root / "test" / name).is_dir() for name in names):
        try:
            files["test"], complaints = class_files(root / "test", names)
            listing.complaints += complaints
        except InputError as error:
            listing.complaints.append(str(error))
    masked = (1,) if listing.classes.binary else range(len(names))
    for split, of_split in files.items():
        for label, (name, paths) in enumerate(of_split.items()):
            listing.remarks += [
                f"{folder}: a subfolder of a class; its images are not read"
                for folder in subfolders(root / split / name)
                if any(file.suffix.lower() in SUFFIXES for file in folder.rglob("*"))
            ]
            others = other_files(root / split / name) if paths else []
            if others:
                listing.remarks.append(
                    f"{root / split / name}: {len(others)} file(s) without the suffix of an image, not read "
                    f"({suffixes_of(others)}); DICOM files need .dcm"
                )
            for path in paths:
                mask = root / "masks" / split / name / f"{path.stem}__{data.mask}.png"
                present = label in masked and data.mask and mask.is_file()
                readers = {label: partial(read_mask, mask)} if present else {}
                listing.entries.append(Entry(split, (label,), path, readers))
    shown = [entry for entry in listing.entries if entry.split == "val" and entry.classes[0] in masked]
    if data.mask and shown:
        of_masks = [folder for folder in sorted((root / "masks" / "val").glob("*/")) if folder.is_dir()]
        listing.remarks += [
            f"{folder}: masks of no class; the classes are {listed(names)}"
            for folder in of_masks
            if folder.name not in names and any(folder.glob(f"*__{glob.escape(data.mask)}.png"))
        ]
        if not any(entry.masks for entry in shown):
            first = f"{shown[0].path.stem}__{data.mask}.png"
            listing.complaints.append(
                f"{root / 'masks' / 'val' / shown[0].path.parent.name}: no mask of the kind {data.mask!r} "
                f"(data.mask), such as {first}"
            )
        for label in masked:
            stems = {f"{entry.path.stem}__{data.mask}" for entry in shown if entry.classes == (label,)}
            masks = (root / "masks" / "val" / names[label]).glob(f"*__{glob.escape(data.mask)}.png")
            listing.remarks += [
                f"{mask}: no image has this mask" for mask in sorted(masks) if mask.stem not in stems
            ]
    return listing


def class_files(folder: Path, classes: tuple[str, ...] | None) -> tuple[dict[str, list[Path]], list[str]]:
    """Return the sorted image files of each class below `folder`, and complaints about those without."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; a data set has train/<class>/ and val/<class>/")
    present = [path.name for path in subfolders(folder)]
    names = classes or present
    if len(names) < 2:
        raise InputError(f"{folder}: expected at least two class folders. Received: {listed(present)}")
    if len(names) > MOST_CLASSES:
        raise InputError(
            f"{folder}: expected at most {MOST_CLASSES} class folders (data.classes chooses). "
            f"Received: {len(names)}"
        )
    if missing := [name for name in names if name not in present]:
        wanted = " and ".join(names) if len(names) == 2 else f"{listed(names)}; {listed(missing)} missing"
        raise InputError(f"{folder}: expected the class folders {wanted}. Received: {listed(present)}")
    files, complaints = {}, []
    for name in names:
        try:
            files[name] = image_files(folder / name)
        except InputError as error:
            files[name] = []
            complaints.append(str(error))
    return files, complaints


def different(ours: tuple[str, ...], theirs: tuple[str, ...]) -> str:
    """Return two lists of names, both whole where they are short, or else what only one of them has."""
    if max(len(ours), len(theirs)) > SHOWN:
        ours, theirs = (
            tuple(name for name in some if name not in others)
            for some, others in ((ours, theirs), (theirs, ours))
        )
        return f"only below train {listed(ours)}; only below val {listed(theirs)}"
    return f"{listed(ours)} and {listed(theirs)}"


def image_files(folder: Path) -> list[Path]:
    """Return the image files in a folder, sorted, without hidden ones, or raise InputError where none is."""
    files = [path for path in within(folder) if path.suffix.lower() in SUFFIXES and not path.is_dir()]
    if not files:
        others = [path for path in within(folder) if not path.is_dir()]
        received = suffixes_of(others) if others else "no files"
        raise InputError(f"{folder}: no images ({', '.join(sorted(SUFFIXES))}). Received: {received}")
    return files


def other_files(folder: Path) -> list[Path]:
    """Return the files in a folder that are not read, without hidden ones and those of file managers."""
    return [
        path
        for path in within(folder)
        if path.suffix.lower() not in SUFFIXES and path.name.lower() not in OF_SYSTEMS and not path.is_dir()
    ]


def suffixes_of(paths: list[Path]) -> str:
    """Return how many files have which suffix, the most frequent first."""
    found = Counter(path.suffix.lower() or "no suffix" for path in paths)
    return listed([f"{count} of {suffix}" for suffix, count in found.most_common()])


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted, without hidden ones; none of one that cannot be read."""
    with contextlib.suppress(InputError):
        return [path for path in within(folder) if path.is_dir()]
    return []


def within(folder: Path) -> list[Path]:
    """Return what is in a folder, sorted, without what is hidden, or raise InputError."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror})") from None
