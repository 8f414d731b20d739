"""Draw the maps of any images with the model of a run."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..data import check_images
from ..errors import InputError
from ..files import write_array
from ..images import pictures
from ..images.pixels import resized
from ..images.reading import read_image
from ..model.heatmaps import Drawing, heatmap_model
from ..progress import Progress, silent
from ..training.kinds import kind_of
from ..training.run import HEATMAPS, open_run


@dataclass(frozen=True)
class Explanation:
    """What was written for one image: `stem`_heatmap.png, _heatmap.npy, _overlay.png, maybe _familiar.png."""

    path: Path
    probability: float
    class_name: str
    stem: str


def explain(
    folder: str | Path,
    paths: Sequence[str | Path],
    out: str | Path | None = None,
    *,
    resize: bool = False,
    progress: Progress = silent,
) -> list[Explanation]:
    """Draw the heatmap of each image with the model of a finished run.

    A baseline's map is its CAM or Grad-CAM, scaled for each image; of a PatchNet no value is ever rescaled.
    A colour image is read as grey where the model is grey, a grey one as RGB where the model is RGB. All
    images are checked before the first is drawn.

    Args:
        folder: the run folder.
        paths: image files.
        out: where to write NAME_heatmap.png (8-bit grey, white = class 1), NAME_heatmap.npy (float32
            (H, W) in [0, 1]) and NAME_overlay.png; None means heatmaps/ in the run folder. Of a model with
            model.familiarity also NAME_familiar.png, white where the image is like those of training and
            black where it is not; the overlay is hatched there. Of images with
            the same NAME the second becomes NAME-2, and so on.
        resize: bring images to the size to which those of training were resized (data.size); otherwise
            they keep their own.
        progress: told after each image.

    Raises:
        InputError: the folder is no finished run, or an image cannot be read or is too small.
        OSError: something cannot be written.

    Warns:
        UserWarning: the model has been trained on images resized to another size.

    Example:
        >>> explain("runs/demo", ["wall.png"])[0].probability
        0.031
    """
    config, model = open_run(folder)
    kind = kind_of(config)
    trained = config.data.resized_to
    images = []
    for path in paths:
        image = read_image(path, model.input_shape[-1])
        image = resized(image, trained) if resize else image
        check_images(image[None], smallest=kind.smallest_image(config.model), what=str(path))
        if kind.fixed_size(config.model) and image.shape[:2] != model.input_shape[1:3]:
            height, width = model.input_shape[1:3]
            raise InputError(
                f"{path}: expected {height} x {width} pixels, as in training (model.resize is null). "
                f"Received: {image.shape[0]} x {image.shape[1]}"
            )
        if trained and image.shape[:2] != trained:
            warnings.warn(
                f"{path}: the model has seen images resized to {trained[0]} x {trained[1]}; this one is "
                f"explained as it is, {image.shape[0]} x {image.shape[1]} (resize=True, --resize)",
                stacklevel=2,
            )
        images.append(image)

    out = Path(folder) / HEATMAPS if out is None else Path(out)
    out.mkdir(parents=True, exist_ok=True)
    draw = kind.drawing(model)
    familiarity = getattr(model, "familiarity", None) and Drawing(heatmap_model(model, kind="familiar"))
    names = config.data.classes or ("class 0", "class 1")
    explained: list[Explanation] = []
    for path, image in zip(map(Path, paths), images, strict=True):
        done = len(explained)
        progress("heatmaps", done, len(images), path.name)

        def show(share: float, done: int = done, name: str = path.name) -> None:
            progress("heatmaps", done + share, len(images), name)

        heatmap = draw(image, show).astype("float32")  # (H, W)
        probability = float(model.predict(image[None], verbose=0)[0, 0])
        stem = free_stem(path.stem, {e.stem for e in explained})
        write_array(out / f"{stem}_heatmap.npy", heatmap)
        pictures.save_png(pictures.grey(heatmap), out / f"{stem}_heatmap.png")
        overlay = pictures.overlay(image, heatmap)
        if familiarity:
            familiar = familiarity(image)  # (H, W), bool
            pictures.save_png(pictures.grey(familiar), out / f"{stem}_familiar.png")
            overlay = pictures.hatched(overlay, ~familiar)
        overlay = pictures.with_legend(overlay, names, normalized=kind.min_max_normalized)
        if familiarity:
            overlay = pictures.with_hatching_legend(overlay)
        pictures.save_png(overlay, out / f"{stem}_overlay.png")
        explained.append(Explanation(path, probability, names[probability > 0.5], stem))
    progress("heatmaps", len(images), len(images))
    return explained


def free_stem(stem: str, taken: set[str]) -> str:
    """Return `stem`, or stem-2, stem-3, ...: the first that is not taken."""
    candidates = (stem if k == 1 else f"{stem}-{k}" for k in range(1, len(taken) + 2))
    return next(candidate for candidate in candidates if candidate not in taken)
