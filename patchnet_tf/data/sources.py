"""The sources of data, by `data.kind` of a configuration.

A source of image files lists them, and `files` reads the list; any other makes its images. A new one is a
module with `list_files(data) -> Listing` or `load(data, seed) -> Dataset`, a line here, and its section in
`patchnet_tf.config`.
"""

from collections.abc import Callable
from typing import Any

from ..config import Config, DataSection
from ..progress import Progress, silent
from . import dtd, folder, isic2017, manifest, squares, textures
from .dataset import Dataset
from .files import Listing, read

LISTED: dict[str, Callable[[Any], Listing]] = {
    "dtd": dtd.list_files,
    "folder": folder.list_files,
    "isic2017": isic2017.list_files,
    "manifest": manifest.list_files,
}
MADE: dict[str, Callable[[Any, int], Dataset]] = {
    "squares": squares.load,
    "textures": textures.load,
}


def load_dataset(config: Config, progress: Progress = silent) -> Dataset:
    """Read or make the data of a configuration.

    Args:
        config: says which data set.
        progress: told after every hundred image files.

    Raises:
        InputError: files are missing, or are not as the module of the data set needs them; a line for each
            of the first ten complaints.

    Example:
        >>> load_dataset(load_config("configs/demo.yaml")).train.images.shape
        (128, 64, 64, 1)
    """
    if listing := list_files(config.data):
        return read(listing, progress)
    return MADE[config.data.kind](config.data, config.training.seed)


def list_files(data: DataSection) -> Listing | None:
    """Return which image files a data set has; None where its images are made."""
    source = LISTED.get(data.kind)
    return source(data) if source else None
