"""Draw the map of a slide, tile by tile, in bounded memory; go on where it was cut off."""

import contextlib
import json
import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..contract import Contract
from ..errors import InputError
from ..files import holding, sha256, write_array, write_json
from ..images import pictures
from ..images.maps import geojson, ome_tiff
from ..images.maps.base import colours_of, found_in, planes_of
from ..images.pixels import displayed
from ..images.slides import Slide, covered, open_slide, tissue
from ..model.heatmaps import Drawing, heatmap_model
from ..model.patchnet import PatchNet
from ..model.preprocessing import GammaCorrection
from ..progress import Progress, silent
from ..training.run import HEATMAPS, open_run
from .explain import Explanation, coloured, contract_of

TILE = 1024  # pixels of a side; a power of two, so that levels of the map are made of whole tiles
SHOWN = 2048  # pixels of the longer side of the overview, and of the image in which tissue is looked for
OUTLINED = 4096  # pixels of the longer side of the map in which regions are outlined
LEAST = 64  # pixels of such a region: 8 x 8, say; a viewer has trouble with ten thousands of specks
FORMATS = ("png", "ome-tiff", "geojson")
DEFAULT = ("png", "ome-tiff")


def explain_slide(
    folder: str | Path,
    path: str | Path,
    out: str | Path | None = None,
    *,
    level: int | None = None,
    mpp: float | None = None,
    everywhere: bool = False,
    to: Sequence[str] = DEFAULT,
    progress: Progress = silent,
) -> Explanation:
    """Draw the map of one level of a slide with the model of a finished run, every pixel of its tissue.

    Tiles are read with the margin that patches need, so the map is that of the whole level. It is NaN where
    no tile was walked. Tiles that are done are kept in `out`/NAME_unfinished until the files are written: the
    same call goes on from there, whatever ended the one before.

    Args:
        folder: the run folder, of a PatchNet.
        path: the slide: an OME-TIFF in tiles, or any format of OpenSlide.
        out: where to write; None means heatmaps/ in the run folder.
        level: which level of the slide, from 0, the largest; or
        mpp: its micrometres per pixel, within a tenth.
        everywhere: walk glass too; otherwise tiles of 1024 x 1024 pixels without tissue (see
            `patchnet_tf.images.slides.tissue`) are passed over.
        to: some of "png", NAME_overview.png, the map on the slide, at most 2048 pixels long; "ome-tiff",
            NAME_heatmap.ome.tif, all values, float32, with a pyramid; "geojson", NAME_regions.geojson, where
            a class is found, outlined in a level of the map of at most 4096 pixels, 64 of them or more.
        progress: told after each tile.

    Returns:
        What was found; its probabilities are the means of the map.

    Raises:
        InputError: it is no slide, damaged, or has no such level; the model is none for slides; a format is
            not for slides; another process is at it.
        OSError: something cannot be written.

    Example:
        >>> explain_slide("runs/tumour", "slide.svs", mpp=0.5, to=["ome-tiff", "geojson"])
    """
    if not to or set(to) - set(FORMATS) or len(set(to)) < len(to):
        received = ", ".join(to) or "none"
        raise InputError(f"--to: expected of a slide some of {', '.join(FORMATS)}. Received: {received}")
    if "ome-tiff" in to:
        ome_tiff.check(None)
    with contextlib.closing(open_slide(path)) as slide:
        level = slide.choose(level, mpp)
        config, model = open_run(folder)
        contract = contract_of(Path(folder), config, model)
        check_model(model, str(path))
        size, smallest = slide.sizes[level], contract.smallest
        if size[0] < smallest[0] or size[1] < smallest[1]:
            raise InputError(
                f"{path}: expected at least {smallest[0]} x {smallest[1]} pixels (height x width) of the "
                f"level. Received: {size[0]} x {size[1]}"
            )
        out = Path(folder) / HEATMAPS if out is None else Path(out)
        stem = slide.path.name.removesuffix(slide.path.suffix).removesuffix(".ome")
        plan = {
            "model": sha256(Path(folder) / "model.keras"),
            "slide": [slide.path.name, slide.path.stat().st_size, slide.path.stat().st_mtime_ns],
            "level": level,
            "tile": TILE,
            "everywhere": everywhere,
        }
        unfinished = out / f"{stem}_unfinished"
        with kept(unfinished, plan):
            tiles = Tiles(unfinished, size, len(planes_of(contract.classes)))
            walk(slide, level, model, contract, tiles, everywhere, progress)
            found = deliver(slide, level, contract, tiles, out, stem, to, progress)
        shutil.rmtree(unfinished)
    return found


def check_model(model: Any, what: str) -> None:
    """Refuse a model whose map of a tile is not a part of that of the whole."""
    if not isinstance(model, PatchNet):
        raise InputError(f"{what}: a slide is explained by a PatchNet. Received: a run of a baseline")
    whole = [layer.name for layer in model.preprocessing if not isinstance(layer, GammaCorrection)]
    if model.pixels.per_image:
        whole.append("per_image")
    if whole:
        raise InputError(
            f"{what}: a slide is explained in tiles, and the model looks at a whole image first. "
            f"Received: {', '.join(whole)}"
        )


@contextlib.contextmanager
def kept(folder: Path, plan: dict[str, Any]) -> Iterator[None]:
    """Hold a folder of tiles: an empty one, unless what is there is of the same plan."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with holding(folder):
            note = folder / "plan.json"
            try:
                before = json.loads(note.read_text())
            except (OSError, ValueError):
                before = None
            if before != plan:
                for left in (*folder.glob("*.npy"), *folder.glob(".part-*")):
                    left.unlink()
                write_json(note, plan)
            yield
    except BlockingIOError:
        raise InputError(f"{folder}: another process is drawing this slide") from None


class Tiles:
    """The finished tiles of a map, each a file."""

    def __init__(self, folder: Path, size: tuple[int, int], classes: int) -> None:
        self.folder, self.size, self.classes = folder, size, classes
        self.across = -(-size[1] // TILE)

    def path(self, row: int, column: int) -> Path:
        """Return the file of a tile."""
        return self.folder / f"{row}-{column}.npy"

    def box(self, row: int, column: int) -> tuple[int, int, int, int]:
        """Return the first and last row, and column, of a tile's pixels."""
        top, left = row * TILE, column * TILE
        return top, min(top + TILE, self.size[0]), left, min(left + TILE, self.size[1])

    def read(self, row: int, column: int, level: int = 0) -> np.ndarray:
        """Return a tile (h, w, K) of a level of the map, NaN where it was passed over."""
        path = self.path(row, column)
        if path.exists():
            planes = np.load(path)
        else:
            top, bottom, left, right = self.box(row, column)
            planes = np.full((bottom - top, right - left, self.classes), np.nan, "float32")
        for _ in range(level):
            planes = ome_tiff.halved(planes)
        return planes

    def rows(self, level: int, top: int, bottom: int) -> np.ndarray:
        """Return some rows (rows, W, K) of a level of the map."""
        side = TILE >> level
        result = []
        for row in range(top // side, -(-bottom // side)):
            strip = np.concatenate([self.read(row, c, level) for c in range(self.across)], axis=1)
            result.append(strip[max(top - row * side, 0) : bottom - row * side])
        return np.concatenate(result)

    def whole(self, side: int) -> tuple[np.ndarray, int]:
        """Return the first level of the map that is no longer than `side`, and its number."""
        level = max(0, math.ceil(math.log2(max(self.size) / side)))
        return self.rows(level, 0, -(-self.size[0] // 2**level)), level

    def means(self) -> np.ndarray:
        """Return the mean (K,) of all tiles' pixels."""
        total, count = np.zeros(self.classes), 0
        for path in self.folder.glob("*.npy"):
            planes = np.load(path, mmap_mode="r")
            total += planes.sum(axis=(0, 1), dtype="float64")
            count += planes.shape[0] * planes.shape[1]
        return total / max(count, 1)


def walk(
    slide: Slide,
    level: int,
    model: PatchNet,
    contract: Contract,
    tiles: Tiles,
    everywhere: bool,
    progress: Progress,
) -> None:
    """Draw the tiles that are not there yet."""
    height, width = tiles.size
    thumbnail = slide.thumbnail(SHOWN)
    mask = np.ones((1, 1), bool) if everywhere else tissue(thumbnail)
    wanted = covered(mask, tiles.size, TILE)
    missing = [tile for tile in wanted if not tiles.path(*tile).exists()]
    done = len(wanted) - len(missing)
    progress("tiles", done, len(wanted))
    draw, margin = Drawing(heatmap_model(model)), model.patch_size
    for number, tile in enumerate(missing, done + 1):
        top, bottom, left, right = tiles.box(*tile)
        above, start = max(top - margin, 0), max(left - margin, 0)
        below, end = min(bottom + margin, height), min(right + margin, width)
        image = slide.region(level, above, start, below - above, end - start, contract.pixels)
        part = draw.part(image, (top - above, bottom - above), (left - start, right - start))
        write_array(tiles.path(*tile), part.reshape(*part.shape[:2], -1).astype("float32"))
        progress("tiles", number, len(wanted))


def deliver(
    slide: Slide,
    level: int,
    contract: Contract,
    tiles: Tiles,
    out: Path,
    stem: str,
    to: Sequence[str],
    progress: Progress,
) -> Explanation:
    """Write the files of a finished map."""
    names = planes_of(contract.classes)
    means = tiles.means()
    if "geojson" in to:
        progress("files", 0, len(to), "regions")
        planes, reduced = tiles.whole(OUTLINED)
        scale = tuple(side * 2**reduced for side in slide.scale(level))
        colours = colours_of(contract.classes, tuple(means))
        regions = geojson.features(planes, found_in(planes, contract), names, colours, scale, LEAST)
        write_json(out / f"{stem}_regions.geojson", geojson.collection(regions), indent=None)
    if "png" in to:
        progress("files", 0, len(to), "overview")
        picture = overview(slide, contract, tiles.whole(SHOWN)[0], means)
        pictures.save_png(picture, out / f"{stem}_overview.png")
    if "ome-tiff" in to:
        progress("files", len(to) - 1, len(to), "pyramid")
        path = out / f"{stem}_heatmap.ome.tif"
        ome_tiff.write_pyramid(path, tiles.size, names, tiles.rows, slide.resolution(level))
    progress("files", len(to), len(to))
    probabilities = tuple(map(float, means))
    return Explanation(slide.path, probabilities, contract.names_of(probabilities), stem)


def overview(slide: Slide, contract: Contract, planes: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Return a map (h, w, K) on its slide, with a legend; where it is NaN, the slide is seen in grey."""
    thumbnail = cv2.resize(slide.thumbnail(SHOWN), planes.shape[1::-1], interpolation=cv2.INTER_AREA).reshape(
        *planes.shape[:2], -1
    )
    if thumbnail.shape[2] not in (1, 3) or thumbnail.dtype != np.uint8:
        thumbnail = displayed(thumbnail, contract.pixels)
    classes = contract.classes
    undecided = 0.0 if not classes.exclusive else 0.5 if classes.binary else 1 / planes.shape[2]
    planes = np.where(np.isfinite(planes), planes, undecided)
    overlay, with_legend = coloured(
        thumbnail, planes[..., 0] if classes.binary else planes, means, contract, normalized=False
    )
    return with_legend(pictures.enlarged(overlay))
