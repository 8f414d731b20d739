"""The pictures of a page: which images it shows beside their maps, and which pictures of a run."""

import base64
import math
import re
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ..errors import InputError, one_line
from ..evaluation.results import Comparison, Image
from ..images import pictures
from ..images.reading import decode

# Bounds of the page: with five methods it has a few MB.
EXTREMES = 4  # images in the grid that are the worst by AUROC, and as many of the best
BETWEEN = 8  # of the others
SIDE = 192  # pixels of the longer side of a picture in the grid; larger ones are reduced
PICTURES = 8  # from a run's heatmaps/
WIDTH = 1000  # pixels of such a picture
MAPS = 12  # of an image, over all methods; but at least 2 of each


class Map(NamedTuple):
    """A map of an image as data URI, and the class that it is of; None for both of two classes."""

    uri: str
    number: int | None


class Case(NamedTuple):
    """A row of the grid: an image and its pictures as data URIs, the mask's "" where there is none."""

    image: Image
    picture: str
    mask: str
    maps: dict[str, list[Map]]  # by method; of several classes the most probable first, then the true ones


class Group(NamedTuple):
    """Rows of the grid that have a heading in common."""

    heading: str
    cases: list[Case]


class Picture(NamedTuple):
    """A picture from a run's heatmaps/."""

    name: str
    uri: str


def read_groups(folder: Path, results: Comparison) -> list[Group]:
    """Draw the grid's images and maps: the worst and the best by the first method's AUROC, and others.

    Args:
        folder: maps/ of a comparison.
        results: its figures.

    Raises:
        InputError: a file is missing, damaged, or of other images.
    """
    n = len(results.images)
    if not n:
        return []
    size = read_array(folder / "images.npy", (n,)).shape[1:3]
    images = read_array(folder / "images.npy", (n, *size))
    masks = read_array(folder / "masks.npy", (n, *size)) if (folder / "masks.npy").is_file() else None
    maps = {m.slug: read_array(folder / f"{m.slug}.npy", (n, *size)) for m in results.methods}
    owners = read_array(folder / "classes.npy", (n,)) if (folder / "classes.npy").is_file() else None

    def case(k: int) -> Case:
        return Case(
            results.images[k],
            data_uri(reduced(pictures.rgb(pictures.check_image(images[k])), SIDE)),
            "" if masks is None else data_uri(reduced(np.where(masks[k], 255, 0).astype("uint8"), SIDE)),
            {
                m.slug: maps_of(
                    results,
                    m.model,
                    results.images[k],
                    maps[m.slug][k],
                    None if owners is None else owners[k],
                )
                for m in results.methods
            },
        )

    try:
        return [Group(heading, [case(k) for k in chosen]) for heading, chosen in choose(results) if chosen]
    except ValueError as error:
        raise InputError(f"{folder}: {one_line(error)}") from None


def maps_of(results: Comparison, model: str, image: Image, maps: np.ndarray, owner: int | None) -> list[Map]:
    """Draw the map (H, W) of an image, of the class `owner`, or those of some of its classes (H, W, K)."""
    classes = len(results.class_names)
    if maps.ndim == 2:
        if not is_binary(results) and (owner is None or not 0 <= owner < classes):
            raise ValueError(f"expected the class of each map in classes.npy. Received: {owner}")
        number = None if is_binary(results) else int(owner)
        return [Map(data_uri(pictures.grey(reduced(pictures.check_heatmap(maps), SIDE))), number)]
    if maps.shape[2] != classes:
        raise ValueError(f"expected maps of {classes} classes. Received: {maps.shape[2]}")
    q = np.asarray(image.probability.get(model, np.zeros(classes)), "float64")
    most = max(2, MAPS // len(results.methods))
    chosen = pictures.choose_classes(np.nan_to_num(q), labels_of(image), most)
    small = reduced(pictures.check_heatmaps(maps)[..., chosen], SIDE).reshape(-1, len(chosen))
    size = reduced(maps[..., 0], SIDE).shape
    return [
        Map(data_uri(pictures.grey(small[:, k].reshape(size))), number) for k, number in enumerate(chosen)
    ]


def is_binary(results: Comparison) -> bool:
    """Return whether there are two exclusive classes, whose map is one."""
    return len(results.class_names) == 2 and not results.multilabel


def labels_of(image: Image) -> list[int]:
    """Return the numbers of an image's true classes."""
    if image.label is None:
        return []
    return image.label if isinstance(image.label, list) else [image.label]


def choose(results: Comparison) -> list[tuple[str, list[int]]]:
    """Return the headings of the grid and the indices of the images below each."""
    every = range(len(results.images))
    first = results.methods[0].slug if results.methods else ""
    areas = [auroc_of(image, first) for image in results.images]
    ranked = sorted((k for k in every if not math.isnan(areas[k])), key=areas.__getitem__)
    extremes = min(EXTREMES, len(ranked) // 2)
    worst, best = ranked[:extremes], ranked[::-1][:extremes]
    others = [k for k in every if k not in worst + best]
    spread = sorted({round(k) for k in np.linspace(0, len(others) - 1, BETWEEN)} if others else ())
    return [
        ("Lowest AUROC", worst),
        ("Highest AUROC", best),
        ("Others" if ranked else "Images", [others[k] for k in spread]),
    ]


def auroc_of(image: Image, method: str) -> float:
    """Return the AUROC of a method's map of an image, NaN where it is undefined."""
    return (image.localization or {}).get(method, {}).get("auroc", math.nan)


def read_pictures(folder: Path, masks: str | None) -> tuple[list[Picture], int]:
    """Return pictures of a run's heatmaps/, and how many there are besides.

    They are the strip of masked images or, where there are none, of validation images, the last snapshot of
    training, and overlays, in this order; the heatmaps without a legend, and other
    people's pictures, are not among them.
    """
    paths = sorted(folder.glob("[!.]*.png"))
    drawn = [path for path in paths if path.stem in (masks, "validation")]
    drawn += [path for path in paths if re.fullmatch(r"epoch_\d+", path.stem)][-1:]
    drawn += [path for path in paths if path.stem.endswith("_overlay")]
    shown = [(path.stem, decode(path.read_bytes(), 3, what=str(path))) for path in drawn[:PICTURES]]
    return [Picture(name, data_uri(reduced(pixels, WIDTH))) for name, pixels in shown], len(drawn) - len(
        shown
    )


def read_array(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Open an array whose shape begins as given; its values are read when they are used."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not an array, or damaged ({one_line(error)})") from None
    if array.shape[: len(shape)] != shape:
        raise InputError(f"{path}: expected the shape {shape}, as of the others. Received: {array.shape}")
    return array


def reduced(picture: np.ndarray, side: int) -> np.ndarray:
    """Reduce a picture, (h, w) or (h, w, C), until its longer side has at most `side` pixels."""
    share = side / max(picture.shape[:2])
    if share >= 1:
        return np.asarray(picture)
    height, width = (max(1, round(share * pixels)) for pixels in picture.shape[:2])
    return cv2.resize(np.asarray(picture), (width, height), interpolation=cv2.INTER_AREA)


def data_uri(picture: np.ndarray) -> str:
    """Return a picture as the address of itself."""
    return "data:image/png;base64," + base64.b64encode(pictures.to_png(picture)).decode()
