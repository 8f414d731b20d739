"""Draw the maps of any images with the model of a run."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ..config import Config
from ..contract import Contract, Pixels
from ..data import check_images
from ..errors import InputError
from ..images import pictures
from ..images.maps import DEFAULT, Map, Wanted, writers_of
from ..images.pixels import displayed, resized
from ..images.reading import TAKES, head, read_image
from ..model.heatmaps import Drawing, heatmap_model
from ..progress import Progress, silent
from ..training.kinds import kind_of
from ..training.run import HEATMAPS, classes_of, open_run
from .evaluate import thresholds_of

SHOWN = 3  # classes that are drawn unless some are chosen


@dataclass(frozen=True)
class Explanation:
    """What was found and written for one image.

    Attributes:
        path: the image file.
        probabilities: of class 1, (q,), or of each of several classes or labels.
        class_names: what the image is called: one name, or those of its labels, which may be none.
        stem: the files are `stem`_heatmap.npy, _overlay.png, maybe _familiar.png, and, of two classes,
            _heatmap.png.
        drawn: of several classes or labels, those whose maps were drawn: `stem`_heatmap_CLASS.png.
    """

    path: Path
    probabilities: tuple[float, ...]
    class_names: tuple[str, ...]
    stem: str
    drawn: tuple[str, ...] = ()

    @property
    def probability(self) -> float:
        """That of class 1, or of several classes the highest."""
        return max(self.probabilities)

    @property
    def class_name(self) -> str:
        """The name of its class, those of its labels, or "none"."""
        return ", ".join(self.class_names) or "none"


def explain(
    folder: str | Path,
    paths: Sequence[str | Path],
    out: str | Path | None = None,
    *,
    classes: Sequence[str] = (),
    resize: bool = False,
    to: Sequence[str] = DEFAULT,
    progress: Progress = silent,
) -> list[Explanation]:
    """Draw the heatmap of each image with the model of a finished run.

    A baseline's map is its CAM or Grad-CAM, scaled for each image; of a PatchNet no value is ever rescaled.
    A colour image is read as grey where the model is grey, a grey one as RGB where the model is RGB; files of
    other pixels by what the model takes. What the heads of the files say is checked before the first map is
    drawn, the rest as each is read, and no more than one is held at a time.

    Args:
        folder: the run folder.
        paths: image files.
        out: where to write NAME_heatmap.png (8-bit grey, white = class 1), NAME_heatmap.npy (float32
            (H, W) in [0, 1]) and NAME_overlay.png; None means heatmaps/ in the run folder. Of a model with
            model.familiarity also NAME_familiar.png, white where the image is like those of training and
            black where it is not; the overlay is hatched there. Of images with
            the same NAME the second becomes NAME-2, and so on. Of several classes or labels, the array is
            (H, W, K), the overlay shows which class wins at each pixel, and NAME_heatmap_CLASS.png is the map
            of a class; of a baseline, whose maps of classes do not compare, the overlay is that of the most
            probable class.
        classes: names of those whose maps are written as pictures, where there are several; empty means the
            three most probable of each image.
        resize: bring images to the size to which those of training were resized (data.size); otherwise
            they keep their own.
        to: the formats to write, of `patchnet_tf.images.maps.WRITERS`: "png" and "npy", of which `out` tells;
            "ome-tiff", NAME_heatmap.ome.tif; "geojson", NAME_regions.geojson; "dicom", of DICOM files,
            NAME_overlay.dcm and, where those have a frame of reference, NAME_map.dcm and NAME_regions.dcm.
            docs/viewers.md says which viewer takes which.
        progress: told after each image.

    Raises:
        InputError: the folder is no finished run, an image cannot be read or is too small, the run has no
            such class, or a map cannot be written in such a format.
        MissingExtraError: a format needs a package that is not installed.
        OSError: something cannot be written.

    Warns:
        UserWarning: the model has been trained on images resized to another size, or of a file without a
            frame of reference the overlay alone is written as DICOM.

    Example:
        >>> explain("runs/demo", ["wall.png"])[0].probability
        0.031
    """
    writers = writers_of(to)
    config, model = open_run(folder)
    kind, contract = kind_of(config), contract_of(Path(folder), config, model)
    names = contract.classes.names
    if classes and contract.classes.binary:
        raise InputError(
            f"classes: expected none, as two classes have one map. Received: {', '.join(classes)}"
        )
    if unknown := [name for name in classes if name not in names]:
        raise InputError(
            f"classes: expected some of {', '.join(names)}. Received: {', '.join(unknown) or 'nothing'}"
        )
    if len(set(classes)) < len(classes):
        raise InputError(f"classes: expected each once. Received: {', '.join(classes)}")
    trained = config.data.resized_to

    pixels, smallest = contract.pixels, kind.smallest_image(config.model)
    fixed = model.input_shape[1:3] if kind.fixed_size(config.model) else None

    def read(path: str | Path) -> tuple[np.ndarray, tuple[int, int]]:
        image = read_image(path, pixels)
        size = image.shape[:2]
        image = resized(image, trained) if resize else image
        check_images(image[None], pixels=pixels, smallest=smallest, what=str(path))
        if fixed and image.shape[:2] != fixed:
            raise InputError(
                f"{path}: expected {fixed[0]} x {fixed[1]} pixels, as in training (model.resize is null). "
                f"Received: {image.shape[0]} x {image.shape[1]}"
            )
        return image, size

    for path in paths:  # by their heads, which takes no time; one that looks unfit is read, to say why
        found = head(path, window=pixels.window)
        sides = (trained if resize else found.size) or found.size
        # The file may be turned, by what its head does not say.
        too_small = min(sides) < min(smallest) or max(sides) < max(smallest)
        if too_small or found.dtype not in TAKES[pixels.dtype] or (fixed and sorted(sides) != sorted(fixed)):
            read(path)
        wanted = Wanted(Path(path), scaled=kind.min_max_normalized, resized=resize and trained is not None)
        for writer in writers:
            writer.check(wanted)

    out = Path(folder) / HEATMAPS if out is None else Path(out)
    draw = kind.drawing(model)
    familiarity = getattr(model, "familiarity", None) and Drawing(heatmap_model(model, kind="familiar"))
    explained: list[Explanation] = []
    for path in map(Path, paths):
        done, (image, size) = len(explained), read(path)
        out.mkdir(parents=True, exist_ok=True)
        progress("heatmaps", done, len(paths), path.name)

        def show(share: float, done: int = done, name: str = path.name) -> None:
            progress("heatmaps", done + share, len(paths), name)

        if trained and image.shape[:2] != trained:
            warnings.warn(
                f"{path}: the model has seen images resized to {trained[0]} x {trained[1]}; this one is "
                f"explained as it is, {image.shape[0]} x {image.shape[1]} (resize=True, --resize)",
                stacklevel=2,
            )
        heatmap = draw(image, show).astype("float32")  # (H, W) or (H, W, K)
        q = model.predict(image[None], verbose=0)[0]  # (1,) or (K,)
        stem, drawn = free_stem(path.stem, {e.stem for e in explained}), ()
        if not contract.classes.binary:
            drawn = tuple(classes) or tuple(names[k] for k in np.argsort(-q, kind="stable")[:SHOWN])
        shown = displayed(image, pixels)
        overlay, with_legend = coloured(shown, heatmap, q, contract, kind.min_max_normalized)
        familiar = familiarity(image) if familiarity else None  # (H, W), bool
        if familiar is not None:
            overlay = pictures.hatched(overlay, ~familiar)
        overlay = with_legend(pictures.enlarged(overlay))  # or a small one would be lost beside its legend
        if familiar is not None:
            overlay = pictures.with_hatching_legend(overlay)
        probabilities = tuple(map(float, q))
        result = Map(
            path,
            stem,
            contract,
            heatmap,
            probabilities,
            size,
            overlay,
            drawn,
            familiar,
            scaled=kind.min_max_normalized,
        )
        for writer in writers:
            writer.write(result, out)
        explained.append(Explanation(path, probabilities, contract.names_of(probabilities), stem, drawn))
    progress("heatmaps", len(paths), len(paths))
    return explained


def coloured(
    image: np.ndarray, heatmap: np.ndarray, q: np.ndarray, contract: Contract, normalized: bool
) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """Return the overlay, and what puts its legend below; of several classes it shows the winners."""
    names, exclusive = contract.classes.names, contract.classes.exclusive
    if not contract.classes.binary and not normalized:
        chosen = pictures.with_colours(len(names), q)
        thresholds = None if exclusive else contract.thresholds
        overlay = pictures.class_overlay(image, heatmap, coloured=chosen, thresholds=thresholds)
        options = {"class_names": names, "coloured": chosen, "multilabel": not exclusive}
        return overlay, partial(pictures.with_class_legend, **options)
    if not contract.classes.binary:  # maps that do not compare between classes
        most = int(np.argmax(q))
        heatmap, names = heatmap[..., most], ("others" if exclusive else "without", names[most])
    legend = partial(pictures.with_legend, class_names=names, normalized=normalized)
    return pictures.overlay(image, heatmap), legend


def contract_of(folder: Path, config: Config, model: keras.Model) -> Contract:
    """Return what the model of a run takes and answers; labels have the thresholds of its evaluation."""
    classes = classes_of(config)
    thresholds = None if classes.exclusive else thresholds_of(folder)
    fields: dict[str, Any] = {} if thresholds is None else {"thresholds": tuple(thresholds)}
    smallest = kind_of(config).smallest_image(config.model)
    return Contract(classes=classes, pixels=pixels_of(model), smallest=smallest, **fields)


def pixels_of(model: keras.Model) -> Pixels:
    """Return what pixels the model of a run takes."""
    return getattr(model, "pixels", None) or Pixels(channels=model.input_shape[-1])


def free_stem(stem: str, taken: set[str]) -> str:
    """Return `stem`, or stem-2, stem-3, ...: the first that is not taken."""
    candidates = (stem if k == 1 else f"{stem}-{k}" for k in range(1, len(taken) + 2))
    return next(candidate for candidate in candidates if candidate not in taken)
