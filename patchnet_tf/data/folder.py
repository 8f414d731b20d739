"""A folder of images as a data set.

    path/train/<class>/*.png    images to train on
    path/val/<class>/*.png      images to validate on
    path/test/<class>/*.png     optional: images that are only measured at the end
    path/masks/val/<class>/<stem>__<kind>.png    optional: black and white, the size of the image <stem>

The two class folders may have any names, the same in all splits; the one that sorts first is class 0,
black in heatmaps, unless `classes` says otherwise. Images are PNG, JPEG, BMP, TIFF, WebP or GIF with 8 bits
per channel; other files and hidden ones are passed over, and subfolders are not searched. Where every
training image is grey, all are read as grey, otherwise all as RGB, unless `channels` says otherwise.

Localization is measured on validation images of class 1 that have a mask of the kind `mask`.

The paper's nuclei need no more than this: crops of 128 x 128 pixels, padded with zeros, in train/<line> and
val/<line>; the images of CENP-A as masks/val/<line>/<stem>__cenpa.png with `mask: cenpa`; and training on
the central 64 x 64 pixels, which is the model's `crop: [64, 64]`.
"""

import glob
from functools import partial
from pathlib import Path

from ..config import FolderData
from ..errors import InputError
from .files import SUFFIXES, Entry, Listing, read_mask


def list_files(data: FolderData) -> Listing:
    """List the images and masks below `data.path`."""
    root = Path(data.path)
    listing = Listing(data.classes or ("0", "1"), data.size, data.channels, data.mask or "masks")
    if not root.is_dir():
        listing.complaints.append(f"{root}: no such folder (data.path)")
        return listing
    files: dict[str, dict[str, list[Path]]] = {}
    for split in ("train", "val"):
        try:
            files[split] = class_files(root / split, data.classes)
        except InputError as error:
            listing.complaints.append(str(error))
    names = [tuple(of_split) for of_split in files.values()]
    if len(set(names)) == 2:
        listing.complaints.append(
            f"{root}: the classes below train and val must have the same names. "
            f"Received: {', '.join(names[0])} and {', '.join(names[1])}"
        )
    if names:
        listing.class_names = names[0]
    if any((root / "test" / name).is_dir() for name in listing.class_names):
        try:
            files["test"] = class_files(root / "test", listing.class_names)
        except InputError as error:
            listing.complaints.append(str(error))
    for split, of_split in files.items():
        for label, (name, paths) in enumerate(of_split.items()):
            listing.remarks += [
                f"{folder}: a subfolder of a class; its images are not read"
                for folder in sorted((root / split / name).iterdir())
                if folder.is_dir()
                and not folder.name.startswith(".")
                and any(file.suffix.lower() in SUFFIXES for file in folder.rglob("*"))
            ]
            for path in paths:
                mask = root / "masks" / split / name / f"{path.stem}__{data.mask}.png"
                masked = label == 1 and data.mask and mask.is_file()
                listing.entries.append(
                    Entry(split, label, path, partial(read_mask, mask) if masked else None)
                )
    shown = [entry for entry in listing.entries if entry.split == "val" and entry.label == 1]
    if data.mask and shown and not any(entry.mask for entry in shown):
        folder = root / "masks" / "val" / listing.class_names[1]
        first = f"{shown[0].path.stem}__{data.mask}.png"
        listing.complaints.append(f"{folder}: no mask of the kind {data.mask!r} (data.mask), such as {first}")
    if data.mask and shown:
        stems = {f"{entry.path.stem}__{data.mask}" for entry in shown}
        masks = (root / "masks" / "val" / listing.class_names[1]).glob(f"*__{glob.escape(data.mask)}.png")
        listing.remarks += [
            f"{mask}: no image has this mask" for mask in sorted(masks) if mask.stem not in stems
        ]
    return listing


def class_files(folder: Path, classes: tuple[str, str] | None) -> dict[str, list[Path]]:
    """Return the sorted image files of class 0 and class 1 below `folder`."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; a data set has train/<class>/ and val/<class>/")
    present = sorted(d.name for d in folder.iterdir() if d.is_dir() and not d.name.startswith("."))
    names = classes or present
    if len(names) != 2 or not set(names) <= set(present):
        wanted = "two class folders" + (" (data.classes chooses)" if len(present) > 2 else "")
        wanted = f"the class folders {' and '.join(classes)}" if classes else wanted
        raise InputError(f"{folder}: expected {wanted}. Received: {', '.join(present) or 'none'}")
    files = {name: image_files(folder / name) for name in names}
    if empty := [name for name in names if not files[name]]:
        suffixes = ", ".join(sorted(SUFFIXES))
        raise InputError("\n".join(f"{folder / name}: no images ({suffixes})" for name in empty))
    return files


def image_files(folder: Path) -> list[Path]:
    """Return the image files in a folder, sorted, without hidden ones."""
    files = (f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith("."))
    return sorted(files)
