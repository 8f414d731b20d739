"""Data sets: images in memory, or in a file where they do not fit, and the checks they pass.

`batches` feeds them to training. One module for each source, see `sources`: `folder`, a folder of one's own
images; `manifest`, images listed in a CSV file; `isic2017` and `dtd`, the published data sets as they are
unpacked; `textures`, photographs that come with scikit-image; `squares`, the paper's black and white images.
`files` reads what the first four list, and `store` keeps what is too much for the memory.
"""

from ..images.pixels import check_images
from .dataset import Dataset, Examples, Masked
from .files import Entry, Listing
from .sources import list_files, load_dataset

__all__ = [
    "Dataset",
    "Entry",
    "Examples",
    "Listing",
    "Masked",
    "check_images",
    "list_files",
    "load_dataset",
]
