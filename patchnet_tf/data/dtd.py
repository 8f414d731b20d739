"""Two classes of the Describable Textures Dataset; in the paper, cracked (0) and perforated (1).

    path/images/<class>/*.jpg    or path/dtd/images/<class>/*.jpg, as dtd-r1.0.1.tar.gz unpacks them

Each class has 120 photographs. In the order of their names, the first 80 are trained on and the next 40
validate; the ten splits that come with the data set (40 + 40 + 40) are not used.

https://www.robots.ox.ac.uk/~vgg/data/dtd/ has the data set.
"""

from pathlib import Path

from ..config import DtdData
from ..contract import make_classes
from .files import Entry, Listing
from .folder import image_files

URL = "https://www.robots.ox.ac.uk/~vgg/data/dtd/"


def list_files(data: DtdData) -> Listing:
    """List the photographs of the two classes."""
    listing = Listing(make_classes(data.classes), data)
    root = Path(data.path)
    images = (root / "dtd" if (root / "dtd").is_dir() else root) / "images"
    if not images.is_dir():
        listing.complaints.append(
            f"{images}: no such folder; fetch dtd-r1.0.1.tar.gz from {URL} and unpack it"
        )
        return listing
    for label, name in enumerate(data.classes):
        if not (images / name).is_dir():
            classes = ", ".join(sorted(d.name for d in images.iterdir() if d.is_dir())) or "none"
            listing.complaints.append(f"{images / name}: no such class (data.classes). Received: {classes}")
            continue
        paths = image_files(images / name)
        if len(paths) < data.train + data.val:
            listing.complaints.append(
                f"{images / name}: expected at least {data.train} + {data.val} images, to train on and to "
                f"validate. Received: {len(paths)}"
            )
        for k, path in enumerate(paths[: data.train + data.val]):
            listing.entries.append(Entry("train" if k < data.train else "val", (label,), path))
    return listing
