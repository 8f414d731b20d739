"""The skin lesions of ISIC 2017, benign or melanoma, in the challenge's own folders and files.

    path/ISIC-2017_Training_Data/ISIC_*.jpg          the images, of any size
    path/ISIC-2017_Training_Part3_GroundTruth.csv    image_id,melanoma,seborrheic_keratosis: 0.0 or 1.0

    path/ISIC-2017_Training_Part1_GroundTruth/ISIC_*_segmentation.png    for `mask: lesion`

    path/ISIC-2017_Training_Data/ISIC_*_superpixels.png              for `mask: features`, together with
    path/ISIC-2017_Training_Part2_GroundTruth/ISIC_*_features.json

and the same with Validation, and with Test_v2, which is optional. Class 1 is melanoma, class 0 the others.

The colour of a pixel in a superpixel image is the index R + 256 G + 65536 B of its superpixel; the JSON has
for each of four dermoscopic features a list of 0 and 1 by that index. An image's mask is the union of the
four. Localization is measured on the masks of the melanomas that validate.

https://challenge.isic-archive.com/data/#2017 has all of it, in ZIP files that are named like the folders.
"""

import json
from functools import partial
from pathlib import Path

import numpy as np

from ..config import Isic2017Data
from ..contract import make_classes
from ..errors import InputError, one_line
from ..files import check_regular
from ..images.reading import read_image
from .files import Entry, Listing, check_mask, read_label, read_mask, read_rows

PARTS = {"train": "Training", "val": "Validation", "test": "Test_v2"}
FEATURES = ("pigment_network", "negative_network", "milia_like_cyst", "streaks")
URL = "https://challenge.isic-archive.com/data/#2017"


def list_files(data: Isic2017Data) -> Listing:
    """List the images of the CSV files of part 3, and their masks."""
    root = Path(data.path)
    listing = Listing(make_classes(data.classes), data, data.mask or "masks")
    if not root.is_dir():
        listing.complaints.append(f"{root}: no such folder (data.path); {URL} has the images")
        return listing
    seen: dict[str, str] = {}
    for split, part in PARTS.items():
        images, labels = root / f"ISIC-2017_{part}_Data", root / f"ISIC-2017_{part}_Part3_GroundTruth.csv"
        masks = root / f"ISIC-2017_{part}_Part{2 if data.mask == 'features' else 1}_GroundTruth"
        if split == "test" and not images.exists() and not labels.exists():
            continue
        wanted = [images, labels, *([masks] if data.mask and split == "val" else [])]
        missing = [path for path in wanted if not path.exists()]
        for path in missing:
            name = path.name if path == labels else f"{path.name}.zip"
            listing.complaints.append(f"{path}: missing; fetch {name} from {URL}")
        if images in missing or labels in missing:
            continue
        try:
            add_rows(listing, split, labels, images, masks if data.mask and masks.is_dir() else None, seen)
        except InputError as error:
            listing.complaints.append(str(error))
    return listing


def add_rows(
    listing: Listing, split: str, labels: Path, images: Path, masks: Path | None, seen: dict[str, str]
) -> None:
    """Add the rows of one CSV file; `seen` has the row of each id so far."""
    labels_seen = set()
    for row, cells in read_rows(labels, ("image_id", "melanoma")):
        name = cells["image_id"].strip()
        path = images / f"{name}.jpg"
        try:
            label = read_label(cells["melanoma"])
        except InputError as error:
            listing.complaints.append(f"{row}: {name}: melanoma: {error}")
            continue
        labels_seen.add(label)
        if name in seen:
            listing.complaints.append(f"{row}: {name}: this image_id is there already, in {seen[name]}")
        elif not path.is_file():
            listing.complaints.append(f"{row}: {path}: no such file, but it is listed")
        else:
            readers = {1: mask_reader(path, masks, listing.mask)} if masks and label == 1 else {}
            listing.entries.append(Entry(split, (label,), path, readers, row))
        seen.setdefault(name, row)
    for label in {0, 1} - labels_seen:
        listing.complaints.append(f"{labels}: no image of class {label} ({listing.classes.names[label]})")


def mask_reader(image: Path, masks: Path, kind: str) -> partial:
    """Return what reads the mask of an image, given the image's (height, width)."""
    if kind == "lesion":
        return partial(read_mask, masks / f"{image.stem}_segmentation.png")
    superpixels = image.with_name(f"{image.stem}_superpixels.png")
    return partial(read_features, superpixels, masks / f"{image.stem}_features.json")


def read_features(superpixels: Path, features: Path, size: tuple[int, int]) -> np.ndarray:
    """Return where an image has one of the four features.

    Args:
        superpixels: RGB image file whose pixels are indices, R + 256 G + 65536 B.
        features: JSON file with a list of 0 and 1 for each feature, an element for each superpixel.
        size: (height, width) of the image that they belong to.

    Returns:
        (H, W), bool: the union of the features.

    Raises:
        InputError: a file cannot be read or is not like that, an index is beyond the lists, or the
            superpixels have another size than the image.
    """
    colours = read_image(superpixels, 3).astype("int64")  # (H, W, 3)
    index = check_mask(superpixels, colours @ [1, 256, 65536], size)  # (H, W)
    try:
        check_regular(features)
        lists = json.loads(features.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{features}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{features}: not JSON ({one_line(error)})") from None
    if not isinstance(lists, dict) or not set(FEATURES) <= set(lists):
        raise InputError(f"{features}: expected lists named {', '.join(FEATURES)}")
    if not all(isinstance(lists[name], list) and all(v in (0, 1) for v in lists[name]) for name in FEATURES):
        raise InputError(f"{features}: expected lists of 0 and 1")
    if len(counts := {len(lists[name]) for name in FEATURES}) > 1:
        raise InputError(f"{features}: expected lists of one length. Received: {sorted(counts)}")
    union = np.array([lists[name] for name in FEATURES], bool).any(axis=0)  # (superpixels,)
    if index.max() >= len(union):
        raise InputError(
            f"{superpixels}: superpixel {index.max()} is beyond the lists in {features}, "
            f"which have {len(union)} elements, from 0"
        )
    return union[index]
