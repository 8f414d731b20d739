"""report.html: what a run or a comparison found, on one page that needs nothing but a browser.

The page has the sections that it finds data for: a run folder has figures, a training curve and the pictures
in heatmaps/; what `patchnet compare` leaves also has several models, their maps side by side, and a table of
all images. It is read from

    config.yaml, history.csv, metrics.json, heatmaps/*.png      of a run, or
    comparison.json             every figure of a comparison
    MODEL/history.csv           the training of each model
    maps/images.npy             (N, H, W, C), uint8
    maps/masks.npy              (N, H, W), bool; absent where there are no masks
    maps/METHOD.npy             (N, H, W), float32 in [0, 1]; or of several classes (N, H, W, K)
    maps/classes.npy            (N,), of several classes the one whose map (N, H, W) is; absent of two

All is inside the one file, whose content security policy forbids it to load anything or to run any script
but its own. Names of classes and images are escaped wherever they stand.

    report      from the folder to the page
    contents    what the page shows, read from the folder
    gallery     which images and pictures it shows
    page        how it is written
"""

from pathlib import Path

from ..files import replacing
from .contents import read_contents
from .page import render


def write_report(folder: str | Path) -> Path:
    """Write report.html into the folder of a run or of a comparison.

    Args:
        folder: what `patchnet train` (better also `evaluate`) or `patchnet compare` left.

    Returns:
        The path of the page; one that was there is replaced.

    Raises:
        InputError: the folder is neither, or one of its files is missing or damaged.
        OSError: the page cannot be written.

    Example:
        >>> write_report("runs/demo")
        PosixPath('runs/demo/report.html')
    """
    path = Path(folder) / "report.html"
    page = render(read_contents(path.parent))
    with replacing(path) as part:
        part.write_text(page, encoding="utf-8")
    return path
