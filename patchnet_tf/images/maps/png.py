"""NAME_heatmap.png in grey, NAME_overlay.png on the image, and NAME_familiar.png where that is known."""

import re
from collections.abc import Sequence
from pathlib import Path

from .. import pictures
from .base import Map, Writer, always


def write(result: Map, folder: Path) -> None:
    """Write the pictures; of several classes or labels, a grey one of each that is drawn."""
    names = result.contract.classes.names
    if result.contract.classes.binary:
        pictures.save_png(pictures.grey(result.heatmap), folder / f"{result.stem}_heatmap.png")
    for name in result.drawn:
        grey = pictures.grey(result.heatmap[..., names.index(name)])
        pictures.save_png(grey, folder / f"{result.stem}_heatmap_{file_name(name, names)}.png")
    if result.familiar is not None:
        pictures.save_png(pictures.grey(result.familiar), folder / f"{result.stem}_familiar.png")
    pictures.save_png(result.overlay, folder / f"{result.stem}_overlay.png")


def file_name(name: str, names: Sequence[str]) -> str:
    """Return the name of a class as part of a file's name, with its number where others are alike."""
    plain = [re.sub(r"[^\w-]", "_", each) for each in names]
    k = names.index(name)
    alike = [each.casefold() for each in plain].count(plain[k].casefold()) > 1
    return f"{plain[k]}_{k}" if alike else plain[k]


PNG = Writer("png", always, write)
