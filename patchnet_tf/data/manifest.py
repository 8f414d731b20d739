"""Images anywhere, listed in a CSV file.

    path,label,split,mask
    a/1.png,0,train,
    a/2.png,1,val,a/2_mask.png

`data.path` is the CSV file, with a heading in its first row and these columns in any order; others are
passed over. Paths are relative to the CSV file's folder. `label` is 0 or 1, `split` train, val or test; the
test split is optional, and so is the column `mask`, a black and white image of the image's size.

Localization is measured on validation images of class 1 that have a mask. Grey and RGB are as in a folder.
"""

from functools import partial
from pathlib import Path

from ..config import ManifestData
from ..errors import InputError
from .files import SPLITS, Entry, Listing, read_label, read_mask, read_rows


def list_files(data: ManifestData) -> Listing:
    """List the images of the CSV file."""
    file = Path(data.path)
    listing = Listing(data.classes, data.size, data.channels)
    seen: dict[Path, str] = {}
    present = {(split, label): False for split in ("train", "val") for label in (0, 1)}
    try:
        for row, cells in read_rows(file, ("path", "label", "split")):
            try:
                entry = read_entry(file.parent, row, cells)
            except InputError as error:
                listing.complaints.append(f"{row}: {error}")
                continue
            present[entry.split, entry.label] = True
            # A test split is optional, but one of one class has no AUROC.
            present.setdefault((entry.split, 1 - entry.label), False)
            if entry.path in seen:
                listing.complaints.append(f"{row}: {entry.path} is there already, in {seen[entry.path]}")
            elif not entry.path.is_file():
                listing.complaints.append(f"{row}: {entry.path}: no such file, but it is listed")
            else:
                listing.entries.append(entry)
            seen.setdefault(entry.path, row)
    except InputError as error:
        listing.complaints.append(str(error))
        return listing
    listing.complaints += [
        f"{file}: no image of class {label} ({listing.class_names[label]}) in the split {split}"
        for (split, label), any_image in present.items()
        if not any_image
    ]
    return listing


def read_entry(folder: Path, row: str, cells: dict[str, str]) -> Entry:
    """Return what a row lists."""
    path, split, mask = (cells.get(name, "").strip() for name in ("path", "split", "mask"))
    if not path:
        raise InputError("expected the path of an image. Received: ''")
    label = read_label(cells["label"])
    if split not in SPLITS:
        raise InputError(f"{path}: split: expected train, val or test. Received: {split!r}")
    reader = partial(read_mask, folder / mask) if mask and label == 1 else None
    return Entry(split, label, folder / path, reader, row)
